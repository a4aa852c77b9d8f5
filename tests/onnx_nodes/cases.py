"""The node tests that the onnx package carries: collected, classified, compared.

A case is one operator (or its `_expanded` function body) with inputs and expected outputs. The core leaves out what effc declares out
of scope: other domains, strings, sequences, optionals, 8-bit floats and smaller, integers of less than 8 bits.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

_SMALL_TYPES = {
    TensorProto.STRING,
    *(number for name, number in TensorProto.DataType.items() if name.startswith(("FLOAT8", "FLOAT4", "INT4", "UINT4", "INT2", "UINT2"))),
}
_SMALL_TYPES -= {TensorProto.UINT8, TensorProto.INT8, TensorProto.FLOAT}


@dataclass(frozen=True)
class Case:
    """One node test.

    Attributes:
        name: as onnx names it.
        model: the ModelProto.
        inputs, outputs: arrays in the graph's order.
        rtol, atol: the tolerance that onnx gives the case.
    """

    name: str
    model: Any
    inputs: tuple[np.ndarray[Any, Any], ...]
    outputs: tuple[np.ndarray[Any, Any], ...]
    rtol: float
    atol: float

    @property
    def expanded(self) -> bool:
        return "_expanded" in self.name

    def bound(self) -> Case:
        """The same case with all inputs but the first as constants, as most real files have them."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        for value, array in zip(list(model.graph.input)[1:], self.inputs[1:], strict=True):
            model.graph.input.remove(value)
            model.graph.initializer.append(numpy_helper.from_array(array, value.name))
        return Case(self.name, model, self.inputs[:1], self.outputs, self.rtol, self.atol)


def _types(graph: Any) -> set[int]:
    """Element types of the graph's inputs and outputs and those that its nodes cast to; 0 for what is no tensor."""
    found = set()
    for value in (*graph.input, *graph.output):
        is_tensor = value.type.HasField("tensor_type")
        found.add(value.type.tensor_type.elem_type if is_tensor else 0)
    for node in graph.node:
        found.update(attribute.i for attribute in node.attribute if attribute.name in ("to", "output_dtype", "dtype"))
    return found


def is_core(model: Any) -> bool:
    if any(node.domain not in ("", "ai.onnx") for node in model.graph.node):
        return False
    types = _types(model.graph)
    return 0 not in types and not types & _SMALL_TYPES


@functools.cache
def collect() -> tuple[list[Case], int]:
    """All core cases, and how many others there are."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # the generators divide by zero on purpose
        found = load_model_tests(kind="node")
    cases, others = [], 0
    for test in found:
        if not is_core(test.model):
            others += 1
            continue
        inputs, outputs = test.data_sets[0]
        cases.append(Case(test.name, test.model, _arrays(inputs), _arrays(outputs), test.rtol, test.atol))
    return cases, others


def _arrays(values: Sequence[Any]) -> tuple[np.ndarray[Any, Any], ...]:
    return tuple(numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value) for value in values)


def difference(case: Case, got: Sequence[np.ndarray[Any, Any]]) -> str:
    """What is wrong with outputs, "" where nothing is: shapes and types must be equal, values within the tolerance.

    Absolutely, two units in the last place of the tensor's largest magnitude are allowed, whatever the case says: the expected values
    were rounded by another order of operations.
    """
    if len(got) != len(case.outputs):
        return f"{len(got)} outputs, expected {len(case.outputs)}"
    for position, (have, want) in enumerate(zip(got, case.outputs, strict=True)):
        if have.shape != want.shape or have.dtype != want.dtype:
            return f"output {position} is {have.dtype}{list(have.shape)}, expected {want.dtype}{list(want.shape)}"
        if want.dtype.name != "bfloat16" and want.dtype.kind in "biu":
            if not np.array_equal(have, want):
                return f"output {position}: {np.sum(have != want)} of {want.size} elements differ"
            continue
        text = _float_difference(case, have, want)
        if text:
            return f"output {position}: {text}"
    return ""


def _float_difference(case: Case, have: np.ndarray[Any, Any], want: np.ndarray[Any, Any]) -> str:
    epsilon = 2.0**-7 if want.dtype.name == "bfloat16" else float(np.finfo(want.dtype).eps)
    wide = np.complex128 if want.dtype.kind == "c" else np.float64
    have, want = have.astype(wide), want.astype(wide)
    finite = np.abs(want[np.isfinite(want)])
    atol = max(case.atol, 2 * epsilon * float(finite.max(initial=0.0)))
    rtol = max(case.rtol, 2 * epsilon)
    close = np.isclose(have, want, rtol=rtol, atol=atol, equal_nan=True)
    if close.all():
        return ""
    worst = np.nanmax(np.abs(have - want), initial=0.0, where=~close)
    return f"{np.sum(~close)} of {want.size} elements differ, by up to {worst:.3g}"
