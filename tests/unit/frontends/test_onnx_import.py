"""ONNX files as programs: the same numbers as onnxruntime, a proved batch, the source's names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from effc.frontends import check_model, load_program
from effc.frontends.onnx.naming import module_paths, source_name
from effc.ir import BATCH, Program, source_of

DIGITS = Path(__file__).parents[3] / "examples" / "digits.onnx"


def save(path: Path, nodes: list[Any], shape: Any, tensors: dict[str, Any] | None = None) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (tensors or {}).items()],
    )
    graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10).SerializeToString())
    return path


def error(path: Path, program: Program, inputs: dict[str, np.ndarray[Any, Any]]) -> float:
    """Largest difference from onnxruntime, relative to the output's largest magnitude."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = session.run(None, inputs)
    results = program.run({name: torch.from_numpy(x) for name, x in inputs.items()})
    return max(
        float(np.abs(want - result.numpy()).max() / np.abs(want).max()) for want, result in zip(expected, results.values(), strict=True)
    )


def normal(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_the_bundled_model_equals_onnxruntime_at_every_batch() -> None:
    program = load_program(DIGITS)
    assert program.interface.batch.symbolic
    assert [str(value) for value in program.interface.inputs] == ["image: float32[batch, 1, 8, 8]"]
    for batch in (1, 2, 7):
        assert error(DIGITS, program, {"image": normal(batch, 1, 8, 8)}) < 1e-5
    assert check_model(DIGITS).supported


def test_source_names_are_kept() -> None:
    program = load_program(DIGITS)
    graph = onnx.load(DIGITS).graph
    nodes = {node.name for node in graph.node}
    assert {source_of(node) for node in program.nodes if isinstance(node.target, torch._ops.OpOverload)} - {"sym_size_int_1"} <= nodes
    assert "stem.weight" in program.tensor_names.values()
    assert set(program.tensor_names.values()) <= {tensor.name for tensor in graph.initializer}


def test_batch_norm_stays_whole_so_that_the_program_can_train() -> None:
    assert [str(node.target) for node in load_program(DIGITS).nodes].count("aten.batch_norm.default") == 3


def test_a_literal_batch_in_a_reshape_is_made_symbolic_and_proved(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["f"], "flatten"),
        helper.make_node("MatMul", ["f", "w"], ["m"]),
        helper.make_node("Reshape", ["m", "whole"], ["r"], "all-literal"),
        helper.make_node("Concat", ["token", "r"], ["y"], axis=1),
    ]
    tensors = {"flat": [1, -1], "w": normal(12, 6), "whole": [1, 3, 2], "token": normal(1, 1, 2)}
    path = save(tmp_path / "m.onnx", nodes, (1, 3, 2, 2), tensors)
    program = load_program(path)
    assert program.interface.batch.symbolic, program.interface.batch.reason
    assert program.interface.outputs[0].shape == (BATCH, 4, 2)
    x = normal(5, 3, 2, 2)
    together = program.run({"x": torch.from_numpy(x)})["y"]
    for i in range(5):
        assert error(path, program, {"x": x[i : i + 1]}) < 1e-6
        alone = program.run({"x": torch.from_numpy(x[i : i + 1])})["y"]
        assert torch.allclose(together[i : i + 1], alone, atol=1e-5)


def test_a_batch_that_is_merged_split_and_moved_by_literal_reshapes_is_found(tmp_path: Path) -> None:
    """The way attention is exported at batch 1: sequence first, batch times heads, and a Reshape where a transpose was meant."""
    nodes = [
        helper.make_node("Reshape", ["x", "first"], ["s"], "moved"),  # (1, 5, 8) -> (5, 1, 8)
        helper.make_node("Reshape", ["s", "flat"], ["f"], "merged"),  # -> (5, 8)
        helper.make_node("MatMul", ["f", "w"], ["m"]),
        helper.make_node("Reshape", ["m", "split"], ["p"], "split"),  # -> (5, 1, 8)
        helper.make_node("Reshape", ["p", "heads"], ["h"], "heads"),  # -> (5, 1 * 2, 4)
        helper.make_node("Transpose", ["h"], ["t"], perm=[1, 0, 2]),  # -> (1 * 2, 5, 4)
        helper.make_node("Softmax", ["t"], ["a"], axis=1),
        helper.make_node("Reshape", ["a", "four"], ["y"], "unmerged"),  # -> (1, 2, 5, 4)
    ]
    tensors = {"first": [5, 1, 8], "flat": [5, 8], "w": normal(8, 8), "split": [5, 1, 8], "heads": [5, 2, 4], "four": [1, 2, 5, 4]}
    path = save(tmp_path / "m.onnx", nodes, (1, 5, 8), tensors)
    program = load_program(path)
    assert program.interface.batch.symbolic, program.interface.batch.reason
    assert program.interface.outputs[0].shape == (BATCH, 2, 5, 4)
    x = normal(3, 5, 8)
    together = program.run({"x": torch.from_numpy(x)})["y"]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for i in range(3):
        assert np.allclose(together[i : i + 1].numpy(), session.run(None, {"x": x[i : i + 1]})[0], atol=1e-5)


