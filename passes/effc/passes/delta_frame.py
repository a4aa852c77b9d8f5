"""The frame: the one image that a network reads, (N, C, H, W) float32; behind its permutation where it is fed as (N, H, W, C)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from effc.errors import Problem, UnsupportedModelError
from effc.ir import Program
from effc.passes.delta_operators import CONVOLUTIONS

__all__ = ["Frame", "behind", "find_frame"]

_aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class Frame:
    """The image that a program gets.

    Attributes:
        input: the user's name of it.
        node: what is truncated: the input, or its permutation to (N, C, H, W).
        label: the user's name for it.
    """

    input: str
    node: fx.Node
    label: str


def find_frame(program: Program) -> Frame:
    """The frame of a program. Raises UnsupportedModelError with all that stands in the way."""
    problems = [
        Problem(state.input, "state", "the program has states of its own", "apply delta to the per-frame program")
        for state in program.interface.states
        if not state.resident
    ]
    own = {state.input for state in program.interface.states}
    found: list[Frame] = []
    for value in program.interface.inputs:
        if value.name in own:
            continue
        node = program.input_nodes[value.name]
        image, why = _image_of(node, value.name)
        if image is None:
            problems.append(
                Problem(value.name, f"input {value}", why, "delta takes programs whose one input is a float32 image that convolutions read")
            )
        else:
            found.append(image)
            if not program.interface.batch.symbolic and value.shape[0] != 1:
                problems.append(
                    Problem(value.name, f"input {value}", f"its batch is fixed at {value.shape[0]}", "export the model with a batch of 1")
                )
    if len(found) > 1:
        problems += [Problem(one.input, "input", f"is one of {len(found)} images", "a stream has one") for one in found]
    if not program.interface.inputs:
        problems.append(Problem(program.provenance.source, "program", "has no input"))
    if problems or not found:
        raise UnsupportedModelError("pass delta needs a network that reads one image a frame", problems)
    return found[0]


def _image_of(node: fx.Node, name: str) -> tuple[Frame | None, str]:
    """The frame that an input is; else why it is none."""
    value = node.meta["val"]
    if not isinstance(value, Tensor) or value.ndim != 4 or not value.is_floating_point():
        return None, "is no image: four axes of floating-point numbers"
    if value.dtype != torch.float32:
        return None, "is no float32, and streams are compiled for that alone"
    users = [user for user in node.users if user.target != _aten.sym_size.int]
    permuted = {str(list(user.args[1])) for user in users if user.target == _aten.permute.default}  # type: ignore[arg-type]
    if len(users) == 1 and permuted == {str([0, 3, 1, 2])}:
        node = users[0]
    if not any(other.target in CONVOLUTIONS for other in behind(node)):
        return None, "no 2-D convolution reads it"
    return Frame(name, node, name), ""


def behind(node: fx.Node) -> set[fx.Node]:
    """All nodes whose values depend on this one; it is not among them."""
    found: set[fx.Node] = set()
    waiting = list(node.users)
    while waiting:
        one = waiting.pop()
        if one not in found and one.op == "call_function":
            found.add(one)
            waiting += one.users
    return found
