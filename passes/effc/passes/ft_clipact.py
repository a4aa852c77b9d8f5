"""FT-ClipAct: zero what an activation has above a threshold, which is searched for under faults, layer by layer.

    before: relu -> linear
    after:  relu -> bound(None, T, "zero") -> linear         f(x) = x where 0 <= x <= T, else 0                  (eq. 1)

1. *Profile*: the largest value of every activation on the fit part of `--data`, ACT_max; every T begins there.
2. *Measure*: a network's resilience is the area under its accuracy against the bit error rate (AUC), from a fault campaign on the
   selection part: `draws` draws at each of `rates`, in all stored tensors, the thresholds too, seen in the number format `view`. Without
   labels the program's own fault-free predictions are the labels.
3. *Search*, one layer after the other, the others as they are: in [0, ACT_max] the AUC is measured at `points` evenly spread thresholds;
   the sub-intervals beside the best one are kept and divided in the same way, until that gains less than `least_gain`, `iterations` times
   at most. The best threshold of all stays; of equal ones the largest, so a layer where clipping earns nothing keeps its ACT_max.

All candidates are measured on the same faults (`effc.faultsim.drawing`): their differences are not the luck of the draw. Only what has been
measured is taken, and a threshold that costs more than `max_drop` of the fault-free accuracy on the whole selection part is not.

The area is over log10(rate), divided by the width: the mean accuracy over decades, in [0, 1]. On a linear axis it would hardly be more than
the accuracy at the two largest rates. That axis is this pass's choice, and so are `max_drop`, the common draws, and what happens to
activations with negative values (GELU, SiLU, ...): they become 0 below their profiled minimum, too, and only the upper end is searched. A
layer that is 0 on all data gets T = 0 without a search. Nothing is bounded behind logits, sigmoids, integers,
and what is bounded already.

Paper: L.-H. Hoang, M. A. Hanif, M. Shafique, "FT-ClipAct: Resilience Analysis of Deep Neural Networks and Improving their Fault Tolerance
using Clipped Activation", DATE 2020, arXiv 1912.00941, eq. 1 and the threshold search.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from effc.data import Dataset
from effc.errors import ConfigError, DataError, counted
from effc.faultsim.formats import view_for
from effc.faultsim.rate_accuracy import rate_accuracy
from effc.ir import Program
from effc.ir.arrays import to_numpy, to_torch
from effc.passes.base import Advance, Context, Pass
from effc.passes.bound_sites import Bounds, BoundSite, bound_sites, insert_bounds
from effc.passes.profiling import profile

__all__ = ["FtClipact"]

_BATCH = 128  # samples of one pass: all values of a pass are kept for its faulty reruns
_ROUNDING = 1e-9


@dataclass(frozen=True)
class FtClipact(Pass):
    """Zero activations above thresholds that a search with fault campaigns has found (FT-ClipAct).

    Attributes:
        rates: bit error rates of the curve, in (0, 1).
        draws: fault draws at each rate. `images`: of the selection part, on which they are tried.
        iterations: divisions of a layer's interval at most. `points`: thresholds of a division, both ends included; 3 or more.
        least_gain: of AUC, in [0, 1], by a division; with less a layer's search ends.
        max_drop: the largest loss of fault-free accuracy that a threshold may cost, against the program before the pass; where the profiled
            maxima alone lose more, no threshold may add to that.
        view: number format in which stored floating-point numbers are faulty: `stored`, `q15.16`, `int8`, ...
    """

    rates: tuple[float, ...] = (1e-7, 1e-6, 3e-6, 1e-5, 3e-5)
    draws: int = 5
    images: int = 128
    iterations: int = 4
    points: int = 4
    least_gain: float = 0.001
    max_drop: float = 0.004
    view: str = "stored"

    name: ClassVar[str] = "ft-clipact"
    exact: ClassVar[bool] = False
    needs_data: ClassVar[bool] = True
    needs_selection: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.rates or len(set(self.rates)) != len(self.rates) or not all(0 < rate < 1 for rate in self.rates):
            raise ValueError(f"rates is {list(self.rates)}: bit error rates between 0 and 1, each once")
        if min(self.draws, self.images, self.iterations) < 1 or self.points < 3:
            raise ValueError("draws, images and iterations are 1 or more, points 3 or more")
        if not (self.least_gain >= 0 and 0 <= self.max_drop <= 1):
            raise ValueError("least-gain is 0 or more, max-drop between 0 and 1")
        if self.view != "stored":
            try:
                view_for(self.view, torch.float32)
            except ConfigError as error:
                raise ValueError(str(error)) from error

    def requires(self, program: Program, context: Context) -> None:
        super().requires(program, context)
        first = program.interface.outputs[0]
        if len(first.shape) not in (2, 3) or first.shape[-1] == 1:
            raise DataError(
                f"pass {self.name} needs predictions to count, and output {first.name} of shape {list(first.shape)} has no classes"
            )

    def run(self, program: Program, context: Context) -> Program:
        if context.fit is None or context.selection is None:
            raise DataError(f"pass {self.name} needs calibration data: give --data calib.npz")
        sites = bound_sites(program, self, context)
        if not sites:
            return program
        seen = profile(program, [site.node for site in sites], context.fit, context.progress, f"{self.name}: profiling activations")
        tops = {site.label: max(seen[site.node.name].maximum, 0.0) for site in sites}
        lows = {site.label: seen[site.node.name].minimum if site.two_sided else None for site in sites}
        bounds = {label: _bounds(lows[label], top) for label, top in tops.items()}
        bounded, names = insert_bounds(program, sites, bounds, "ft_clipact")
        uppers = {label: name.upper for label, name in names.items()}
        data = _labelled(program, context.selection)
        with context.progress(f"{self.name}: searching", 1 + len(sites) * self.most) as advance:
            found = _Search(self, program, bounded, uppers, data, context.seed, advance)
            found.start(tops)
            unsearched = found.resilience
            for site in sites:
                before, tried = found.resilience, found.layer(site.label, max(lows[site.label] or 0.0, 0.0), tops[site.label])
                context.log(self, site.node, True, _reason(site, found, tops, before, tried, context.fit))
        if found.resilience <= unsearched:
            why = f"no threshold raised the AUC over {unsearched:.4f}: where faults hardly matter give higher rates or more draws"
            context.log(self, program.provenance.source, False, why)
        result = found.program(found.thresholds)
        kept = {node.name for node in result.nodes}
        return result.with_facts(result.facts.with_values({name: fact for name, fact in seen.items() if name in kept}))

    @property
    def most(self) -> int:
        """Thresholds that a layer's search measures at most: the ends of its first interval are known."""
        return self.iterations * (self.points - 2)

    def clean(self, program: Program, data: Dataset, seed: int) -> float:
        """The fault-free accuracy in the view."""
        return float(rate_accuracy(program, data, (0.0,), 1, view=self.view, seed=seed, batch=_BATCH)[0, 0])

    def measure(self, program: Program, data: Dataset, seed: int) -> float:
        """The area under the accuracy against log10(rate), divided by its width: in [0, 1]. With one rate, the accuracy there."""
        rates = sorted(self.rates)
        accuracy = rate_accuracy(program, data, rates, self.draws, view=self.view, seed=seed, batch=_BATCH).mean(1)
        return area(rates, accuracy.tolist())


