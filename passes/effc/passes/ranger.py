"""Ranger: clamp every activation to the range that it has on fault-free data, and on through what follows it.

    before: relu -> max_pool -> reshape -> linear
    after:  relu -> bound(0, 6.1) -> max_pool -> bound(0, 6.1) -> reshape -> bound(0, 6.1) -> linear

Values outside of the profiled range are most likely faults; clamping turns a huge deviation, which would decide the output, into one that
the network tolerates. One pair of bounds a layer: the minimum and maximum over all samples of the fit part of `--data`. An activation that
was exported as several operators (SiLU as x * sigmoid(x): `activations`) is bounded where its result stands, and at those of its pieces
that are activations. Pools, reshapes and concatenations that follow a bounded value are bounded, too, because a fault may strike between
the two: pools and reshapes (permutations, slices and nearest upsampling included: they move the same numbers) keep their input's bounds,
a concatenation takes the outermost of its inputs'; an average over zero padding includes zero, and a pad the number that it fills with.

Not bounded: logits and other values that follow no activation; a concatenation with an input that is not bounded; an activation that is
bounded already; what lies behind an operator that is neither a follower nor a layer that computes, which the log names. Data that the
profile has not seen may exceed its bounds and are clamped: the pass is not exact, and the gate judges it.

With `above=zero` what is out of range becomes 0 instead of the nearer bound, below it as well as above. This is no rule of the paper's: the
reliable-relu toolbox of ProAct's authors calls it Ranger, and comparisons with its figures need it.

Paper: Z. Chen, G. Li, K. Pattabiraman, "A Low-cost Fault Corrector for Deep Neural Networks through Range Restriction", DSN 2021,
arXiv 2003.13874, section IV and algorithm 1. Extension: NaN becomes the lower bound (see `effc.ir.ops.bound`), where the paper's
min/max leaves it open.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, fx

from effc.errors import DataError, counted
from effc.ir import Edit, Program, ValueFacts, keyword_arguments, source_of
from effc.ir.ops.bound import BOUND
from effc.passes.activations import ACTIVATIONS, composed_activations
from effc.passes.base import Context, Pass
from effc.passes.profiling import profile

__all__ = ["Ranger"]

_aten = torch.ops.aten
Range = tuple[float, float]

_MAX_POOLS = frozenset({_aten.max_pool1d.default, _aten.max_pool2d.default, _aten.max_pool3d.default})
_AVERAGES = frozenset({_aten.avg_pool1d.default, _aten.avg_pool2d.default, _aten.avg_pool3d.default})
_WHOLE_AVERAGES = frozenset(
    {_aten.adaptive_avg_pool1d.default, _aten.adaptive_avg_pool2d.default, _aten.adaptive_avg_pool3d.default, _aten.mean.dim}
)
_WHOLE_MAXIMA = frozenset({_aten.adaptive_max_pool1d.default, _aten.amax.default})
_RESHAPES = frozenset(
    {
        _aten.view.default,
        _aten.reshape.default,
        _aten.flatten.using_ints,
        _aten.unflatten.int,
        _aten.squeeze.default,
        _aten.squeeze.dim,
        _aten.squeeze.dims,
        _aten.unsqueeze.default,
        _aten.permute.default,
        _aten.transpose.int,
        _aten.pixel_shuffle.default,
        _aten.channel_shuffle.default,
        _aten.upsample_nearest1d.vec,
        _aten.upsample_nearest2d.vec,
        _aten.upsample_nearest3d.vec,
        _aten.slice.Tensor,
        _aten.select.int,
        _aten.narrow.default,
        _aten.index_select.default,
        _aten.expand.default,
        _aten.repeat.default,
        operator.getitem,  # a part of what a split hands on
    }
)
_PADS = frozenset({_aten.constant_pad_nd.default, _aten.pad.default})
_FOLLOWERS = _PADS | _MAX_POOLS | _AVERAGES | _WHOLE_AVERAGES | _WHOLE_MAXIMA | _RESHAPES
# These hand values on as they are; the fault window between them and their input is empty once compiled, so they get no bound of their own.
_CARRIERS = frozenset({_aten.dropout.default, _aten.clone.default, _aten.contiguous.default, _aten.alias.default, _aten.detach.default})
_SPLITS = frozenset({_aten.split.Tensor, _aten.split_with_sizes.default, _aten.chunk.default, _aten.unbind.int})
# Layers and arithmetic, whose results have ranges of their own: that no bound follows them needs no word.
_COMPUTE = re.compile(
    r"aten\.(conv|linear|add|sub|rsub|mul|div|neg|matmul|mm|bmm|baddbmm|einsum|pow|sqrt|rsqrt|square|reciprocal|exp|log|erf|batch_norm|layer_norm"
    r"|group_norm|instance_norm|rms_norm|softmax|log_softmax|_softmax|scaled_dot_product_attention|lstm|gru|rnn|sum|var|std|fft|stft)"
    r"|effc\."
)


@dataclass(frozen=True)
class Ranger(Pass):
    """Clamp every activation, and the pools, reshapes and concatenations behind it, to its range on calibration data.

    Attributes:
        above: what becomes of values out of range: `clamp` to the nearer bound (the paper's rule), or `zero`.
    """

    above: Literal["clamp", "zero"] = "clamp"

    name: ClassVar[str] = "ranger"
    exact: ClassVar[bool] = False
    needs_data: ClassVar[bool] = True

    def run(self, program: Program, context: Context) -> Program:
        if context.fit is None:
            raise DataError("pass ranger needs calibration data: give --data calib.npz")
        composed = composed_activations(program)
        wanted = [node for node in program.nodes if node.target in ACTIVATIONS or node.name in composed]
        sites = [node for node in wanted if isinstance(node.meta["val"], Tensor)]
        floating = [node for node in sites if node.meta["val"].is_floating_point()]
        seen = profile(program, floating, context.fit, context.progress, "ranger: profiling activations")
        edit = Edit(program)
        ranges: dict[fx.Node, Range] = {}
        for node in edit.nodes:
            found = self._range(node, seen, ranges, context)
            if found is None:
                continue
            ranges[node] = found
            if _hands_on(node):
                continue
            bounded = _bound_behind(node)
            if bounded is not None:
                ranges[bounded] = found
                context.log(self, node, False, "is bounded already")
                continue
            new = self._insert(edit, node, found)
            ranges[new] = found
            context.log(self, node, True, self._reason(node, found, seen, composed))
        result = edit.done()
        kept = {node.name for node in result.nodes}
        return result.with_facts(result.facts.with_values({name: fact for name, fact in seen.items() if name in kept}))

    def _range(self, node: fx.Node, seen: Mapping[str, ValueFacts], ranges: Mapping[fx.Node, Range], context: Context) -> Range | None:
        if node.name in seen:
            return seen[node.name].minimum, seen[node.name].maximum
        if node.target == _aten.cat.default:
            parts = node.args[0]
            known = [ranges.get(part) for part in parts]  # type: ignore[union-attr, arg-type]
            inside = [one for one in known if one is not None]
            if len(inside) == len(known):
                return min(low for low, _ in inside), max(high for _, high in inside)
            if inside:
                context.log(
                    self, node, False, f"only {len(inside)} of its {len(known)} inputs {'is' if len(inside) == 1 else 'are'} bounded"
                )
            return None
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or source not in ranges or not (node.target in _FOLLOWERS or _hands_on(node)):
            self._say_where_it_stops(node, ranges, context)
            return None
        low, high = ranges[source]
        if node.target in _AVERAGES and keyword_arguments(node).get("divisor_override") is not None:
            context.log(self, node, False, "divides by another number than the size of its window: its range does not follow")
            return None
        if node.target in _AVERAGES and _counts_padding(node):
            return min(low, 0.0), max(high, 0.0)
        if node.target in _PADS and (fill := _fill(node)) is not None:
            return min(low, fill), max(high, fill)
        return low, high

    def _say_where_it_stops(self, node: fx.Node, ranges: Mapping[fx.Node, Range], context: Context) -> None:
        bounded = [other for other in node.all_input_nodes if other in ranges]
        if bounded and node.op == "call_function" and not _COMPUTE.match(str(node.target)) and _gives_reals(node):
            names = ", ".join(dict.fromkeys(source_of(_unbounded(other)) for other in bounded))
            context.log(self, node, False, f"takes the bounded value of {names}, but how it changes a range is not known: not bounded")

    def _insert(self, edit: Edit, node: fx.Node, bounds: Range) -> fx.Node:
        kind = node.meta["val"].dtype
        name = source_of(node)
        lower = edit.add_tensor(f"{name}.ranger_lower", torch.tensor(bounds[0], dtype=kind))
        upper = edit.add_tensor(f"{name}.ranger_upper", torch.tensor(bounds[1], dtype=kind))
        new = edit.call(BOUND.overload, (node, lower, upper, self.above), like=node)
        edit.replace(node, new, but_not={new})
        return new

    def _reason(self, node: fx.Node, bounds: Range, seen: Mapping[str, ValueFacts], composed: Mapping[str, str]) -> str:
        low, high = bounds
        kind = f" ({composed[node.name]} in several operators)" if node.name in composed else ""
        done = "clamped to" if self.above == "clamp" else "zeroed out of"
        if node.name in seen:
            return f"{done} [{low:.4g}, {high:.4g}], its range on {counted(seen[node.name].samples, 'sample')}{kind}"
        return f"{done} [{low:.4g}, {high:.4g}], carried over from what it follows"


def _carries(node: fx.Node) -> bool:
    source = node.args[0] if node.args else None
    same = isinstance(source, fx.Node) and getattr(source.meta.get("val"), "dtype", None) == getattr(node.meta.get("val"), "dtype", None)
    return node.target in _CARRIERS or (node.target == _aten.to.dtype and same)


def _hands_on(node: fx.Node) -> bool:
    return _carries(node) or node.target in _SPLITS


def _gives_reals(node: fx.Node) -> bool:
    """Sizes, indices and decisions have no range to follow."""
    values = node.meta.get("val")
    return any(isinstance(one, Tensor) and one.is_floating_point() for one in (values if isinstance(values, tuple | list) else (values,)))


def _unbounded(node: fx.Node) -> fx.Node:
    return node.args[0] if node.target == BOUND.overload else node  # type: ignore[return-value]


def _fill(node: fx.Node) -> float | None:
    """The number that a pad fills with; None for one that only cuts, or repeats what is there."""
    arguments = keyword_arguments(node)
    if arguments.get("mode", "constant") != "constant" or not any(not isinstance(size, int) or size > 0 for size in arguments["pad"]):
        return None
    return float(arguments.get("value") or 0.0)


def _counts_padding(node: fx.Node) -> bool:
    arguments = keyword_arguments(node)
    padding = arguments.get("padding") or [0]
    return bool(arguments.get("count_include_pad", True)) and any(size != 0 for size in padding)


def _bound_behind(node: fx.Node) -> fx.Node | None:
    """The bound that is this node's only user, where there is one."""
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].target == BOUND.overload and users[0].args[0] is node else None
