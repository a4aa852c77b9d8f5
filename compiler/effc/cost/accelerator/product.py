"""One layer as an array sees it: general matrix products of M x K inputs with K x N weights, and how a convolution's windows slide."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Product", "Shape", "Window"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """How a convolution slides; one number an axis of space.

    Attributes:
        inputs, outputs: sizes. kernel, stride, dilation: of the window.
        padding: in front of and behind every axis.
        transposed: whether inputs meet taps as in a transposed convolution; `padding` is then what it cuts from its result.
    """

    inputs: Shape
    outputs: Shape
    kernel: Shape
    stride: Shape
    padding: tuple[tuple[int, int], ...]
    dilation: Shape
    transposed: bool = False


@dataclass(frozen=True, eq=False)
class Product:
    """One layer.

    Attributes:
        name: the user's. op: the operator's.
        node: the name of its node; `input` that of the node whose value are its inputs, None where the program has no such value.
        shape: of its inputs for one call, as they are in the program.
        groups, rows, depth, columns: that many products of M x K with K x N.
        results: elements of the result.
        channels: output channels that an input meets at each tap: N, but of a transposed convolution, whose N are channels times taps.
        window: of a convolution, else None.
        stored: whether the weights are stored in the program; computed ones are never on the chip before.
        zero: of quantised inputs, the node whose value is their zero point; None where zero is zero.
        by_column: of a product whose stored factor stands first, W @ x: inputs are columns, not rows.
        tensor: of stored weights, which they are: products with the same one read the same numbers. None where nothing is known of that.
        spread: of a matrix product, how many matrices of weights there are along each axis of the result before its last two. Along an axis
            of 1, all inputs meet the same: they are rows of one product. () where there is one matrix, or one for each of the inputs.
        first, last: whether its inputs come, and its results go, outside without another product in between.
    """

    name: str
    op: str
    node: str
    input: str | None
    shape: Shape
    groups: int
    rows: int
    depth: int
    columns: int
    results: int
    channels: int
    window: Window | None = None
    stored: bool = True
    zero: str | None = None
    by_column: bool = False
    tensor: str | None = None
    spread: Shape = ()
    first: bool = False
    last: bool = False

    @property
    def macs(self) -> int:
        """Multiply-accumulates, those with padding's zeros among them (as `effc.cost.node_cost` counts)."""
        return self.groups * self.rows * self.depth * self.columns

    @property
    def inputs(self) -> int:
        return math.prod(self.shape)

    @property
    def weights(self) -> int:
        return self.groups * self.depth * self.columns
