"""Depthwise convolutions: the numbers of torch for every shape, however windows meet tiles, vectors, edges and tails of channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from effc.targets import Target
from tests.unit.lowering.functions_of_torch import TARGETS, Case, check, families, normal

SMALL_CACHE = [replace(target, l2=4096) for target in TARGETS]  # images do not fit: lines are the tasks, not channels


def by_target(target: Target) -> str:
    return f"{target.name}, {target.l2} bytes"


def depthwise(
    channels: int, sizes: Sequence[int], window: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, batch: int = 1
) -> tuple[nn.Module, list[Tensor]]:
    """A layer and an input."""
    torch.manual_seed(channels)
    kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(sizes)]
    return kind(channels, channels, window, stride, padding, dilation, groups=channels), [normal(batch, channels, *sizes)]


def named(cases: Sequence[Case]) -> dict[str, Case]:
    return {f"{index} {function} {[tuple(x.shape) for x in inputs]}": (function, inputs) for index, (function, inputs) in enumerate(cases)}


def all_depthwise(cases: Sequence[Case], target: Target) -> None:
    found = families(check(named(cases), target))
    assert found.count("depthwise") == len(cases), found


CASES = [
    depthwise(2, (1, 1), 1),
    depthwise(3, (1, 9), (1, 3), padding=(0, 1)),
    depthwise(7, (9, 1), (3, 1), (2, 1), (1, 0)),
    depthwise(8, (13, 11), 3, 1, 1, batch=2),
    depthwise(15, (7, 7), 3, 2, 1),
    depthwise(16, (14, 14), 3, 1, 1),
    depthwise(17, (5, 29), 5, 1, 2),
    depthwise(24, (12, 15), 3, 3, 0),
    depthwise(31, (10, 30), 3, 1, 2, 2),
    depthwise(32, (4, 57), 3, 2, (1, 0)),
    depthwise(33, (7, 13), (4, 2), (1, 3), (3, 1), (2, 1)),
    depthwise(48, (3, 3), 5, 1, 4),  # taps that no position reaches
    depthwise(63, (6, 6), 3, 1, 12, 12),  # windows of which one tap lies inside
    depthwise(70, (8, 8), 7, 1, 3),
    depthwise(144, (9, 9), 3, 1, 1, batch=3),
]


@pytest.mark.parametrize("target", [*TARGETS, pytest.param(SMALL_CACHE[0], marks=pytest.mark.slow)], ids=by_target)
def test_depthwise_convolutions_of_every_kind(target: Target) -> None:
    all_depthwise(CASES, target)


@pytest.mark.parametrize("target", [*TARGETS, pytest.param(SMALL_CACHE[0], marks=pytest.mark.slow)], ids=by_target)
def test_other_numbers_of_axes(target: Target) -> None:
    cases = [
        depthwise(20, (50,), 5, 2, 3, batch=2),
        depthwise(16, (19,), 3, padding=2, dilation=2),
        depthwise(64, (3001,), 9, padding=4),  # one line: threads take parts of it
        depthwise(19, (5, 6, 7), (3, 1, 3), (1, 2, 1), (2, 0, 1)),
    ]
    all_depthwise(cases, target)


@pytest.mark.parametrize("target", TARGETS, ids=by_target)
def test_windows_too_long_to_write_out(target: Target) -> None:
    cases = [
        depthwise(40, (61,), 31, padding=15),
        depthwise(33, (20,), 31, padding=15),  # no window lies inside
        depthwise(8, (45,), 17, 2, (8,), 2),
        depthwise(17, (40,), 33),
        depthwise(5, (3, 40), (3, 21), 1, (1, 10), batch=2),
    ]
    all_depthwise(cases, target)


def test_many_threads_share_lines_and_channels() -> None:
    cases = [depthwise(32, (61, 61), 3, 1, 1), depthwise(320, (7, 7), 5, 1, 2, batch=3), depthwise(48, (2, 900), 3, 1, 1)]
    for target in (TARGETS[0], SMALL_CACHE[0]):
        all_depthwise(cases, target)


def test_unequal_padding_is_the_convolutions_own() -> None:
    def layer(x: Tensor, w: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (0, 1, 2, 3)), w, stride=2, groups=6)

    lowered = check({"padded": (layer, [normal(1, 6, 8, 8), normal(6, 1, 3, 3)])}, TARGETS[0])
    assert lowered.plan is not None
    assert sum("pad" in operator for step in lowered.plan.steps for operator in step.ops) == 0


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(20, 20, 3, padding=1, groups=20, bias=False), nn.BatchNorm2d(20)
        self.norm.running_mean, self.norm.running_var = torch.linspace(-1, 1, 20), torch.linspace(0.5, 2, 20)
        self.second = nn.Conv2d(20, 20, 5, padding=2, groups=20)

    def forward(self, x: Tensor) -> Tensor:
        y = F.hardswish(self.norm(self.first(x)))
        return torch.clamp(self.second(y) + x, -0.5, 3.0)


def test_what_follows_is_computed_with_it() -> None:
    torch.manual_seed(0)
    lowered = check({"block": (Block(), [normal(2, 20, 9, 10)])}, TARGETS[0])
    assert families(lowered).count("depthwise") == 2
    assert lowered.plan is not None
    assert len(lowered.plan.steps) == 4  # to channels last, the convolutions, and back


def test_nan_and_infinities_stay_where_they_are() -> None:
    x = normal(1, 24, 9, 9)
    x[0, 3, 4, 4], x[0, 20, 0, 0], x[0, 7, 8, 8] = float("nan"), float("inf"), -float("inf")
    lowered = check({"depthwise": (lambda x, w: torch.relu(F.conv2d(x, w, padding=1, groups=24)), [x, normal(24, 1, 3, 3)])}, TARGETS[0])
    assert "depthwise" not in families(lowered)  # weights that come from outside
    check({"depthwise": (nn.Sequential(depthwise(24, (9, 9), 3, 1, 1)[0], nn.ReLU()), [x])}, TARGETS[0])


def test_other_groups_are_left_to_other_kernels() -> None:
    layers: dict[str, Case] = {
        "two outputs a channel": (nn.Conv2d(6, 12, 3, groups=6), [normal(1, 6, 8, 8)]),
        "two channels a group": (nn.Conv2d(6, 3, 3, groups=3), [normal(1, 6, 8, 8)]),
        "one channel": (nn.Conv2d(1, 1, 3), [normal(1, 1, 8, 8)]),
    }
    assert "depthwise" not in families(check(layers, TARGETS[0]))


@settings(max_examples=5, deadline=None, derandomize=True, phases=[Phase.generate])  # a failing example is small enough, and slow to shrink
@given(st.data())
def test_random_depthwise_convolutions(data: st.DataObject) -> None:
    cases = []
    for _ in range(5):
        channels = data.draw(st.sampled_from([2, 3, 5, 8, 11, 15, 16, 17, 24, 31, 32, 33, 40, 65]))
        rank = data.draw(st.sampled_from([1, 2, 2, 2, 3]))
        each = st.lists(st.integers(1, 4), min_size=rank, max_size=rank)
        window, dilation, stride = data.draw(each), data.draw(each), data.draw(each)
        padding = [data.draw(st.integers(0, 4)) for _ in range(rank)]
        least = [max(1, (k - 1) * d + 1 - 2 * p) for k, d, p in zip(window, dilation, padding, strict=True)]
        sizes = [low + data.draw(st.sampled_from([0, 1, 2, 6, 7, 8] if rank > 2 else [0, 1, 2, 12, 13, 14, 27])) for low in least]
        cases.append(
            depthwise(channels, sizes, tuple(window), tuple(stride), tuple(padding), tuple(dilation), data.draw(st.integers(1, 2)))
        )
    all_depthwise(cases, data.draw(st.sampled_from([*TARGETS, *SMALL_CACHE])))
