"""The TVM meaning of every quantised op gives the integers of its torch definition, through the whole lowering."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effc.ir import Batch, Program, Provenance
from effc.lowering.execution import run_lowered
from effc.lowering.lower import lower
from effc.targets import find_target

OPS = torch.ops.effc
I8, U8 = torch.int8, torch.uint8


class Call(nn.Module):
    """One op; what is not the data is a buffer, as the ONNX frontend stores it."""

    def __init__(self, function: Callable[..., Tensor], tensors: list[Tensor]) -> None:
        super().__init__()
        self.function, self.count = function, len(tensors)
        for i, tensor in enumerate(tensors):
            self.register_buffer(f"t{i}", tensor)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *(getattr(self, f"t{i}") for i in range(self.count)))


def integers(dtype: torch.dtype, *shape: int) -> Tensor:
    limits = torch.iinfo(dtype)
    values = torch.randint(limits.min, limits.max + 1, shape, dtype=torch.int32).to(dtype)
    flat = values.view(-1)
    flat[0], flat[-1] = limits.min, limits.max
    return values


def scalar(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(value, dtype=dtype)


def ties() -> Tensor:
    exact = torch.arange(-160, 160, dtype=torch.float32) * 0.25
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e30, -0.0, 127.5, 128.5, -128.5])
    return torch.cat([exact, special]).reshape(1, 4, 82)


def cases() -> dict[str, tuple[Callable[..., Tensor], Tensor, list[Tensor]]]:
    torch.manual_seed(5)
    conv_2d = ([2, 1], [1, 0, 2, 1], [1, 2], 2)
    image, kernel = integers(U8, 1, 4, 9, 8), integers(I8, 6, 2, 3, 3)
    per_channel = torch.rand(6) * 0.01 + 0.001
    bias = torch.randint(-9000, 9000, (6,), dtype=torch.int32)
    return {
        "quantize": (lambda x, s, z: OPS.quantize_linear(x, s, z, 0), ties(), [scalar(0.5), scalar(-3, I8)]),
        "quantize_channels": (
            lambda x, s, z: OPS.quantize_linear(x, s, z, 1), ties(),
            [torch.tensor([0.5, 0.3, 1.0, 0.07]), torch.tensor([0, 3, 128, 255], dtype=U8)]
        ),
        "dequantize_channels": (
            lambda x, s, z: OPS.dequantize_linear(x, s, z, 1), integers(I8, 1, 4, 5), [torch.rand(4), integers(I8, 4)]
        ),
        "conv_integer": (
            lambda x, w, a, b: OPS.conv_integer(x, w, a, b, *conv_2d), image, [kernel, scalar(131, U8), scalar(-7, I8)]
        ),
        "conv_1d": (
            lambda x, w, a, b: OPS.conv_integer(x, w, a, b, [2], [1, 2], [1], 1), integers(I8, 1, 3, 11),
            [integers(U8, 5, 3, 3), scalar(-5, I8), integers(U8, 5)]
        ),
        "qlinear_conv": (
            lambda x, *t: OPS.qlinear_conv(x, *t, *conv_2d),
            image,
            [scalar(0.02), scalar(131, U8), kernel, per_channel, integers(I8, 6), scalar(0.05), scalar(9, I8), bias],
        ),
        "matmul_integer": (
            OPS.matmul_integer, integers(U8, 5, 70), [integers(I8, 70, 4), integers(U8, 5), integers(I8, 4)]
        ),
        "qlinear_matmul": (
            OPS.qlinear_matmul,
            integers(I8, 3, 70),
            [scalar(0.02), scalar(11, I8), integers(I8, 70, 6), per_channel, scalar(0, I8), scalar(0.7), scalar(120, U8), bias],
        ),
        "words_and_bytes": (
            OPS.qlinear_matmul,
            integers(torch.int16, 3, 70),
            [scalar(2e-4), scalar(1100, torch.int16), integers(I8, 70, 6), per_channel, scalar(0, I8), scalar(0.7), scalar(9, I8), bias],
        ),
        "weights_of_16_bits": (
            lambda x, w, a, b: OPS.conv_integer(x, w, a, b, *conv_2d), image,
            [integers(torch.int16, 6, 2, 3, 3), scalar(131, U8), scalar(-700, torch.int16)]
        ),
        "zero_points_of_one_entry": (
            OPS.qlinear_matmul,
            integers(U8, 3, 7),
            [torch.tensor([0.02]), torch.tensor([7], dtype=U8), integers(I8, 7, 6), per_channel, torch.zeros(6, dtype=I8),
             torch.tensor([0.7]), torch.tensor([120], dtype=U8), bias],
        ),
        "quantize_in_double": (
            lambda x, s, z: OPS.quantize_linear(x, s, z, 0), ties().double() - 1e-9, [scalar(0.5, torch.float64), scalar(-3, I8)]
        ),
        "quantize_without_axes": (lambda x, s, z: OPS.quantize_linear(x, s, z, 0), scalar(1.7), [scalar(0.5), scalar(-3, I8)]),
        "qlinear_add": (
            OPS.qlinear_add,
            integers(U8, 1, 6, 8),
            [scalar(0.1), scalar(7, U8), integers(I8, 6, 8), scalar(0.25), scalar(0, I8), scalar(0.15), scalar(100, U8)],
        ),
        "qlinear_global_average_pool": (
            OPS.qlinear_global_average_pool, integers(U8, 1, 8, 7, 5), [scalar(0.1), scalar(7, U8), scalar(0.03), scalar(3, I8)]
        ),
    }  # fmt: skip


def program_of(module: nn.Module, x: Tensor) -> Program:
    exported = torch.export.export(module.eval(), (x,))
    return Program.from_exported(exported, Provenance("ops", "torch", "0" * 64), batch=Batch(False, "one op"), input_names=["x"])


@pytest.mark.parametrize("name", list(cases()))
def test_kernel_equals_the_definition_exactly(name: str) -> None:
    function, x, tensors = cases()[name]
    program = program_of(Call(function, tensors), x)
    expected = function(x, *tensors)
    lowered = lower(program, find_target("cpu"))
    (actual,) = run_lowered(lowered, program, {"x": x.numpy()}).values()
    np.testing.assert_array_equal(actual, expected.numpy())
    assert actual.dtype == expected.numpy().dtype


def test_nothing_is_computed_from_stored_tensors_alone() -> None:
    """Weights without their zero points, multipliers and dequantised weights are stored; weights that fit stay bytes."""
    stored = [scalar(0.02), scalar(131, U8), integers(U8, 6, 4, 3, 3), torch.rand(6) * 0.01, scalar(128, U8), scalar(0.05), scalar(9, I8)]
    weights = [integers(I8, 6, 5), torch.rand(5), scalar(3, I8)]

    def both(x: Tensor, *tensors: Tensor) -> Tensor:
        y = OPS.qlinear_conv(x, *tensors[:7], None, [1, 1], [1, 1, 1, 1], [1, 1], 1)
        real = OPS.dequantize_linear(tensors[7], tensors[8], tensors[9], 1)
        return y.float().mean(dim=(2, 3)) @ real

    x = integers(U8, 1, 4, 9, 8)
    program = program_of(Call(both, [*stored, *weights]), x)
    lowered = lower(program, find_target("cpu"))
    assert lowered.plan is not None
    rooms = {buffer.name: buffer.room for buffer in lowered.plan.buffers}
    assert all({rooms[name] for name in step.reads} - {"parameter"} for step in lowered.plan.steps)
    large = [array.dtype for array in lowered.parameters.values() if array.size > 100]
    assert large == [np.int8]
    (actual,) = run_lowered(lowered, program, {"x": x.numpy()}).values()
    np.testing.assert_allclose(actual, both(x, *stored, *weights).numpy(), rtol=1e-5)


def test_large_weights_are_centred_once() -> None:
    """Beyond a megabyte, results that are larger than what they come from are computed every time: not these."""
    x, w, x_zero = integers(U8, 1, 1200), integers(U8, 1200, 1000), scalar(7, U8)
    for zero in (scalar(3, U8), scalar(128, U8)):
        program = program_of(Call(OPS.matmul_integer, [w, x_zero, zero]), x)
        lowered = lower(program, find_target("cpu"))
        assert lowered.plan is not None
        assert [step.family for step in lowered.plan.steps] == ["integer_matmul"]
        (actual,) = run_lowered(lowered, program, {"x": x.numpy()}).values()
        np.testing.assert_array_equal(actual, OPS.matmul_integer(x, w, x_zero, zero).numpy())
