"""A streaming program without its truncations: what it computes in a frame that is computed whole.

`truncate(x, state, clock, t)` is x there, so the graph is the dense per-frame program whose kept values are outputs:

    (frame, stream.clock, s1, s2, ...) -> (y, clock', s1', s2', ...)      becomes      (frame) -> (y, s2, ...)

The first step of the compiled code compares the frame with the one before and sets the clock: the state of the frame and the clock are
its own, so they are no outputs here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, ops

from effc.ir import Edit, Program
from effc.ir.ops.stream_clock import STREAM_CLOCK, most_moved
from effc.ir.ops.truncate import TRUNCATE

__all__ = ["Frame", "Kept", "Stripped", "stripped"]


@dataclass(frozen=True)
class Kept:
    """A tensor that is kept from frame to frame.

    Attributes:
        state: its state.
        threshold: by how much a pixel must move to be propagated.
        shape: (1, C, H, W).
        read: whether a node reads it.
        channels_last: whether its kernel writes it as (1, H, W, C); known behind `keeping`.
    """

    state: str
    threshold: float
    shape: tuple[int, ...]
    read: bool = True
    channels_last: bool = False


@dataclass(frozen=True)
class Frame:
    """The frame: its input, the state that keeps it, the clock's state, and when a frame is computed whole.

    Attributes:
        channels_last: whether the input is (N, H, W, C), and the program permutes it.
        most_moved: a frame in which more pixels moved is computed whole.
        refresh: after so many frames one is computed whole; 0 for never.
    """

    input: str
    kept: Kept
    clock: str
    channels_last: bool
    most_moved: int
    refresh: int


@dataclass(frozen=True)
class Stripped:
    """The dense program, whose outputs behind the user's are the values of `kept`, in that order."""

    program: Program
    frame: Frame
    kept: tuple[Kept, ...]


def stripped(program: Program) -> Stripped | None:
    """The program without resident states; None where they have another form than the pass `delta` gives them.

    Args:
        program: with a fixed batch of 1.
    """
    edit = Edit(program)
    inputs = {name: edit.node(node.name) for name, node in program.input_nodes.items()}
    names = {node: name for name, node in inputs.items()}
    results: dict[str, Any] = dict(zip((value.name for value in program.interface.outputs), _results(edit), strict=True))
    resident = {state.input: results[state.output] for state in program.interface.resident}
    clocks = [node for node in edit.nodes if node.target is STREAM_CLOCK.overload]
    if len(clocks) != 1 or len(resident) != len(program.interface.states):
        return None
    (clock,) = clocks
    arguments: tuple[Any, ...] = clock.args
    x, previous, before, threshold, scene_cut, refresh = arguments
    permuted = x not in names
    source = x.args[0] if _is_permuted_input(x, names) else x
    if source not in names or previous not in names or before not in names or resident.get(names[before]) is not clock:
        return None
    kept: dict[str, Kept] = {}
    for name, value in resident.items():
        if value is clock:
            continue
        if value.target is not TRUNCATE.overload or value.args[1:3] != (inputs[name], clock) or set(inputs[name].users) - {value, clock}:
            return None
        if value.meta["val"].dtype != torch.float32:
            return None
        read = any(user.op != "output" for user in value.users)
        kept[name] = Kept(name, float(value.args[3]), tuple(int(size) for size in value.meta["val"].shape), read)
    own = names[previous]
    if own not in kept or resident[own].args[0] is not x or kept[own].threshold != float(threshold):
        return None
    if set(x.users) - {clock, resident[own]} or (permuted and set(source.users) != {x}):
        return None
    pixels = math.prod(kept[own].shape[2:])
    frame = Frame(names[source], kept[own], names[before], permuted, most_moved(float(scene_cut), pixels), int(refresh))
    for name in kept:
        value = resident[name]
        edit.replace(value, value.args[0])
        edit.erase(value)
    edit.replace(clock, x)  # at the output, where it vanishes next
    edit.erase(clock)
    edit.drop_state(frame.clock, output=None)
    edit.drop_state(own, output=None)
    others = tuple(one for name, one in kept.items() if name != own)
    for one in others:
        edit.drop_state(one.state, output=one.state)
    return Stripped(edit.done(), frame, others)


def _results(edit: Edit) -> Sequence[Any]:
    results: Any = edit.graph.output_node().args[0]
    return tuple(results)


def _is_permuted_input(node: Any, names: dict[fx.Node, str]) -> bool:
    return node.target is ops.aten.permute.default and node.args[0] in names and list(node.args[1]) == [0, 3, 1, 2]
