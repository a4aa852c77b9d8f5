"""QDQ and QOperator models keep their integers; the trained QDQ files agree with onnxruntime, unoptimised."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from effc.errors import UnsupportedModelError
from effc.frontends import load_program
from effc.lowering import lower, run_lowered
from effc.targets import find_target

DATA = os.environ.get("EFFC_DATA", "")
STEP = 2.0**-5


def session(model: bytes | str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options)


def model_of(nodes: list[onnx.NodeProto], shape: list[int], stored: dict[str, Any]) -> onnx.ModelProto:
    """From x of a shape to y."""
    graph = helper.make_graph(
        nodes,
        "qdq",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def qdq_convolution(bias_scale: float) -> onnx.ModelProto:
    """Q -> DQ -> Conv(pads differ, DQ weights a channel, DQ bias) -> Q -> DQ; scales are powers of two, so float sums are exact."""
    generator = np.random.default_rng(0)
    stored = {
        "xs": np.float32(2**-4), "xz": np.int8(-5), "ys": np.float32(STEP), "yz": np.int8(7),
        "w": generator.integers(-127, 128, (4, 3, 3, 3), dtype=np.int8),
        "ws": np.float32([2**-9, 2**-8, 2**-7, 2**-6]), "wz": np.zeros(4, np.int8),
        "b": generator.integers(-500, 500, 4, dtype=np.int32), "bs": np.float32([2**-9, 2**-8, 2**-7, 2**-6]) * np.float32(bias_scale),
        "bz": np.zeros(4, np.int32),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "bs", "bz"], ["bd"], axis=0),
        helper.make_node("Conv", ["xd", "wd", "bd"], ["c"], pads=[0, 1, 2, 1], strides=[2, 1], kernel_shape=[3, 3]),
        helper.make_node("QuantizeLinear", ["c", "ys", "yz"], ["cq"]),
        helper.make_node("DequantizeLinear", ["cq", "ys", "yz"], ["y"]),
    ]
    return model_of(nodes, [1, 3, 6, 6], stored)


@pytest.mark.parametrize(("bias_scale", "fused"), [(2**-4, True), (2**-3, False)])
def test_qdq_convolution_fuses_only_where_the_bias_fits(tmp_path: Path, bias_scale: float, fused: bool) -> None:
    model = qdq_convolution(bias_scale)
    path = tmp_path / "qdq.onnx"
    onnx.save(model, path)
    program = load_program(path)
    targets = [node.target for node in program.nodes]
    assert (torch.ops.effc.qlinear_conv.default in targets) is fused
    assert (torch.ops.aten.conv2d.default in targets) is not fused
    assert {"w", "b"} <= set(program.tensor_names.values())
    x = np.random.default_rng(1).uniform(-9, 9, (1, 3, 6, 6)).astype(np.float32)
    (actual,) = program.run({"x": torch.from_numpy(x)}).values()
    np.testing.assert_array_equal(actual.numpy(), session(model.SerializeToString()).run(None, {"x": x})[0])


def test_fused_convolutions_know_the_batch_as_a_symbol(tmp_path: Path) -> None:
    """Not as the number that the program was exported with, or what reads them is counted for so many samples."""
    model = qdq_convolution(2**-4)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    path = tmp_path / "qdq.onnx"
    onnx.save(model, path)
    program = load_program(path)
    assert program.interface.batch.symbolic
    assert [node.name for node in program.nodes if not isinstance(node.meta["val"].shape[0], torch.SymInt)] == []


def qdq_classifier(*moves: str) -> onnx.ModelProto:
    """Q -> DQ -> what moves elements -> Gemm(DQ weights, DQ bias) -> Q -> DQ, as exporters end classifiers; float sums are exact."""
    generator = np.random.default_rng(0)
    stored = {
        "xs": np.float32(2**-4), "xz": np.int8(-5), "ys": np.float32(2**-4), "yz": np.int8(7),
        "w": generator.integers(-127, 128, (5, 12), dtype=np.int8), "ws": np.float32(2**-7), "wz": np.int8(0),
        "b": generator.integers(-500, 500, 5, dtype=np.int32), "bs": np.float32(2**-11), "bz": np.int32(0),
        "shape": np.int64([-1, 12]), "axes": np.int64([3]), "first": np.int64(0), "front": np.int64([0]), "rest": np.int64([-1]),
    }  # fmt: skip
    made = {
        "Reshape": lambda x, y: [helper.make_node("Reshape", [x, "shape"], [y])],
        "Flatten": lambda x, y: [helper.make_node("Flatten", [x], [y])],
        "Transpose": lambda x, y: [helper.make_node("Transpose", [x], [y], perm=[0, 2, 1, 3])],
        "Squeeze": lambda x, y: [helper.make_node("Squeeze", [x, "axes"], [y])],
        "Computed": lambda x, y: [  # as torch's exporter writes x.reshape(x.shape[0], -1)
            helper.make_node("Shape", [x], ["sizes"]),
            helper.make_node("Gather", ["sizes", "first"], ["count"]),
            helper.make_node("Unsqueeze", ["count", "front"], ["counts"]),
            helper.make_node("Concat", ["counts", "rest"], ["target"], axis=0),
            helper.make_node("Reshape", [x, "target"], [y]),
        ],
    }
    names = ["xd", *(f"m{i}" for i in range(len(moves)))]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"]),
        helper.make_node("DequantizeLinear", ["b", "bs", "bz"], ["bd"]),
        *(node for move, pair in zip(moves, itertools.pairwise(names), strict=True) for node in made[move](*pair)),
        helper.make_node("Gemm", [names[-1], "wd", "bd"], ["c"], transB=1),
        helper.make_node("QuantizeLinear", ["c", "ys", "yz"], ["cq"]),
        helper.make_node("DequantizeLinear", ["cq", "ys", "yz"], ["y"]),
    ]
    return model_of(nodes, [1, 3, 4, 1], stored)


@pytest.mark.parametrize("moves", [("Reshape",), ("Flatten",), ("Transpose", "Squeeze", "Flatten"), ("Computed",)])
def test_a_product_behind_moved_elements_is_one_of_integers(tmp_path: Path, moves: tuple[str, ...]) -> None:
    """In the program, and in the kernels of both families; the weights stay bytes."""
    model = qdq_classifier(*moves)
    path = tmp_path / "classifier.onnx"
    onnx.save(model, path)
    program = load_program(path)
    targets = [node.target for node in program.nodes]
    assert torch.ops.effc.qlinear_matmul.default in targets
    assert torch.ops.aten.linear.default not in targets
    x = np.random.default_rng(1).uniform(-9, 9, (1, 3, 4, 1)).astype(np.float32)
    expected = session(model.SerializeToString()).run(None, {"x": x})[0]
    (actual,) = program.run({"x": torch.from_numpy(x)}).values()
    np.testing.assert_array_equal(actual.numpy(), expected)
    for target in ("cpu", "c99"):
        code = lower(program, find_target(target))
        assert code.plan is not None
        assert "integer_matmul" in [step.family for step in code.plan.steps]
        assert {one.dtype for one in code.plan.in_room("parameter") if np.prod(one.shape) >= 5 * 12} == {"int8"}
        if target == "cpu":
            (got,) = run_lowered(code, program, {"x": x}).values()
            np.testing.assert_array_equal(got, expected)


def qdq_block() -> onnx.ModelProto:
    """Q -> DQ -> channels in front -> the sum of that and of Conv -> Q -> DQ of it, -> Q -> DQ; float sums are exact."""
    stored = {
        "xs": np.float32(2**-4), "xz": np.int8(-5), "cs": np.float32(2**-3), "cz": np.int8(3), "ys": np.float32(2**-3), "yz": np.int8(7),
        "w": np.random.default_rng(0).integers(-127, 128, (4, 4, 3, 3), dtype=np.int8), "ws": np.float32(2**-9), "wz": np.int8(0),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("Transpose", ["xd"], ["image"], perm=[0, 3, 1, 2]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"]),
        helper.make_node("Conv", ["image", "wd"], ["c"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("QuantizeLinear", ["c", "cs", "cz"], ["cq"]),
        helper.make_node("DequantizeLinear", ["cq", "cs", "cz"], ["cd"]),
        helper.make_node("Add", ["cd", "image"], ["s"]),
        helper.make_node("QuantizeLinear", ["s", "ys", "yz"], ["sq"]),
        helper.make_node("DequantizeLinear", ["sq", "ys", "yz"], ["y"]),
    ]
    return model_of(nodes, [1, 6, 5, 4], stored)


def test_convolutions_and_sums_of_moved_elements_are_of_integers(tmp_path: Path) -> None:
    model = qdq_block()
    path = tmp_path / "block.onnx"
    onnx.save(model, path)
    program = load_program(path)
    targets = {node.target for node in program.nodes}
    assert {torch.ops.effc.qlinear_conv.default, torch.ops.effc.qlinear_add.default} <= targets
    assert not {torch.ops.aten.conv2d.default, torch.ops.aten.add.Tensor} & targets
    x = np.random.default_rng(1).uniform(-9, 9, (1, 6, 5, 4)).astype(np.float32)
    expected = session(model.SerializeToString()).run(None, {"x": x})[0]
    (actual,) = program.run({"x": torch.from_numpy(x)}).values()
    np.testing.assert_array_equal(actual.numpy(), expected)
    (got,) = run_lowered(lower(program, find_target("cpu")), program, {"x": x}).values()
    np.testing.assert_array_equal(got, expected)


def test_blocked_quantisation_is_refused_with_a_reason(tmp_path: Path) -> None:
    nodes = [helper.make_node("DequantizeLinear", ["w", "s"], ["d"], axis=0, block_size=2), helper.make_node("MatMul", ["x", "d"], ["y"])]
    stored = {"w": np.ones((4, 3), np.int8), "s": np.ones((2, 3), np.float32)}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size]) for name, size in (("x", 4), ("y", 3))]
    held = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    path = tmp_path / "blocked.onnx"
    graph = helper.make_graph(nodes, "b", values[:1], values[1:], held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    with pytest.raises(UnsupportedModelError) as caught:
        load_program(path)
    assert "blocked quantisation" in str([problem.why for problem in caught.value.problems])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "spread", "ops"),
    [
        ("kws", 100.0, {"qlinear_conv": 9, "qlinear_matmul": 1}),
        ("resnet8", 2.0, {"qlinear_conv": 9, "qlinear_add": 3, "qlinear_matmul": 1}),
        ("ad_autoencoder", 100.0, {"qlinear_matmul": 10}),
        ("vww", 2.0, {"qlinear_conv": 27, "qlinear_matmul": 1}),
    ],
)
def test_trained_qdq_files_agree_with_onnxruntime(name: str, spread: float, ops: dict[str, int]) -> None:
    path = Path(DATA, "onnx", f"mlperf_tiny_{name}_int8qdq.onnx")
    if not DATA or not path.exists():
        pytest.skip(f"no {path.name} under $EFFC_DATA")
    program = load_program(path)
    names = [str(node.target) for node in program.nodes]
    assert {op: names.count(f"effc.{op}.default") for op in ops} == ops
    reference = session(str(path))
    generator = np.random.default_rng(0)
    (value,) = program.interface.inputs
    # the autoencoder ends in a DequantizeLinear (its step below), the classifiers in a softmax
    bound = 0.30842552 * 1.001 if name == "ad_autoencoder" else 0.05
    for _ in range(8):
        x = (generator.uniform(-1, 1, value.at_batch(1)) * spread).astype(np.float32)
        (actual,) = program.run({value.name: torch.from_numpy(x)}).values()
        expected = reference.run(None, {value.name: x})[0]
        assert np.abs(actual.numpy() - expected).max() <= bound
        assert actual.numpy().argmax() == expected.argmax()
