"""How sparse a program may become: the search behind `max_drop`.

    1. The largest level that all sites can have at once, by bisection on a grid.
    2. From there, layer by layer, one step more while the metric holds; a layer that has failed once keeps what it has.

It sees only the selection part of `--data`. What is found was measured itself, so it holds there even where a higher level happens to be
better than a lower one; that it holds on other data is for the gate to say.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace

from effc.errors import DataError, EffcWarning, counted
from effc.ir import Program
from effc.passes.base import Context, Pass
from effc.passes.curve import Curve, CurvePoint
from effc.passes.quality import Judge
from effc.passes.thresholds import Sparsified

__all__ = ["MOST", "grid", "within_budget"]

MOST = 0.95
"""The highest share of zeros that is asked for at any site: at more, nothing is left to compute with."""

_ROUNDING = 1e-9
_FEW = 100  # samples: one of them is a point of top1

Levels = Mapping[str, float]


def grid(step: float, last: float = MOST) -> list[float]:
    """Multiples of `step` up to `last`, and `last` itself."""
    steps = [index * step for index in range(1, int(last / step + _ROUNDING) + 1)]
    return steps if steps and abs(steps[-1] - last) < _ROUNDING else [*steps, last]


def within_budget(
    by: Pass,
    program: Program,
    context: Context,
    *,
    build: Callable[[Levels], Sparsified],
    spread: Callable[[float], Levels],
    weights: Mapping[str, float],
    step: float,
    max_drop: float,
) -> Levels:
    """The levels that a search has found; all zero where not even the smallest step holds.

    Args:
        by: who searches.
        program: before the pass.
        context: its selection data are used, and its curves get one more.
        build: makes the program with levels by site.
        spread: levels by site from one level for all.
        weights: what a site counts for in means over sites (bytes of its weights), by site name.
        step: between two levels.
        max_drop: the largest loss of the metric.

    Raises:
        DataError: there are no selection data.
    """
    if context.selection is None:
        raise DataError(f"pass {by.name} needs data to choose by: give --data calib.npz")
    if len(context.selection) < _FEW:
        warnings.warn(
            f"{by.name}: max-drop={max_drop:g} is judged on {counted(len(context.selection), 'sample')} (a fifth of --data is held back "
            "for that), too few to tell small drops from chance; give more to --data, and judge by --eval with --max-drop",
            EffcWarning,
            stacklevel=2,
        )
    levels = grid(step)
    with context.progress(f"{by.name}: searching", len(levels).bit_length() + len(weights)) as advance:
        best = dict.fromkeys(weights, 0.0)
        values = build(best).values
        search = _Search(Judge(program, context.selection, context.metric, set(values.values())), build, weights, max_drop, advance)
        search.start(values)
        low, high = 0, len(levels)  # `low` levels of the grid hold
        while low < high:
            middle = (low + high + 1) // 2
            tried = spread(levels[middle - 1])
            if search.holds(tried, levels[middle - 1]):
                low, best = middle, dict(tried)
            else:
                high = middle - 1
        best = _raised(search, best, step)
    context.curves.append(search.curve(by.name, best, len(context.selection)))
    return best


class _Search:
    def __init__(
        self,
        judge: Judge,
        build: Callable[[Levels], Sparsified],
        weights: Mapping[str, float],
        max_drop: float,
        advance: Callable[[int], None],
    ) -> None:
        self.judge, self.build, self.weights, self.max_drop, self.advance = judge, build, weights, max_drop, advance
        self.points: list[tuple[dict[str, float], CurvePoint]] = []

    def start(self, values: Mapping[str, str]) -> None:
        """Note the program before the pass, with the densities of its values by site."""
        density = self._mean({site: self.judge.densities[values[site]] for site in self.weights})
        self.points.append((dict.fromkeys(self.weights, 0.0), CurvePoint(0.0, density, self.judge.before, True)))

    def holds(self, levels: Levels, uniform: float | None = None) -> bool:
        """Whether the program with these levels loses no more than is allowed; `uniform`: the one level that they come from."""
        made = self.build(levels)
        value, densities = self.judge.judge(made.program, set(made.values.values()))
        density = self._mean({site: densities[made.values[site]] for site in self.weights})
        level = self._mean(levels) if uniform is None else uniform
        self.points.append((dict(levels), CurvePoint(level, density, value, uniform is not None)))
        self.advance(1)
        return self.judge.loss(value) <= self.max_drop + _ROUNDING

    def curve(self, name: str, best: Levels, samples: int) -> Curve:
        """Every uniform level that was tried, and the one that is kept."""
        kept = [replace(point, kept=levels == best) for levels, point in self.points if point.uniform or levels == best]
        ordered = tuple(sorted(kept, key=lambda point: (point.level, -point.density)))
        return Curve(name, self.judge.metric, self.judge.before, self.max_drop, samples, ordered)

    def _mean(self, values: Levels) -> float:
        total = sum(self.weights.values())
        return sum(self.weights[name] * values[name] for name in self.weights) / total if total else 0.0


def _raised(search: _Search, levels: dict[str, float], step: float) -> dict[str, float]:
    """Rounds over the layers, each raised by a step, until no layer can take another one."""
    open_ = [name for name in search.weights if levels[name] < MOST - _ROUNDING]
    while open_:
        for name in list(open_):
            tried = {**levels, name: min(MOST, levels[name] + step)}
            if search.holds(tried):
                levels = tried
            if levels[name] >= MOST - _ROUNDING or levels is not tried:
                open_.remove(name)
    return levels
