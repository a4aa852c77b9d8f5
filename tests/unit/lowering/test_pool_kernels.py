"""Pools and sums over images: the numbers of torch in every layout and shape, NaN included, and the kernels that channels-last ones get."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import tvm
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from tvm import relax

from effc.lowering.anchors import anchored
from effc.lowering.legalise import NAN_KEEPING
from effc.lowering.relax_edit import rewritten_with_builder
from effc.targets import Target
from tests.unit.lowering.functions_of_torch import TARGETS, Case, check, families, normal

SMALL_CACHE = [replace(target, l2=4096) for target in TARGETS]  # images do not fit: lines are the tasks, not channels
NAN, INF = float("nan"), float("inf")


def by_target(target: Target) -> str:
    return f"{target.name}, {target.l2} bytes"


class Behind(nn.Module):
    """A function of an image that a convolution which changes nothing leaves with channels last."""

    def __init__(self, function: Callable[[Tensor], Tensor], channels: int, rank: int) -> None:
        super().__init__()
        self.function, self.channels = function, channels
        self.register_buffer("ones", torch.ones(channels, 1, *[1] * rank))

    def forward(self, x: Tensor) -> Tensor:
        convolution = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[x.ndim - 2]
        return self.function(convolution(x, self.ones, groups=self.channels))


def image(batch: int, channels: int, *sizes: int) -> Tensor:
    """With a few NaN and infinities, so that most windows hold none."""
    x = normal(batch, channels, *sizes)
    places = torch.rand(x.shape, generator=torch.Generator().manual_seed(1))
    x[places < 0.002], x[(places > 0.002) & (places < 0.004)], x[places > 0.996] = NAN, INF, -INF
    return x


def behind(function: Callable[[Tensor], Tensor], x: Tensor) -> Case:
    return Behind(function, x.shape[1], x.ndim - 2), [x]


def named(cases: Sequence[Case]) -> dict[str, Case]:
    return {f"{index} {[tuple(x.shape) for x in inputs]}": (function, inputs) for index, (function, inputs) in enumerate(cases)}


def count(cases: Sequence[Case], target: Target, family: str) -> int:
    return families(check(named(cases), target)).count(family)


POOLS = [
    # batch, channels, sizes, window, stride, padding, dilation of maxima, ceil_mode
    (1, 1, (1, 1), 1, 1, 0, 1, False),
    (1, 3, (1, 9), (1, 3), 2, (0, 1), 1, False),
    (2, 7, (9, 8), 2, 2, 0, 1, True),
    (1, 15, (13, 11), 3, 2, 1, 1, False),
    (1, 16, (14, 14), 3, 2, 1, 1, True),
    (1, 17, (7, 29), 3, 1, 1, 2, False),
    (1, 24, (12, 15), 3, 3, 1, 1, True),
    (1, 31, (6, 30), (2, 5), (1, 3), (1, 2), 1, True),
    (1, 33, (20, 20), 5, 1, 2, 1, False),
    (1, 48, (13, 13), 13, 1, 6, 1, False),
    (3, 64, (8, 8), 8, 8, 0, 1, False),
    (1, 70, (5, 57), (3, 20), (2, 7), (1, 10), 1, True),
]


@pytest.mark.parametrize("target", [*TARGETS, pytest.param(SMALL_CACHE[0], marks=pytest.mark.slow)], ids=by_target)
def test_largest_elements_of_windows(target: Target) -> None:
    cases = []
    for batch, channels, sizes, window, stride, padding, dilation, ceil in POOLS:
        cases.append(behind(nn.MaxPool2d(window, stride, padding, dilation, ceil_mode=ceil), image(batch, channels, *sizes)))
    assert count(cases, target, "pool") == len(POOLS)


@pytest.mark.parametrize("with_padding", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("target", TARGETS, ids=by_target)
def test_means_of_windows(target: Target, with_padding: bool) -> None:
    cases = [
        behind(nn.AvgPool2d(window, stride, padding, ceil, with_padding), normal(batch, channels, *sizes))
        for batch, channels, sizes, window, stride, padding, _, ceil in POOLS
    ]
    cases.append(behind(nn.AvgPool2d(3, 2, 1, True, with_padding), image(2, 20, 9, 10)))
    assert count(cases, target, "pool") == len(cases)


@pytest.mark.parametrize("target", [*TARGETS, pytest.param(SMALL_CACHE[0], marks=pytest.mark.slow)], ids=by_target)
def test_other_numbers_of_axes(target: Target) -> None:
    cases = [
        behind(nn.MaxPool1d(3, 2, 1), image(2, 20, 31)),
        behind(nn.MaxPool1d(40, 3, 20), image(1, 9, 77)),
        behind(nn.MaxPool1d(5, 1, 2), image(1, 64, 3001)),  # one line: threads take parts of it
        behind(nn.AvgPool1d(4, 3, 2, True, False), image(1, 33, 30)),
        behind(nn.MaxPool3d((3, 2, 3), (2, 1, 1), (1, 0, 1)), image(1, 19, 5, 6, 7)),
        behind(nn.AvgPool3d(2, 2, 1), image(2, 18, 4, 5, 6)),
    ]
    assert count(cases, target, "pool") == len(cases)


def test_threads_share_lines_and_channels() -> None:
    cases = [
        behind(nn.MaxPool2d(3, 2, 1), image(1, 32, 97, 97)),
        behind(nn.AvgPool2d(5, 1, 2), normal(3, 160, 17, 17)),
        behind(nn.MaxPool2d(2), image(1, 64, 2, 2050)),
    ]
    for target in (TARGETS[0], SMALL_CACHE[0]):
        assert count(cases, target, "pool") == len(cases)


def test_what_follows_a_pool_is_computed_with_it() -> None:
    def function(x: Tensor) -> Tensor:
        return torch.relu(F.avg_pool2d(x, 3, 1, 1) - x) + torch.relu(F.max_pool2d(x, 3, 1, 1) * 2.0)

    lowered = check(named([behind(function, normal(1, 20, 9, 10))]), TARGETS[0])
    assert lowered.plan is not None
    assert len(lowered.plan.steps) == 5  # to channels last, the convolution, two pools with what follows them, and back


SUMS: list[tuple[tuple[int, ...], Any]] = [
    ((1, 40, 7, 7), (2, 3)),
    ((2, 64, 8, 8), (-1, -2)),
    ((1, 3, 5, 1), (2, 3)),
    ((3, 17, 4, 9), 2),
    ((2, 33, 3, 13), (0, 3)),
    ((1, 144, 2, 2), (0, 2, 3)),
    ((1, 31, 90, 90), (2, 3)),  # few results of many elements: threads take parts of the sums
    ((1, 19, 30), 2),
    ((2, 12, 3, 4, 5), (2, 3, 4)),
]


@pytest.mark.parametrize("target", TARGETS, ids=by_target)
@pytest.mark.parametrize("keep", [pytest.param(False, marks=pytest.mark.slow), True])
def test_means_and_sums_over_images(target: Target, keep: bool) -> None:
    cases = []
    for shape, axes in SUMS:
        cases.append(behind(lambda x, axes=axes: x.mean(axes, keep), normal(*shape) + 1.0))
        cases.append(behind(lambda x, axes=axes: torch.relu(x.sum(axes, keep)), normal(*shape)))
    assert count(cases, target, "total") == len(cases)


@pytest.mark.parametrize("target", TARGETS, ids=by_target)
def test_means_of_nan_and_infinities(target: Target) -> None:
    x = normal(1, 20, 9, 9)
    x[0, 3, 4, 4], x[0, 5, 8, 8], x[0, 17, 0, 0] = NAN, INF, -INF
    x[0, 9, 0, :2] = torch.tensor([INF, -INF])
    check(named([behind(lambda x: x.mean((2, 3)), x)]), target)


def test_columns_of_any_matrix() -> None:
    cases: dict[str, Case] = {}
    for shape, axes in [((1, 1), 0), ((50, 3), 0), ((7, 1000), 0), ((2, 197, 40), 1), ((3, 4, 5, 6), (0, 2)), ((600, 600), 0)]:
        cases[f"{shape} {axes}"] = (lambda x, axes=axes: x.sum(axes), [normal(*shape)])
    assert families(check(cases, TARGETS[0])) == ["total"] * len(cases)


@settings(max_examples=5, deadline=None, derandomize=True, phases=[Phase.generate])  # a failing example is small enough, and slow to shrink
@given(st.data())
def test_random_pools(data: st.DataObject) -> None:
    cases = []
    for _ in range(5):
        rank = data.draw(st.sampled_from([1, 2, 2, 3]))
        window = [data.draw(st.integers(1, 5)) for _ in range(rank)]
        padding = [data.draw(st.integers(0, size // 2)) for size in window]
        stride = [data.draw(st.integers(1, 4)) for _ in range(rank)]
        more = [0, 1, 2, 5, 13, 14] if rank < 3 else [0, 1, 5]  # torch wants whole windows
        sizes = [size + data.draw(st.sampled_from(more)) for size in window]
        x = image(data.draw(st.integers(1, 2)), data.draw(st.sampled_from([1, 2, 5, 8, 15, 16, 17, 24, 33, 65])), *sizes)
        ceil = data.draw(st.booleans())
        if data.draw(st.booleans()):
            cases.append(behind({1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}[rank](window, stride, padding, ceil_mode=ceil), x))
        else:
            kind = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}[rank]
            cases.append(behind(kind(window, stride, padding, ceil, data.draw(st.booleans())), x))
    assert count(cases, data.draw(st.sampled_from([*TARGETS, *SMALL_CACHE])), "pool") == len(cases)


# ---- the meaning of pools in all layouts, whatever their kernel ------------------------------------------------------------------


def run_in(layout: str, x: Tensor, operators: Sequence[Callable[[Any], Any]], rewrite: Callable[[Any], Any]) -> list[Tensor]:
    """Relax operators on an image, which is given and comes back with channels first; in between it has a layout."""
    order = [("NC" + "DHW"[5 - x.ndim :]).index(letter) for letter in layout]
    array = np.ascontiguousarray(x.permute(order).numpy())
    builder = relax.BlockBuilder()
    variable = relax.Var("x", relax.TensorType(array.shape, "float32"))
    with builder.function("main", [variable]):
        with builder.dataflow():
            results = builder.emit_output(relax.Tuple([builder.emit(operator(variable)) for operator in operators]))
        builder.emit_func_output(results)
    module = relax.transform.LegalizeOps(NAN_KEEPING)(rewrite(builder.get()))
    outputs = relax.VirtualMachine(relax.build(module, "llvm"), tvm.cpu())["main"](tvm.runtime.tensor(array))
    return [torch.from_numpy(output.numpy()).permute([order.index(axis) for axis in range(x.ndim)]) for output in outputs]


OTHERS = [pytest.param(layout, marks=pytest.mark.slow) for layout in ("NWC", "NDHWC", "NCW", "NCDHW")]


@pytest.mark.parametrize("layout", ["NHWC", "NCHW", *OTHERS])
def test_pools_mean_the_same_in_every_layout(layout: str) -> None:
    rank = len(layout) - 2
    x = image(2, 5, *(8, 9, 10)[:rank])
    nn_ = relax.op.nn
    largest, average, adaptive = (getattr(nn_, f"{name}_pool{rank}d") for name in ("max", "avg", "adaptive_avg"))
    torch_largest, torch_average = getattr(F, f"max_pool{rank}d"), getattr(F, f"avg_pool{rank}d")
    torch_adaptive = getattr(F, f"adaptive_avg_pool{rank}d")
    before, after = [1, 2, 0][:rank], [0, 1, 2][:rank]
    padded = F.pad(x, [size for pair in zip(reversed(before), reversed(after), strict=True) for size in pair], value=-INF)
    pairs = [
        (
            lambda x: largest(x, [2] * rank, [2] * rank, [*before, *after], [3] * rank, layout=layout),
            torch_largest(padded, 2, 2, 0, 3),
        ),
        (
            lambda x: largest(x, [3] * rank, [2] * rank, [1] * rank * 2, ceil_mode=True, layout=layout),
            torch_largest(x, 3, 2, 1, ceil_mode=True),
        ),
        *(
            (
                lambda x, ceil=ceil, with_padding=with_padding: average(
                    x, [3] * rank, [2] * rank, [1] * rank * 2, ceil_mode=ceil, count_include_pad=with_padding, layout=layout
                ),
                torch_average(x, 3, 2, 1, ceil, with_padding),
            )
            for ceil, with_padding in itertools.product((False, True), repeat=2)
        ),
        (lambda x: adaptive(x, [4, 3, 5][:rank], layout=layout), torch_adaptive(x, [4, 3, 5][:rank])),
        (lambda x: adaptive(x, [3, 4, 7][:rank], layout=layout), torch_adaptive(x, [3, 4, 7][:rank])),
    ]
    for rewrite in (lambda module: rewritten_with_builder(module, anchored), lambda module: module):
        results = run_in(layout, x, [operator for operator, _ in pairs], rewrite)
        for got, (_, wanted) in zip(results, pairs, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
