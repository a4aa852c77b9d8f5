"""Thresholds per site under a bound on the output error: the search behind `delta{max-error=...}`.

A level is a threshold relative to the largest magnitude of its site. Early layers need small ones, late layers bear more, and how much
cannot be told from a layer alone, since its mask is the mask of all that follows. So whole networks are tried (`effc.passes.delta_clip`):

    1. one level for all sites, as large as the bound allows, by bisection;
    2. sweeps over the sites, from front to back: each level times or divided by a factor, where

           log(predicted time) + weight * log(typical error)

       falls. The largest error of a clip hangs on a few numbers of one frame and says little about a small change; typical is the mean of
       fourth powers over all elements of all frames. The weight is what the two are worth at a common scale: how the time falls when all
       levels rise together. Behind each sweep all levels are scaled so that the typical error is what it was;
    3. all levels times a common factor, as large as the bound on the largest error allows, by bisection.

DeltaCNN (arXiv 2203.03996, section 4) goes once from front to back and doubles each threshold while the loss allows it, so that the first
layers spend the whole budget; step 2 weighs them against each other.

Steps 1 and 2 look at the pieces of the clip with the largest errors, step 3 at all of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from effc.cost.streaming import LayerWork, StreamRates, total_time
from effc.passes.base import Advance
from effc.passes.delta_clip import ClipModel, Run
from effc.passes.delta_keeping import Rule
from effc.passes.delta_measured import Measured

__all__ = ["Levels", "Search", "Searched"]

Levels = dict[str, float]

FIRST = 0.005
_HIGHEST = 1.0
_FACTORS = (3.0, 2.0, 1.5)  # of the sweeps
_TINY = 1e-9
_TRIES, _NEAR, _DAMPED = 4, 0.1, 0.7  # the error rises faster than the levels where masks change, too
_BISECTIONS = 7
_STEP = 1.6  # of a factor that has no upper or no lower end yet
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
        model: ClipModel,
        rules: Callable[[Mapping[str, float]], dict[str, Rule]],
        works: Sequence[LayerWork],
        kept: Mapping[str, bool],
        rates: StreamRates,
        bound: float,
        advance: Advance,
    ) -> None:
        """What to search with.

        Args:
            model: the network on a clip of at most `model.chunk` frames.
            rules: what levels by name mean at the sites.
            works: of the layers, for predicted times.
            kept: which layers have a truncate.
            rates: of the processor.
            bound: on the output error, relative; over 0.
            advance: one step for every network that was tried.
        """
        self.model, self.rules, self.works, self.kept = model, rules, works, kept
        self.rates, self.bound, self.advance = rates, bound, advance

    @staticmethod
    def steps(sites: int) -> int:
        """About how many networks are tried, for a progress bar."""
        return 2 * len(_FACTORS) * (sites + 4) + 2 * _BISECTIONS

    def run(self, names: Sequence[str], model: ClipModel) -> Searched:
        """The levels of the named sites, in the order of execution.

        Args:
            names: of the sites.
            model: the network on all frames on which the bound must hold.
        """
        best = self._scaled(self.model, dict.fromkeys(names, FIRST))
        if any(best.levels.values()):
            for factor in _FACTORS:
                swept = self._as_typical(best, self._sweep(best.levels, factor))
                if self.time(swept.measured) >= self.time(best.measured):
                    break
                best = swept
        return self.again(best.levels, model)

    def again(self, levels: Levels, model: ClipModel) -> Searched:
        """Levels times the common factor that the bound allows on all frames."""
        return self._scaled(model, levels)

    def time(self, measured: Measured) -> float:
        """Predicted nanoseconds of a frame."""
        shares = measured.active if measured.sparse else dict.fromkeys(measured.active, 1.0)
        return total_time(self.works, shares, self.kept, self.rates)

    # ---- steps -----------------------------------------------------------------------------------------------------------------

    def _tried(self, model: ClipModel, levels: Mapping[str, float]) -> Measured:
        found = model.measure(self.rules(levels))
        self.advance(1, f"error {found.error:.3g}, {self.time(found) / 1000:.0f} µs")
        return found

    def _scaled(self, model: ClipModel, levels: Levels) -> Searched:
        """The levels times the factor at which they are fastest within the bound, as far as a bisection shows; all 0 where none is."""
        nothing = dict.fromkeys(levels, 0.0)
        best, low, high, factor = Searched(nothing, self._tried(model, nothing)), 0.0, math.inf, 1.0
        for _ in range(_BISECTIONS):
            tried = _times(levels, factor)
            measured = self._tried(model, tried)
            if measured.error <= self.bound:
                low = factor
                if self.time(measured) < self.time(best.measured):
                    best = Searched(tried, measured)
            else:
                high = factor
            factor = factor * _STEP if math.isinf(high) else factor / _STEP if low == 0 else math.sqrt(low * high)
        return best

    def _as_typical(self, before: Searched, levels: Levels) -> Searched:
        """Levels times the factor that gives them about the typical error of `before`."""
        found = Searched(levels, self._tried(self.model, levels))
        for _ in range(_TRIES):
            ratio = max(_TINY, found.measured.typical) / max(_TINY, before.measured.typical)
            if abs(math.log(ratio)) < _NEAR:
                break
            scaled = _times(found.levels, ratio**-_DAMPED)
            found = Searched(scaled, self._tried(self.model, scaled))
        return found

    def _sweep(self, levels: Levels, factor: float) -> Levels:
        """One round over the sites by time and typical error."""
        weight = self._weight(levels)

        def value(measured: Measured) -> float:
            return math.log(self.time(measured)) + weight * math.log(max(_TINY, measured.typical))

        return self._round(levels, (factor, 1 / factor), value)

    def _round(self, levels: Levels, factors: Sequence[float], value: Callable[[Measured], float]) -> Levels:
        """Each level in turn times the first of the factors by which the value falls."""
        levels, first = dict(levels), self.model.network.frame.node.name
        now = value(self._tried(self.model, levels))
        run = self.model.start(self.rules(levels))
        for name in list(levels):
            for factor in factors:
                tried = {**levels, name: min(_HIGHEST, levels[name] * factor)}
                other = self._from(run, name, tried)
                other.finish()
                found = value(other.measured)
                self.advance(1)
                if found < now:
                    levels, now = tried, found
                    run = self._from(run, name, levels) if name == first else run
                    run.rules = self.rules(levels)
                    break
        return levels

    def _from(self, run: Run, name: str, levels: Levels) -> Run:
        """A run with other levels that shares with `run` what does not depend on the named site."""
        if name == self.model.network.frame.node.name:
            return self.model.start(self.rules(levels))
        run.until(name)
        other = run.copy()
        other.rules = self.rules(levels)
        return other

    def _weight(self, levels: Levels) -> float:
        """How much the logarithm of the time falls for a rise of that of the error, when all levels rise together."""
        small, large = (self._tried(self.model, _times(levels, by)) for by in (1 / _WIDE, _WIDE))
        rise = math.log(max(_TINY, large.typical)) - math.log(max(_TINY, small.typical))
        fall = math.log(self.time(small)) - math.log(self.time(large))
        return min(1.0, max(0.1, fall / rise)) if rise > _TINY else 1.0


def _times(levels: Mapping[str, float], factor: float) -> Levels:
    return {name: min(_HIGHEST, level * factor) for name, level in levels.items()}
