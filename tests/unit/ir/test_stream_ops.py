"""`effc::truncate` and `effc::stream_clock` at the values where implementations go wrong, and over ten thousand frames."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from effc.ir.ops.stream_clock import LAST

INF, NAN = math.inf, math.nan
LATER = torch.tensor([2], dtype=torch.int32)
truncate, stream_clock = torch.ops.effc.truncate, torch.ops.effc.stream_clock


def bits(x: Tensor) -> list[int]:
    found: list[int] = x.contiguous().view(torch.int32).flatten().tolist()
    return found


def test_a_pixel_moves_as_a_whole_when_its_channels_together_are_over_the_threshold() -> None:
    previous = torch.zeros(1, 2, 1, 4)
    x = torch.tensor([[0.25, 0.25, 0.0, -0.25], [0.25, 0.2500001, -1.0, 0.0]]).reshape(1, 2, 1, 4)  # the threshold itself is not over
    kept = truncate(x, previous, LATER, 0.25)
    assert kept.reshape(2, 4).tolist() == [[0.0, 0.25, 0.0, 0.0], [0.0, x[0, 1, 0, 1].item(), -1.0, 0.0]]


def test_what_is_no_number_moves() -> None:
    x = torch.tensor([[NAN, 1.0, NAN, INF, -INF, 1.0]])[:, None]
    previous = torch.tensor([[1.0, NAN, NAN, INF, INF, INF]])[:, None]
    assert bits(truncate(x, previous, LATER, 100.0)) == bits(x)  # infinity minus infinity has no size, so it is over every threshold


def test_a_threshold_of_zero_is_the_identity_bit_for_bit() -> None:
    x = torch.tensor([[-0.0, 0.0, NAN, 1e-45, INF]])[:, None]
    x.view(torch.int32)[0, 0, 2] = 0x7FC12345  # another NaN
    assert bits(truncate(x, -x, LATER, 0.0)) == bits(x)
    assert truncate(x, x, LATER, 0.0).data_ptr() != x.data_ptr()


def test_fresh_samples_are_taken_whole_and_others_of_the_batch_are_not() -> None:
    x, previous = torch.full((3, 1, 2), 0.1), torch.zeros(3, 1, 2)
    kept = truncate(x, previous, torch.tensor([1, 2, 7], dtype=torch.int32), 0.5)
    assert kept[0].tolist() == x[0].tolist()
    assert kept[1:].count_nonzero() == 0


def test_an_op_says_what_does_not_fit() -> None:
    x = torch.zeros(1, 2, 3)
    for wrong in (
        lambda: truncate(x.int(), x.int(), LATER, 0.1),
        lambda: truncate(x, x[..., :2], LATER, 0.1),
        lambda: truncate(x, x, LATER.long(), 0.1),
        lambda: truncate(x, x, LATER, -0.1),
        lambda: truncate(x, x, LATER, NAN),
        lambda: stream_clock(x, x, LATER, 0.0, 0.5, -1),
        lambda: stream_clock(x, x, LATER, 0.0, NAN, 0),
    ):
        with pytest.raises(ValueError, match=r"truncate|stream_clock"):
            wrong()


@pytest.mark.parametrize("rule", ["the op", "residual dropped"])
def test_nothing_drifts_over_ten_thousand_frames(rule: str) -> None:
    steps = torch.randn((10_000, 16), generator=torch.Generator().manual_seed(0)) * 0.1
    walk = steps.cumsum(0).reshape(10_000, 1, 16, 1, 1)
    kept, fed, worst, moves = torch.zeros_like(walk[0]), torch.zeros_like(walk[0]), 0.0, 0
    for x in walk:
        if rule == "the op":
            new = truncate(x, kept, LATER, 0.5)
        else:  # a published implementation compares with what was fed last, not with what was handed on
            moved = (x - fed).square().mean(1, keepdim=True) > 0.25
            new = torch.where(moved, x, kept)
        moves += int(not torch.equal(new, kept))
        kept, fed = new, x
        worst = max(worst, float((kept - x).square().mean(1).sqrt().max()))
    if rule == "the op":
        assert worst <= 0.5 * (1 + 1e-6)
        assert moves < 5_000  # it does skip
    else:
        assert worst > 5.0


def clock(x: Tensor, previous: Tensor, old: list[int], threshold: float = 0.0, scene_cut: float = 1.0, refresh: int = 0) -> list[int]:
    result = stream_clock(x, previous, torch.tensor(old, dtype=torch.int32), threshold, scene_cut, refresh)
    assert result.dtype == torch.int32
    found: list[int] = result.tolist()
    return found


def test_the_clock_counts_frames_since_a_whole_one() -> None:
    x = torch.zeros(5, 1, 4)
    assert clock(x, x, [0, 1, 5, LAST - 1, LAST]) == [1, 2, 6, LAST, LAST]
    assert clock(x, x, [0, 4, 5, 6, LAST], refresh=5) == [1, 5, 1, 1, 1]


def test_a_cut_to_another_scene_is_told_sample_by_sample() -> None:
    previous = torch.zeros(3, 2, 2, 5)
    x = previous.clone()
    x[0, 0, 0, :3] = 1.0  # 3 of 10 pixels, though 6 of 20 elements could be
    x[0, 1, 0, :3] = 1.0
    x[1, 1, 0, :4] = 1.0
    assert clock(x, previous, [1, 1, 1], scene_cut=0.3) == [2, 1, 2]
    assert clock(x, previous, [1, 1, 1], scene_cut=0.4) == [2, 2, 2]
    assert clock(x, previous, [1, 1, 1], threshold=1.0, scene_cut=0.3) == [2, 2, 2]  # by as much as the threshold is not over it
    assert clock(x, previous, [1, 1, 1], threshold=0.5, scene_cut=0.0) == [1, 1, 2]


def test_with_a_threshold_of_zero_bits_are_compared() -> None:
    x, previous = torch.tensor([[[0.0]], [[NAN]], [[-0.0]]]), torch.tensor([[[0.0]], [[NAN]], [[0.0]]])
    assert clock(x, previous, [1, 1, 1], scene_cut=0.0) == [2, 2, 1]
    assert clock(x, previous, [1, 1, 1], threshold=1e-30, scene_cut=0.0) == [2, 1, 2]
