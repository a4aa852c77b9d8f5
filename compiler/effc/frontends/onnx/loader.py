"""Reading an ONNX file that nobody vouches for: every check comes before the memory or time that it protects.

External data may only lie in the model's own folder, without symbolic links. Model-local functions are expanded.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from effc.errors import DataError, InputRejectedError, Problem, UnsupportedModelError
from effc.frontends.onnx.limits import Limits

__all__ = ["LoadedModel", "load_model", "vetted"]

OLDEST, NEWEST = 7, 26
_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class LoadedModel:
    """A vetted model without local functions, all data in memory.

    Attributes:
        proto: onnx.ModelProto.
        opsets: imported version by domain ("" for ai.onnx).
        sha256: of the file's bytes (and of its external data), in hex.
        name: the file's name.
    """

    proto: Any
    opsets: dict[str, int]
    sha256: str
    name: str


def load_model(path: Path | str, limits: Limits | None = None) -> LoadedModel:
    """Read and vet an ONNX file.

    Raises:
        DataError: the file is missing or cannot be read.
        InputRejectedError: it is no sound ONNX model, or reaches outside its folder.
        LimitError: it is over a limit.
        UnsupportedModelError: its opset is too old or too new.
    """
    path, limits = Path(path), limits or Limits()
    if not path.is_file():
        raise DataError(f"{path} {'is a directory' if path.is_dir() else 'does not exist'}; give an .onnx file")
    limits.check("model_bytes", path.stat().st_size, f"{path.name}: file size in bytes")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    return vetted(_parsed(content, path.name), limits, path.name, content, path.parent)


def vetted(proto: Any, limits: Limits, name: str, content: bytes, folder: Path | None = None) -> LoadedModel:
    """The same checks for a model that is in memory; external data is refused where there is no folder."""
    import onnx
    import onnx.inliner

    digest = hashlib.sha256(content)
    if not proto.HasField("graph") or not proto.graph.node or not proto.graph.output:
        raise InputRejectedError(f"{name}: the graph is empty; nothing can be compiled")
    _check_size(proto, limits, name)
    opsets = {"" if entry.domain in _DOMAINS else entry.domain: entry.version for entry in proto.opset_import}
    if not OLDEST <= opsets.get("", OLDEST) <= NEWEST:
        raise UnsupportedModelError(
            f"{name}: opset {opsets['']} is outside of {OLDEST} to {NEWEST}; convert the model with onnx.version_converter"
        )
    _read_external_data(proto, folder, limits, name, digest)
    for tensor in _tensors(proto):
        _check_tensor(tensor, limits, name)
    if proto.functions:
        try:
            proto = onnx.inliner.inline_local_functions(proto)
        except Exception as error:  # onnx raises several classes for malformed functions
            raise InputRejectedError(f"{name}: its functions cannot be expanded: {error}") from error
    return LoadedModel(proto, opsets, digest.hexdigest(), name)


def _parsed(content: bytes, name: str) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except (DecodeError, RecursionError) as error:
        raise InputRejectedError(f"{name} is not an ONNX model, or it is truncated: {error}") from error
    return proto


# ---- sizes -------------------------------------------------------------------------------------------------------------------


def _check_size(proto: Any, limits: Limits, name: str) -> None:
    """Count nodes with functions expanded, without expanding them: exponential growth and recursion are found here."""
    functions = {(function.domain, function.name): function for function in proto.functions}
    counts: dict[tuple[str, str], int] = {}

    def count(nodes: Any, calls: tuple[tuple[str, str], ...], depth: int) -> int:
        limits.check("nesting", depth, f"{name}: nesting of subgraphs and functions")
        total = len(nodes)
        limits.check("nodes", total, f"{name}: number of nodes")
        for node in nodes:
            key = (node.domain, node.op_type)
            if key in functions:
                if key in calls:
                    raise InputRejectedError(f"{name}: function {node.op_type!r} calls itself")
                if key not in counts:
                    counts[key] = count(functions[key].node, (*calls, key), depth + 1)
                total += counts[key]
            for attribute in node.attribute:
                for graph in (attribute.g, *attribute.graphs) if attribute.HasField("g") or attribute.graphs else ():
                    total += count(graph.node, calls, depth + 1)
            limits.check("nodes", total, f"{name}: number of nodes, functions expanded")
        return total

    count(proto.graph.node, (), 0)
    for key, function in functions.items():  # also those that nothing calls: the inliner visits them
        count(function.node, (key,), 1)


def _check_tensor(tensor: Any, limits: Limits, name: str) -> None:
    elements = 1
    for size in tensor.dims:
        if size < 0:
            raise InputRejectedError(f"{name}: tensor {tensor.name!r} has a negative size {size}")
        elements *= size
    limits.check("tensor_elements", elements, f"{name}: elements of tensor {tensor.name!r}")


def _tensors(proto: Any) -> Iterator[Any]:
    """Every stored tensor: initialisers and tensor attributes, in subgraphs and functions too."""
    graphs, nodes = [proto.graph], [list(function.node) for function in proto.functions]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield sparse.values
                yield sparse.indices
            nodes.append(list(graph.node))
        for node in nodes.pop():
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                if attribute.HasField("g"):
                    graphs.append(attribute.g)
                graphs.extend(attribute.graphs)


# ---- external data -----------------------------------------------------------------------------------------------------------


def _read_external_data(proto: Any, folder: Path | None, limits: Limits, name: str, digest: Any) -> None:
    external = [tensor for tensor in _tensors(proto) if tensor.data_location == tensor.EXTERNAL]
    problems: list[Problem] = []
    total = 0
    for tensor in external:
        fields = {entry.key: entry.value for entry in tensor.external_data}
        location = fields.get("location", "")
        why = _unsafe(location, folder)
        if why:
            problems.append(Problem(tensor.name, f"external data {location!r}", why, "move the data beside the model"))
            continue
        assert folder is not None  # noqa: S101 - _unsafe refused the location otherwise
        try:
            offset, file = int(fields.get("offset", 0)), folder / location
            length = int(fields.get("length", max(0, file.stat().st_size - offset)))
            total += length
            limits.check("model_bytes", total, f"{name}: bytes of external data")
            if offset < 0 or length < 0 or offset + length > file.stat().st_size:
                problems.append(Problem(tensor.name, f"external data {location!r}", "reaches beyond the file's end"))
                continue
            with open(file, "rb") as stream:
                stream.seek(offset)
                tensor.raw_data = stream.read(length)
        except (OSError, ValueError) as error:
            problems.append(Problem(tensor.name, f"external data {location!r}", str(error)))
            continue
        digest.update(tensor.raw_data)
        tensor.data_location = tensor.DEFAULT
        del tensor.external_data[:]
    if problems:
        raise InputRejectedError(f"{name}: external data cannot be used", problems)


def _unsafe(location: str, folder: Path | None) -> str:
    """Why a location must not be opened; empty when it may be."""
    pure = PurePosixPath(location)
    if folder is None:
        return "a model in memory cannot have external data"
    if not location or pure.is_absolute() or ".." in pure.parts or "\\" in location or "\0" in location:
        return "lies outside of the model's folder"
    place = folder
    for part in pure.parts:
        place = place / part
        if place.is_symlink():
            return "is a symbolic link"
    if not place.is_file():
        return "does not exist"
    if not os.path.realpath(place).startswith(os.path.realpath(folder) + os.sep):
        return "lies outside of the model's folder"
    return ""
