"""How a program looks from outside: the user's names, shapes and dtypes of inputs, outputs and states, and its batch.

The graph's own placeholder names are sanitised by torch; this is where the names that the user knows are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

__all__ = ["BATCH", "Batch", "Interface", "State", "Value", "value_of"]

BATCH = "batch"


@dataclass(frozen=True)
class Value:
    """One input or output.

    Attributes:
        name: the user's name (an ONNX value name, an argument name).
        shape: dimensions; the string `"batch"` stands for the symbolic batch.
        dtype: numpy's name: `float32`, `int64`, `bool`, ... (`bfloat16` as ml_dtypes spells it).
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"

    def at_batch(self, batch: int) -> tuple[int, ...]:
        """The shape with the symbolic batch replaced by a number."""
        return tuple(batch if size == BATCH else int(size) for size in self.shape)


@dataclass(frozen=True)
class State:
    """One state of a streaming program: input `input` holds the old value, output `output` the new one.

    Attributes:
        input: the input that takes the old value.
        output: the output that gives the new one.
        resident: whether it is effc's own (the pass `delta` adds such states): it starts as zeros and users never feed or read it. Whoever
            runs such a program on samples runs them as one clip (`effc.ir.streaming`). False for a state that the user declared.
    """

    input: str
    output: str
    resident: bool = False


@dataclass(frozen=True)
class Batch:
    """Whether the leading dimension is symbolic, and why not where it is not.

    A symbolic batch was proved: batch 3 gave three times batch 1 (to the tolerance of reordered sums).
    """

    symbolic: bool
    reason: str = ""


@dataclass(frozen=True)
class Interface:
    """Inputs in call order, outputs in return order (states last on both sides), states, batch."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    batch: Batch
    states: tuple[State, ...] = ()

    @property
    def resident(self) -> tuple[State, ...]:
        """The states that are effc's own."""
        return tuple(state for state in self.states if state.resident)

    @property
    def frame_inputs(self) -> tuple[Value, ...]:
        """The inputs that a user feeds: all but the resident states."""
        own = {state.input for state in self.resident}
        return tuple(value for value in self.inputs if value.name not in own)

    @property
    def frame_outputs(self) -> tuple[Value, ...]:
        """The outputs that a user reads: all but the new values of resident states."""
        own = {state.output for state in self.resident}
        return tuple(value for value in self.outputs if value.name not in own)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Interface:
        def values(entries: list[dict[str, Any]]) -> tuple[Value, ...]:
            return tuple(Value(entry["name"], tuple(entry["shape"]), entry["dtype"]) for entry in entries)

        return cls(
            inputs=values(data["inputs"]),
            outputs=values(data["outputs"]),
            batch=Batch(**data["batch"]),
            states=tuple(State(**state) for state in data.get("states", ())),
        )


def value_of(name: str, fake: Any) -> Value:
    """The description of a graph value from its fake tensor; a symbolic dimension reads as `"batch"`."""
    if not isinstance(fake, torch.Tensor):
        kind = "bool" if isinstance(fake, (bool, torch.SymBool)) else "float64" if isinstance(fake, (float, torch.SymFloat)) else "int64"
        return Value(name, (), kind)
    shape = tuple(int(size) if isinstance(size, int) else BATCH for size in fake.shape)
    return Value(name, shape, str(fake.dtype).removeprefix("torch."))
