"""A plan before anything has an address: kernel calls over named buffers, as `planning.draft` lists them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from effc.errors import Problem
from effc.lowering.optimise import Part
from effc.runtime.plan import Room
from effc.runtime.tensors import dtype_named

__all__ = ["EXTERNAL", "Call", "Draft", "External", "NotPlannableError", "Slot"]

EXTERNAL = "effc.external"  # attribute of a function that stands for a C function of an extension: its symbol


@dataclass(frozen=True)
class Slot:
    """A buffer without an address."""

    name: str
    room: Room
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Bytes; one where the tensor has no elements, so that every buffer has a place."""
        return max(1, math.prod(self.shape) * dtype_named(self.dtype).itemsize)


@dataclass(frozen=True)
class Call:
    """One kernel call: a function of the module, its operands by buffer name, what it computes, and what to say of its kernel.

    In a streaming program, `direct` asks for a kernel whose sums have the order of the kernels over lists; `active` names the counters of a
    kernel over a list of `positions` (see `runtime.plan.Step`).
    """

    function: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    parts: tuple[Part, ...]
    note: str = ""
    direct: bool = False
    active: str = ""
    positions: int = 0

    @property
    def sources(self) -> tuple[str, ...]:
        """The user's names of the nodes that it computes."""
        return tuple(dict.fromkeys(part.origin.source for part in self.parts if part.origin.source))

    @property
    def ops(self) -> tuple[str, ...]:
        """Their operators."""
        return tuple(dict.fromkeys(part.origin.op or part.operator for part in self.parts)) or ("copy",)

    @property
    def density(self) -> float | None:
        """How dense the left operand of its product was on data; None without a product, or where that is not known."""
        return next((part.origin.density for part in self.parts if part.macs and part.origin.density is not None), None)

    @property
    def mask(self) -> float | None:
        """How dense that was which its product is multiplied by; None without it, or where that is not known."""
        return next((part.origin.mask for part in self.parts if part.macs and part.origin.mask is not None), None)


@dataclass(frozen=True)
class External:
    """Code that an extension brings: object files, and what to say of each C function that steps call, by its symbol."""

    extension: str
    objects: tuple[bytes, ...]
    notes: Mapping[str, str]


@dataclass
class Draft:
    """Everything of a plan but addresses.

    Attributes:
        calls: in execution order.
        slots: buffers by name.
        functions: tirx.PrimFunc by symbol; equal functions are one.
        constants: values of the parameters that lowering made.
        ready: implementations (`kernels.Implementation`) by symbol, of functions that no rule has to be found for.
        fresh: where among the calls those begin that compute a frame whole, of a streaming program; None for another.
        clock: the name of its clock.
        external: the code of functions that an extension computes; None without.
        untaken: why an extension computes nothing, where its patterns took nothing.
    """

    calls: list[Call] = field(default_factory=list)
    slots: dict[str, Slot] = field(default_factory=dict)
    functions: dict[str, Any] = field(default_factory=dict)
    constants: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    ready: dict[str, Any] = field(default_factory=dict)
    fresh: int | None = None
    clock: str = ""
    external: External | None = None
    untaken: str = ""

    def stored_reads(self, call: Call) -> tuple[bool, ...]:
        """For each operand that a call reads, whether it is a stored tensor."""
        return tuple(self.slots[name].room == "parameter" for name in call.reads)


class NotPlannableError(Exception):
    """The graph holds something that only TVM's virtual machine runs.

    Attributes:
        problems: all of it, by the user's names.
        rest: what does plan. What does not has a slot there, too, where its shape is known, and nothing writes it.
    """

    def __init__(self, problems: Sequence[Problem], rest: Draft) -> None:
        super().__init__("; ".join(dict.fromkeys(f"{one.where} ({one.what}): {one.why}" for one in problems)))
        self.problems, self.rest = tuple(problems), rest
