"""The inputs of an ONNX graph with every size settled but the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from effc.errors import ConfigError, Problem, UnsupportedModelError
from effc.frontends.onnx.interpreter import graph_inputs
from effc.frontends.onnx.operators.values import DTYPES

__all__ = ["Input", "input_signature"]


@dataclass(frozen=True)
class Input:
    """One input of the graph.

    Attributes:
        name: the ONNX value name.
        shape: all sizes; where the leading one is open in the file and not given by the user it is 1.
        dtype: element type.
        open_batch: whether the file leaves the leading size open.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    open_batch: bool


def input_signature(graph: Any, given: Mapping[str, Sequence[int]] | None = None) -> list[Input]:
    """Settle the shapes of a graph's inputs.

    Args:
        graph: a vetted GraphProto.
        given: sizes by input name; a symbolic dimension that has a name is settled for every input that shares it.

    Raises:
        ConfigError: `given` names no input or contradicts the file, or sizes other than the batch are open; all are listed.
        UnsupportedModelError: an input is no tensor, or of a type that effc does not know.
    """
    given = dict(given or {})
    values = graph_inputs(graph)
    _refuse_types(values)
    dims = {value.name: _dims(value) for value in values}
    _check_given(given, dims)
    sizes = _named_sizes(given, dims)
    inputs, problems = [], []
    for value in values:
        settled = _settle(dims[value.name], given.get(value.name), sizes)
        unsettled = [name for name in settled if isinstance(name, str)]
        if unsettled or (dims[value.name] is None and value.name not in given):
            problems.append(_unresolved(value.name, dims[value.name], settled))
            continue
        known = dims[value.name]
        open_batch = bool(known) and isinstance(known[0], str) and settled[0] != 0  # type: ignore[index]
        inputs.append(Input(value.name, tuple(int(size) for size in settled), DTYPES[value.type.tensor_type.elem_type], open_batch))
    if problems:
        raise ConfigError("the model leaves sizes open that effc must know", problems)
    return inputs


def _refuse_types(values: Sequence[Any]) -> None:
    from onnx import TensorProto

    problems = []
    for value in values:
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type":
            problems.append(Problem(value.name, f"input of {kind or 'no type'}", "effc programs take dense tensors"))
        elif value.type.tensor_type.elem_type not in DTYPES:
            number = value.type.tensor_type.elem_type
            name = TensorProto.DataType.Name(number) if number in TensorProto.DataType.values() else number
            problems.append(Problem(value.name, f"input of type {name}", "effc has no such element type"))
    if problems:
        raise UnsupportedModelError("the model has inputs that effc cannot take", problems)


def _dims(value: Any) -> list[int | str] | None:
    """Sizes of a declared shape, open ones by name (`?0` where the file gives no name); None where no shape is declared."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    dims: list[int | str] = []
    for position, dim in enumerate(value.type.tensor_type.shape.dim):
        if dim.HasField("dim_value") and dim.dim_value > 0:
            dims.append(int(dim.dim_value))
        else:
            dims.append(dim.dim_param or f"?{position}")
    return dims


def _check_given(given: Mapping[str, Sequence[int]], dims: Mapping[str, list[int | str] | None]) -> None:
    problems = []
    for name, shape in given.items():
        if name not in dims:
            problems.append(Problem(name, "--input-shape", "the model has no such input", f"inputs are: {', '.join(dims)}"))
            continue
        declared = dims[name]
        if any(size < 0 for size in shape):
            problems.append(Problem(name, f"--input-shape {_text(shape)}", "a size is negative"))
        elif declared is not None and (
            len(shape) != len(declared) or any(isinstance(want, int) and want != size for want, size in zip(declared, shape, strict=True))
        ):
            problems.append(Problem(name, f"--input-shape {_text(shape)}", f"the model says {_text(declared)}"))
    if problems:
        raise ConfigError("the given input shapes do not fit the model", problems)


def _named_sizes(given: Mapping[str, Sequence[int]], dims: Mapping[str, list[int | str] | None]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name, shape in given.items():
        for want, size in zip(dims[name] or [], shape, strict=False):
            if isinstance(want, str) and not want.startswith("?") and sizes.setdefault(want, int(size)) != size:
                raise ConfigError(f"--input-shape gives the size {want!r} twice: {sizes[want]} and {size} (at input {name!r})")
    return sizes


def _settle(declared: list[int | str] | None, given: Sequence[int] | None, sizes: Mapping[str, int]) -> list[int | str]:
    if given is not None:
        return [int(size) for size in given]
    settled: list[int | str] = [sizes.get(size, size) if isinstance(size, str) else size for size in declared or []]
    if settled and isinstance(settled[0], str):
        settled[0] = 1  # the batch: tried symbolically, 1 where that fails
    return settled


def _unresolved(name: str, declared: list[int | str] | None, settled: Sequence[int | str]) -> Problem:
    if declared is None:
        return Problem(name, "no shape", "the file declares none", f"type --input-shape {name}=1x3x224x224 with your sizes")
    open_sizes = [size for size in settled if isinstance(size, str)]
    example = _text([8 if isinstance(size, str) else size for size in settled])
    what = f"shape {_text(declared)}"
    why = f"{', '.join(open_sizes)} may be anything"
    return Problem(name, what, why, f"type --input-shape {name}={example} with your size in place of each 8")


def _text(shape: Sequence[int | str]) -> str:
    return "x".join(str(size) for size in shape)
