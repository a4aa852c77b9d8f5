"""What of a model effc can take: every unsupported node at once, without running or tracing it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from effc.errors import ConfigError, Problem
from effc.frontends.exporting import quiet
from effc.frontends.onnx.interpreter import OnnxModule, unknown_operator
from effc.frontends.onnx.limits import Limits
from effc.frontends.onnx.loader import LoadedModel, default_opset, load_model
from effc.frontends.onnx.operators.values import DTYPES
from effc.frontends.onnx.signature import Input, input_signature

__all__ = ["CheckReport", "check_model", "find_problems"]


@dataclass(frozen=True)
class CheckReport:
    """What `effc check` says about a model.

    Attributes:
        model: the file's name.
        opset: version of ai.onnx; None for an exported program.
        inputs, outputs: as the file declares them, `image: float32[batch, 1, 8, 8]`.
        operators: how many nodes of each operator, most frequent first.
        problems: every node that effc cannot take; empty for a model that imports.
        open_sizes: sizes that `--input-shape` must give before nodes can be checked beyond their names.
        target: for which `problems` holds what cannot be lowered there, too; empty: none was looked at.
    """

    model: str
    opset: int | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operators: dict[str, int]
    problems: tuple[Problem, ...]
    open_sizes: tuple[Problem, ...] = ()
    target: str = ""

    @property
    def supported(self) -> bool:
        """Whether the model imports."""
        return not self.problems and not self.open_sizes

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "opset": self.opset,
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "operators": dict(self.operators),
            "problems": [problem.as_json() for problem in self.problems],
            "open_sizes": [problem.as_json() for problem in self.open_sizes],
            "target": self.target or None,
            "supported": self.supported,
        }


def check_model(path: str | Path, limits: Limits | None = None, *, input_shapes: dict[str, Sequence[int]] | None = None) -> CheckReport:
    """List everything in an ONNX file that effc cannot take. Raises only for files that cannot be read (see `loader.load_model`)."""
    limits = limits or Limits()
    model = load_model(path, limits)
    graph = model.proto.graph
    module = OnnxModule(model, limits).eval()
    open_sizes: tuple[Problem, ...] = ()
    try:
        inputs = input_signature(graph, input_shapes)
        problems = find_problems(module, inputs, model)
    except ConfigError as error:
        open_sizes, problems = error.problems, find_unknown(module, model)
    names = Counter(f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type for node in graph.node)
    return CheckReport(
        model=model.name,
        opset=default_opset(model.opsets),
        inputs=tuple(_declared(value) for value in graph.input if value.name in module.input_names),
        outputs=tuple(_declared(value) for value in graph.output),
        operators=dict(names.most_common()),
        problems=tuple(problems),
        open_sizes=open_sizes,
    )


def find_problems(module: OnnxModule, inputs: Sequence[Input], model: LoadedModel) -> list[Problem]:
    """Every node that would stop an import at these inputs, found on fake tensors: nothing is computed, nothing is allocated."""
    first = _search(module, inputs, {})
    if not first:
        return first
    return _search(module, inputs, _declared_shapes(model))  # again, with stand-ins behind refused nodes


def _search(module: OnnxModule, inputs: Sequence[Input], shapes: dict[str, Any]) -> list[Problem]:
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())
    with quiet(), mode, torch.no_grad():
        fakes = [torch.zeros(value.shape, dtype=value.dtype) for value in inputs]
        return module.problems(*fakes, shapes=shapes)


def find_unknown(module: OnnxModule, model: LoadedModel) -> list[Problem]:
    """The nodes whose operator is in no table, found by name alone."""
    described = (module.describe(proto, position) for position, proto in enumerate(model.proto.graph.node))
    return [problem for node in described if (problem := unknown_operator(node)) is not None]


def _declared_shapes(model: LoadedModel) -> dict[str, Any]:
    """Shapes and dtypes of inner values as ONNX's shape inference sees them, those that are fully known."""
    from onnx import shape_inference

    try:
        inferred = shape_inference.infer_shapes(model.proto)
    except Exception:  # noqa: BLE001 - inference is a help for the report; without it fewer nodes behind refused ones are looked at
        return {}
    shapes = {}
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        kind = value.type.tensor_type
        dims = [int(dim.dim_value) for dim in kind.shape.dim]
        if value.type.HasField("tensor_type") and kind.HasField("shape") and all(dims) and kind.elem_type in DTYPES:
            shapes[value.name] = (dims, DTYPES[kind.elem_type])
    return shapes


def _declared(value: Any) -> str:
    from onnx import helper

    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        return f"{value.name}: {value.type.WhichOneof('value')}"
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type) if kind.elem_type else "?"
    sizes = [str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?" for dim in kind.shape.dim]
    return f"{value.name}: {dtype}[{', '.join(sizes) if kind.HasField('shape') else '...'}]"
