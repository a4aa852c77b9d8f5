"""A self-test for machines without effc: C sources and what they compile in, from a plan and golden vectors.

A linker for the target makes one static program of the model's object file, `sources` and `SelfTest.header` (as `model.h`). The program
carries parameters, inputs and expected outputs, runs the model once, compares, and exits with 0 (PASS), 1 (FAIL) or 2 (could not run). One
that keeps states is run on the frames of a clip: the outputs of the last frame depend on what was kept of all.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from effc.errors import InputRejectedError, MissingDependencyError, Problem
from effc.runtime.plan import ALIGNMENT, Buffer, Plan, Room
from effc.runtime.tensors import Array, dtype_named
from effc.runtime.verify import TOLERANCE

__all__ = ["BLOB", "HEADER", "SOURCES", "SelfTest", "self_test", "sources"]

HEADER = "model.h"
BLOB = "model.bin"
_NATIVE = Path(__file__).parent / "native"
SOURCES = tuple(_NATIVE / name for name in ("selftest.c", "threads.c"))

_KINDS = {
    "float16": "FLOAT16",
    "bfloat16": "BFLOAT16",
    "float32": "FLOAT32",
    "float64": "FLOAT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "bool": "UINT8",
}


def sources(bare: str = "") -> tuple[Path, ...]:
    """The C sources of the self-test, and their headers.

    Args:
        bare: architecture of a machine that has no C library, such as `hexagon`; empty for the others.

    Raises:
        MissingDependencyError: there is no library for such a machine.
    """
    if not bare:
        return SOURCES
    library = _NATIVE / "freestanding"
    machine = library / f"{bare}.c"
    if not machine.is_file():
        known = ", ".join(sorted(path.stem for path in library.glob("*.c") if path.stem != "library"))
        raise MissingDependencyError(f"no self-test for {bare} without an operating system: effc brings a C library for {known} only")
    return (*SOURCES, library / "library.c", machine, *sorted(library.glob("*.h")))


@dataclass(frozen=True)
class SelfTest:
    """What the C sources need besides the object file.

    Attributes:
        header: text of `model.h`.
        blob: bytes of the file that the header names.
    """

    header: str
    blob: bytes


def self_test(
    plan: Plan,
    parameters: Mapping[str, Array],
    inputs: Mapping[str, Array],
    expected: Mapping[str, Array],
    *,
    earlier: Sequence[Mapping[str, Array]] = (),
    blob_path: Path | str = BLOB,
    tolerance: float = TOLERANCE,
) -> SelfTest:
    """Describe a model and its golden vectors in C.

    Args:
        plan: of the model; its shapes are those of one call.
        parameters: stored tensors by name.
        inputs, expected: golden vectors of one call by the user's names.
        earlier: inputs of the calls before it, for a model that keeps states.
        blob_path: where the caller writes `SelfTest.blob` before it compiles; relative to the compiler's working directory, or absolute.
        tolerance: see `effc.runtime.verify`.

    Raises:
        InputRejectedError: vectors are missing, have another shape or dtype than the plan, or a dtype that C does not have; all at once.
    """
    calls: tuple[tuple[Room, Mapping[str, Array]], ...] = (*(("input", one) for one in (*earlier, inputs)), ("output", expected))
    rooms: tuple[tuple[Room, Mapping[str, Array]], ...] = (("parameter", parameters), *calls)
    problems = [problem for room, arrays in rooms for buffer in plan.in_room(room) for problem in _misfit(buffer, arrays)]
    if problems:
        raise InputRejectedError("the vectors do not fit the plan, so there is no self-test", problems)
    blob = bytearray(plan.parameter_bytes)
    for buffer in plan.in_room("parameter"):
        content = np.ascontiguousarray(parameters[buffer.name]).tobytes()
        blob[buffer.offset : buffer.offset + len(content)] = content
    rows: dict[str, list[str]] = {"input": [], "output": []}
    for room, arrays in calls:
        for buffer in plan.in_room(room):
            blob += bytes(-len(blob) % ALIGNMENT)
            array = arrays[buffer.name]
            rows[room].append(f"{{{_quoted(buffer.name)}, {_KINDS[buffer.dtype]}, {array.size}u, {len(blob)}u}}")
            blob += np.ascontiguousarray(array).tobytes()
    return SelfTest(_header(plan, 1 + len(earlier), rows, str(blob_path), blob, tolerance), bytes(blob))


def _header(plan: Plan, calls: int, rows: Mapping[str, list[str]], path: str, blob: bytes | bytearray, tolerance: float) -> str:
    ins, outs = len(rows["input"]) // calls, len(rows["output"])
    pointers = [*(f"(in)[{index}]" for index in range(ins)), *(f"(out)[{index}]" for index in range(outs)), "&effc_status"]
    states = ["uint8_t *"] if plan.state_bytes else []
    types = ["uint8_t *", "const uint8_t *", *states, *["const void *"] * ins, *["void *"] * outs, "int32_t *"]
    given = ["arena", "parameters", *(["effc_states"] if states else []), *pointers]
    lines = [
        "/* Generated; see selftest.c. */",
        f"#define EFFC_BLOB {_quoted(path)}",
        f"#define EFFC_BLOB_BYTES {len(blob)}u",
        f"#define EFFC_BLOB_CRC32 {zlib.crc32(blob)}u",
        f"#define EFFC_ARENA_BYTES {plan.arena_bytes}u",
        f"#define EFFC_TOLERANCE {tolerance!r}",
        f"#define EFFC_CALLS {calls}u",
        f"#define EFFC_INPUTS {', '.join(rows['input'])}",
        f"#define EFFC_OUTPUTS {', '.join(rows['output'])}",
        f"extern int32_t {plan.entry}({', '.join(types)});",
        "static int32_t effc_status;",
        *([f"_Alignas({ALIGNMENT}) static uint8_t effc_states[{plan.state_bytes}];"] if states else []),  # zeros: nothing was seen
        f"#define EFFC_CALL(arena, parameters, in, out) ({plan.entry}({', '.join(given)}), effc_status)",
    ]
    return "\n".join(lines) + "\n"


def _misfit(buffer: Buffer, arrays: Mapping[str, Array]) -> list[Problem]:
    where = f"{buffer.room} {buffer.name!r}"
    if buffer.name not in arrays:
        return [Problem(where, "its vector", "is missing")]
    array = arrays[buffer.name]
    if array.shape != buffer.shape or array.dtype != dtype_named(buffer.dtype):
        return [Problem(where, f"{array.dtype}{list(array.shape)}", f"must be {buffer.dtype}{list(buffer.shape)}")]
    if buffer.room != "parameter" and buffer.dtype not in _KINDS:
        return [Problem(where, buffer.dtype, "has no C type here", f"known: {', '.join(_KINDS)}")]
    return []


def _quoted(text: str) -> str:
    """A C string: JSON's escapes of printable ASCII are C's; everything else becomes a question mark."""
    return json.dumps("".join(letter if " " <= letter <= "~" else "?" for letter in text)).replace("??", "?\\?")
