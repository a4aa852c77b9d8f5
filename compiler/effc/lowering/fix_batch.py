"""A program with its symbolic batch replaced by a number: kernels and memory plans need concrete shapes.

Shapes are propagated anew from static inputs; nodes that only computed sizes (`sym_size`, arithmetic on it) become constants and vanish.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import fx
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from effc.ir import Batch, Edit, Program, Value

__all__ = ["fix_batch"]


def fix_batch(program: Program, batch: int) -> Program:
    """The same program for exactly `batch` samples; unchanged where its batch is fixed already."""
    if not program.interface.batch.symbolic:
        return program
    edit = Edit(program)
    _propagate(edit, program, batch)
    interface = replace(
        program.interface,
        inputs=tuple(Value(value.name, value.at_batch(batch), value.dtype) for value in program.interface.inputs),
        outputs=tuple(Value(value.name, value.at_batch(batch), value.dtype) for value in program.interface.outputs),
        batch=Batch(False, f"fixed at {batch} for lowering"),
    )
    return replace(edit.done(), interface=interface)


def _propagate(edit: Edit, program: Program, batch: int) -> None:
    mode = FakeTensorMode(shape_env=ShapeEnv())
    shapes = {node.name: value.at_batch(batch) for value, node in zip(program.interface.inputs, program.input_nodes.values(), strict=True)}
    sizes: dict[fx.Node, Any] = {}
    for node in list(edit.graph.nodes):
        if node.op == "placeholder":
            old = node.meta["val"]
            real = torch.empty(shapes.get(node.name, old.shape), dtype=old.dtype)
            node.meta["val"] = mode.from_tensor(real, static_shapes=True)
        elif node.op == "call_function":
            node.args = fx.map_arg(node.args, lambda argument: sizes.get(argument, argument))
            node.kwargs = fx.map_arg(node.kwargs, lambda argument: sizes.get(argument, argument))
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda argument: argument.meta["val"])
            with mode, torch.no_grad():
                node.meta["val"] = node.target(*args, **kwargs)
            if isinstance(node.meta["val"], (int, float, bool)):
                sizes[node] = node.meta["val"]
        elif node.op == "output":
            node.args = fx.map_arg(node.args, lambda argument: sizes.get(argument, argument))
