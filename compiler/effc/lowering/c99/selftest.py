"""The self-test of a model in C: golden vectors, and a program that runs the model on them and compares. It prints nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from effc.errors import InternalError
from effc.lowering.c99.arrays import c_array
from effc.lowering.c99.model import CModel, Tensor
from effc.lowering.c99.printer import c_number
from effc.lowering.c99.template import filled

__all__ = ["GoldenCall", "test_main", "test_vectors"]

Array = np.ndarray[Any, Any]
_DOUBLE = 1e-5  # what a tolerance for float32 becomes for float64

_COMPARE_FLOAT = """\
/* Whether an output is further from what is expected than the limit. A NaN equals a NaN, an infinity itself. */
static int differs_{type}(const {type} *got, const {type} *expected, unsigned long count, {type} limit) {{
  for (unsigned long i = 0; i < count; ++i) {{
    const {type} a = got[i], b = expected[i];
    const {type} apart = a > b ? a - b : b - a;
    if (a != b && !(a != a && b != b) && !(apart <= limit)) {{
      return 1;
    }}
  }}
  return 0;
}}
"""
_COMPARE_WHOLE = """\
static int differs_{type}(const {type} *got, const {type} *expected, unsigned long count) {{
  for (unsigned long i = 0; i < count; ++i) {{
    if (got[i] != expected[i]) {{
      return 1;
    }}
  }}
  return 0;
}}
"""


@dataclass(frozen=True)
class GoldenCall:
    """Inputs of one call and the outputs that are expected, by the user's names, at the plan's shapes."""

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]


def test_vectors(model: CModel, calls: Sequence[GoldenCall], tolerance: float) -> str:
    """`test_vectors.h`."""
    text = []
    for side, tensors in (("in", model.inputs), ("out", model.outputs)):
        for number, one in enumerate(tensors):
            arrays = [_fitting(one, (call.inputs if side == "in" else call.outputs)) for call in calls]
            stacked = np.stack(arrays).reshape(len(calls), -1)
            array = c_array(stacked, f"effc_{side}{number}", qualifiers="static const", calls=len(calls))
            text.append(f"/* {one.shown} */\n{array}")
            if side == "out" and _is_real(one):
                text.append(_limits(number, one, arrays, tolerance))
    return filled("vectors.h", model.values() | {"CALLS": str(len(calls)), "VECTORS": "\n".join(text)})


def test_main(model: CModel) -> str:
    """`test_main.c`."""
    kinds = {one.type: _is_real(one) for one in model.outputs}
    compare = "\n".join((_COMPARE_FLOAT if real else _COMPARE_WHOLE).format(type=kind) for kind, real in kinds.items())
    memory = [f"static {model.prefix}_states states;"] if model.keeps_states else []
    memory += [f"static {one.type} out{number}[{max(1, one.elements)}];" for number, one in enumerate(model.outputs)]
    arguments = ["&arena", *(["&states"] if model.keeps_states else [])]
    arguments += [f"effc_in{number}[call]" for number in range(len(model.inputs))]
    arguments += [f"out{number}" for number in range(len(model.outputs))]
    checks = []
    for number, one in enumerate(model.outputs):
        limit = f", effc_limit{number}[call]" if _is_real(one) else ""
        checks.append(
            f"    if (differs_{one.type}(out{number}, effc_out{number}[call], {one.elements}u{limit})) {{\n      return 1;\n    }}\n"
        )
    return filled(
        "test_main.c",
        model.values()
        | {
            "MEMORY": "\n".join(memory),
            "COMPARE": compare,
            "FILL": "\n".join(f"    memset(out{number}, 0xFF, sizeof out{number});" for number in range(len(model.outputs))),
            "ARGUMENTS": ", ".join(arguments),
            "CHECKS": "".join(checks),
        },
    )


def _limits(number: int, one: Tensor, arrays: Sequence[Array], tolerance: float) -> str:
    """How far an output may be off, by call: the tolerance times its largest finite magnitude."""
    dtype = one.buffer.dtype
    allowed = tolerance * (_DOUBLE if dtype == "float64" else 1.0)
    scales = [float(np.abs(np.where(np.isfinite(array), array, 0)).max(initial=0.0)) or 1.0 for array in arrays]
    numbers = ", ".join(c_number(allowed * scale, dtype) for scale in scales)
    return f"static const {one.type} effc_limit{number}[EFFC_CALLS] = {{{numbers}}};\n"


def _is_real(one: Tensor) -> bool:
    return one.type in ("float", "double")


def _fitting(one: Tensor, arrays: Mapping[str, Array]) -> Array:
    array = np.asarray(arrays[one.buffer.name])
    if array.size != one.elements or array.dtype.name != one.buffer.dtype:
        raise InternalError(f"the golden vector of {one.buffer.name} is {array.dtype}{list(array.shape)}, declared is {one.shown}")
    return array
