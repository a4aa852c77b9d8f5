"""The quantised ops at the bit level: ties, saturation, channels, extreme sums; and their ONNX form run by onnxruntime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from effc.ir import Batch, Program, Provenance
from effc.lowering.onnx import export_onnx

OPS = torch.ops.effc
I8, U8, I16, U16 = torch.int8, torch.uint8, torch.int16, torch.uint16


def scalar(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(value, dtype=dtype)


def test_ties_go_to_the_even_step_before_the_zero_point_is_added() -> None:
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.75])
    assert OPS.quantize_linear(x, scalar(1.0), scalar(3, I8), 0).tolist() == [3, 5, 5, 3, 1, 1, 4]


@pytest.mark.parametrize(("dtype", "low", "high"), [(I8, -128, 127), (U8, 0, 255), (I16, -32768, 32767), (U16, 0, 65535)])
def test_saturation_infinities_and_nan(dtype: torch.dtype, low: int, high: int) -> None:
    x = torch.tensor([1e30, -1e30, float("inf"), -float("inf"), float("nan"), high - 7.0, high - 6.0])
    assert OPS.quantize_linear(x, scalar(1.0), scalar(7, dtype), 0).tolist() == [high, low, high, low, low, high, high]


def test_channels_have_their_own_scale_and_zero_point() -> None:
    x = torch.ones(2, 3, 2)
    scale, zero = torch.tensor([1.0, 0.5, 0.25]), torch.tensor([0, 10, -20], dtype=I8)
    q = OPS.quantize_linear(x, scale, zero, 1)
    assert q[1, :, 0].tolist() == [1, 12, -16]
    torch.testing.assert_close(OPS.dequantize_linear(q, scale, zero, 1), x, rtol=0, atol=0)


def test_difference_from_the_zero_point_does_not_wrap() -> None:
    x = torch.tensor([0, 255], dtype=U8)
    assert OPS.dequantize_linear(x, scalar(2.0), scalar(255, U8), 0).tolist() == [-510.0, 0.0]
    assert OPS.dequantize_linear(torch.tensor([-128], dtype=I8), scalar(1.0), scalar(127, I8), 0).tolist() == [-255.0]


def test_extreme_sums_are_exact_beyond_float32() -> None:
    a, b = torch.full((1, 20001), 255, dtype=U8), torch.full((20001, 1), 255, dtype=U8)
    assert OPS.matmul_integer(a, b, scalar(0, U8), scalar(0, U8)).item() == 20001 * 255 * 255
    assert 20001 * 255 * 255 > 1 << 24


def test_sums_wrap_like_int32() -> None:
    size = 40000
    a, b = torch.full((1, size), 255, dtype=U8), torch.full((size, 1), 255, dtype=U8)
    total = size * 255 * 255
    assert total > 2**31
    assert OPS.matmul_integer(a, b, scalar(0, U8), scalar(0, U8)).item() == total - 2**32


def test_padding_of_a_convolution_is_the_zero_point() -> None:
    x, w = torch.full((1, 1, 2, 2), 9, dtype=U8), torch.ones(1, 1, 3, 3, dtype=I8)
    result = OPS.conv_integer(x, w, scalar(5, U8), scalar(0, I8), [1, 1], [1, 1, 1, 1], [1, 1], 1)
    assert result.tolist() == [[[[16, 16], [16, 16]]]]


def test_requantisation_rounds_half_to_even_and_saturates() -> None:
    a, b = torch.tensor([[1], [3], [5], [127], [-1], [-128]], dtype=I8), torch.ones(1, 1, dtype=I8)
    one, zero = scalar(1.0), scalar(0, I8)
    y = OPS.qlinear_matmul(a, scalar(0.5), zero, b, one, zero, one, zero, None)
    assert y.flatten().tolist() == [0, 2, 2, 64, 0, -64]
    y = OPS.qlinear_matmul(a, scalar(4.0), zero, b, one, zero, one, scalar(5, U8), torch.tensor([1], dtype=torch.int32))
    assert y.flatten().tolist() == [13, 21, 29, 255, 5, 0]


class Call(nn.Module):
    def __init__(self, function: Callable[..., Tensor], tensors: list[Tensor]) -> None:
        super().__init__()
        self.function, self.count = function, len(tensors)
        for i, tensor in enumerate(tensors):
            self.register_buffer(f"t{i}", tensor)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *(getattr(self, f"t{i}") for i in range(self.count)))


def onnx_cases() -> dict[str, tuple[Callable[..., Tensor], Tensor, list[Tensor]]]:
    generator = torch.Generator().manual_seed(2)

    def bytes_(dtype: torch.dtype, *shape: int) -> Tensor:
        limits = torch.iinfo(dtype)
        return torch.randint(limits.min, limits.max + 1, shape, generator=generator, dtype=torch.int32).to(dtype)

    scales = torch.tensor([0.01, 0.02, 0.005, 0.001])
    conv = ([1, 2], [1, 0, 1, 1], [1, 1], 1)
    zero = scalar(0, I8)
    bias = torch.tensor([100, -5000, 7, 0], dtype=torch.int32)
    return {
        "quantize": (lambda x, *t: OPS.quantize_linear(x, *t, 0), torch.arange(-20, 20) * 0.25, [scalar(0.5), scalar(3, U8)]),
        "dequantize": (lambda x, *t: OPS.dequantize_linear(x, *t, 1), bytes_(I8, 2, 4), [scales, torch.zeros(4, dtype=I8)]),
        "conv_integer": (
            lambda x, *t: OPS.conv_integer(x, *t, *conv), bytes_(U8, 2, 3, 6, 6), [bytes_(U8, 4, 3, 3, 3), scalar(128, U8), scalar(9, U8)]
        ),
        "qlinear_conv": (
            lambda x, *t: OPS.qlinear_conv(x, *t, *conv),
            bytes_(I8, 2, 3, 6, 6),
            [scalar(0.1), scalar(5, I8), bytes_(I8, 4, 3, 3, 3), scales, torch.zeros(4, dtype=I8), scalar(0.8), scalar(-3, I8), bias],
        ),
        "matmul_integer": (OPS.matmul_integer, bytes_(U8, 3, 20), [bytes_(I8, 20, 4), scalar(100, U8), zero]),
        "qlinear_matmul": (
            OPS.qlinear_matmul,
            bytes_(U8, 3, 20),
            [scalar(0.1), scalar(90, U8), bytes_(I8, 20, 4), scales, torch.zeros(4, dtype=I8), scalar(0.5), scalar(2, I8), bias],
        ),
        "qlinear_add": (
            OPS.qlinear_add,
            bytes_(U8, 3, 20),
            [scalar(0.1), scalar(90, U8), bytes_(U8, 20), scalar(0.3), scalar(4, U8), scalar(0.2), scalar(60, U8)],
        ),
        "qlinear_global_average_pool": (
            OPS.qlinear_global_average_pool, bytes_(U8, 2, 5, 4, 4), [scalar(0.1), scalar(90, U8), scalar(0.02), scalar(0, I8)]
        ),
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", list(onnx_cases()))
def test_onnx_form_gives_the_same_integers_in_onnxruntime(name: str) -> None:
    function, x, tensors = onnx_cases()[name]
    exported = torch.export.export(Call(function, tensors).eval(), (x,))
    program = Program.from_exported(exported, Provenance(name, "torch", "0" * 64), batch=Batch(False, "one op"), input_names=["x"])
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(export_onnx(program), options)
    np.testing.assert_array_equal(session.run(None, {"x": x.numpy()})[0], function(x, *tensors).numpy())
