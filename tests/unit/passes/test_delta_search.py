"""The search for thresholds on clips whose answers are given, so that each of its last steps decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import pytest

from effc.cost.streaming import StreamRates
from effc.passes.delta_clip import ClipModel
from effc.passes.delta_keeping import Rule
from effc.passes.delta_measured import Measured
from effc.passes.delta_search import Levels, Search

FRAMES, BOUND = 100, 0.05


@dataclass
class Given:
    """Stands for a clip that goes through its network in pieces: every frame's error is the sum of the levels, times `worst` in one."""

    worst: float
    chunk: int = 10
    count: int = FRAMES
    scales: tuple[float, ...] = (1.0,)

    def measure(self, levels: Mapping[str, float]) -> Measured:
        errors = np.full((FRAMES, 1), sum(levels.values()))
        errors[41] *= self.worst
        return Measured(errors, errors**3, {}, {}, 0, FRAMES - 1)


class Faster(Search):
    """Larger levels take less time."""

    def time(self, measured: Measured) -> float:
        return 1 / max(1e-9, float(measured.errors[0, 0]))


class Stepping(Faster):
    """A round tries all levels at once."""

    def _round(self, model: ClipModel, levels: Levels, factors: Sequence[float], value: Callable[[Measured], tuple[float, ...]]) -> Levels:
        tries = [levels, *({name: level * factor for name, level in levels.items()} for factor in factors)]
        return min(tries, key=lambda tried: value(self._tried(model, tried)))


def search(model: Given, kind: type[Search] = Faster) -> Search:
    given, rules = cast(ClipModel, model), cast(Callable[[Mapping[str, float]], dict[str, Rule]], dict)  # a level is its own rule
    return kind(given, given, rules, (), {}, StreamRates(), BOUND, lambda *_: None)


@pytest.mark.parametrize(("worst", "lowest"), [(1.0, 0.76), (3.0, 0.96), (3000.0, 0.75)])
def test_the_worst_frame_of_a_long_clip_holds_too(worst: float, lowest: float) -> None:
    """All frames but the worst few allow levels that are too large for one; how near the bound the last steps come is their step."""
    found = search(Given(worst)).fitted({"a": 0.02, "b": 0.01})
    error = found.measured.error
    assert lowest * BOUND * (0.8 if worst == 1 else 1) <= error <= BOUND
    assert found.levels["a"] == pytest.approx(2 * found.levels["b"])  # in the same proportions


def test_where_no_level_holds_nothing_is_left_out() -> None:
    found = search(Given(float("1e9"))).fitted({"a": 0.02, "b": 0.01})
    assert found.levels == {"a": 0.0, "b": 0.0}


def test_levels_of_another_search_are_kept_where_they_hold_and_lowered_where_they_do_not() -> None:
    held = {"a": 0.02, "b": 0.01}
    assert search(Given(1.0)).again(held).levels == held
    found = search(Given(2.0)).again(held)
    assert 0.96 * BOUND <= found.measured.error <= BOUND
    assert search(Given(1.0)).again({"a": 0.0, "b": 0.0}).levels == {"a": 0.0, "b": 0.0}


def test_rounds_over_the_sites_go_on_while_they_help() -> None:
    """In one piece: levels far too small rise by one step a round, each for as long as the bound holds."""
    found = search(Given(1.0, chunk=FRAMES), Stepping).again({"a": 0.004, "b": 0.004})
    assert BOUND / 1.4 < found.measured.error <= BOUND
