"""Small ONNX files that ask for gigabytes: refused before the memory is taken, whichever operator asks."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from effc.errors import LimitError, UnsupportedModelError
from effc.frontends import load_program
from tests.unit.frontends.hostile_files import refused, save, value


def integers(name: str, *values: int) -> onnx.TensorProto:
    return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)


def fill(shape: str, name: str, kind: int = TensorProto.FLOAT) -> onnx.NodeProto:
    return helper.make_node("ConstantOfShape", [shape], [name], value=helper.make_tensor("v", kind, [1], [1]))


ROW, COLUMN = integers("row", 1, 32768), integers("column", 32768, 1)
FOLDED_BOMBS: dict[str, list[Any]] = {
    "GatherND": [fill("row", "a"), fill("column", "i", TensorProto.INT64), ("GatherND", ["a", "i"], {"batch_dims": 0})],
    "Gather": [fill("row", "a"), fill("column", "i", TensorProto.INT64), ("Gather", ["a", "i"], {})],
    "TopK": [fill("row", "a"), ("TopK", ["a", "billions"], {})],
    "Sum": [fill("row", "a"), fill("column", "b"), ("Sum", ["a", "b"], {})],
    "Pow": [fill("row", "a"), fill("column", "b"), ("Pow", ["a", "b"], {})],
    "Clip": [fill("row", "a"), fill("column", "b"), ("Clip", ["a", "b"], {})],
    "Equal": [fill("row", "a"), fill("column", "b"), ("Equal", ["a", "b"], {})],
    "GreaterOrEqual": [fill("long", "a"), fill("column", "b"), ("GreaterOrEqual", ["a", "b"], {})],
    "ReduceSum": [fill("empty", "a"), ("ReduceSum", ["a", "zero"], {})],
    "ReduceProd": [fill("empty", "a"), ("ReduceProd", ["a", "zero"], {})],
    "Tile": [fill("row", "a"), ("Tile", ["a", "column"], {})],
    "Expand": [fill("row", "a"), ("Expand", ["a", "wide"], {})],
    "Range": [("Range", ["zero", "billions", "one"], {})],
}


@pytest.mark.parametrize("op", FOLDED_BOMBS)
def test_a_folded_result_is_measured_before_it_is_computed(tmp_path: Path, op: str) -> None:
    """A few stored numbers that ask for gigabytes, one operator at a time."""
    *nodes, (kind, given, attributes) = FOLDED_BOMBS[op]
    nodes.append(helper.make_node(kind, given, ["y", "indices"] if kind == "TopK" else ["y"], "bomb", **attributes))
    nodes.append(helper.make_node("Identity", ["y"], ["z"]))
    tensors = [
        ROW,
        COLUMN,
        integers("wide", 32768, 32768),
        integers("long", 1, 65536),
        integers("billions", 1 << 33),
        integers("zero", 0),
        integers("one", 1),
        integers("empty", 0, 1 << 29),
    ]
    path = save(tmp_path / "m.onnx", nodes, inputs=[], outputs=[value("z", None)], tensors=tensors)
    assert path.stat().st_size < 1000
    tracemalloc.start()
    try:
        error = refused(path, LimitError, "--limit ")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 50_000_000, f"{op}: {peak} bytes before {error}"


TABLES: dict[str, tuple[Any, ...]] = {
    "HannWindow": (17, ["billions"], {}),
    "DFT": (17, ["x", "n"], {"axis": 1}),
    "STFT": (17, ["x", "one", "", "n"], {}),
    "Resize": (17, ["x", "", "", "sizes"], {"mode": "linear"}),
    "Pad": (17, ["x", "pads"], {"mode": "edge"}),
    "AveragePool": (17, ["x"], {"kernel_shape": [1 << 20, 1], "pads": [1 << 20, 0, 1 << 19, 0], "count_include_pad": 1}),
    "LRN": (17, ["x"], {"size": 1 << 24}),
    "Split": (18, ["x"], {"num_outputs": 1 << 24, "axis": 1}),
}


@pytest.mark.parametrize("op", TABLES)
def test_what_an_operator_is_written_out_as_is_bounded(tmp_path: Path, op: str) -> None:
    """Tables of constants, and operators that become many, are refused before they are made."""
    opset, given, attributes = TABLES[op]
    shape = (1, 1 << 17, 1) if op == "STFT" else (1, 4, 4, 1)
    single = [
        helper.make_tensor(name, TensorProto.INT64, [], [number]) for name, number in (("billions", 1 << 33), ("one", 1), ("n", 1 << 16))
    ]
    lists = [integers("sizes", 1, 4, 1 << 33, 1), integers("pads", 0, 0, 0, 0, 0, 0, 1 << 27, 0)]
    tensors = [tensor for tensor in (*single, *lists) if tensor.name in given]
    inputs, outputs = [value("x", shape)], [value("y", None)]
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node(op, given, ["y"], "bomb", **attributes)],
        inputs=inputs,
        outputs=outputs,
        tensors=tensors,
        opset=opset,
    )
    tracemalloc.start()
    start = time.monotonic()
    try:
        error = refused(path, UnsupportedModelError, "bomb")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 50_000_000, f"{op}: {peak} bytes before {error}"
    assert time.monotonic() - start < 20


def test_folded_sizes_are_never_negative_and_parts_are_those_that_the_node_has(tmp_path: Path) -> None:
    """A negative size must not give bytes back to the budget, and `num_outputs` not make billions of parts."""
    shape = integers("s", -1, 1 << 27)
    bomb = [fill("s", "a"), helper.make_node("Relu", ["x"], ["y"])]
    refused(save(tmp_path / "m.onnx", bomb, tensors=[shape]), UnsupportedModelError, "negative")
    parts = [fill("s", "a"), helper.make_node("Split", ["a"], ["b", "c"], num_outputs=1 << 40), helper.make_node("Relu", ["x"], ["y"])]
    path = save(tmp_path / "m.onnx", parts, tensors=[integers("s", 8)], opset=18)
    refused(path, UnsupportedModelError, "but it has 2 outputs")


def test_elements_are_gathered_along_any_axis_of_any_length(tmp_path: Path) -> None:
    data = np.arange(600, dtype=np.int64).reshape(200, 3)
    index = np.array([[199, -1], [0, 57]])
    tensors = [
        helper.make_tensor("d", TensorProto.INT64, [200, 3], data.reshape(-1)),
        helper.make_tensor("i", TensorProto.INT64, [2, 2], index.reshape(-1)),
    ]
    nodes = [helper.make_node("GatherElements", ["d", "i"], ["g"], axis=0), helper.make_node("Add", ["x", "g"], ["y"])]
    inputs, outputs = [value("x", (2, 2), TensorProto.INT64)], [value("y", (2, 2), TensorProto.INT64)]
    program = load_program(save(tmp_path / "m.onnx", nodes, inputs=inputs, outputs=outputs, tensors=tensors))
    (constant,) = program.tensors.values()
    assert constant.tolist() == [[597, 598], [0, 172]]
