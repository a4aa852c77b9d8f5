"""What the C files of one model call things: the user's names as identifiers, each argument, each block of weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from effc.errors import InternalError
from effc.lowering.c99.names import comment, identifier
from effc.lowering.c99.printer import Printed, c_type
from effc.lowering.lower import Lowered
from effc.runtime.plan import Buffer, Plan

__all__ = ["CModel", "Tensor", "c_model"]


@dataclass(frozen=True)
class Tensor:
    """An input, an output or a stored tensor in C.

    Attributes:
        buffer: of the plan.
        name: of the C argument or array.
        type: of its elements, in C.
    """

    buffer: Buffer
    name: str
    type: str

    @property
    def elements(self) -> int:
        return math.prod(self.buffer.shape)

    @property
    def shown(self) -> str:
        """Name, type and shape for a comment."""
        return f"{comment(self.buffer.name)}, {self.buffer.dtype}{list(self.buffer.shape)}"


@dataclass(frozen=True)
class CModel:
    """A lowered program and the names that its C files share.

    Attributes:
        prefix: begins the name of everything that the linker sees.
        macro: begins the name of every macro.
        title: one line that says what a file belongs to, fit for a comment.
        version: what the C says of itself, fit for a string.
        inputs, outputs, weights: in the plan's order.
        functions: the kernels by name.
        states: (input, output) of each state that the caller keeps.
    """

    prefix: str
    macro: str
    title: str
    version: str
    plan: Plan
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    functions: dict[str, Printed]
    states: tuple[tuple[Tensor, Tensor], ...]

    @property
    def arena_bytes(self) -> int:
        """Never 0: C has no empty arrays."""
        return max(8, self.plan.arena_bytes)

    @property
    def keeps_states(self) -> bool:
        return self.plan.state_bytes > 0

    @property
    def parameters(self) -> str:
        """Those of the function that runs the model."""
        given = [f"const {one.type} *{one.name}" for one in self.inputs]
        taken = [f"{one.type} *{one.name}" for one in self.outputs]
        return ", ".join(["void *arena", *([f"{self.prefix}_states *states"] if self.keeps_states else []), *given, *taken])

    def values(self) -> dict[str, str]:
        """What every template may name."""
        states = self.keeps_states
        return {
            "PREFIX": self.prefix,
            "MACRO": self.macro,
            "TITLE": self.title,
            "PARAMETERS": self.parameters,
            "STATES_PARAMETER": f", {self.prefix}_states *states" if states else "",
            "STATES_ARGUMENT": ", &states" if states else "",
        }


def c_model(name: str, lowered: Lowered, version: str, states: Sequence[tuple[str, str]]) -> CModel:
    """Name everything. See `sources.c_sources`."""
    plan = lowered.plan
    if plan is None:
        raise InternalError("C sources are made from a plan only")
    prefix = f"effc_{identifier(name)}"
    taken: set[str] = set()

    def argument(buffer: Buffer, side: str) -> Tensor:
        # With a prefix of their own no name of the user is a keyword, a macro, or another argument; macros are made of them in capitals.
        plain = identifier(buffer.name, taken)
        while plain.upper() in {one.upper() for one in taken}:
            taken.add(plain)
            plain = identifier(buffer.name, taken)
        taken.add(plain)
        return Tensor(buffer, f"{side}_{plain}", c_type(buffer.dtype))

    inputs = tuple(argument(buffer, "in") for buffer in plan.in_room("input"))
    outputs = tuple(argument(buffer, "out") for buffer in plan.in_room("output"))
    weights = tuple(
        Tensor(buffer, f"{prefix}_w{number}", c_type("uint16" if buffer.dtype == "bfloat16" else buffer.dtype))
        for number, buffer in enumerate(plan.in_room("parameter"))
    )
    by_name = {one.buffer.name: one for one in (*inputs, *outputs)}
    return CModel(
        prefix=prefix,
        macro=prefix.upper(),
        title=f"{prefix}: the model {comment(name)} as C99, written by {comment(version)}",
        version=comment(version).replace('"', "'"),
        plan=plan,
        inputs=inputs,
        outputs=outputs,
        weights=weights,
        functions={printed.name: printed for printed in lowered.functions},
        states=tuple((by_name[old], by_name[new]) for old, new in states if old in by_name and new in by_name),
    )
