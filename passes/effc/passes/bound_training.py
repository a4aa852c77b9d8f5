"""What FitAct and ProAct share: bounds that start over the profiled range and are trained downwards. See `fitact` and `proact`.

    start:  upper = (1 + margin) * the largest value that the fit data give        lower likewise, for two-sided activations
            higher, where that costs some of the metric on the selection data; a warning where no start is within `max_drop`
    loss:   cross-entropy (with labels) + distillation from the program before the pass + pull * mean((bound / its start)^2)
    keep:   the smallest bounds that cost no more of the metric than `max_drop` on the selection data, judged in the deployed, hard form

While bounds train they have the smooth form (`effc.ir.ops.bound.smooth_bound`); weights and batch norm are frozen. The stages, the going
back and the pull are `effc.nn.ProgressiveBounds`, the loop is `effc.passes.training`.

Steps are relative: Adam's step of one bound is `learning_rate` times that bound's own start, so layers and neurons of all scales move
alike. In each stage it falls to 0 by a cosine: a stage begins coarsely and ends finely. A bound that would cross 0 stops there. A neuron
that (nearly) never fires on the fit data has no scale of its own: bounds per neuron start at no less than FLOOR of the layer's largest
value. A layer that never fires gets no bound.
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from effc.errors import DataError, EffcWarning, counted
from effc.ir import Program, ValueFacts
from effc.ir.training import TrainableProgram
from effc.passes.base import Context, Pass
from effc.passes.bound_sites import BoundNames, Bounds, BoundSite, Extremes, bound_sites, insert_bounds
from effc.passes.channel_axis import channel_axis
from effc.passes.linear_sites import linear_sites
from effc.passes.profiling import profile, remeasured
from effc.passes.quality import Judge

__all__ = ["FLOOR", "BoundTraining", "Grain"]

Grain = Literal["layer", "channel", "neuron"]

_FEW = 100  # samples: one of them is a point of top1
_WIDER = (1.0, 1.5, 2.5, 5.0)  # how far over the profiled range bounds may begin

FLOOR = 0.01
"""The smallest share of its layer's largest value at which a neuron's bound starts, before the margin."""


@dataclass(frozen=True)
class BoundTraining(Pass):
    """Learn bounds behind activations.

    Attributes:
        epochs: of each stage of the training.
        max_drop: the most that the bounds may cost of the metric on the selection data, in the metric's own units. It opens stage by stage,
            in equal shares.
        margin: how far bounds start over the profiled maximum, as a share of it. The smooth form then passes sigmoid(20 * margin /
            (1 + margin)) of a value at that maximum: 0.966 at 0.2, 0.5 without a margin.
        pull: weight of the term that makes bounds small, at the start of each stage; divided by 10 whenever the budget is missed.
        samples: of the fit data in each epoch, drawn anew.
        batch: samples of one step.
        learning_rate: of Adam at the start of each stage, as a share of each bound's start.
    """

    epochs: int = 6
    max_drop: float = 0.004
    margin: float = 0.2
    pull: float = 1.0
    samples: int = 1024
    batch: int = 64
    learning_rate: float = 0.02

    exact: ClassVar[bool] = False
    needs_data: ClassVar[bool] = True
    needs_selection: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("epochs", "samples", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        for name in ("max_drop", "margin"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name.replace('_', '-')} must not be negative")
        for name in ("pull", "learning_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name.replace('_', '-')} must be over 0")

    @property
    def trains(self) -> bool:
        return True

    @abstractmethod
    def grain(self, site: BoundSite) -> Grain:
        """What of a site shall have a bound of its own."""

    @abstractmethod
    def stages(self, bounds: Sequence[Sequence[str]]) -> list[list[str]]:
        """What trains together, in order of training; given are the names of each site's bounds, in execution order."""

    def run(self, program: Program, context: Context) -> Program:
        if context.fit is None:
            raise DataError(f"pass {self.name} needs training data: give --data train.npz")
        sites = bound_sites(program, self, context)
        starts, seen = self._starts(program, sites, context)
        sites = [site for site in sites if site.label in starts]
        if not sites:
            context.log(self, program.provenance.source, False, "has no activation to bound")
            return program
        from effc.passes.training import judge_for  # needs Lightning

        judge = judge_for(program, context)
        self._warn_of_few(judge, len(context.selection or ()))
        bounded, names, starts = self._bounded(program, sites, starts, judge, context)
        result, told = self._trained(program, bounded, [names[site.label] for site in sites], judge, context)
        if result.facts.values:
            result = remeasured(result, (), context.fit, context.progress, f"{self.name}: measuring")
        stored = {name: result.tensors[place].detach() for place, name in result.tensor_names.items()}
        for site in sites:
            context.log(self, site.node, True, self._reason(site, starts[site.label], names[site.label], stored, seen[site.node.name]))
        context.log(self, program.provenance.source, True, f"{_cost(names.values(), stored)}; {told}")
        return result

    # ---- where bounds start --------------------------------------------------------------------------------------------------

    def _starts(self, program: Program, sites: Sequence[BoundSite], context: Context) -> tuple[dict[str, Bounds], dict[str, ValueFacts]]:
        """The bounds that training starts from, by label, and what was seen of the sites, by node."""
        assert context.fit is not None
        extremes = {site.node.name: Extremes() for site in sites if self._grain(site) != "layer"}
        seen = profile(
            program,
            [site.node for site in sites],
            context.fit,
            context.progress,
            f"{self.name}: profiling",
            more={name: (one,) for name, one in extremes.items()},
        )
        starts = {}
        linear = {one.name for one in linear_sites(program)}
        for site in sites:
            facts, one = seen[site.node.name], extremes.get(site.node.name)
            if max(abs(facts.minimum), abs(facts.maximum)) == 0:
                context.log(
                    self, site.node, False, f"gives nothing but 0 on {counted(facts.samples, 'sample')}: there is no range to learn"
                )
                continue
            high = torch.tensor(facts.maximum) if one is None or one.maximum is None else one.maximum
            low = torch.tensor(facts.minimum) if one is None or one.minimum is None else one.minimum
            axis = channel_axis(site.node, linear)
            if self._grain(site) == "channel" and axis is not None:
                high, low = _by_channel(high, axis - 1), -_by_channel(-low, axis - 1)
            elif self._grain(site) == "channel":
                high, low = high.max(), low.min()
            upper, lower = self._start(high), self._start(-low)
            starts[site.label] = Bounds(-lower if site.two_sided and bool(lower.any()) else None, upper)
        return starts, seen

    def _grain(self, site: BoundSite) -> Grain:
        return self.grain(site) if site.neurons else "layer"

    def _start(self, largest: Tensor) -> Tensor:
        """From the largest values in one direction; 0 where all are on the other side of 0."""
        largest = largest.clamp_min(0)
        return torch.maximum(largest, FLOOR * largest.max()) * (1 + self.margin)

    def _warn_of_few(self, judge: Judge, samples: int) -> None:
        of_shares = judge.metric in ("top1", "agreement")
        if samples < _FEW or (of_shares and self.max_drop * samples < 1):
            finer = ", and one of them is more than that" if of_shares and self.max_drop * samples < 1 else ""
            warnings.warn(
                f"{self.name}: max-drop={self.max_drop:g} is judged on {counted(samples, 'sample')} (a fifth of --data is held back for "
                f"that){finer}; give more to --data, and judge by --eval with --max-drop",
                EffcWarning,
                stacklevel=3,
            )

    def _bounded(
        self, program: Program, sites: Sequence[BoundSite], starts: Mapping[str, Bounds], judge: Judge, context: Context
    ) -> tuple[Program, dict[str, BoundNames], dict[str, Bounds]]:
        """The program with its first bounds, which must cost nothing: few samples show less than an activation's range."""
        loss = math.inf
        for factor in _WIDER:
            wider = {label: Bounds(None if one.lower is None else one.lower * factor, one.upper * factor) for label, one in starts.items()}
            bounded, names = insert_bounds(program, sites, wider, self.name)
            loss = judge.loss(judge.judge(bounded)[0])
            if loss <= 0:
                break
        source = program.provenance.source
        if factor > 1:
            context.log(self, source, loss <= self.max_drop, f"bounds begin {factor:g} times higher: as profiled they cost {judge.metric}")
        if loss > self.max_drop:
            warnings.warn(
                f"{self.name}: before any training bounds at {factor * (1 + self.margin):g} times the profiled range cost {loss:.4g} of "
                f"{judge.metric} on the selection data, over max-drop={self.max_drop:g}: --data has too few samples "
                f"({counted(len(context.fit or ()), 'sample')} to fit) to know the range; give more, or judge the result by --eval",
                EffcWarning,
                stacklevel=2,
            )
        return bounded, names, wider

    # ---- training ------------------------------------------------------------------------------------------------------------

    def _trained(
        self, program: Program, bounded: Program, names: Sequence[BoundNames], judge: Judge, context: Context
    ) -> tuple[Program, str]:
        """The program with trained bounds, and what became of the metric."""
        from effc.nn.progressive_bounds import ProgressiveBounds  # needs Lightning, as `training` does
        from effc.passes.training import MONITOR, Course, train

        module = bounded.trainable(batch_norm="frozen", dropout=False)
        state = module.source_state()
        # A bound at 0 (an activation without positive values) has no scale to train on.
        trained = [[name for name in (one.upper, one.lower) if name is not None and bool(state[name].any())] for one in names]
        stages = self.stages([each for each in trained if each])
        callback = ProgressiveBounds(
            [[f"student.{module.own_names[name]}" for name in stage] for stage in stages],
            epochs=self.epochs,
            monitor=MONITOR,
            reference=judge.before,
            budget=self.max_drop,
            pull=self.pull,
            larger_is_better=judge.larger_is_better,
        )
        starts = {module.own_names[name]: state[name] for stage in stages for name in stage}
        course = Course(
            epochs=self.epochs * len(stages),
            optimiser=lambda module: relative_adam(module, starts, self.learning_rate),
            scheduler=lambda optimiser, steps: _cosine(optimiser, steps // len(stages)),
            batch=self.batch,
            samples=self.samples,
        )
        train(self, program, module, context, course, judge, callbacks=[callback], note=lambda: _note(callback.history, stages))
        state = module.source_state()
        result = bounded.with_parameters({name: state[name] for stage in stages for name in stage})
        after, _ = judge.judge(result)
        kept = sum(trial.accepted for trial in callback.history)
        epochs = counted(len(callback.history), "epoch")
        return result, f"{judge.metric} {judge.before:.4g} -> {after:.4g} on the selection data; {kept} of {epochs} kept"

    # ---- words ---------------------------------------------------------------------------------------------------------------

    def _reason(self, site: BoundSite, start: Bounds, names: BoundNames, stored: Mapping[str, Tensor], seen: ValueFacts) -> str:
        parts = [f"upper bound {_moved(start.upper, stored[names.upper])}"]
        if start.lower is not None and names.lower is not None:
            parts.append(f"lower bound {_moved(start.lower, stored[names.lower])}")
        sizes = " x ".join(str(size) for size in start.upper.shape)
        many = f"means over {counted(start.upper.numel(), self._grain(site))} ({sizes})" if start.upper.ndim else "one number"
        unknown = self.grain(site) != "layer" and not start.upper.ndim
        fallback = f"; one for the layer: its {self.grain(site)}s are not known or not of a fixed number" if unknown else ""
        return f"{site.prefix}{', '.join(parts)}, {many}; largest {seen.maximum:.4g} on {counted(seen.samples, 'sample')}{fallback}"


def relative_adam(module: TrainableProgram, starts: Mapping[str, Tensor], learning_rate: float) -> torch.optim.Optimizer:
    """Adam on the ratio of each parameter to its start, whose elements are not 0. A parameter that would cross 0 stops there.

    Args:
        module: holds the parameters.
        starts: by the module's names.
        learning_rate: of the ratio.
    """
    parameters = dict(module.named_parameters())
    held = [(parameters[name], start) for name, start in starts.items()]

    class RelativeAdam(torch.optim.Adam):
        def step(self, closure: Callable[[], Any] | None = None) -> Any:
            before = [parameter.detach().clone() for parameter, _ in held]
            loss = super().step(closure)
            with torch.no_grad():
                for (parameter, start), old in zip(held, before, strict=True):
                    new = old + (parameter - old) * start.abs()
                    parameter.copy_(torch.where(new * start > 0, new, 0))
            return loss

    return RelativeAdam([parameter for parameter, _ in held], lr=learning_rate)


def _cosine(optimiser: torch.optim.Optimizer, period: int) -> Any:
    """A learning rate that falls from its start to 0 in every `period` steps."""
    return torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 0.5 + 0.5 * math.cos(math.pi * (step % period + 0.5) / period))


