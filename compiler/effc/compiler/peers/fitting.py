"""Whether a peer's model takes the inputs that the artifact is timed with; asked before the peer runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from effc.errors import DataError, Problem

__all__ = ["Taken", "first_line", "refuse_unfit"]


@dataclass(frozen=True)
class Taken:
    """An input as an engine describes it.

    Attributes:
        name: the model's name for it.
        shape: its sizes, None for one that is open; None where the rank is open, too.
        dtype: numpy's name; empty where the engine does not say.
    """

    name: str
    shape: tuple[int | None, ...] | None
    dtype: str = ""

    def takes(self, shape: Sequence[int], dtype: str) -> bool:
        """Whether a tensor of that shape and dtype fits."""
        if self.dtype not in ("", dtype):
            return False
        if self.shape is None:
            return True
        return len(self.shape) == len(shape) and all(mine in (None, size) for mine, size in zip(self.shape, shape, strict=True))

    def __str__(self) -> str:
        sizes = "..." if self.shape is None else ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.dtype}[{sizes}]"


def refuse_unfit(model: str, inputs: Sequence[Taken], timed: str) -> None:
    """Raises DataError, with everything that does not fit, unless the model takes exactly the inputs of the artifact.

    Args:
        model: the file, for the message.
        inputs: what the engine says that the model takes.
        timed: `--inputs` of a worker: a JSON list of {name, shape, dtype}.
    """
    known = {one.name: one for one in inputs}
    wanted = {spec["name"]: spec for spec in json.loads(timed)}
    problems = []
    for name, spec in wanted.items():
        given = f"{spec['dtype']}{spec['shape']}"
        if name not in known:
            problems.append(Problem(f"input {name!r}", given, "the model has no such input", f"it has: {', '.join(known) or 'none'}"))
        elif not known[name].takes(spec["shape"], spec["dtype"]):
            problems.append(Problem(f"input {name!r}", given, f"the model takes {known[name]}", _other_batch(spec, known[name].shape)))
    for name, one in known.items():
        if name not in wanted:
            problems.append(Problem(f"input {name!r}", str(one), "the artifact has no such input"))
    if problems:
        raise DataError(f"{model} does not take the artifact's inputs: is it the model that the artifact was compiled from?", problems)


def _other_batch(spec: Mapping[str, Any], taken: tuple[int | None, ...] | None) -> str:
    """What to do where only the first size differs: effc makes a literal batch of the source open, other engines keep it."""
    shape = spec["shape"]
    if taken is None or len(taken) != len(shape) or not shape or taken[0] is None:
        return ""
    if any(mine not in (None, size) for mine, size in zip(taken[1:], shape[1:], strict=True)):
        return ""
    return f"its batch is fixed: compile with --batch {taken[0]}, or compile with --emit onnx and give the artifact's model.onnx"


def first_line(error: Exception) -> str:
    """What an engine says about a failure, without its stack and in bounded length."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
