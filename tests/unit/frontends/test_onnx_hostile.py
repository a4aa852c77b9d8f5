"""Broken and hostile ONNX files: the right error, a message that says what to do, and neither time nor memory spent first."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from effc.errors import ConfigError, InputRejectedError, LimitError, UnsupportedModelError, UsageError
from effc.frontends import Limits, check_model, load_program
from tests.unit.frontends.hostile_files import refused, save, value


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    assert refused(tmp_path / "no.onnx", UsageError, "no.onnx").exit_code == 2


def test_a_truncated_file_is_rejected(tmp_path: Path) -> None:
    whole = (Path(__file__).parents[3] / "examples" / "digits.onnx").read_bytes()
    path = tmp_path / "m.onnx"
    for length in (len(whole) // 2, len(whole) - 1, 40):
        path.write_bytes(whole[:length])
        assert refused(path, InputRejectedError, "m.onnx").exit_code == 4
    path.write_bytes(b"PK\x03\x04 not a protobuf")
    refused(path, InputRejectedError, "not an ONNX model")


def test_an_empty_graph_and_an_empty_file_are_rejected(tmp_path: Path) -> None:
    refused(save(tmp_path / "m.onnx", []), InputRejectedError, "empty")
    (tmp_path / "e.onnx").write_bytes(b"")
    refused(tmp_path / "e.onnx", InputRejectedError, "no graph")


def external(location: str) -> onnx.TensorProto:
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [1, 4], np.zeros(4, np.float32).tobytes(), raw=True)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def add(tensor: onnx.TensorProto, path: Path) -> Path:
    return save(path, [helper.make_node("Add", ["x", "w"], ["y"], "sum")], tensors=[tensor])


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("../secret.bin", "leaves the model's folder"),
        ("sub/../../secret.bin", "leaves the model's folder"),
        ("/etc/hostname", "absolute path"),
        ("..\\secret.bin", "leaves the model's folder"),
        ("C:\\secret.bin", "absolute path"),
        ("link.bin", "symlink"),
        ("linked/secret.bin", "symlink"),
        ("hard.bin", "hard link"),
        ("nowhere.bin", "no such file"),
        ("short.bin", "beyond the file's"),
    ],
)
def test_external_data_never_leave_the_folder(tmp_path: Path, location: str, why: str) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "linked").symlink_to(tmp_path)
    os.link(tmp_path / "secret.bin", folder / "hard.bin")
    (folder / "short.bin").write_bytes(bytes(8))
    tensor = external(location)
    if location == "short.bin":
        tensor.external_data.add(key="length", value="16")
    error = refused(add(tensor, folder / "m.onnx"), InputRejectedError, why)
    assert error.problems[0].where == "w"


def test_external_data_inside_the_folder_are_read(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w.bin").write_bytes(bytes(8) + np.arange(4, dtype=np.float32).tobytes())
    tensor = external("data/w.bin")
    tensor.external_data.add(key="offset", value="8")
    program = load_program(add(tensor, tmp_path / "m.onnx"))
    (name,) = [node for node, source in program.tensor_names.items() if source == "w"]
    assert program.tensors[name].tolist() == [[0, 1, 2, 3]]


def test_a_tiny_file_that_asks_for_34_gb_is_refused_before_any_of_it_is_allocated(tmp_path: Path) -> None:
    shape = helper.make_tensor("s", TensorProto.INT64, [2], [92160, 92160])
    path = save(tmp_path / "m.onnx", [helper.make_node("ConstantOfShape", ["s"], ["y"], "huge")], inputs=[], tensors=[shape])
    assert path.stat().st_size < 200
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error = refused(path, LimitError, "tensor_elements")
    assert "--limit tensor_elements=8493465600" in str(error)
    with pytest.raises(LimitError):
        check_model(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_a_huge_traced_value_and_many_folded_constants_are_refused_too(tmp_path: Path) -> None:
    shape = helper.make_tensor("s", TensorProto.INT64, [3], [92160, 23040, 4])
    path = save(tmp_path / "m.onnx", [helper.make_node("Expand", ["x", "s"], ["y"], "huge")], tensors=[shape], outputs=[value("y", None)])
    refused(path, LimitError, "huge")
    shape = helper.make_tensor("s", TensorProto.INT64, [1], [1 << 20])
    nodes = [helper.make_node("ConstantOfShape", ["s"], [f"c{i}"]) for i in range(8)]
    nodes.append(helper.make_node("Add", ["x", "c0"], ["y"]))
    path = save(tmp_path / "m.onnx", nodes, inputs=[value("x", (1, 1))], tensors=[shape], outputs=[value("y", None)])
    refused(path, LimitError, "folded_bytes", Limits(folded_bytes=16 << 20))


def test_a_declared_shape_that_the_data_do_not_fill_is_rejected(tmp_path: Path) -> None:
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [1, 4], np.zeros(4, np.float32).tobytes(), raw=True)
    tensor.dims[0] = 1 << 20
    refused(add(tensor, tmp_path / "m.onnx"), InputRejectedError, "the file holds 4")
    tensor.dims[0] = -1
    refused(add(tensor, tmp_path / "m.onnx"), InputRejectedError, "negative dimension")


def sparse(path: Path, dims: list[int]) -> Path:
    stored = helper.make_tensor("w", TensorProto.FLOAT, [2], [3.0, 5.0])
    places = helper.make_tensor("w_indices", TensorProto.INT64, [2], [1, 3])
    save(path, [helper.make_node("Add", ["x", "w"], ["y"], "sum")], outputs=[value("y", None)])
    model = onnx.load(path)
    model.graph.sparse_initializer.add(values=stored, indices=places, dims=dims)
    path.write_bytes(model.SerializeToString())
    return path


def test_sparse_tensors_are_read_and_their_declared_size_is_bounded(tmp_path: Path) -> None:
    program = load_program(sparse(tmp_path / "m.onnx", [1, 4]))
    assert next(iter(program.tensors.values())).tolist() == [[0, 3, 0, 5]]
    refused(sparse(tmp_path / "m.onnx", [1 << 20, 1 << 20]), LimitError, "tensor_elements")
    refused(sparse(tmp_path / "m.onnx", [1, 1 << 28]), LimitError, "folded_bytes")
    refused(sparse(tmp_path / "m.onnx", [1, 3]), InputRejectedError, "no 2 places inside it")
    refused(sparse(tmp_path / "m.onnx", [-1, -4]), InputRejectedError, "negative dimension")


def test_sparse_attributes_pass_the_same_checks(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(32))
    (tmp_path / "model").mkdir()
    held = sparse(tmp_path / "m.onnx", [1, 4])
    entry = onnx.load(held).graph.sparse_initializer[0]
    for change, text in (("kind", "unknown data type"), ("outside", "leaves the model's folder"), ("places", "no 2 places inside it")):
        stored = onnx.SparseTensorProto()
        stored.CopyFrom(entry)
        if change == "kind":
            stored.values.data_type = 99
        elif change == "outside":
            stored.indices.CopyFrom(external("../secret.bin"))
        else:
            stored.dims[:] = [1, 2]
        nodes = [helper.make_node("Constant", [], ["w"], "c", sparse_value=stored), helper.make_node("Add", ["x", "w"], ["y"])]
        refused(save(tmp_path / "model" / "m.onnx", nodes), InputRejectedError, text)


def test_a_million_nodes_are_refused_quickly(tmp_path: Path) -> None:
    graph = onnx.GraphProto(name="g", input=[value("x")], output=[value("y")])
    graph.node.add(op_type="Relu", input=["x"], output=["y"])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    node = onnx.GraphProto(node=[helper.make_node("Relu", ["x"], ["a"])]).SerializeToString()
    head = model.graph.SerializeToString() + node * 1_000_000
    size, length = len(head), b""
    while size:
        length += bytes([size & 127 | (128 if size > 127 else 0)])
        size >>= 7
    model.ClearField("graph")
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString() + b"\x3a" + length + head)
    start = time.monotonic()
    refused(path, LimitError, "--limit nodes=1000001")
    assert time.monotonic() - start < 20


def function(name: str, calls: list[str]) -> onnx.FunctionProto:
    names = ["x", *(f"t{i}" for i in range(len(calls) - 1)), "y"]
    nodes = [helper.make_node(call, [names[i]], [names[i + 1]], domain="local") for i, call in enumerate(calls)]
    nodes = nodes or [helper.make_node("Relu", ["x"], ["y"])]
    return helper.make_function("local", name, ["x"], ["y"], nodes, [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)])


def test_recursive_functions_are_rejected(tmp_path: Path) -> None:
    functions = [function("a", ["b"]), function("b", ["a"])]
    call = [helper.make_node("a", ["x"], ["y"], domain="local")]
    refused(save(tmp_path / "m.onnx", call, functions=functions), InputRejectedError, "a -> b -> a")
    plain = [helper.make_node("Relu", ["x"], ["y"])]
    refused(save(tmp_path / "m.onnx", plain, functions=functions), InputRejectedError, "circle")


def test_functions_that_multiply_are_counted_before_they_are_inlined(tmp_path: Path) -> None:
    functions = [function(f"f{i}", [f"f{i + 1}"] * 4) for i in range(20)] + [function("f20", [])]
    call = [helper.make_node("f0", ["x"], ["y"], domain="local")]
    refused(save(tmp_path / "m.onnx", call, functions=functions), LimitError, "nodes")
    deep = [function(f"f{i}", [f"f{i + 1}"]) for i in range(60)] + [function("f60", [])]
    refused(save(tmp_path / "m.onnx", call, functions=deep), LimitError, "nesting")


def test_functions_are_inlined(tmp_path: Path) -> None:
    call = [helper.make_node("a", ["x"], ["y"], domain="local")]
    path = save(tmp_path / "m.onnx", call, functions=[function("a", ["b"]), function("b", [])])
    assert [str(node.target) for node in load_program(path).nodes] == ["aten.relu.default"]


def test_a_graph_that_uses_what_nothing_makes_is_rejected(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", [helper.make_node("Add", ["x", "ghost"], ["y"], "sum")])
    assert refused(path, InputRejectedError, "'ghost'").problems[0].where == "sum"


@pytest.mark.parametrize("kind", ["input", "output"])
def test_an_input_or_output_that_is_listed_twice_is_rejected(tmp_path: Path, kind: str) -> None:
    inputs, outputs = [value("x")] * (2 if kind == "input" else 1), [value("y")] * (2 if kind == "output" else 1)
    path = save(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], inputs=inputs, outputs=outputs)
    (problem,) = refused(path, InputRejectedError, "is listed 2 times").problems
    assert (problem.where, problem.what) == ("x" if kind == "input" else "y", f"graph {kind}")


@pytest.mark.parametrize("opset", [6, 999])
def test_opsets_outside_the_range_are_unsupported(tmp_path: Path, opset: int) -> None:
    path = save(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], opset=opset)
    assert refused(path, UnsupportedModelError, f"opset {opset}").exit_code == 3


def test_every_unsupported_node_is_listed_at_once(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Blorp", ["x"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "fine"),
        helper.make_node("Attention9", ["b"], ["c"], "second", domain="com.acme"),
        helper.make_node("StringNormalizer", ["x"], ["y"], "third"),
    ]
    path = save(tmp_path / "m.onnx", nodes)
    report = check_model(path)
    assert [problem.where for problem in report.problems] == ["first", "second", "third"]
    assert report.operators["Relu"] == 1
    assert report.opset == 17
    assert not report.supported
    error = refused(path, UnsupportedModelError, "3 nodes")
    assert error.problems == report.problems


def test_open_sizes_are_all_named_with_the_flag_to_type(tmp_path: Path) -> None:
    inputs = [value("x", ("n", 3, "height", "width")), value("z", ("n", 3, "height", "width"))]
    path = save(tmp_path / "m.onnx", [helper.make_node("Add", ["x", "z"], ["y"])], inputs=inputs, outputs=[value("y", None)])
    error = refused(path, ConfigError, "height, width")
    assert [problem.where for problem in error.problems] == ["x", "z"]
    assert "--input-shape x=1x3x8x8" in str(error)
    program = load_program(path, input_shapes={"x": (1, 3, 5, 7)})
    assert [entry.shape for entry in program.interface.inputs] == [("batch", 3, 5, 7)] * 2
    with pytest.raises(ConfigError, match="no such input"):
        load_program(path, input_shapes={"q": (1,)})
    with pytest.raises(ConfigError, match="the model says nx3xheightxwidth"):
        load_program(path, input_shapes={"x": (1, 4, 5, 7)})
