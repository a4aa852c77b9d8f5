"""The quantised operators of com.microsoft against onnxruntime, which defines them: within one step, most values equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from effc.frontends import load_program

SHAPE = (2, 3, 4, 6)
X, Y = ("xs", "xz"), ("ys", "yz")  # names of scale and zero point
STORED: dict[str, Any] = {
    "xs": np.float32(0.031), "xz": np.uint8(117), "ys": np.float32(0.043), "yz": np.uint8(131),
    "bs": np.float32(0.027), "bz": np.uint8(99), "b": np.random.default_rng(3).integers(0, 256, SHAPE, dtype=np.uint8),
    "w": np.random.default_rng(4).integers(0, 256, (6, 5), dtype=np.uint8),
    "wt": np.random.default_rng(4).integers(0, 256, (5, 6), dtype=np.uint8),
    "c": np.random.default_rng(5).integers(-9000, 9000, 5, dtype=np.int32),
    "wide": np.float32(0.21), "soft": np.float32(1 / 256), "zero": np.uint8(0),
}  # fmt: skip
# operator, inputs, attributes, shape of x
CASES: list[tuple[str, list[str], dict[str, Any], tuple[int, ...]]] = [
    ("QLinearAdd", ["x", *X, "b", "bs", "bz", *Y], {}, SHAPE),
    ("QLinearMul", ["x", *X, "b", "bs", "bz", *Y], {}, SHAPE),
    ("QLinearLeakyRelu", ["x", *X, *Y], {"alpha": 0.3}, SHAPE),
    ("QLinearSigmoid", ["x", *X, "soft", "zero"], {}, SHAPE),
    ("QLinearSoftmax", ["x", *X, "soft", "zero"], {"axis": -1, "opset": 13}, SHAPE),
    ("QLinearAveragePool", ["x", *X, *Y], {"kernel_shape": [3, 3], "strides": [1, 2], "pads": [1, 1, 1, 1]}, SHAPE),
    ("QLinearGlobalAveragePool", ["x", *X, *Y], {}, SHAPE),
    ("QLinearConcat", [*Y, "x", *X, "b", "bs", "bz"], {"axis": 1}, SHAPE),
    ("QGemm", ["x", *X, "w", "bs", "bz", "c", "wide", "yz"], {}, (4, 6)),
    ("QGemm", ["x", *X, "wt", "bs", "bz", "c", "wide", "yz"], {"transB": 1}, (4, 6)),
    ("QGemm", ["x", *X, "wt", "bs", "bz"], {"transB": 1}, (4, 6)),
]


def model(op: str, inputs: list[str], attributes: dict[str, Any], shape: tuple[int, ...]) -> onnx.ModelProto:
    real = op == "QGemm" and "wide" not in inputs
    graph = helper.make_graph(
        [helper.make_node(op, inputs, ["y"], domain="com.microsoft", **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT if real else TensorProto.UINT8, None)],
        [numpy_helper.from_array(np.asarray(STORED[name]), name) for name in dict.fromkeys(inputs) if name in STORED],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)], ir_version=8)


@pytest.mark.parametrize(("op", "inputs", "attributes", "shape"), CASES)
def test_agrees_with_onnxruntime(op: str, inputs: list[str], attributes: dict[str, Any], shape: tuple[int, ...], tmp_path: Path) -> None:
    proto = model(op, inputs, attributes, shape)
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    program = load_program(path, check_import=False)
    x = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    (actual,) = program.run({"x": torch.from_numpy(x)}).values()
    expected = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})[0]
    got = actual.numpy()
    assert got.dtype == expected.dtype and got.shape == expected.shape
    if expected.dtype == np.float32:
        np.testing.assert_allclose(got, expected, rtol=1e-6)
        return
    gaps = np.abs(got.astype(int) - expected.astype(int))
    assert gaps.max() <= 1 and (gaps > 0).mean() <= 0.03, f"{(gaps > 0).mean():.1%} differ, by up to {gaps.max()}"
    assert expected.std() > 5, "an output that hardly varies shows nothing"
