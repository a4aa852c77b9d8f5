"""An ONNX file as a vetted, self-contained ModelProto: read within limits, external data inside, functions inlined.

What stands here runs before anything interprets the graph. It refuses what is broken or hostile (`InputRejectedError`), what is over a
limit (`LimitError`), and what no part of effc could read (`UnsupportedModelError`). Nothing is executed and no shape is inferred.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effc.errors import InputRejectedError, Problem, UnsupportedModelError, UsageError
from effc.frontends.onnx.external import load_external_data
from effc.frontends.onnx.limits import Limits
from effc.frontends.onnx.tensors import check_sparse, check_tensor, sparse_tensors, tensors_of
from effc.frontends.onnx.walking import node_name, subgraphs

__all__ = ["OLDEST_OPSET", "LoadedModel", "default_opset", "load_model", "model_from_bytes"]

OLDEST_OPSET = 7
STANDARD_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class LoadedModel:
    """A model that passed every check.

    Attributes:
        proto: the onnx ModelProto, without external data and without model-local functions.
        name: the file's name without its folder.
        sha256: hash of the file's bytes, in hex.
        opsets: version of each operator domain; "" for ai.onnx.
    """

    proto: Any
    name: str
    sha256: str
    opsets: dict[str, int]


def load_model(path: str | Path, limits: Limits) -> LoadedModel:
    """Read and vet an ONNX file.

    Raises:
        UsageError: there is no such file, or it cannot be read.
        InputRejectedError: it is no ONNX model, truncated, malformed or hostile.
        LimitError: it is over a limit.
        UnsupportedModelError: its opset is older than 7 or newer than the installed onnx.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        limits.check("model_bytes", size, f"the model file {path.name}")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise UsageError(f"there is no model file {str(path)!r}") from error
    except OSError as error:
        raise UsageError(f"the model file {str(path)!r} cannot be read: {error.strerror}") from error
    return model_from_bytes(data, path.name, path.parent, limits)


def model_from_bytes(data: bytes, name: str, folder: Path, limits: Limits) -> LoadedModel:
    """Vet a serialised model; `folder` is where its external data may lie. Errors as in `load_model`."""
    model = _parse(data, name)
    _check_presence(model, name)
    _check_size(model, limits)
    opsets = _opsets(model, name)
    tensors = list(tensors_of(model))
    load_external_data(tensors, folder, len(data), limits)
    for tensor in tensors:
        check_tensor(tensor, limits)
    check_sparse(sparse_tensors(model), limits)
    if model.functions:
        model = _inline(model)
        opsets = _opsets(model, name)
    _check_wiring(model.graph)
    return LoadedModel(model, name, hashlib.sha256(data).hexdigest(), opsets)


def default_opset(opsets: dict[str, int]) -> int:
    """The version of ai.onnx that the model imports."""
    return opsets[""]


def _parse(data: bytes, name: str) -> Any:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise InputRejectedError(f"{name} is not an ONNX model, or it is truncated ({len(data)} bytes)") from error
    return model


def _check_presence(model: Any, name: str) -> None:
    if not model.HasField("graph") or (not model.graph.node and not model.graph.output):
        raise InputRejectedError(f"{name} holds no graph: it is empty, truncated, or not an ONNX model")
    if not model.graph.output:
        raise InputRejectedError(f"{name}: the graph has no output")
    if not model.graph.node:
        raise InputRejectedError(f"{name}: the graph is empty, it has no operator")


# ---- size ----------------------------------------------------------------------------------------------------------------------


