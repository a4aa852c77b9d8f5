"""Kernels of family c99, compiled by the host's C compiler, give what eager torch gives: at every edge of windows, tiles and groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.ir import Batch, Program, Provenance
from effc.lowering.lower import Lowered
from tests.unit.lowering.c_on_host import Array, lowered, needs_compiler, run
from tests.unit.lowering.functions_of_torch import normal

pytestmark = needs_compiler
OPS = torch.ops.effc
I8, U8 = torch.int8, torch.uint8
Case = tuple[Callable[..., Tensor], Sequence[Tensor], Sequence[Tensor]]  # function, inputs, stored tensors


class Several(nn.Module):
    """Functions side by side: lowering is what takes the time."""

    def __init__(self, cases: Sequence[Case]) -> None:
        super().__init__()
        self.functions = [(function, len(inputs), len(stored)) for function, inputs, stored in cases]
        for number, (_, _, stored) in enumerate(cases):
            for i, tensor in enumerate(stored):
                self.register_buffer(f"t{number}_{i}", tensor)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        left = list(inputs)
        found = []
        for number, (function, count, stored) in enumerate(self.functions):
            own = [left.pop(0) for _ in range(count)]
            found.append(function(*own, *(getattr(self, f"t{number}_{i}") for i in range(stored))))
        return tuple(found)


def outputs(cases: Sequence[Case]) -> tuple[Lowered, list[Array], list[Array]]:
    """The code, its results, and torch's."""
    module, inputs = Several(cases).eval(), [x for _, given, _ in cases for x in given]
    names = [f"x{index}" for index in range(len(inputs))]
    exported = torch.export.export(module, tuple(inputs))
    program = Program.from_exported(exported, Provenance("cases", "torch", "0" * 64), batch=Batch(False, "cases"), input_names=names)
    code = lowered(program)
    got = run(code, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
    with torch.no_grad():
        return code, list(got.values()), [one.numpy() for one in module(*inputs)]


def check(cases: Sequence[Case], tolerance: float) -> list[str]:
    """Results are within `tolerance` of the largest finite magnitude; returns the families of the steps with multiply-accumulates."""
    code, actual, wanted = outputs(cases)
    for number, (value, expected) in enumerate(zip(actual, wanted, strict=True)):
        largest = float(np.abs(expected[np.isfinite(expected)]).max(initial=1e-30))
        np.testing.assert_allclose(value.reshape(expected.shape), expected, rtol=0, atol=tolerance * largest, err_msg=f"case {number}")
    assert code.plan is not None
    return [step.family for step in code.plan.steps if step.macs]


def conv(image: tuple[int, ...], weights: tuple[int, ...], **geometry: object) -> Case:
    function = {3: functional.conv1d, 4: functional.conv2d, 5: functional.conv3d}[len(image)]
    return (lambda x, w, b: function(x, w, b, **geometry)), [normal(*image)], [normal(*weights, seed=1), normal(weights[0], seed=2)]


def test_convolutions() -> None:
    families = check(
        [
            conv((1, 3, 7, 9), (16, 3, 3, 3), padding=1),
            conv((2, 5, 6, 7), (13, 5, 3, 2), padding=(2, 0), stride=(1, 2)),
            conv((1, 8, 5, 5), (9, 8, 1, 1), stride=2),
            conv((1, 4, 3, 3), (6, 4, 2, 2), padding=4, stride=3),  # windows of padding alone
            conv((1, 6, 9, 11), (8, 6, 3, 3), padding=2, dilation=2),
            conv((1, 4, 12, 5), (2, 4, 4, 3), padding=(5, 1), dilation=(3, 1), stride=(2, 3)),
            conv((1, 6, 6, 5), (8, 3, 3, 3), padding=1, groups=2),
            conv((1, 4, 6, 5), (12, 1, 3, 3), padding=1, groups=4),  # three filters a channel
            conv((1, 3, 17), (7, 3, 5), padding=2, stride=2),
            conv((1, 2, 4, 5, 6), (3, 2, 2, 3, 2), padding=1),
            conv((1, 8, 7, 6), (8, 1, 3, 3), padding=1, groups=8),
            conv((1, 5, 8, 7), (5, 1, 5, 3), padding=(2, 3), stride=(2, 1), dilation=(1, 2), groups=5),
            conv((2, 6, 19), (6, 1, 9), padding=4, groups=6),
            conv((1, 1, 1, 1), (1, 1, 1, 1)),
        ],
        1e-6,
    )
    assert families == [*["conv"] * 10, *["depthwise"] * 3, "conv"]


def test_what_follows_a_convolution_and_what_goes_in_front() -> None:
    def residual(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        y = functional.relu(functional.conv2d(x, w, b, padding=1))
        return functional.relu(functional.conv2d(y, w, b, padding=1) + y)

    def gated(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return functional.hardswish(functional.conv2d(x * torch.sigmoid(x), w, b, padding=1))

    stored = [normal(6, 6, 3, 3, seed=1), normal(6, seed=2)]
    check([(residual, [normal(1, 6, 7, 8)], stored), (gated, [normal(1, 6, 7, 8)], stored)], 1e-6)


def test_products() -> None:
    families = check(
        [
            (functional.linear, [normal(1, 64)], [normal(10, 64), normal(10)]),
            (functional.linear, [normal(5, 7)], [normal(13, 7), normal(13)]),
            (functional.linear, [normal(2, 3, 9)], [normal(1, 9), normal(1)]),
            (torch.matmul, [normal(3, 4, 5), normal(3, 5, 6)], []),
            (lambda a, b: a @ b.mT, [normal(2, 1, 4, 7), normal(1, 3, 6, 7)], []),
            (torch.matmul, [normal(4, 11), normal(11, 7)], []),
        ],
        1e-6,
    )
    assert families == ["matmul"] * 6


def test_pools() -> None:
    holes = normal(1, 6, 9, 9)
    holes[0, 2, 4, 4], holes[0, 3, 0, 0], holes[0, 5] = math.nan, math.inf, -math.inf
    check(
        [
            (lambda x: functional.max_pool2d(x, 3, 2, 1), [holes], []),
            (lambda x: functional.max_pool2d(x, 2, 2, ceil_mode=True), [normal(2, 5, 7, 9)], []),
            (lambda x: functional.max_pool2d(x, (3, 2), (1, 2), (1, 0), (2, 1)), [normal(1, 4, 9, 8)], []),
            (lambda x: functional.avg_pool2d(x, 3, 2, 1), [normal(1, 7, 8, 9)], []),
            (lambda x: functional.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False), [normal(1, 3, 8, 9)], []),
            (lambda x: functional.adaptive_avg_pool2d(x, 1), [normal(1, 8, 5, 5)], []),
            (lambda x: functional.max_pool1d(x, 3), [normal(1, 4, 13)], []),
            (lambda x: x.mean((2, 3)), [normal(2, 6, 5, 4)], []),
            (lambda x: x.sum(1), [normal(3, 5, 4)], []),
        ],
        1e-6,
    )


def test_rows_and_elementary_functions() -> None:
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: functional.softmax(x, -1),
        lambda x: functional.log_softmax(x, -1),
        lambda x: functional.layer_norm(x, [11]),
        lambda x: functional.softmax(x, 1),
        lambda x: OPS.keep_top_k(x, 4),
        torch.sigmoid,
        torch.tanh,
        torch.exp,
        lambda x: torch.log(x.abs() + 0.1),
        functional.gelu,
        functional.silu,
        functional.elu,
        functional.softplus,
        lambda x: torch.sqrt(x.abs()),
        lambda x: torch.rsqrt(x.abs() + 0.3),
        lambda x: x.clamp(-0.5, 0.7),
        lambda x: torch.round(x * 3) + torch.floor(x) + torch.ceil(x * 0.5) + torch.trunc(x),
        lambda x: torch.where(x > 0.2, x, -x).sign(),
        lambda x: x.pow(3) + x.abs(),
        lambda x: (x > 0).to(torch.int32).sum(-1, dtype=torch.int32),
        lambda x: x.argmax(-1),
    ]
    odd = torch.tensor([[math.nan, math.inf, -math.inf, 0.0, -0.0, 2.5, 3.5, -2.5, -0.5, 0.5, 1e-40, -1e30]])
    special: list[Callable[[Tensor], Tensor]] = [
        torch.log,  # of -0.0 and NaN, whose bits overflow what is added to them
        torch.exp,
        torch.round,
        torch.floor,
        torch.ceil,
        torch.relu,
        lambda x: torch.bucketize(x.nan_to_num(), torch.tensor([-1.0, 0.0, 1.0])),
    ]
    cases: list[Case] = [(function, [normal(3, 11, scale=2.0)], []) for function in functions]
    check([*cases, *((function, [odd], []) for function in special)], 2e-6)


def integers(dtype: torch.dtype, *shape: int) -> Tensor:
    """All values of a type, its ends more often."""
    limits = torch.iinfo(dtype)
    values = torch.randint(limits.min, limits.max + 1, shape, dtype=torch.int32)
    ends = torch.where(torch.rand(shape) < 0.5, limits.min, limits.max)
    return torch.where(torch.rand(shape) < 0.3, ends, values).to(dtype)


def scalar(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(value, dtype=dtype)


def conv_integer(
    x: Tensor,
    w: Tensor,
    zero: int,
    stride: list[int],
    padding: list[int],
    dilation: list[int] | None = None,
    groups: int = 1,
    w_zero: int = 0,
) -> Case:
    """The bare sums, so that nothing hides a wrong one."""
    steps = dilation or [1] * len(stride)
    return (
        lambda x, w, a, b: OPS.conv_integer(x, w, a, b, stride, padding, steps, groups),
        [x],
        [w, scalar(zero, x.dtype), scalar(w_zero, w.dtype)],
    )


def exact(cases: Sequence[Case]) -> list[str]:
    code, actual, wanted = outputs(cases)
    for number, (value, expected) in enumerate(zip(actual, wanted, strict=True)):
        np.testing.assert_array_equal(value.reshape(expected.shape), expected, err_msg=f"case {number}")
    assert code.plan is not None
    return [step.family for step in code.plan.steps if step.macs]


def test_sums_of_integers_are_exact() -> None:
    torch.manual_seed(3)
    same = [1, 1, 1, 1]
    families = exact(
        [
            conv_integer(integers(I8, 1, 3, 9, 7), integers(I8, 16, 3, 3, 3), -128, [2, 1], same),
            conv_integer(integers(U8, 2, 5, 8, 7), integers(I8, 7, 5, 3, 2), 255, [1, 1], [1, 0, 2, 3]),
            conv_integer(integers(I8, 1, 8, 5, 4), integers(I8, 9, 8, 1, 1), 127, [2, 2], [0] * 4),
            conv_integer(integers(I8, 1, 1, 13, 6), integers(I8, 12, 1, 10, 4), 3, [2, 2], [4, 1, 5, 1]),
            conv_integer(integers(U8, 1, 3, 4, 4), integers(I8, 5, 3, 2, 2), 9, [3, 3], [5] * 4),  # windows of padding alone
            conv_integer(integers(I8, 1, 4, 8, 9), integers(I8, 6, 4, 3, 3), 5, [1, 1], same, [1, 2]),
            conv_integer(integers(U8, 1, 6, 6, 5), integers(I8, 8, 3, 3, 3), 77, [1, 1], same, groups=2),
            conv_integer(integers(I8, 1, 4, 6, 6), integers(U8, 6, 4, 3, 3), -5, [1, 1], same, w_zero=200),
            conv_integer(integers(I8, 1, 3, 11), integers(I8, 5, 3, 3), -5, [2], [1, 2]),
            conv_integer(integers(I8, 1, 8, 7, 9), integers(I8, 8, 1, 3, 3), 127, [1, 1], same, groups=8),
            conv_integer(integers(U8, 1, 5, 9, 6), integers(I8, 5, 1, 5, 3), 255, [1, 2], [4, 1, 4, 1], [2, 1], 5),
            conv_integer(integers(I8, 1, 6, 20), integers(I8, 6, 1, 9), -128, [1], [4, 4], groups=6),
            (OPS.matmul_integer, [integers(I8, 1, 70)], [integers(I8, 70, 6), scalar(-128, I8), scalar(0, I8)]),
            (OPS.matmul_integer, [integers(U8, 2, 3, 33)], [integers(I8, 33, 13), scalar(3, U8), scalar(0, I8)]),
            (lambda x, a, b: OPS.matmul_integer(x, x.mT, a, b), [integers(U8, 3, 6, 17)], [scalar(255, U8), scalar(7, U8)]),
        ]
    )
    assert families == [*["integer_conv"] * 9, *["integer_depthwise"] * 3, *["integer_matmul"] * 3]


def test_requantised_sums_keep_their_order_of_operations() -> None:
    """Scales of many sizes: results at both ends of the range, on ties, and where a multiplier is infinite, NaN or 0."""
    torch.manual_seed(4)
    scales = torch.cat([torch.rand(25) * 0.01, torch.tensor([0.0, 0.5, 2.0**-7, 1e30, float("inf"), float("nan"), 1e-30])])
    bias = torch.randint(-900, 900, (32,), dtype=torch.int32)
    geometry = ([1, 1], [1, 1, 1, 1], [1, 1])

    def requantised(y_zero: Tensor, groups: int, *shape: int) -> Case:
        stored = (
            scalar(0.25),
            scalar(-7, I8),
            integers(I8, *shape),
            scales[: shape[0]],
            scalar(0, I8),
            scalar(0.5),
            y_zero,
            bias[: shape[0]],
        )
        return (lambda x, *t: OPS.qlinear_conv(x, *t, *geometry, groups)), [integers(I8, 1, 8, 6, 5)], stored

    stored = (scalar(0.25), scalar(131, U8), integers(I8, 70, 32), scales, scalar(0, I8), scalar(0.5), scalar(200, U8), bias)
    exact(
        [
            requantised(scalar(-128, I8), 1, 32, 8, 3, 3),
            requantised(scalar(255, U8), 1, 30, 8, 3, 3),
            requantised(scalar(3, U8), 8, 8, 1, 3, 3),
            (OPS.qlinear_matmul, [integers(U8, 3, 70)], stored),
        ]
    )
