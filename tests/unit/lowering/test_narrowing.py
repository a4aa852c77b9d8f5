"""Quantised values cross between kernels of family c99 as bytes, and no result changes by it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.ir import Batch, Program, Provenance
from effc.lowering.lower import Lowered, lower
from effc.targets import find_target
from tests.unit.lowering.c_on_host import lowered, needs_compiler, run

pytestmark = needs_compiler
OPS = torch.ops.effc
I8 = torch.int8


def scalar(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(value, dtype=dtype)


class Quantised(nn.Module):
    """Convolutions of bytes with a residual sum, a pool, a product and a softmax of real numbers, all of which are quantised in between."""

    scales = (0.11, 0.07, 0.19, 0.23, 0.13)
    zeros = (-9, 4, -128, 17, 3)

    def __init__(self) -> None:
        super().__init__()
        for i in range(3):
            self.register_buffer(f"w{i}", torch.randint(-128, 128, (8, 8, 3, 3), dtype=torch.int32).to(I8))
            self.register_buffer(f"b{i}", torch.randint(-500, 500, (8,), dtype=torch.int32))
            self.register_buffer(f"ws{i}", torch.rand(8) * 0.01 + 0.001)
        for i, (scale, zero) in enumerate(zip(self.scales, self.zeros, strict=True)):
            self.register_buffer(f"s{i}", scalar(scale))
            self.register_buffer(f"z{i}", scalar(zero, I8))
        self.register_buffer("none", scalar(0, I8))
        self.register_buffer("w", torch.randn(10, 32) * 0.3)

    def point(self, i: int) -> tuple[Tensor, Tensor]:
        return getattr(self, f"s{i}"), getattr(self, f"z{i}")

    def conv(self, x: Tensor, source: int, layer: int, to: int, stride: int = 1) -> Tensor:
        weights = [getattr(self, f"{name}{layer}") for name in ("w", "ws", "b")]
        result: Tensor = OPS.qlinear_conv(
            x, *self.point(source), weights[0], weights[1], self.none, *self.point(to), weights[2], [stride] * 2, [1] * 4, [1, 1], 1
        )
        return result

    def real(self, x: Tensor, i: int) -> Tensor:
        result: Tensor = OPS.dequantize_linear(x, *self.point(i), 0)
        return result

    def bytes(self, x: Tensor, i: int) -> Tensor:
        result: Tensor = OPS.quantize_linear(x, *self.point(i), 0)
        return result

    def forward(self, image: Tensor) -> Tensor:
        x = self.bytes(image, 0)
        left = self.conv(x, 0, 0, 1, 2)
        right = self.conv(x, 0, 1, 2, 2)
        total = self.bytes(functional.relu(self.real(left, 1) + self.real(right, 2)), 3)
        last = self.conv(total, 3, 2, 4)
        pooled = self.bytes(functional.avg_pool2d(self.real(last, 4), 2), 1)
        row = torch.flatten(self.real(pooled, 1), 1)
        return self.real(self.bytes(row @ self.w.T, 3), 3)


def program_of(module: nn.Module, inputs: tuple[Tensor, ...]) -> Program:
    exported = torch.export.export(module.eval(), inputs)
    names = [f"x{i}" for i in range(len(inputs))]
    return Program.from_exported(exported, Provenance("network", "torch", "0" * 64), batch=Batch(False, "network"), input_names=names)


def crossing(code: Lowered) -> list[str]:
    """Element types of what crosses between kernels."""
    assert code.plan is not None
    return [buffer.dtype for buffer in code.plan.in_room("arena")]


def test_only_bytes_cross_between_the_kernels_of_a_quantised_network() -> None:
    torch.manual_seed(1)
    module = Quantised()
    image = torch.randn(1, 8, 8, 8) * 4
    program = program_of(module, (image,))
    code = lowered(program)
    assert set(crossing(code)) == {"int8"}
    (actual,) = run(code, {"x0": image.numpy()}).values()
    np.testing.assert_array_equal(actual, module(image).numpy())
    assert "float32" in crossing(lower(program, find_target("cpu")))  # elsewhere nothing changes


class Readers(nn.Module):
    """Bytes that are dequantised once and read by several: two pools, and at two places of one kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", scalar(0.3))
        self.register_buffer("zero", scalar(-7, I8))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = OPS.dequantize_linear(x, self.scale, self.zero, 0)
        return functional.max_pool2d(y, 2), functional.avg_pool2d(y, 2), torch.softmax(y.reshape(6, 12), -1)


def test_every_reader_dequantises_for_itself() -> None:
    torch.manual_seed(2)
    module, x = Readers(), torch.randint(-128, 128, (1, 2, 6, 6), dtype=torch.int32).to(I8)
    code = lowered(program_of(module, (x,)))
    assert code.plan is not None
    assert {(buffer.dtype, buffer.shape) for buffer in code.plan.in_room("arena")} == {
        ("int8", (1, 6, 6, 2)),
        ("float32", (1, 3, 3, 2)),  # what the pools give
    }
    largest, mean, soft = run(code, {"x0": x.numpy()}).values()
    expected = [one.numpy() for one in module(x)]
    np.testing.assert_array_equal(largest, expected[0])
    np.testing.assert_array_equal(mean, expected[1])
    np.testing.assert_allclose(soft.reshape(6, 12), expected[2], rtol=1e-5, atol=1e-30)


class Plain(nn.Module):
    """A number that is not a byte, an output that is dequantised, and a function of bytes that is more than that."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", scalar(0.3))
        self.register_buffer("zero", scalar(-7, I8))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = OPS.dequantize_linear(x, self.scale, self.zero, 0)
        return y, functional.avg_pool2d(torch.sigmoid(y), 2)


def test_what_is_no_dequantisation_stays() -> None:
    module, x = Plain(), torch.arange(-36, 36, dtype=torch.int32).reshape(1, 2, 6, 6).to(I8)
    code = lowered(program_of(module, (x,)))
    real, mean = run(code, {"x0": x.numpy()}).values()
    np.testing.assert_array_equal(real, module(x)[0].numpy())
    np.testing.assert_allclose(mean, module(x)[1].numpy(), rtol=1e-6)


def test_a_transposition_that_two_readers_ask_for_is_made_once() -> None:
    """Two convolutions read the image of `Quantised`, each with its channels last."""
    torch.manual_seed(1)
    code = lowered(program_of(Quantised(), (torch.randn(1, 8, 8, 8),)))
    assert code.plan is not None
    calls = [(step.kernel, step.reads) for step in code.plan.steps]
    assert len(calls) == len(set(calls))
