"""Kernels of narrow integers give exactly the sums of the ops' definitions: on every form of dot product, at every edge of their tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effc.ir import Batch, Program, Provenance
from effc.lowering.execution import run_lowered
from effc.lowering.lower import Lowered, lower
from effc.targets import Target, find_target

OPS = torch.ops.effc
I8, U8 = torch.int8, torch.uint8


def forms() -> dict[str, Target]:
    """Targets whose code runs here, one for each form of dot product and width of vectors."""
    cpu = find_target("cpu")
    found = {"as it is": cpu, "plain": replace(cpu, dots=(), lanes=4, registers=16)}
    found["plain, one lane"] = replace(cpu, dots=(), lanes=1, registers=8)
    found["vectors of integers only"] = replace(cpu, dots=(), lanes=1, integer_lanes=8, registers=16)
    found["one vector of two registers"] = replace(cpu, dots=("vwmacc",), lanes=4, registers=32)
    if "vpdpbusd" in cpu.dots:
        found["words"] = replace(cpu, dots=("pmaddwd", "vpdpwssd"))
        found["bytes, 256 bits"] = replace(cpu, lanes=8, registers=16)
        found["words, 256 bits"] = replace(cpu, dots=("pmaddwd", "vpdpwssd"), lanes=8, registers=16)
    return found | {name: target for name in ("x86-64-v3", "x86-64-v4") if (target := find_target(name)).runs_here}


FORMS = forms()


@dataclass(frozen=True)
class Case:
    """One op on one input: `tensors` are stored with the model. `family`: of the kernel that must compute it."""

    function: Callable[..., Tensor]
    x: Tensor
    tensors: tuple[Tensor, ...]
    family: str


class Many(nn.Module):
    """All cases in one program: lowering is what takes the time."""

    def __init__(self, cases: list[Case]) -> None:
        super().__init__()
        self.functions = [(case.function, len(case.tensors)) for case in cases]
        for number, case in enumerate(cases):
            for i, tensor in enumerate(case.tensors):
                self.register_buffer(f"t{number}_{i}", tensor)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            function(x, *(getattr(self, f"t{number}_{i}") for i in range(count)))
            for number, ((function, count), x) in enumerate(zip(self.functions, inputs, strict=True))
        )


def integers(dtype: torch.dtype, *shape: int, largest: bool = False) -> Tensor:
    """All values of a type; `largest`: only the two at its ends, which overflow whatever can overflow."""
    limits = torch.iinfo(dtype)
    if largest:
        return torch.where(torch.rand(shape) < 0.9, limits.max, limits.min).to(dtype)
    return torch.randint(limits.min, limits.max + 1, shape, dtype=torch.int32).to(dtype)


def scalar(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(value, dtype=dtype)


def convolution(
    x: Tensor,
    w: Tensor,
    x_zero: int,
    w_zero: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int] | None = None,
    groups: int = 1,
    family: str = "integer_conv",
) -> Case:
    """The bare sums, so that nothing hides a wrong one."""
    steps = dilation or [1] * len(stride)
    return Case(
        lambda x, w, a, b: OPS.conv_integer(x, w, a, b, stride, padding, steps, groups), x, (w, scalar(x_zero, x.dtype), w_zero), family
    )


def product(a: Tensor, b: Tensor, a_zero: Tensor, b_zero: Tensor, family: str = "integer_matmul") -> Case:
    return Case(OPS.matmul_integer, a, (b, a_zero, b_zero), family)


def squared(x: Tensor, left_zero: int, right_zero: int, part: Callable[[Tensor], Tensor] = lambda x: x) -> Case:
    """A product of a matrix and its transposition, or that of a part of it."""
    zeros = (scalar(left_zero, x.dtype), scalar(right_zero, x.dtype))
    return Case(lambda x, a, b: OPS.matmul_integer(x, part(x).mT, a, b), x, zeros, "integer_matmul")


def cases() -> list[Case]:
    torch.manual_seed(3)
    none, same = scalar(0, I8), [1, 1, 1, 1]
    depthwise = "integer_depthwise"
    return [
        # one run of positions, with and without a copy of the image, channels that fill no vector
        convolution(integers(U8, 1, 8, 5, 7), integers(I8, 17, 8, 1, 1), 131, none, [1, 1], [0] * 4),
        convolution(integers(I8, 2, 6, 5, 3), integers(I8, 33, 6, 1, 1), -128, none, [1, 1], [0] * 4),
        convolution(integers(I8, 1, 16, 9, 9), integers(I8, 40, 16, 1, 1), 127, none, [2, 2], [0] * 4),
        convolution(integers(U8, 1, 1, 1, 1), integers(I8, 1, 1, 1, 1), 255, none, [1, 1], [0] * 4, family=depthwise),
        # windows over the edge; runs of three and five channels; every zero point at the end of its range
        convolution(integers(I8, 1, 3, 9, 11), integers(I8, 20, 3, 3, 3), -128, none, [2, 1], same),
        convolution(integers(U8, 1, 5, 8, 7), integers(I8, 7, 5, 3, 2), 255, none, [1, 1], [1, 0, 2, 3]),
        convolution(integers(U8, 1, 5, 8, 7), integers(I8, 7, 5, 3, 3), 0, none, [1, 2], [2, 2, 0, 0], [2, 1]),
        convolution(integers(I8, 1, 4, 8, 9), integers(I8, 6, 4, 3, 3), 5, none, [1, 1], same, [1, 2]),
        convolution(integers(I8, 1, 1, 13, 6), integers(I8, 64, 1, 10, 4), 3, none, [2, 2], [4, 1, 5, 1]),
        convolution(integers(U8, 1, 3, 4, 4), integers(I8, 5, 3, 2, 2), 9, none, [3, 3], [5, 5, 5, 5]),  # windows of padding alone
        # groups
        convolution(integers(U8, 1, 6, 6, 5), integers(I8, 8, 3, 3, 3), 77, none, [1, 1], same, groups=2),
        convolution(integers(I8, 1, 8, 6, 5), integers(I8, 16, 2, 1, 1), 7, none, [1, 1], [0] * 4, groups=4),
        convolution(integers(I8, 1, 4, 6, 5), integers(I8, 8, 1, 3, 3), 7, none, [1, 1], same, groups=4),  # two filters a channel
        # weights with zero points: those that fit into signed bytes without them, and those that do not
        convolution(integers(U8, 1, 4, 6, 6), integers(U8, 6, 4, 3, 3), 100, scalar(128, U8), [1, 1], same),
        convolution(integers(U8, 1, 4, 6, 6), integers(U8, 6, 4, 3, 3), 100, integers(U8, 6), [1, 1], same),
        convolution(integers(I8, 1, 4, 6, 6), integers(I8, 6, 4, 3, 3), 100, integers(I8, 6), [1, 1], same),
        # the largest sums, and enough of them for threads
        convolution(integers(U8, 1, 64, 12, 12, largest=True), integers(I8, 24, 64, 3, 3, largest=True), 0, none, [1, 1], same),
        convolution(integers(I8, 1, 64, 12, 12, largest=True), integers(U8, 24, 64, 3, 3, largest=True), -128, scalar(0, U8), [1, 1], same),
        # images that several threads copy
        convolution(integers(I8, 2, 64, 66, 34), integers(I8, 4, 64, 1, 1), -3, none, [1, 1], [0] * 4),
        convolution(integers(I8, 2, 64, 66, 34), integers(I8, 4, 64, 3, 1), -128, none, [3, 2], [2, 1, 0, 1]),
        # one and three spatial axes
        convolution(integers(I8, 1, 3, 11), integers(I8, 5, 3, 3), -5, none, [2], [1, 2]),
        convolution(integers(U8, 1, 3, 4, 5, 6), integers(I8, 5, 3, 2, 3, 2), 8, none, [1, 2, 1], [1, 0, 1, 0, 1, 0]),
        # one filter a channel
        convolution(integers(I8, 1, 19, 7, 9), integers(I8, 19, 1, 3, 3), 127, none, [1, 1], same, groups=19, family=depthwise),
        convolution(integers(U8, 2, 16, 8, 8), integers(I8, 16, 1, 3, 3), 0, none, [2, 2], [0, 0, 1, 1], groups=16, family=depthwise),
        convolution(integers(U8, 1, 40, 9, 6), integers(I8, 40, 1, 5, 3), 255, none, [1, 2], [4, 1, 4, 1], [2, 1], 40, depthwise),
        convolution(integers(I8, 1, 3, 6, 7), integers(U8, 3, 1, 2, 2), -1, integers(U8, 3), [1, 1], [0] * 4, groups=3, family=depthwise),
        convolution(integers(I8, 1, 8, 20), integers(I8, 8, 1, 9), -128, none, [1], [4, 4], groups=8, family=depthwise),
        convolution(
            integers(U8, 1, 128, 20, 20, largest=True), integers(I8, 128, 1, 7, 7, largest=True), 0, none, [1, 1], [3] * 4,
            groups=128, family=depthwise,
        ),
        convolution(integers(I8, 1, 2, 40, 5), integers(I8, 2, 1, 37, 3), 9, none, [1, 1], [0] * 4, groups=2),  # too many taps
        # products
        product(integers(I8, 1, 70), integers(I8, 70, 6), scalar(-128, I8), none),
        product(integers(U8, 5, 64), integers(I8, 64, 100), scalar(255, U8), none),
        product(integers(U8, 2, 3, 33), integers(I8, 33, 16), scalar(3, U8), none),
        product(integers(U8, 3, 2100, largest=True), integers(I8, 2100, 17, largest=True), scalar(0, U8), none),
        product(integers(I8, 3, 9), integers(U8, 9, 5), scalar(3, I8), integers(U8, 5)),
        product(integers(U8, 70, 130), integers(I8, 130, 140), scalar(30, U8), none),
        product(integers(U8, 5, 7), integers(I8, 7, 3), integers(U8, 5), none, "generic"),  # one zero point a row
        # products of two computed operands: odd depths, blocks that columns do not fill, batches that are broadcast
        squared(integers(U8, 3, 6, 17), 255, 0),
        squared(integers(I8, 2, 2, 70, 33), -128, 127),
        squared(integers(I8, 1, 1), 5, 3),
        squared(integers(U8, 40, 64, largest=True), 0, 0),
        squared(integers(U8, 3, 2, 5, 9), 9, 77, lambda x: x[:1, 0]),
        squared(integers(I8, 4, 5, 6), -77, 9, lambda x: x[:, None]),
    ]  # fmt: skip


CASES = cases()


def program_of(module: nn.Module, inputs: tuple[Tensor, ...], names: list[str]) -> Program:
    exported = torch.export.export(module, inputs)
    return Program.from_exported(exported, Provenance("ops", "torch", "0" * 64), batch=Batch(False, "ops"), input_names=names)


def check(cases: list[Case], target: Target) -> Lowered:
    inputs = tuple(case.x for case in cases)
    program = program_of(Many(cases).eval(), inputs, [f"x{number}" for number in range(len(cases))])
    code = lower(program, target)
    outputs = run_lowered(code, program, {f"x{number}": case.x.numpy() for number, case in enumerate(cases)})
    for number, (actual, case) in enumerate(zip(outputs.values(), cases, strict=True)):
        np.testing.assert_array_equal(actual, case.function(case.x, *case.tensors).numpy(), err_msg=f"case {number}")
    return code


OTHERS = ("plain", "one vector of two registers")


@pytest.mark.parametrize("form", [pytest.param(form, marks=[pytest.mark.slow] * (form in OTHERS)) for form in FORMS])
def test_sums_are_exact(form: str) -> None:
    code = check(CASES, FORMS[form])
    assert code.plan is not None
    assert [step.family for step in code.plan.steps if step.macs] == [case.family for case in CASES]


def test_requantised_sums_keep_their_order_of_operations() -> None:
    """Scales of many sizes: results at both ends of the range, on ties, and where a multiplier is infinite, NaN or 0."""
    torch.manual_seed(4)
    scales = torch.cat([torch.rand(25) * 0.01, torch.tensor([0.0, 0.5, 2.0**-7, 1e30, float("inf"), float("nan"), 1e-30])])
    bias = torch.randint(-900, 900, (32,), dtype=torch.int32)
    geometry = ([1, 1], [1, 1, 1, 1], [1, 1])
    image = integers(I8, 1, 8, 9, 8)

    def conv(y_zero: Tensor, groups: int, family: str, *shape: int) -> Case:
        w, w_scale, shift = integers(I8, *shape), scales[: shape[0]], bias[: shape[0]]
        stored = (scalar(0.25), scalar(-7, I8), w, w_scale, scalar(0, I8), scalar(0.5), y_zero, shift)
        return Case(lambda x, *t: OPS.qlinear_conv(x, *t, *geometry, groups), image, stored, family)

    wide = integers(U8, 3, 70)
    stored = (scalar(0.25), scalar(131, U8), integers(I8, 70, 32), scales, scalar(0, I8), scalar(0.5), scalar(200, U8), bias)
    check(
        [
            conv(scalar(-128, I8), 1, "integer_conv", 32, 8, 3, 3),
            conv(scalar(255, U8), 1, "integer_conv", 30, 8, 3, 3),
            conv(scalar(3, U8), 8, "integer_depthwise", 8, 1, 3, 3),
            Case(OPS.qlinear_matmul, wide, stored, "integer_matmul"),
        ],
        find_target("cpu"),
    )


class Residual(nn.Module):
    """Two convolutions and a quantised sum with the first one's result: the sum belongs to the second one's kernel."""

    def __init__(self) -> None:
        super().__init__()
        for i in range(2):
            self.register_buffer(f"w{i}", integers(I8, 16, 16, 3, 3))
            self.register_buffer(f"s{i}", torch.rand(16) * 0.02)
        for name, value in (("scale", 0.1), ("other", 0.17), ("total", 0.23)):
            self.register_buffer(name, scalar(value))
        self.register_buffer("zero", scalar(-128, I8))
        self.register_buffer("none", scalar(0, I8))

    def forward(self, x: Tensor) -> Tensor:
        geometry = (None, [1, 1], [1, 1, 1, 1], [1, 1], 1)
        y = OPS.qlinear_conv(x, self.scale, self.zero, self.w0, self.s0, self.none, self.other, self.zero, *geometry)
        z = OPS.qlinear_conv(y, self.other, self.zero, self.w1, self.s1, self.none, self.scale, self.none, *geometry)
        total: Tensor = OPS.qlinear_add(y, self.other, self.zero, z, self.scale, self.none, self.total, self.zero)
        return total


def test_a_quantised_sum_is_part_of_the_kernel_in_front_of_it() -> None:
    torch.manual_seed(5)
    module, x = Residual().eval(), integers(I8, 1, 16, 8, 8)
    program = program_of(module, (x,), ["x"])
    code = lower(program, find_target("cpu"))
    assert code.plan is not None
    moving = [step.family for step in code.plan.steps if step.family != "elementwise"]
    assert moving == ["integer_conv", "integer_conv"]
    assert len(code.plan.steps) <= 4  # beside them, transpositions at both ends
    (actual,) = run_lowered(code, program, {"x": x.numpy()}).values()
    np.testing.assert_array_equal(actual, module(x).numpy())


def test_scales_and_zero_points_that_are_computed() -> None:
    """Dynamic quantisation: nothing is known of them when the code is made."""
    torch.manual_seed(6)
    w, w_zero = integers(I8, 12, 10), scalar(0, I8)

    class Dynamic(nn.Module):
        def forward(self, x: Tensor, scale: Tensor, zero: Tensor) -> tuple[Tensor, Tensor]:
            quantised = OPS.quantize_linear(x, scale, zero, 0)
            sums = OPS.matmul_integer(quantised, self.w, zero, self.w_zero)
            return sums, OPS.dequantize_linear(quantised, scale, zero, 0)

    module = Dynamic().eval()
    module.register_buffer("w", w)
    module.register_buffer("w_zero", w_zero)
    inputs = (torch.randn(3, 12), scalar(0.02), scalar(130, U8))
    program = program_of(module, inputs, ["x", "s", "z"])
    named = {name: value.numpy() for name, value in zip("xsz", inputs, strict=True)}
    outputs = run_lowered(lower(program, find_target("cpu")), program, named)
    for actual, expected in zip(outputs.values(), module(*inputs), strict=True):
        np.testing.assert_array_equal(actual, expected.numpy())
