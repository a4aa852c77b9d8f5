"""The header and the main file of a model in C: the kernels, and the function that calls them in the plan's order."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from effc.errors import InternalError
from effc.lowering.c99.arrays import c_array
from effc.lowering.c99.model import CModel
from effc.lowering.c99.names import comment
from effc.lowering.c99.printer import HELPERS
from effc.lowering.c99.template import filled
from effc.runtime.plan import Step
from effc.runtime.tensors import dtype_named

__all__ = ["driver", "header", "weights"]

Array = np.ndarray[Any, Any]


def header(model: CModel) -> str:
    """`effc_<name>.h`."""
    macro = model.macro
    call = ", ".join(["&arena", *(["&states"] if model.keeps_states else []), *(one.name for one in (*model.inputs, *model.outputs))])
    example = [
        *([f"static {model.prefix}_states states;"] if model.keeps_states else []),
        f"{model.prefix}_init(&arena, sizeof arena{', &states' if model.keeps_states else ''});",
        f"{model.prefix}_run({call});",
    ]
    counts = [f"#define {macro}_{one.name.upper()}_ELEMENTS {one.elements}u /* {one.shown} */" for one in (*model.inputs, *model.outputs)]
    for old, new in model.states:
        counts.append(f"/* A state: what {new.name} got is what {old.name} is in the next call; all zeros in the first. */")
    struct = (
        f"/* What a stream keeps from one frame to the next. Each stream has its own. */\n"
        f"typedef struct {{\n  uint64_t words[{-(-model.plan.state_bytes // 8)}];\n}} {model.prefix}_states;\n\n"
    )
    return filled(
        "header.h",
        model.values()
        | {
            "EXAMPLE": "\n".join(f" *   {line}" for line in example),
            "ARENA": str(model.arena_bytes),
            "ELEMENTS": "\n".join(counts),
            "STATES": struct if model.keeps_states else "",
            "INIT": ", and begins a stream: nothing was seen yet" if model.keeps_states else "",
            "BLOCKS": str(len(model.weights)),
        },
    )


def driver(model: CModel, parameters: Mapping[str, Array]) -> str:
    """`effc_<name>.c`."""
    helpers = {name for printed in model.functions.values() for name in printed.helpers}
    kernels = "\n".join(f"EFFC_KERNEL {printed.text}" for printed in model.functions.values())
    used = "\n".join(text for name, text in HELPERS.items() if name in helpers)
    states = model.keeps_states
    return _with_includes(
        "driver.c",
        model.values()
        | {
            "WEIGHTS": "".join(f"extern const {one.type} {one.name}[{max(1, one.elements)}];\n" for one in model.weights),
            "HELPERS": used,
            "KERNELS": kernels,
            "NULL_INIT": "arena == NULL" + (" || states == NULL" if states else ""),
            "RESET": "  memset(states, 0, sizeof *states);\n" if states else "",
            "BODY": _body(model),
            "VERSION": model.version,
            "CHECK": _check(model, parameters),
        },
    )


def weights(model: CModel, parameters: Mapping[str, Array]) -> str:
    """`effc_<name>_weights.c`."""
    arrays = []
    for number, one in enumerate(model.weights):
        declared = f"extern const {one.type} {one.name}[{max(1, one.elements)}];"
        array = c_array(parameters[one.buffer.name], one.name, qualifiers="const")
        arrays.append(f"/* Block {number}: {one.shown} */\n{declared}\n{array}")
    nothing = "typedef int effc_no_weights; /* C99 has no empty files */\n"
    return _with_includes("weights.c", model.values() | {"WEIGHTS": "\n".join(arrays) or nothing})


def _with_includes(template: str, values: dict[str, str]) -> str:
    """A file with the headers that it needs, and no others. What comments and strings say is no reason for one."""
    wanted = {
        "math.h": r"\b(NAN|INFINITY)\b",
        "stdbool.h": r"\b(bool|true|false)\b",
        "stdint.h": r"\bu?int\d+_t\b|\bU?INT\d+_(MAX|MIN|C)\b",
        "string.h": r"\bmem(cpy|set)\b",
    }
    code = re.sub(r'/\*.*?\*/|"[^"\n]*"', "", filled(template, values | {"INCLUDES": ""}), flags=re.DOTALL)
    includes = "\n".join(f"#include <{name}>" for name, words in wanted.items() if re.search(words, code))
    return filled(template, values | {"INCLUDES": includes})


def _body(model: CModel) -> str:
    plan = model.plan
    pointers = ["arena", *(["states"] if model.keeps_states else []), *(one.name for one in (*model.inputs, *model.outputs))]
    lines = []
    calls = [_called(model, step) for step in plan.steps]
    whole = [_called(model, step) for step in plan.fresh]
    if any("(memory + " in call for call in (*calls, *whole)):
        lines.append("  uint8_t *const memory = (uint8_t *)arena;")
    if model.keeps_states:
        lines.append("  uint8_t *const kept = (uint8_t *)states;")
    lines += [f"  if ({' || '.join(f'{name} == NULL' for name in pointers)}) {{", f"    return {model.macro}_NULL;", "  }"]
    if not plan.fresh:
        return "\n".join([*lines, *(f"  {call}" for call in calls)])
    clock = f"*(const int32_t *)(const void *)(kept + {plan.buffer(plan.clock).offset}u)"
    lines += [f"  {calls[0]}", f"  if ({clock} == 1) {{ /* this frame is computed whole */"]
    lines += [f"    {call}" for call in whole]
    lines += ["  } else {", *(f"    {call}" for call in calls[1:]), "  }"]
    return "\n".join(lines)


def _called(model: CModel, step: Step) -> str:
    printed = model.functions[step.kernel]
    names = (*step.reads, *step.writes)
    if len(names) != len(printed.types):
        raise InternalError(f"{step.kernel} takes {len(printed.types)} arguments, its step has {len(names)}")
    given = []
    for name, kind, constant in zip(names, printed.types, printed.constant, strict=True):
        given.append(_pointer(model, name, kind, constant))
    return f"{step.kernel}({', '.join(given)});"


def _pointer(model: CModel, name: str, kind: str, constant: bool) -> str:
    buffer = model.plan.buffer(name)
    if buffer.room in ("arena", "state"):
        block = "memory" if buffer.room == "arena" else "kept"
        return f"({kind} *)(void *)({block} + {buffer.offset}u)"
    tensor = next(one for one in (*model.inputs, *model.outputs, *model.weights) if one.buffer is buffer)
    if buffer.room != "output" and not constant:
        raise InternalError(f"a kernel writes to {name}, which it may only read")
    const = "" if buffer.room == "output" else "const "
    return tensor.name if tensor.type == kind else f"({const}{kind} *)({const}void *){tensor.name}"


def _check(model: CModel, parameters: Mapping[str, Array]) -> str:
    if not model.weights:
        return f"int32_t {model.prefix}_check_weights(void) {{\n  return 0;\n}}"
    rows = []
    for number, one in enumerate(model.weights):
        width = dtype_named(one.buffer.dtype).itemsize
        content = _as_in_c(parameters[one.buffer.name])
        row = f"{{{one.name}, {len(content)}u, 0x{zlib.crc32(content):08x}u, {width - 1}u}}"
        rows.append(f"    {row}, /* {number}: {comment(one.buffer.name)} */")
    return filled("check.c", model.values() | {"ROWS": "\n".join(rows)}).rstrip("\n")


def _as_in_c(array: Array) -> bytes:
    """The bytes of the array that a C compiler makes of the text, least significant first. Every NaN is the usual one there."""
    content = np.ascontiguousarray(array)
    if np.issubdtype(content.dtype, np.floating):
        content = np.where(np.isnan(content), content.dtype.type(np.nan), content)
    return bytes(content.astype(content.dtype.newbyteorder("<")).tobytes())
