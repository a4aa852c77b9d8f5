"""What effc knows about one of its own operators: the form that every file in `effc.ir.ops` fills in.

An effc op is what ATen cannot say. One file per op holds all that is known about it: schema, reference meaning in torch, shape
rule, gradient, cost, and its meaning in standard ONNX ops. Only its TVM kernel lives elsewhere (`effc.lowering.ops`), because TVM may
not be imported from this floor. `effc.ir.ops.OPS` lists the definitions; a test names any op that lacks one of its parts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["NAMESPACE", "Cost", "OpDef"]

NAMESPACE = "effc"


@dataclass(frozen=True)
class Cost:
    """Work of one call at known shapes.

    Attributes:
        macs: multiply-accumulate operations (0 for ops that only compare, move or add).
        bytes: bytes read and written when nothing stays in a cache.
    """

    macs: int
    bytes: int


@dataclass(frozen=True)
class OpDef:
    """One effc operator.

    Attributes:
        name: the op's name inside the namespace `effc`; it equals its file's name and no ATen op's name (TVM's importer looks
            custom ops up without the namespace).
        schema: the signature in torch's schema language, without the name: `(Tensor x, ...) -> Tensor`.
        reference: the meaning, as a torch function that mutates nothing; it defines what every backend must compute.
        fake: the shape rule: from fake tensors to a fake result, without data.
        cost: MACs and bytes of one call, from the (fake) tensors and numbers that it is called with.
        onnx: `() -> function`; builds the onnxscript translation into standard ONNX ops (lazy: imports onnxscript inside).
        backward: `(setup_context, backward)` as `torch.library.register_autograd` takes them; None for an op that never trains.
        summary: one line for `effc inspect` and the docs.
    """

    name: str
    schema: str
    reference: Callable[..., Any]
    fake: Callable[..., Any]
    cost: Callable[..., Cost]
    onnx: Callable[[], Callable[..., Any]]
    summary: str
    backward: tuple[Callable[..., None], Callable[..., Any]] | None = None

    @property
    def overload(self) -> torch._ops.OpOverload:
        """The callable that stands in a graph: `torch.ops.effc.<name>.default`."""
        overload: torch._ops.OpOverload = getattr(getattr(torch.ops, NAMESPACE), self.name).default
        return overload

    def define(self) -> None:
        """Tell torch about the op. Doing it twice is harmless."""
        if hasattr(getattr(torch.ops, NAMESPACE), self.name):
            return
        op = torch.library.custom_op(f"{NAMESPACE}::{self.name}", self.reference, mutates_args=(), schema=self.schema)
        op.register_fake(self.fake)
        if self.backward is not None:
            setup_context, backward = self.backward
            op.register_autograd(backward, setup_context=setup_context)
