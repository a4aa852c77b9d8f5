"""Small ONNX files that ask for too much, and what importing them must end in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from effc.errors import EffcError
from effc.frontends import Limits, load_program


def value(name: str, shape: Any = (1, 4), kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def save(
    path: Path, nodes: list[Any], *, inputs: Any = None, outputs: Any = None, tensors: Any = (), opset: int = 17, functions: Any = ()
) -> Path:
    graph = helper.make_graph(nodes, "g", inputs if inputs is not None else [value("x")], outputs or [value("y")], list(tensors))
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    path.write_bytes(helper.make_model(graph, opset_imports=imports, functions=list(functions), ir_version=10).SerializeToString())
    return path


def refused(path: Path, kind: type[EffcError], text: str, limits: Limits | None = None) -> EffcError:
    with pytest.raises(kind) as caught:
        load_program(path, limits=limits)
    assert text in str(caught.value)
    return caught.value
