"""How large levels may be under a budget of the metric: the search behind `delta{max-drop=...}`.

The levels keep their proportions, which a search under an error bound has found; a common factor is bisected on a grid. Each candidate is
the streaming program itself, run as one clip on the frames that were held back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from effc.errors import DataError
from effc.ir import Program
from effc.passes.base import Context, Pass
from effc.passes.curve import Curve, CurvePoint
from effc.passes.delta_calibration import Calibration
from effc.passes.delta_insert import streaming_program
from effc.passes.delta_search import Levels
from effc.passes.quality import Judge

__all__ = ["within_drop"]

_FACTORS = tuple(2.0 ** (step / 2) for step in range(-12, 9))
_ROUNDING = 1e-9


def within_drop(
    by: Pass, program: Program, calibration: Calibration, levels: Levels, kept: Mapping[str, bool], max_drop: float, context: Context
) -> Levels:
    """The levels times the largest factor of the grid, from 1/64 to 16, that costs no more of the metric than `max_drop`; zero where none.

    Args:
        by: who searches.
        program: per frame.
        calibration: the clip.
        levels: whose proportions are kept.
        kept: which layers have a truncate.
        max_drop: the largest loss of the metric.
        context: gives the metric and the data; gets a curve.
    """
    if context.fit is None:
        raise DataError(f"pass {by.name} needs data to choose by: give --data clip.npz")
    data = context.fit.part(calibration.held_back)
    judge = Judge(program, data, context.metric)
    points = [CurvePoint(0.0, 1.0, judge.before, True)]
    chosen = 0  # among the points

    def scaled(factor: float) -> Levels:
        return {name: min(1.0, level * factor) for name, level in levels.items()}

    def holds(factor: float) -> bool:
        rules = calibration.rules(scaled(factor), kept)
        value, _ = judge.judge(streaming_program(program, calibration.network, kept, rules, calibration.scene_cut, calibration.refresh)[0])
        density = calibration.computed(calibration.model.measure(rules), kept)
        points.append(CurvePoint(sum(scaled(factor).values()) / max(1, len(levels)), density, value, True))
        return judge.loss(value) <= max_drop + _ROUNDING

    low, high = -1, len(_FACTORS) - 1
    best = dict.fromkeys(levels, 0.0)
    with context.progress(f"{by.name}: scaling", len(_FACTORS).bit_length()) as advance:
        while low < high:
            middle = (low + high + 1) // 2
            if holds(_FACTORS[middle]):
                low, best, chosen = middle, scaled(_FACTORS[middle]), len(points) - 1
            else:
                high = middle - 1
            advance(1, f"{judge.metric} {points[-1].value:.4g}")
    marked = [replace(one, kept=place == chosen) for place, one in enumerate(points)]
    ordered = tuple(sorted(marked, key=lambda point: (point.level, -point.density)))
    context.curves.append(Curve(by.name, judge.metric, judge.before, max_drop, len(data), ordered))
    return best
