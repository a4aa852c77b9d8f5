"""FATReLU: zero the small results of ReLUs: forced activation thresholds.

    before: relu(x)
    after:  effc::sparsify(relu(x), t, "value")        FATReLU_t(x) = x where x >= t, else 0

The ReLU stays in place, for passes and kernels that look for it; with t > 0 the two are FATReLU of x. `sparsity` is the share
of zeros that a layer shall have in all, its natural ones included. What is missing is taken from the positive values: t is their quantile
on the fit data, in every channel the same one (`per=channel`: so each channel loses the same share of what it says), or over the whole
layer (`per=layer`). Channels are axis 1 behind a convolution and the last axis behind a linear layer.

Does not fire where the natural zeros are enough already, where the result feeds no other layer (its zeros would save nothing), and where
a threshold follows already. Where the kind of layer in front is not known, or the channels are no fixed
number, the threshold is one for the layer, and the log says so.

Deviation: the thresholds come from quantiles, in one pass over the data, and nothing is trained.

Paper: M. Kurtz et al., "Inducing and Exploiting Activation Sparsity for Fast Inference on Deep Neural Networks", ICML 2020.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, fx

from effc.errors import DataError, counted
from effc.ir import Edit, Program, ValueFacts, source_of
from effc.ir.ops.sparsify import SPARSIFY
from effc.passes.base import Context, Pass
from effc.passes.channel_axis import channel_axis
from effc.passes.level_search import within_budget
from effc.passes.linear_sites import chosen, leads_to_layers, linear_sites
from effc.passes.mlp_patterns import through
from effc.passes.profiling import profile, remeasured
from effc.passes.quantiles import Quantiles
from effc.passes.threshold_pass import check_levels
from effc.passes.thresholds import Sparsified

__all__ = ["Fatrelu"]

_aten = torch.ops.aten
_RELUS = frozenset({_aten.relu.default, _aten.relu_.default, _aten.relu6.default})
_CHANNEL_MANTISSA = 4  # bits: 16 bins an octave keep a layer of 2,048 channels under 21 MB
_STEP = 0.05


@dataclass(frozen=True, eq=False)
class _Relu:
    """A ReLU, its channel axis (None: one threshold for the layer), and the counts of its positive values a channel."""

    node: fx.Node
    axis: int | None
    counts: Quantiles

    @property
    def name(self) -> str:
        return str(self.node.name)

    @property
    def label(self) -> str:
        return source_of(self.node)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the thresholds: they broadcast along the value's last axes."""
        value = self.node.meta["val"]
        return () if self.axis is None else (int(value.shape[self.axis]), *[1] * (value.ndim - 1 - self.axis))

    def see(self, value: Tensor) -> None:
        rows = value if self.axis is None else value.movedim(self.axis, 0)
        self.counts.add(rows.reshape(math.prod(self.shape), -1).clamp_min(0))

    def threshold(self, level: float) -> Tensor:
        """For a share of zeros in all, in [0, 1): shape `shape`, in the value's dtype; all 0 where there are as many by nature."""
        totals, zeros = self.counts.totals.double(), self.counts.zeros.double()
        natural = float(zeros.sum() / totals.sum().clamp(min=1))
        share = max(0.0, (level - natural) / (1 - natural)) if natural < 1 else 0.0
        of_row = zeros / totals.clamp(min=1)
        found = self.counts.quantile(of_row + share * (1 - of_row)) if share > 0 else torch.zeros(len(totals))
        return found.reshape(self.shape).to(self.node.meta["val"].dtype)


