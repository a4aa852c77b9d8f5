"""What an untrusted model, and the data beside it, may cost before it is refused.

Every bound is checked before the memory or time that it bounds is spent: on the file, while its graph is read, and again while it is
interpreted, because a file of 170 bytes can ask for a constant of 34 GB.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import SupportsInt

from effc.data import DATA_BYTES
from effc.errors import LimitError

__all__ = ["Budget", "Limits"]


@dataclass(frozen=True)
class Limits:
    """Bounds on untrusted models; the command line's `--limit NAME=NUMBER` sets one.

    Attributes:
        model_bytes: size of the model file and its external data together, in bytes.
        nodes: operators in the graph, those of subgraphs and inlined functions counted.
        tensor_elements: elements of any one tensor, given or computed.
        folded_bytes: bytes of all constants computed while the graph is read, together.
        nesting: depth of subgraphs within subgraphs, and of functions that call functions.
        data_bytes: bytes of the arrays that are read from one `.npz` or `.npy` file of data, together.
    """

    model_bytes: int = 8 << 30
    nodes: int = 100_000
    tensor_elements: int = 1 << 30
    folded_bytes: int = 256 << 20
    nesting: int = 32
    data_bytes: int = DATA_BYTES

    def check(self, limit: str, amount: int, what: str) -> None:
        """Raise LimitError where `amount` is over the limit named `limit`; `what` says what is so large."""
        bound: int = getattr(self, limit)
        if amount > bound:
            raise LimitError(
                f"{what}: {limit} is {amount}, over the limit of {bound}; if you trust the model, raise it with --limit {limit}={amount}"
            )

    def check_shape(self, shape: Iterable[SupportsInt], what: str) -> int:
        """Elements of a tensor of this shape (all sizes known), after the check of `tensor_elements`."""
        elements = math.prod(int(size) for size in shape)
        self.check("tensor_elements", elements, what)
        return elements


class Budget:
    """Bytes of folded constants so far, against `Limits.folded_bytes`."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.spent = 0

    def reserve(self, shape: Sequence[int], itemsize: int, what: str) -> None:
        """Account for a result before it is computed.

        An empty axis counts as one element against `tensor_elements`: what is reduced over it, or looped beside it, is not empty.
        """
        if any(size < 0 for size in shape):
            raise ValueError(f"a result of shape {list(shape)}: sizes cannot be negative")
        self.limits.check_shape((max(1, size) for size in shape), what)
        bytes_ = math.prod(shape) * itemsize
        self.limits.check("folded_bytes", self.spent + bytes_, f"{what}: constants computed from the graph")
        self.spent += bytes_
