"""Thresholds per site under a bound on the output error: the search behind `delta{max-error=...}`.

A level is a threshold relative to the largest magnitude of its site. Early layers need small ones, late layers bear more, and how much
cannot be told from a layer alone, since its mask is the mask of all that follows. So whole networks are tried (`effc.passes.delta_clip`):

    1. one level for all sites but the frame, whose own is as large or larger, since it may have to swallow a sensor's noise: the largest at
       which all frames but the worst few stay well under the bound, and some are not computed whole;
    2. sweeps over the sites, from front to back: each level times or divided by a factor, where

           log(predicted time) + weight * log(typical error)

       falls. The largest error of a clip hangs on a few numbers of one frame and says little about a small change; typical is the mean of
       third powers over all elements and frames, of the output that limits the levels most. The weight is what time and error are worth
       at a common scale: how the time falls when all levels rise together. Behind each sweep all levels are scaled so that the typical
       error is what it was;
    3. all levels times a common factor, until on the whole clip all frames but the worst few are under the bound;
    4. rounds over the sites on the whole clip, each level times or divided by a factor where that lowers the largest error over the bound,
       or, under it, the time, until a round hardly helps. The largest error jumps up and down, as single pixels fall on this or that side
       of a threshold, and any change moves the worst frames: so this finds levels near those of step 3 that hold. Not for a clip that is
       too long to go through the network in one piece;
    5. where the bound does not hold yet, all levels times a common factor, in small steps, until it does.

In steps 3 to 5 the time is that of the layers for which computing by pixels is predicted to pay with these levels, where the pass will
choose so (`effc.cost.streaming.choose`). In the steps before it is that of all layers by pixels: where nothing pays yet, no single step
makes it pay, and the search would see no way down.

DeltaCNN (arXiv 2203.03996, section 4) goes once from front to back and doubles each threshold while the loss allows it, so that the first
layers spend the whole budget; step 2 weighs them against each other.

Steps 1 and 2 look at a window of the clip. The window is one piece: what is kept grows old, and in many short pieces that begin anew it
would not, so that levels seem harmless which are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from effc.cost.streaming import LayerWork, StreamRates, choose, total_time
from effc.passes.base import Advance
from effc.passes.delta_clip import ClipModel, Run
from effc.passes.delta_keeping import Rule
from effc.passes.delta_measured import Measured

__all__ = ["Levels", "Search", "Searched"]

Levels = dict[str, float]

_STARTS, _COARSE = ((0.03, 1.0), (0.1, 4.0), (0.1, 16.0)), 0.75  # level, and how many times that of the frame is as large
_MOST_FRAMES, _WELL_UNDER, _UNDER = 0.97, 0.6, 0.8  # of the frames; of the bound
_HIGH, _MIDDLE, _FINE = 1.6, 0.87, 0.96
_SCALES = 40  # of a row, at most
_HIGHEST = 1.0
_FACTORS = (3.0, 2.0, 1.5)  # of the sweeps
_TINY = 1e-9
_TRIES, _NEAR, _DAMPED = 4, 0.1, 0.7  # the error rises faster than the levels where masks change, too
_ROUNDS, _STEP, _LITTLE = 6, 1.4, 0.99  # at most; of a level; of the time before a round
_WIDE = 2.0  # scale up and down by which time and error are weighed against each other


@dataclass(frozen=True)
class Searched:
    """Levels, and what the clip showed with them."""

    levels: Levels
    measured: Measured


class Search:
    """See the module docstring."""

    def __init__(
        self,
        whole: ClipModel,
        window: ClipModel,
        rules: Callable[[Mapping[str, float]], dict[str, Rule]],
        works: Sequence[LayerWork],
        kept: Mapping[str, bool],
        rates: StreamRates,
        bound: float,
        advance: Advance,
        *,
        chooses: bool = False,
    ) -> None:
        """What to search with.

        Args:
            whole: the network on the clip on which the bound must hold.
            window: the network on the part of it to sweep on, of at most `chunk` frames.
            rules: what levels by name mean at the sites.
            works: of the layers, for predicted times.
            kept: which layers have a truncate.
            rates: of the processor.
            bound: on the output error, relative; over 0.
            advance: one step for every network that was tried.
            chooses: whether layers that are predicted not to gain will stay dense.
        """
        self.whole, self.model, self.rules, self.works, self.kept = whole, window, rules, works, kept
        self._weights = np.ones(len(whole.scales))  # of the outputs' typical errors
        self._worth = 1.0  # of the typical error against the time
        self.rates, self.bound, self.advance, self.chooses = rates, bound, advance, chooses
        self._best: Searched | None = None  # of what was tried on the whole clip and holds

    @staticmethod
    def steps(sites: int) -> int:
        """About how many networks are tried, for a progress bar."""
        return 2 * (len(_FACTORS) + _ROUNDS) * (sites + 2) + 2 * _SCALES

    def run(self, names: Sequence[str]) -> Searched:
        """The levels of the named sites, which stand in the order of execution."""
        best = self._start(names)
        if any(best.levels.values()):
            each = best.measured.each
            self._weights = best.measured.errors.max(0) / np.maximum(_TINY, each)
            for factor in _FACTORS:
                self._worth = self._weight(best.levels)
                swept = self._as_typical(best, self._sweep(best.levels, factor))
                if self._value(swept.measured) >= self._value(best.measured):
                    break
                best = swept
        return self.fitted(best.levels)

    def fitted(self, levels: Levels) -> Searched:
        """Levels in these proportions, or nearly, for which the bound holds: steps 3 to 5."""
        if not any(levels.values()):
            return Searched(levels, self._tried(self.whole, levels))
        under = self.bound * _UNDER
        return self._finished(self._scaled(self.whole, levels, _HIGH, _MIDDLE, lambda measured: self._most(measured) <= under))

    def again(self, levels: Levels) -> Searched:
        """Levels near these, which another search found for other layers, for which the bound holds: steps 4 and 5."""
        return self._finished(Searched(levels, self._tried(self.whole, levels)))

    def _finished(self, found: Searched) -> Searched:
        if self.whole.chunk == self.whole.count and any(found.levels.values()):
            for _ in range(_ROUNDS):
                before, found = found, self._settled(found.levels)
                if self._holds(before.measured) and self.final_time(found.measured) > _LITTLE * self.final_time(before.measured):
                    break
        if not self._holds(found.measured):
            for step in (_FINE, _COARSE):
                if any(self._scaled(self.whole, found.levels, 1.0, step, self._holds).levels.values()):
                    break
        return found if self._best is None else self._best

    def _start(self, names: Sequence[str]) -> Searched:
        """One level for all sites but the frame, of the first row in which one holds. All 0 where none does."""
        frame = self.model.network.frame.node.name
        for level, larger in _STARTS:
            row = {name: level * (larger if name == frame else 1.0) for name in names}
            for place in range(_SCALES):
                levels = _times(row, _COARSE**place)
                measured = self._tried(self.model, levels)
                if measured.sparse == 0:  # smaller levels move more pixels
                    break
                if self._most(measured) <= self.bound * _WELL_UNDER:
                    return Searched(levels, measured)
        nothing = dict.fromkeys(names, 0.0)
        return Searched(nothing, self._tried(self.model, nothing))

    def _holds(self, measured: Measured) -> bool:
        return measured.error <= self.bound

    @staticmethod
    def _most(measured: Measured) -> float:
        """The largest error of all frames but the worst few."""
        return float(np.quantile(measured.errors.max(1), _MOST_FRAMES))

    def time(self, measured: Measured) -> float:
        """Predicted nanoseconds of a frame with all layers by pixels that can be."""
        return total_time(self.works, self._shares(measured), self.kept, self.rates)

    def final_time(self, measured: Measured) -> float:
        """The same as the pass will have it: without the layers that are predicted not to gain, where it leaves them dense."""
        if not self.chooses:
            return self.time(measured)
        shares = self._shares(measured)
        worth = choose(self.works, shares, self.rates)
        return total_time(self.works, shares, {name: one and worth[name] for name, one in self.kept.items()}, self.rates)

    @staticmethod
    def _shares(measured: Measured) -> Mapping[str, float]:
        return measured.active if measured.sparse else dict.fromkeys(measured.active, 1.0)

    def _typical(self, measured: Measured) -> float:
        """The typical error, as if it were a largest one."""
        return max(_TINY, float((self._weights * measured.each).max(initial=0.0)))

    # ---- steps -----------------------------------------------------------------------------------------------------------------

    def _tried(self, model: ClipModel, levels: Mapping[str, float]) -> Measured:
        found = model.measure(self.rules(levels))
        self.advance(1, f"error {found.error:.3g}, {self.time(found) / 1000:.0f} µs")
        if model is self.whole and self._holds(found):
            best = self._best
            if best is None or self.final_time(found) < self.final_time(best.measured):
                self._best = Searched(dict(levels), found)
        return found

    def _scaled(self, model: ClipModel, levels: Levels, highest: float, step: float, holds: Callable[[Measured], bool]) -> Searched:
        """The levels times the largest factor of a row, from `highest` down by `step`, at which they hold; all 0 where none does.

        Not a bisection: the largest error does not rise steadily with the levels.
        """
        factor = highest
        for _ in range(_SCALES):
            tried = _times(levels, factor)
            measured = self._tried(model, tried)
            if holds(measured):
                return Searched(tried, measured)
            factor *= step
        nothing = dict.fromkeys(levels, 0.0)
        return Searched(nothing, self._tried(model, nothing))

    def _as_typical(self, before: Searched, levels: Levels) -> Searched:
        """Levels times the factor that gives them about the typical error of `before`."""
        found = Searched(levels, self._tried(self.model, levels))
        for _ in range(_TRIES):
            ratio = self._typical(found.measured) / self._typical(before.measured)
            if abs(math.log(ratio)) < _NEAR:
                break
            scaled = _times(found.levels, ratio**-_DAMPED)
            found = Searched(scaled, self._tried(self.model, scaled))
        return found

    def _value(self, measured: Measured) -> float:
        """What sweeps lower: time and typical error, at what they are worth."""
        return math.log(self.time(measured)) + self._worth * math.log(self._typical(measured))

    def _sweep(self, levels: Levels, factor: float) -> Levels:
        """One round over the sites by time and typical error, on the window."""
        return self._round(self.model, levels, (factor, 1 / factor), lambda measured: (self._value(measured),))

    def _settled(self, levels: Levels) -> Searched:
        """One round that makes the bound hold, or the time fall while it does, on the whole clip."""

        def value(measured: Measured) -> tuple[float, float]:
            return max(0.0, measured.error - self.bound), self.final_time(measured)

        settled = self._round(self.whole, levels, (1 / _STEP, _STEP), value)
        return Searched(settled, self._tried(self.whole, settled))

    def _round(self, model: ClipModel, levels: Levels, factors: Sequence[float], value: Callable[[Measured], tuple[float, ...]]) -> Levels:
        """Each level in turn times the first of the factors by which the value falls."""
        levels, now = dict(levels), value(self._tried(model, levels))
        run = model.start(self.rules(levels))
        for name in list(levels):
            for factor in factors:
                tried = {**levels, name: min(_HIGHEST, levels[name] * factor)}
                other = self._from(model, run, name, tried)
                other.finish()
                found = value(other.measured)
                self.advance(1)
                if found < now:
                    levels, now = tried, found
                    run = self._from(model, run, name, levels) if name == model.network.frame.node.name else run
                    run.rules = self.rules(levels)
                    break
        return levels

    def _from(self, model: ClipModel, run: Run, name: str, levels: Levels) -> Run:
        """A run with other levels that shares with `run` what does not depend on the named site."""
        if name == model.network.frame.node.name:
            return model.start(self.rules(levels))
        run.until(name)
        other = run.copy()
        other.rules = self.rules(levels)
        return other

    def _weight(self, levels: Levels) -> float:
        """How much the logarithm of the time falls for a rise of that of the error, when all levels rise together."""
        small, large = (self._tried(self.model, _times(levels, by)) for by in (1 / _WIDE, _WIDE))
        rise = math.log(self._typical(large)) - math.log(self._typical(small))
        fall = math.log(self.time(small)) - math.log(self.time(large))
        return min(1.0, max(0.1, fall / rise)) if rise > _TINY else 1.0


def _times(levels: Mapping[str, float], factor: float) -> Levels:
    return {name: min(_HIGHEST, level * factor) for name, level in levels.items()}