def area(rates: Sequence[float], accuracy: Sequence[float]) -> float:
    """Trapezoids over log10 of rising rates, divided by the width."""
    decades = [math.log10(rate) for rate in rates]
    if len(decades) == 1:
        return accuracy[0]
    return float(np.trapezoid(accuracy, decades)) / (decades[-1] - decades[0])


class _Search:
    """The thresholds so far and how well they do.

    Args:
        by: the pass. `before`: the program without bounds; `bounded`: with them, under the names `uppers` by label.
        data: what thresholds are chosen by; `by.images` of it are tried under faults.

    Attributes:
        thresholds: by label. `resilience`: their AUC.
    """

    def __init__(
        self, by: FtClipact, before: Program, bounded: Program, uppers: Mapping[str, str], data: Dataset, seed: int, advance: Advance
    ) -> None:
        self._by, self._before, self._bounded, self._uppers, self._seed, self._advance = by, before, bounded, uppers, seed, advance
        self._data = data
        self._few = data if by.images >= len(data) else data.split(by.images / len(data), seed)[0]  # of every class its share
        self._least, self._least_of_few = 0.0, 0.0
        self.thresholds: dict[str, float] = {}
        self.resilience = 0.0

    def program(self, thresholds: Mapping[str, float]) -> Program:
        """With these thresholds."""
        kinds = {name: self._bounded.tensors[key].dtype for key, name in self._bounded.tensor_names.items()}
        state = {self._uppers[label]: torch.tensor(value, dtype=kinds[self._uppers[label]]) for label, value in thresholds.items()}
        return self._bounded.with_parameters(state)

    def start(self, tops: Mapping[str, float]) -> None:
        """Take the profiled maxima, and see what they cost."""
        by, bounded = self._by, self.program(tops)
        self.thresholds = dict(tops)
        self._least, few = (
            min(by.clean(self._before, data, self._seed) - by.max_drop, by.clean(bounded, data, self._seed)) - _ROUNDING
            for data in (self._data, self._few)
        )
        self._least_of_few = few - by.max_drop * (len(self._data) / len(self._few) - 1)  # all that may be lost, lost on these alone
        self.resilience = by.measure(bounded, self._few, self._seed)
        self._advance(1, f"all at their maximum, AUC {self.resilience:.4f}")

    def layer(self, label: str, floor: float, top: float) -> int:
        """Search one layer's threshold between two values; returns how many were tried."""
        by = self._by
        known = {floor: -math.inf, top: self.resilience}  # a layer that gives the same everywhere is of no use
        best, low, high, tried = top, floor, top, 0
        for turn in range(by.iterations):
            before = known[best]
            for value in np.linspace(low, high, by.points).tolist():
                if value not in known:
                    known[value] = self._tried(label, value, max(known.values()))
                    tried += 1
            best = max(known, key=lambda one: (known[one], one))
            ordered = sorted(known)
            place = ordered.index(best)
            low, high = ordered[max(place - 1, 0)], ordered[min(place + 1, len(ordered) - 1)]
            if low == high or (turn and known[best] - before < by.least_gain):
                break
        self.thresholds[label], self.resilience = best, known[best]
        self._advance(by.most - tried, f"{label}, threshold {best:.4g} of {top:.4g}, AUC {self.resilience:.4f}")
        return tried

    def _tried(self, label: str, value: float, best: float) -> float:
        """The AUC with another threshold for one layer; minus infinity where the fault-free accuracy is too low.

        That of all the data costs more than the campaign, so it is looked at only where the threshold would be taken.
        """
        by, candidate, found = self._by, self.program({**self.thresholds, label: value}), -math.inf
        if by.clean(candidate, self._few, self._seed) >= self._least_of_few:
            found = by.measure(candidate, self._few, self._seed)
            if found >= best and by.clean(candidate, self._data, self._seed) < self._least:
                found = -math.inf
        shown = f"AUC {found:.4f}" if math.isfinite(found) else "loses too much"
        self._advance(1, f"{label}, threshold {value:.4g}, {shown}")
        return found


def _bounds(low: float | None, high: float) -> Bounds:
    lower = None if low is None else torch.tensor(low)
    return Bounds(lower, torch.tensor(high))


def _labelled(program: Program, data: Dataset) -> Dataset:
    """The data with labels: its own, or what the program predicts."""
    if data.labels is not None:
        return data
    chosen = []
    for batch in data.batches():
        outputs = program.run({name: to_torch(array) for name, array in batch.inputs.items()})
        chosen.append(to_numpy(next(iter(outputs.values())).argmax(-1)))
    return Dataset(data.inputs, np.concatenate(chosen).astype(np.int64), data.unit)


def _reason(site: BoundSite, found: _Search, tops: Mapping[str, float], before: float, tried: int, fit: Dataset) -> str:
    value, top = found.thresholds[site.label], tops[site.label]
    done = "zero out of its range, above" if site.two_sided else "zero above"
    where = f"{done} {value:.4g}; its largest value is {top:.4g} on {counted(len(fit), 'sample')}"
    if not tried:
        return f"{where}; nothing to search"
    none = "; none was better within max-drop" if found.resilience <= before else ""
    return f"{where}; AUC {before:.4f} -> {found.resilience:.4f}, best of {counted(tried + 1, 'threshold')}{none}"
