"""How large the C sources of a program get when a compiler has built them, without a compiler: from what others got.

`benchmarks/code_sizes.py` builds the kernels of six networks (convolutional, float32 and int8) one by one with gcc 12.2 for each processor,
at -Os and at -O2, and divides their bytes by the words of their C text: names, numbers and signs. That ratio depends little on the layer;
the table has its extremes by kernel family. The rest (the calls of the steps, the table of weight blocks, the checks) grows with the number
of arguments of all calls and of stored tensors. Another compiler, or another option, may leave the range.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from effc.runtime.plan import Plan
from effc.targets import Target

__all__ = ["BYTES", "MARGIN", "Sizes", "code_sizes", "words"]


class Function(Protocol):
    """A C function: its name, its text, and the names of the helpers that it calls."""

    @property
    def name(self) -> str: ...

    @property
    def text(self) -> str: ...

    @property
    def helpers(self) -> frozenset[str]: ...


Span = tuple[int, int]  # least and most

MARGIN = 0.1  # by which the measured ends are moved outwards: other layers than those measured

# Bytes per 100 words of C, by processor and kernel family; the families that are not there get the extremes of all.
BYTES: Mapping[str, Mapping[str, Span]] = {
    "cortex-m0": {
        "conv": (74, 101),
        "depthwise": (50, 101),
        "elementwise": (50, 128),
        "integer_conv": (51, 92),
        "integer_depthwise": (58, 92),
        "integer_matmul": (47, 61),
        "matmul": (60, 86),
        "pool": (59, 85),
        "rows": (92, 113),
    },
    "cortex-m3": {
        "conv": (79, 90),
        "depthwise": (50, 87),
        "elementwise": (54, 101),
        "integer_conv": (49, 80),
        "integer_depthwise": (60, 76),
        "integer_matmul": (46, 51),
        "matmul": (64, 83),
        "pool": (63, 77),
        "rows": (92, 112),
    },
    "cortex-m4": {
        "conv": (53, 77),
        "depthwise": (43, 83),
        "elementwise": (50, 86),
        "integer_conv": (47, 78),
        "integer_depthwise": (56, 75),
        "integer_matmul": (46, 51),
        "matmul": (40, 67),
        "pool": (62, 71),
        "rows": (81, 110),
    },
    "riscv32": {
        "conv": (103, 118),
        "depthwise": (65, 119),
        "elementwise": (63, 148),
        "integer_conv": (64, 105),
        "integer_depthwise": (68, 100),
        "integer_matmul": (65, 73),
        "matmul": (96, 110),
        "pool": (73, 106),
        "rows": (154, 182),
    },
}
_ALIKE = {"cortex-m7": "cortex-m4", "cortex-m33": "cortex-m4"}  # the same instructions, as far as these kernels go
_CALLS = ((150, 300), (2.5, 7.5))  # bytes besides the kernels, and for each argument of a call
_BLOCK, _CONSTANTS = 16, (80, 200)  # read-only bytes of each stored tensor besides its elements, and of the rest
_SINGLES = {
    "cortex-m0": (1000, 4500),
    "cortex-m3": (600, 2500),
    "riscv32": (1000, 4500),
    "c99": (0, 4500),
}  # arithmetic of float32 in software
_DOUBLES = {"cortex-m7": (0, 0), "c99": (0, 4000)}  # of float64, which only square roots need; others: as here
_DOUBLE_STANDARD = (800, 4000)
_FRAMES = (96, 320)  # stack of a call and of the deepest kernel besides its arrays
_FRAMES_SOFT = 96  # besides, where arithmetic is in software


@dataclass(frozen=True)
class Sizes:
    """Ranges in bytes (least, most): of code and its constants, of the compiler's own arithmetic, of the stack."""

    code: Span
    library: Span
    stack: Span


def words(text: str) -> int:
    """Names, numbers and signs of a C text."""
    return len(re.findall(r"\w[\w.]*|[^\s\w]", text))


def code_sizes(functions: Sequence[Function], plan: Plan, target: Target) -> Sizes:
    """The sizes that a program has on a target.

    Args:
        functions: the kernels that the plan calls, as C.
        plan: their calls.
        target: of family c99.
    """
    steps = (*plan.steps, *plan.fresh)
    families = {step.kernel: step.family for step in steps}
    table = BYTES.get(_ALIKE.get(target.name, target.name)) or _joined(BYTES.values())
    general = _extremes(table.values())
    low = high = 0.0
    for function in functions:
        least, most = table.get(families.get(function.name, ""), general)
        count = words(function.text) / 100
        low, high = low + count * least * (1 - MARGIN), high + count * most * (1 + MARGIN)
    arguments = sum(len(step.reads) + len(step.writes) for step in steps)
    blocks = _BLOCK * len(plan.in_room("parameter"))
    (least_fixed, most_fixed), (least_each, most_each) = _CALLS
    code = (
        int(low + least_fixed + least_each * arguments + blocks + _CONSTANTS[0]),
        int(high + most_fixed + most_each * arguments + blocks + _CONSTANTS[1]),
    )
    return Sizes(code, _library(functions, target), _stack(functions, target))


def _library(functions: Sequence[Function], target: Target) -> Span:
    least = most = 0
    if any(re.search(r"\bfloat\b", function.text) for function in functions):
        span = _SINGLES.get(target.name, (0, 0))
        least, most = least + span[0], most + span[1]
    if any("double" in function.text or "effc_sqrt" in function.helpers for function in functions):
        span = _DOUBLES.get(target.name, _DOUBLE_STANDARD)
        least, most = least + span[0], most + span[1]
    return least, most


def _stack(functions: Sequence[Function], target: Target) -> Span:
    arrays = max((_arrays(function.text) for function in functions), default=0)
    soft = _FRAMES_SOFT if target.name in _SINGLES else 0
    return _FRAMES[0] + arrays, _FRAMES[1] + soft + arrays


def _arrays(text: str) -> int:
    """Bytes of the local arrays of a function; those of different blocks count all."""
    sizes = {"float": 4, "double": 8, "bool": 1} | {f"{sign}int{bits}_t": bits // 8 for sign in ("", "u") for bits in (8, 16, 32, 64)}
    found = re.findall(rf"^ +({'|'.join(sizes)}) \w+\[(\d+)\];", text, flags=re.MULTILINE)
    return sum(sizes[kind] * int(count) for kind, count in found)


def _joined(tables: Iterable[Mapping[str, Span]]) -> dict[str, Span]:
    """For a processor that nothing is known of: the extremes of all."""
    found: dict[str, Span] = {}
    for table in tables:
        for family, span in table.items():
            found[family] = _extremes((span, found.get(family, span)))
    return found


def _extremes(spans: Iterable[Span]) -> Span:
    every = list(spans)
    return min(low for low, _ in every), max(high for _, high in every)
