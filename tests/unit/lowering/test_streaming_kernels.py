"""Kernels over lists of pixels: a stream's results are those of frames that are computed whole, and lists hold what they must."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from effc.runtime.threads import available_threads, use_threads
from tests.unit.lowering.streams import Array, Compiled, Frame, same, special, streaming, wrong

SHAPE = (3, 37, 70)  # rows enough for several threads
Window = tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int, int, int]]  # size, strides, dilation, pads as F.pad's
Point = ((1, 1), (1, 1), (1, 1), (0, 0, 0, 0))


class Layers(nn.Module):
    """Every kind of layer, in sizes that are no multiples of anything."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 16, 5)
        self.second = nn.Conv2d(16, 40, 3, 2, 1)
        self.depthwise = nn.Conv2d(40, 40, 3, 1, 2, dilation=2, groups=40)
        self.wide = nn.Conv2d(73, 17, (1, 3), 1, (0, 1))
        self.sparse = nn.Conv2d(17, 7, 1, 4)
        self.spread = nn.Conv2d(16, 33, 3, 1, 3, dilation=3)
        self.strided = nn.Conv2d(40, 40, 5, (3, 2), (1, 2), groups=40)
        self.tall = nn.Conv2d(17, 1, (3, 1))
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = torch.relu(self.first(F.pad(x, (1, 2, 3, 0))))
        small = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
        y = F.relu6(self.second(x))
        y = torch.sigmoid(self.depthwise(y)) + y
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 9, 8))
        z = self.wide(torch.cat([y, shortcut], 1))
        wide = torch.relu(self.spread(F.avg_pool2d(small, 3, 2, 1, count_include_pad=False)))
        large = F.interpolate(torch.relu(self.tall(z)), scale_factor=2, mode="nearest")
        return self.head(torch.relu(self.sparse(z)).mean((2, 3))), y, wide, large, F.relu6(self.strided(y))


def window(size: int, stride: int = 1, pad: int = 0, dilation: int = 1) -> Window:
    return (size, size), (stride, stride), (dilation, dilation), (pad, pad, pad, pad)


READS: dict[str, list[tuple[str, Window]]] = {
    "first": [("x", ((5, 5), (1, 1), (1, 1), (1, 2, 3, 0)))],
    "max_pool2d": [("first", window(3, 2, 1))],
    "second": [("first", window(3, 2, 1))],
    "depthwise": [("second", window(3, 1, 2, 2)), ("second", Point)],
    "pad_1": [("first", window(1, 2))],
    "cat": [("depthwise", Point), ("pad_1", Point)],
    "wide": [("cat", ((1, 3), (1, 1), (1, 1), (1, 1, 0, 0)))],
    "avg_pool2d": [("max_pool2d", window(3, 2, 1))],
    "spread": [("avg_pool2d", window(3, 1, 3, 3))],
    "sparse": [("wide", window(1, 4))],
    "tall": [("wide", ((3, 1), (1, 1), (1, 1), (0, 0, 0, 0)))],
    "strided": [("depthwise", ((5, 5), (3, 2), (1, 1), (2, 2, 1, 1)))],
}


@pytest.fixture(scope="module")
def layers() -> Compiled:
    return Compiled(streaming(Layers(), special(SHAPE)))


@pytest.fixture
def threads() -> Iterator[Callable[[int], int]]:
    yield use_threads
    use_threads(available_threads())


def test_a_stream_is_its_frames_computed_whole(layers: Compiled) -> None:
    assert not layers.notes
    assert not wrong(layers, layers.program, special(SHAPE))


def test_lists_hold_the_positions_whose_windows_moved(layers: Compiled) -> None:
    streamed = layers.clip(special(SHAPE))
    assert layers.listed.keys() == {f"stream.{name}" for name in READS}
    assert sum(one.clock > 1 and any(one.active.values()) for one in streamed) > 10
    for before, now in pairwise(streamed):
        assert now.clock == 1 or now.active == counted(layers, before, now)


def counted(layers: Compiled, before: Frame, now: Frame) -> dict[str, int]:
    """How many positions read something that moved, by state."""
    moved = {name.removeprefix("stream."): moved_pixels(before.kept[name], now.kept[name]) for name in now.kept}
    found = {"stream.x": int(moved["x"].sum())}
    for name in layers.listed:
        own = name.removeprefix("stream.")
        size = moved[own].shape
        positions = torch.zeros(size, dtype=torch.bool)
        for source, (kernel, strides, dilation, pads) in READS[own]:
            more = F.pad(moved[source].float()[None, None], (pads[0], pads[1] + 9, pads[2], pads[3] + 9))  # 9: of a ceil
            read = F.max_pool2d(more, kernel, strides, 0, dilation)[0, 0]
            positions |= read[: size[0], : size[1]] > 0
        found[name] = int(positions.sum())
    return found


def moved_pixels(before: Array, now: Array) -> Tensor:
    """(H, W) bool from (1, H, W, C)."""
    return torch.from_numpy((before.view(np.int32) != now.view(np.int32)).any(-1)[0])


EDIT = st.tuples(
    st.integers(0, 36), st.integers(0, 69), st.integers(1, 9), st.integers(1, 40), st.sampled_from([0.0, -0.0, 1, np.nan, np.inf, 3e38])
)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(EDIT, max_size=3), min_size=1, max_size=5))
def test_whatever_moves(layers: Compiled, edits: list[list[tuple[int, int, int, int, float]]]) -> None:
    frames = [special(SHAPE)[0]]
    for some in edits:
        frame = frames[len(some) % 2 - 1].copy()  # from the last one, or back to the first
        for y, x, height, width, value in some:
            frame[(y + x) % 3, y : y + height, x : x + width] = value
        frames.append(frame)
    streamed, whole = layers.clip(np.stack(frames)), layers.whole(np.stack(frames))
    for before, now, other in zip([streamed[0], *streamed], streamed, whole, strict=False):
        assert all(same(now.outputs[name], other.outputs[name]) for name in now.outputs)
        assert now.clock == 1 or now.active == counted(layers, before, now)


def test_threads_change_nothing(layers: Compiled, threads: Callable[[int], int]) -> None:
    clip, runs = special(SHAPE), []
    for count in (1, 2, 3, 5):
        threads(count)
        runs.append(layers.clip(clip))
    for run in runs[1:]:
        for one, other in zip(runs[0], run, strict=True):
            assert one.active == other.active
            assert all(one.kept[name].tobytes() == other.kept[name].tobytes() for name in one.kept)


def test_streams_of_one_executor_are_apart(layers: Compiled) -> None:
    clips = [special(SHAPE, seed=seed) for seed in (0, 1)]
    alone = [layers.clip(clip) for clip in clips]
    states = [layers.new_states() for _ in clips]
    for t in range(len(clips[0])):
        for clip, own, expected in zip(clips, states, alone, strict=True):
            found = layers.frame(clip[t], own)
            assert found.clock == expected[t].clock
            assert found.active == expected[t].active
            assert all(found.outputs[name].tobytes() == expected[t].outputs[name].tobytes() for name in found.outputs)


@pytest.mark.slow
def test_in_narrow_vectors() -> None:
    program = streaming(Layers(), special(SHAPE))
    code = Compiled(program, "x86-64-v3")
    assert code.listed.keys() == {f"stream.{name}" for name in READS}
    assert not wrong(code, program, special(SHAPE))