def _check_size(model: Any, limits: Limits) -> None:
    """Count operators as if every function were inlined, before it is: nested calls grow exponentially."""
    functions = {(function.domain, function.name): function for function in model.functions}
    counts: dict[tuple[str, str], int] = {}
    depths: dict[tuple[str, str], int] = {}

    def measure(nodes: Iterable[Any], depth: int, calls: tuple[tuple[str, str], ...]) -> tuple[int, int]:
        limits.check("nesting", depth, "subgraphs and functions inside one another")
        total, deepest = 0, depth
        for node in nodes:
            key = (node.domain, node.op_type)
            if key in functions:
                if key in calls:
                    chain = " -> ".join(name for _, name in (*calls[calls.index(key) :], key))
                    raise InputRejectedError(f"model-local functions call one another in a circle: {chain}")
                if key not in counts:
                    counts[key], inner = measure(functions[key].node, 0, (*calls, key))
                    depths[key] = inner + 1
                limits.check("nesting", len(calls) + 1, "functions that call functions")
                limits.check("nesting", depth + depths[key], "subgraphs and functions inside one another")
                total, deepest = total + counts[key], max(deepest, depth + depths[key])
            else:
                total += 1
            for graph in subgraphs(node):
                inside, inner = measure(graph.node, depth + 1, calls)
                total, deepest = total + inside, max(deepest, inner)
            limits.check("nodes", total, "operators of the model")
        return total, deepest

    limits.check("nodes", len(model.graph.node), "operators of the model")
    measure(model.graph.node, 0, ())
    for function in model.functions:  # one that nothing calls must not hide a circle from the inliner
        measure([_call(function)], 0, ())


def _call(function: Any) -> Any:
    import onnx

    return onnx.NodeProto(op_type=function.name, domain=function.domain)


def _opsets(model: Any, name: str) -> dict[str, int]:
    import onnx

    opsets: dict[str, int] = {}
    for entry in model.opset_import:
        domain = "" if entry.domain in STANDARD_DOMAINS else entry.domain
        opsets[domain] = max(int(entry.version), opsets.get(domain, 0))
    if "" not in opsets:
        if opsets and all(node.domain not in STANDARD_DOMAINS for node in model.graph.node):
            opsets[""] = onnx.defs.onnx_opset_version()  # nothing of the standard domain is called
        else:
            raise InputRejectedError(f"{name} does not say which opset it uses (no import of ai.onnx)")
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opsets[""] <= newest:
        hint = "convert it with onnx.version_converter" if opsets[""] < OLDEST_OPSET else "install a newer onnx package"
        why = f"effc reads opsets {OLDEST_OPSET} to {newest}"
        raise UnsupportedModelError(f"{name} uses opset {opsets['']}", [Problem(name, f"opset {opsets['']}", why, hint)])
    return opsets


# ---- wiring --------------------------------------------------------------------------------------------------------------------


def _inline(model: Any) -> Any:
    from onnx import inliner

    try:
        return inliner.inline_local_functions(model)
    except Exception as error:
        raise InputRejectedError(f"the model's functions cannot be inlined: {error}") from error


def _check_wiring(graph: Any, outer: frozenset[str] = frozenset()) -> None:
    """Every value is made once, before it is used."""
    made = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    made |= {sparse.values.name for sparse in graph.sparse_initializer} | {""}
    problems: list[Problem] = []
    for position, node in enumerate(graph.node):
        where = node_name(node, position)
        for name in node.input:
            if name not in made and name not in outer:
                problems.append(Problem(where, node.op_type, f"its input {name!r} is made by no node before it"))
        for inner in subgraphs(node):
            _check_wiring(inner, outer | frozenset(made))
        for name in node.output:
            if name and name in made:
                problems.append(Problem(where, node.op_type, f"makes {name!r}, which exists already"))
            made.add(name)
    for value in graph.output:
        if value.name not in made and value.name not in outer:
            problems.append(Problem(value.name or "(unnamed)", "graph output", "is made by no node"))
    for kind, values in (("input", graph.input), ("output", graph.output)):
        for name, count in Counter(value.name for value in values).items():
            if count > 1:
                hint = f"give the {kind}s names of their own; an Identity node makes a second name for a value"
                problems.append(Problem(name or "(unnamed)", f"graph {kind}", f"is listed {count} times", hint))
    if problems:
        raise InputRejectedError("the graph is malformed", problems[:50])
