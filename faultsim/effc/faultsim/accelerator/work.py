"""What the array is given: every product of an integer program as matrix products, one a group, of exact integers.

    acc[s, g, n, m] = sum over k of A[s, g, m, k] * B[g, k, n]        int32, sums modulo 2^32

s is the sample, g the group, m the position (row-major over the output's axes), n the channel inside its group, and k the reduction index:
(channel, kernel row, kernel column), row-major, as a weight tensor stores it. A is the input as im2col lays it out; B are the weights.

A program may fold axes of a sample into its batch: frames, or tokens. The first axis of a product's input then has `per_sample` entries of
each sample, one after the other (`samples`). The array gets them in one call, as the cost model counts: positions are (entry, place).

Operands are what the multipliers see: the activation minus its zero point (9 bits with its sign; padding is 0), and an int8 weight, whose
zero point must be 0. |A| <= 255 and |B| <= 128, so a product always fits into 16 bits. The bias, the scale and the rounding come after
the array, in its vector unit, where no fault is put.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from effc.faultsim.sites import operator_name
from effc.ir import source_of
from effc.ir.edit import keyword_arguments
from effc.ir.ops.quantised import accumulated, along, requantise

__all__ = ["Convolution", "Extents", "Gemm", "MatrixGemm", "Operands"]

_EXACT = 2**24  # float32 holds all integers up to here
_CONVOLVE: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class Extents(NamedTuple):
    """Of one sample: groups, positions (M), reduction (K), channels of a group (N), and its input channels (K without taps)."""

    groups: int
    positions: int
    depth: int
    channels: int
    inner: int


class Operands(NamedTuple):
    """One call: the centred input and the weights, both int32, as the operator has them; and the words that the activation memory holds
    of each sample, (samples, words), with their zero point."""

    x: Tensor
    weights: Tensor
    words: Tensor
    zero_point: int


class Gemm(ABC):
    """One product of a program in exact integers, as the array does it; its sizes and cost are `effc.cost.accelerator.product`'s matter.

    Attributes:
        per_sample: entries of the input's first axis that are of one sample (`samples.with_samples` finds them).
    """

    def __init__(self, node: fx.Node) -> None:
        self.name, self.source, self.op = node.name, source_of(node), operator_name(node)
        self.per_sample = 1

    def operands(self, arguments: Sequence[Any]) -> Operands:
        """From the operator's arguments."""
        x, weights, zero = self._read(arguments)
        centred = x.to(torch.int32) - along(zero, 0, 0).to(torch.int32)
        return Operands(centred, weights.to(torch.int32), x.reshape(len(x) // self.per_sample, -1), int(zero))

    @abstractmethod
    def extents(self, x: Tensor, weights: Tensor) -> Extents:
        """Sizes, from tensors (or fake ones)."""

    @abstractmethod
    def gather(self, x: Tensor, positions: Tensor, ks: Tensor) -> Tensor:
        """A at some positions and reduction indices: (S, G, positions, ks) int32."""

    @abstractmethod
    def gather_pairs(self, x: Tensor, groups: Tensor, positions: Tensor, ks: Tensor) -> Tensor:
        """The same at pairs of a group and a position: (S, pairs, ks) int32."""

    @abstractmethod
    def matrix(self, weights: Tensor) -> Tensor:
        """B: (G, K, N), a view."""

    @abstractmethod
    def sums(self, x: Tensor, matrix: Tensor) -> Tensor:
        """acc for any B of the layer's depth: (S, G, N, M) int32, contiguous or a view."""

    @abstractmethod
    def fan_out(self, x: Tensor, elements: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Where elements of a sample's input are multiplied.

        Yields:
            Which of `elements`, and their groups, positions and reduction indices: four arrays of one length. No element stands twice in
            one of the yields, and none meets a position twice at all.
        """

    @abstractmethod
    def shaped(self, sums: Tensor, x: Tensor) -> Tensor:
        """(S, G, N, M) as the operator's result is laid out."""

    def finish(self, arguments: Sequence[Any], sums: Tensor, x: Tensor) -> Tensor:
        """The operator's result from the array's sums: what the vector unit does."""
        acc = self.shaped(sums, x)
        return acc if self.op in ("conv_integer", "matmul_integer") else self._requantised(arguments, acc)

    def _requantised(self, arguments: Sequence[Any], acc: Tensor) -> Tensor:
        _, x_scale, _, _, w_scale, _, y_scale, y_zero = arguments[:8]
        bias, axis = arguments[8] if len(arguments) > 8 else None, self._channel_axis(acc)
        if bias is not None:
            acc = acc + along(bias.to(torch.int32), acc.ndim, axis)  # wraps
        multiplier = along(x_scale, 0, 0) * along(w_scale, acc.ndim, axis) / along(y_scale, 0, 0)
        return requantise(acc, multiplier.to(torch.float32), along(y_zero, 0, 0))

    @abstractmethod
    def _channel_axis(self, acc: Tensor) -> int: ...

    def _read(self, arguments: Sequence[Any]) -> tuple[Tensor, Tensor, Tensor]:
        if self.op.startswith("q"):
            return arguments[0], arguments[3], arguments[2]
        return arguments[0], arguments[1], arguments[2]


class Convolution(Gemm):
    """`qlinear_conv` and `conv_integer`, over one to three axes."""

    def __init__(self, node: fx.Node) -> None:
        super().__init__(node)
        given = keyword_arguments(node)
        self.stride, self.padding = tuple(map(int, given["stride"])), tuple(map(int, given["padding"]))
        self.dilation, self.groups = tuple(map(int, given["dilation"])), int(given["groups"])

    def extents(self, x: Tensor, weights: Tensor) -> Extents:
        out = self._out(x.shape[2:], weights.shape[2:])
        outer, inner = int(weights.shape[0]) // self.groups, int(weights.shape[1])
        return Extents(self.groups, self.per_sample * math.prod(out), inner * math.prod(map(int, weights.shape[2:])), outer, inner)

    def operands(self, arguments: Sequence[Any]) -> Operands:
        found = super().operands(arguments)
        self.kernel = tuple(found.weights.shape[2:])
        return found

    def gather(self, x: Tensor, positions: Tensor, ks: Tensor) -> Tensor:
        index: tuple[Any, ...] = (slice(None), slice(None), *self._index(x, positions, ks))
        return self._patches(x)[index]

    def gather_pairs(self, x: Tensor, groups: Tensor, positions: Tensor, ks: Tensor) -> Tensor:
        index: tuple[Any, ...] = (slice(None), groups[:, None], *self._index(x, positions, ks))
        return self._patches(x)[index]

    def _patches(self, x: Tensor) -> Tensor:
        """A view: (S, G, channel of a group, *tap, entry of the sample, *place)."""
        padded, out = self._padded(x), self._out(x.shape[2:], self.kernel)
        inner = x.shape[1] // self.groups
        steps = padded.stride()
        return padded.as_strided(
            (len(x) // self.per_sample, self.groups, inner, *self.kernel, self.per_sample, *out),
            (
                self.per_sample * steps[0],
                inner * steps[1],
                steps[1],
                *(step * each for step, each in zip(steps[2:], self.dilation, strict=True)),
                steps[0],
                *(step * each for step, each in zip(steps[2:], self.stride, strict=True)),
            ),
        )

    def _index(self, x: Tensor, positions: Tensor, ks: Tensor) -> tuple[Tensor, ...]:
        """Of patches, behind the groups: places down, taps across."""
        taps = torch.unravel_index(ks, (x.shape[1] // self.groups, *self.kernel))
        places = torch.unravel_index(positions, (self.per_sample, *self._out(x.shape[2:], self.kernel)))
        return (*(one[None, :] for one in taps), *(one[:, None] for one in places))

    def matrix(self, weights: Tensor) -> Tensor:
        return weights.reshape(self.groups, weights.shape[0] // self.groups, -1).transpose(1, 2)

    def sums(self, x: Tensor, matrix: Tensor) -> Tensor:
        kernel = matrix.transpose(1, 2).reshape(-1, x.shape[1] // self.groups, *self.kernel)
        dtype = _exact(matrix)
        found = _CONVOLVE[len(self.kernel)](
            self._padded(x).to(dtype), kernel.to(dtype), None, list(self.stride), 0, list(self.dilation), self.groups
        )
        apart = _integers(found).reshape(-1, self.per_sample, self.groups, matrix.shape[2], math.prod(found.shape[2:]))
        return apart.permute(0, 2, 3, 1, 4).flatten(3)

    def fan_out(self, x: Tensor, elements: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        entries, channels, *places = torch.unravel_index(elements, (self.per_sample, *x.shape[1:]))
        inner, out = x.shape[1] // self.groups, self._out(x.shape[2:], self.kernel)
        for tap, offsets in enumerate(itertools.product(*map(range, self.kernel))):
            there, positions = torch.ones(len(elements), dtype=torch.bool), entries
            for axis, offset in enumerate(offsets):
                ahead = places[axis] + self.padding[axis] - offset * self.dilation[axis]
                target = ahead.div(self.stride[axis], rounding_mode="floor")
                there &= (ahead % self.stride[axis] == 0) & (target >= 0) & (target < out[axis])
                positions = positions * out[axis] + target
            which = there.nonzero()[:, 0]
            ks = channels[which] % inner * math.prod(self.kernel) + tap
            yield which, channels[which] // inner, positions[which], ks

    def shaped(self, sums: Tensor, x: Tensor) -> Tensor:
        out = self._out(x.shape[2:], self.kernel)
        return sums.reshape(len(sums), -1, self.per_sample, math.prod(out)).transpose(1, 2).reshape(len(x), -1, *out)

    def _channel_axis(self, acc: Tensor) -> int:
        return 1

    def _out(self, sizes: Sequence[Any], kernel: Sequence[Any]) -> tuple[int, ...]:
        dims = len(kernel)
        return tuple(
            (int(sizes[axis]) + self.padding[axis] + self.padding[axis + dims] - self.dilation[axis] * (int(kernel[axis]) - 1) - 1)
            // self.stride[axis]
            + 1
            for axis in range(dims)
        )

    def _padded(self, x: Tensor) -> Tensor:
        dims = x.ndim - 2
        pads = [item for axis in reversed(range(dims)) for item in (self.padding[axis], self.padding[axis + dims])]
        return torch.constant_pad_nd(x, pads, 0).contiguous()


class MatrixGemm(Gemm):
    """`qlinear_matmul` and `matmul_integer` with one matrix of weights: the last axis is reduced, all others of a sample are positions."""

    def extents(self, x: Tensor, weights: Tensor) -> Extents:
        positions = self.per_sample * math.prod(map(int, x.shape[1:-1]))
        return Extents(1, positions, int(weights.shape[0]), int(weights.shape[1]), int(weights.shape[0]))

    def gather(self, x: Tensor, positions: Tensor, ks: Tensor) -> Tensor:
        return x.reshape(len(x) // self.per_sample, 1, -1, x.shape[-1])[:, :, positions][..., ks]

    def gather_pairs(self, x: Tensor, groups: Tensor, positions: Tensor, ks: Tensor) -> Tensor:
        return self.gather(x, positions, ks)[:, 0]

    def matrix(self, weights: Tensor) -> Tensor:
        return weights[None]

    def sums(self, x: Tensor, matrix: Tensor) -> Tensor:
        dtype = _exact(matrix)
        found = x.reshape(len(x) // self.per_sample, -1, x.shape[-1]).to(dtype) @ matrix[0].to(dtype)
        return _integers(found).transpose(1, 2)[:, None]

    def fan_out(self, x: Tensor, elements: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        yield torch.arange(len(elements)), torch.zeros_like(elements), elements // x.shape[-1], elements % x.shape[-1]

    def shaped(self, sums: Tensor, x: Tensor) -> Tensor:
        return sums[:, 0].transpose(1, 2).reshape(*x.shape[:-1], -1)

    def _channel_axis(self, acc: Tensor) -> int:
        return acc.ndim - 1


def _exact(matrix: Tensor) -> torch.dtype:
    """float32 where every partial sum stays an exact integer in it, in any order; else float64."""
    largest = int(matrix.abs().sum(1).max()) * 255 if matrix.numel() else 0
    return torch.float32 if largest < _EXACT else torch.float64


def _integers(found: Tensor) -> Tensor:
    return found.to(torch.int32) if found.dtype == torch.float32 else accumulated(found)