def _by_channel(largest: Tensor, axis: int) -> Tensor:
    """The largest of each channel, of a shape that broadcasts: (C, 1, 1) of (C, H, W), (C,) of (T, C)."""
    others = tuple(one for one in range(largest.ndim) if one != axis)
    kept = largest.amax(others, keepdim=True) if others else largest
    return kept.reshape(kept.shape[axis:])


def _moved(start: Tensor, end: Tensor) -> str:
    return f"{float(start.mean()):.4g} -> {float(end.mean()):.4g}"


def _note(history: Sequence[Any], stages: Sequence[Sequence[str]]) -> str:
    """The last verdict, to show beside the progress."""
    if not history:
        return ""
    last = history[-1]
    names = stages[last.stage]
    what = names[0].rpartition(".")[0] if len(names) < 3 else f"{len(names)} bounds"  # a site has one or two
    where = f" ({last.stage + 1}/{len(stages)})" if len(stages) > 1 else ""
    return f"{what}{where}, bound {last.mean:.3g}{'' if last.accepted else ' taken back'}"


def _cost(names: Any, stored: Mapping[str, Tensor]) -> str:
    bounds = [stored[name] for one in names for name in (one.upper, one.lower) if name is not None]
    size = sum(one.numel() * one.element_size() for one in bounds)
    others = sum(one.numel() * one.element_size() for one in stored.values()) - size
    share = f", {size / others:.2%} of the other parameters" if others else ""
    return f"{counted(sum(one.numel() for one in bounds), 'bound')} in {size:,} bytes{share}"