@dataclass(frozen=True)
class Fatrelu(Pass):
    """Zero the small results of ReLUs, by thresholds from quantiles of the positive ones.

    Attributes:
        sparsity: the share of zeros of a ReLU's result, its natural ones included, in [0, 0.95]. Without effect beside `max_drop`.
        max_drop: where given, sparsity is searched for: the most that costs no more of the metric than this on the selection data.
        per: one threshold a `channel` or a `layer`.
        layers: a regular expression that is searched in the user's names of the ReLUs; empty for all.
    """

    sparsity: float = 0.7
    max_drop: float | None = None
    per: Literal["channel", "layer"] = "channel"
    layers: str = ""

    name: ClassVar[str] = "fatrelu"
    exact: ClassVar[bool] = False
    needs_data: ClassVar[bool] = True
    idempotent: ClassVar[bool] = False  # what was left alone may get a threshold: behind sparser layers its input has other zeros

    def __post_init__(self) -> None:
        check_levels(self.sparsity, self.max_drop, self.layers)

    @property
    def needs_selection(self) -> bool:
        return self.max_drop is not None

    def run(self, program: Program, context: Context) -> Program:
        if context.fit is None:
            raise DataError("pass fatrelu needs calibration data: give --data calib.npz")
        relus = self._sites(program, context)
        if not relus:
            return program
        more = {one.name: (one,) for one in relus}
        before = profile(program, [one.node for one in relus], context.fit, context.progress, "fatrelu: calibrating", more=more)

        def build(levels: Mapping[str, float]) -> Sparsified:
            return _insert(program, relus, levels)

        levels: Mapping[str, float] = {one.name: self.sparsity for one in relus}
        if self.max_drop is not None:
            levels = within_budget(
                self,
                program,
                context,
                build=build,
                spread=lambda level: {one.name: level for one in relus},
                weights={one.name: _elements(one.node) for one in relus},
                step=_STEP,
                max_drop=self.max_drop,
            )
        made = build(levels)
        values = {*made.values.values(), *(one.name for one in relus)}
        result = remeasured(made.program, values, context.fit, context.progress, "fatrelu: measuring")
        for one in relus:
            after = result.facts.values[made.values[one.name]] if one.name in made.inserted else None
            self._explain(one, levels[one.name], before[one.name], after, context)
        return result

    def _sites(self, program: Program, context: Context) -> list[_Relu]:
        leading, linear = leads_to_layers(program), {site.name for site in linear_sites(program)}
        found = []
        for node in program.nodes:
            value = node.meta.get("val")
            if node.target not in _RELUS or not isinstance(value, Tensor) or not value.is_floating_point():
                continue
            if node.name not in leading:
                context.log(self, node, False, "feeds no other layer: its zeros would save nothing")
            elif _has_threshold(node):
                context.log(self, node, False, "has a threshold already")
            else:
                axis = channel_axis(node, linear) if self.per == "channel" else None
                channels = 1 if axis is None else int(value.shape[axis])
                found.append(_Relu(node, axis, Quantiles(channels, mantissa=7 if axis is None else _CHANNEL_MANTISSA)))
        if not any(node.target in _RELUS for node in program.nodes):
            context.log(self, program.provenance.source, False, "has no ReLU")
        return chosen(found, self, context, self.layers)

    def _explain(self, one: _Relu, level: float, before: ValueFacts, after: ValueFacts | None, context: Context) -> None:
        if after is None:
            natural = f"{1 - before.density:.1%} are zeros by themselves"
            why = "no threshold holds the metric" if level == 0 and self.max_drop is not None else f"{level:.1%} zeros take no threshold"
            context.log(self, one.node, False, f"{why}; {natural}")
            return
        threshold = one.threshold(level)
        low, high = float(threshold.min()), float(threshold.max())
        shown = f"{low:.4g}" if threshold.numel() == 1 else f"{low:.4g} to {high:.4g} over {counted(threshold.numel(), 'channel')}"
        whole = "; one for the layer: its channels are not known" if self.per == "channel" and one.axis is None else ""
        measured = f"density {before.density:.1%} -> {after.density:.1%} on {counted(after.samples, 'sample')}"
        context.log(self, one.node, True, f"threshold {shown} for {level:.1%} zeros: {measured}{whole}")


def _insert(program: Program, relus: Sequence[_Relu], levels: Mapping[str, float]) -> Sparsified:
    edit = Edit(program)
    values, inserted = {}, set()
    for one in relus:
        threshold = one.threshold(levels[one.name])
        values[one.name] = one.name
        if not bool((threshold > 0).any()):
            continue
        node = edit.node(one.name)
        stored = edit.add_tensor(f"{source_of(node)}.fatrelu_threshold", threshold)
        new = edit.call(SPARSIFY.overload, (node, stored, "value"), like=node)
        edit.replace(node, new, but_not={new})
        values[one.name] = new.name
        inserted.add(one.name)
    return Sparsified(edit.done(), values, frozenset(inserted))


def _has_threshold(node: fx.Node) -> bool:
    """Whether all that reads a ReLU reads it through a threshold."""
    return bool(node.users) and all(
        user.target == SPARSIFY.overload or (through(user) is node and user is not node and _has_threshold(user)) for user in node.users
    )


def _elements(node: fx.Node) -> float:
    """Elements of one sample."""
    return float(math.prod(size for size in node.meta["val"].shape[1:] if isinstance(size, int)))