def test_samples_that_see_each_other_keep_the_batch_fixed_and_the_reason_is_told(tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceMean", ["x"], ["m"], axes=[0]), helper.make_node("Sub", ["x", "m"], ["y"])]
    path = save(tmp_path / "m.onnx", nodes, ("n", 4))
    batch = load_program(path).interface.batch
    assert not batch.symbolic
    assert "differs from its samples run one by one" in batch.reason


def test_a_batch_that_cannot_be_symbolic_is_fixed_with_the_node_that_says_why(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", [helper.make_node("MatMul", ["w", "x"], ["y"], "mix")], (4, 3), {"w": normal(4, 4)})
    program = load_program(path)
    assert program.interface.inputs[0].shape == (4, 3)
    assert not program.interface.batch.symbolic
    assert "mix (MatMul)" in program.interface.batch.reason
    assert error(path, program, {"x": normal(4, 3)}) < 1e-6


def test_shape_arithmetic_folds_away_with_a_symbolic_batch(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
        helper.make_node("Gather", ["s", "one"], ["c"], axis=0),
        helper.make_node("Mul", ["c", "two"], ["c2"]),
        helper.make_node("Div", ["c2", "two"], ["c1"]),
        helper.make_node("Unsqueeze", ["n", "axis"], ["nu"]),
        helper.make_node("Unsqueeze", ["c1", "axis"], ["cu"]),
        helper.make_node("Slice", ["s", "axis2", "axis3", "axis"], ["tail"]),
        helper.make_node("ReduceProd", ["tail"], ["p"], keepdims=1),
        helper.make_node("Concat", ["nu", "cu", "p"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    tensors = {"zero": np.int64(0), "one": np.int64(1), "two": np.int64(2), "axis": [0], "axis2": [2], "axis3": [99]}
    program = load_program(save(tmp_path / "m.onnx", nodes, ("n", 3, 4, 5), tensors))
    assert program.interface.outputs[0].shape == (BATCH, 3, 20)
    assert [str(node.target) for node in program.nodes if "sym_size" not in str(node.target)] == ["aten.reshape.default"]


def test_a_branch_on_a_known_condition_is_taken(tmp_path: Path) -> None:
    def branch(op: str) -> onnx.GraphProto:
        return helper.make_graph([helper.make_node(op, ["x"], [op])], op, [], [helper.make_empty_tensor_value_info(op)])

    nodes = [helper.make_node("If", ["c"], ["y"], then_branch=branch("Relu"), else_branch=branch("Neg"))]
    program = load_program(save(tmp_path / "m.onnx", nodes, (1, 4), {"c": np.array(False)}))
    assert [str(node.target) for node in program.nodes] == ["aten.neg.default"]


@pytest.mark.parametrize("names", [["a", "a.b", "type", "x..y", ".", "a%", 'q"t\\', "/conv/W:0", "0.weight", "a.b.c", "training", "日本"]])
def test_parameter_names_are_escaped_reversibly(names: list[str]) -> None:
    paths = module_paths(names)
    assert [source_name(paths[name]) for name in names] == names
    assert len(set(paths.values())) == len(names)
    assert paths["0.weight"] == "0.weight"
    module = torch.nn.Module()
    for path in paths.values():
        *steps, last = path.split(".")
        owner = module
        for step in steps:
            if step not in owner._modules:
                owner.add_module(step, torch.nn.Module())
            owner = owner._modules[step]  # type: ignore[assignment]
        owner.register_parameter(last, torch.nn.Parameter(torch.zeros(1)))
    assert set(dict(module.named_parameters())) == set(paths.values())


def test_odd_names_survive_the_whole_import(tmp_path: Path) -> None:
    names = ['w"); import os; ("', "type", "a", "a.b"]
    nodes, last = [], "x"
    for i, name in enumerate(names):
        nodes.append(helper.make_node("Add", [last, name], [f"t{i}" if i < 3 else "y"], f'n{i}"'))
        last = f"t{i}"
    path = save(tmp_path / "m.onnx", nodes, ("n", 4), {name: normal(1, 4) for name in names})
    program = load_program(path)
    assert {source_name(name) for name in program.tensor_names.values()} == set(names)
    assert [source_of(node) for node in program.nodes] == ['n0"', 'n1"', 'n2"', 'n3"']
    assert error(path, program, {"x": normal(3, 4)}) < 1e-6


def test_importing_the_package_loads_neither_torch_nor_onnx() -> None:
    code = "import sys, effc.frontends; sys.exit(bool({'torch', 'onnx', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
