"""The zeros that convolutions read: how many, how they lie, and what share of multiply-adds kernels of several kinds could leave out.

A kernel can skip at some granularity only. Three are counted, each for free, as if finding the zeros and jumping cost nothing:

    channels   an input channel that is zero in the whole image: all its multiply-adds
    runs       a tap of the kernel at 8 neighbouring output pixels of a row, one input channel: what a tile of 8 pixels times several
               vectors of output channels computes with one set of weights; it is left out where all 8 inputs are zero
    values     a single input: where a kernel keeps a branch or a list for each value

Padding is neither counted as zeros nor as work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from effc.ir import Program, source_of

__all__ = ["GRANULARITIES", "RUN", "Convolution", "Zeros", "convolutions"]

GRANULARITIES = ("channels", "runs", "values")
RUN = 8  # pixels: the tiles of effc's direct kernels are as high or higher on most layers of small networks
_LONGEST = 40  # characters of a name
_aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class Convolution:
    """One convolution of an activation (N, C, H, W) without groups or dilation.

    Attributes:
        node: the convolution.
        value: the activation, in front of any padding.
        pads: left, right, top, bottom; those of a separate padding in front are among them.
    """

    node: fx.Node
    value: fx.Node
    kernel: tuple[int, int]
    stride: tuple[int, int]
    pads: tuple[int, int, int, int]

    @property
    def name(self) -> str:
        return str(self.node.name)

    @property
    def source(self) -> str:
        """The user's name, which steps of a plan know it by."""
        return source_of(self.node)

    @property
    def label(self) -> str:
        """For tables."""
        return self.source if len(self.source) <= _LONGEST else self.name


def convolutions(program: Program) -> list[Convolution]:
    """Those that read a computed value, in execution order. Raises ValueError for one with groups or dilation."""
    found = []
    for node in program.nodes:
        if node.target != _aten.conv2d.default:
            continue
        stride, padding, dilation, groups = (_given(node, place, default) for place, default in ((3, 1), (4, 0), (5, 1), (6, 1)))
        if _pair(dilation) != (1, 1) or groups != 1:
            raise ValueError(f"{source_of(node)}: zeros are not counted for convolutions with groups or dilation")
        value, (high, wide) = node.args[0], _pair(padding)
        pads = [wide, wide, high, high]
        assert isinstance(value, fx.Node)
        if _pads_with_zeros(value):
            pads = [one + other for one, other in zip(pads, value.args[1], strict=True)]  # type: ignore[arg-type]
            value = value.args[0]
            assert isinstance(value, fx.Node)
        if value.op == "call_function":
            kernel = node.args[1].meta["val"].shape[2:]  # type: ignore[union-attr]
            found.append(Convolution(node, value, (int(kernel[0]), int(kernel[1])), _pair(stride), (pads[0], pads[1], pads[2], pads[3])))
    return found


class Zeros:
    """Counts the zeros of what one convolution reads: an observer for `effc.passes.profiling.Watch`."""

    def __init__(self, of: Convolution) -> None:
        self._of = of
        self._counts: dict[str, list[int]] = {}  # what -> how many of how many

    def see(self, value: Tensor) -> None:
        """Look at activations (N, C, H, W)."""
        used = value != 0
        self._add("elements", int(used.sum()), used.numel())
        channels, pixels = used.flatten(2).any(2), used.any(1)
        self._add("zero channels", int((~channels).sum()), channels.numel())
        self._add("empty pixels", int((~pixels).sum()), pixels.numel())
        padded, real = (F.pad(one.to(torch.uint8), self._of.pads) for one in (used, torch.ones_like(used[:1, :1])))
        for row in range(self._of.kernel[0]):
            for column in range(self._of.kernel[1]):
                self._tap(self._strided(padded, row, column), self._strided(real, row, column), channels)

    def share(self, what: str) -> float:
        """`elements` that are not zero, `zero channels`, `empty pixels`; and, by granularity, multiply-adds that could be left out."""
        some, all_ = self._counts[what]
        return some / all_

    def _tap(self, used: Tensor, real: Tensor, channels: Tensor) -> None:
        work = used.shape[0] * used.shape[1] * int(real.sum())
        self._add("values", work - int(used.sum()), work)
        self._add("channels", int((~channels).sum()) * int(real.sum()), work)
        read, size = _runs(used).amax(-1), _runs(real).sum(-1)
        self._add("runs", work - int((read * size).sum()), work)

    def _strided(self, padded: Tensor, row: int, column: int) -> Tensor:
        (high, wide), (down, right) = self._of.kernel, self._of.stride
        rows, columns = padded.shape[2] - high + row + 1, padded.shape[3] - wide + column + 1
        return padded[:, :, row:rows:down, column:columns:right]

    def _add(self, what: str, some: int, all_: int) -> None:
        count = self._counts.setdefault(what, [0, 0])
        count[0], count[1] = count[0] + some, count[1] + all_


def _runs(value: Tensor) -> Tensor:
    """(N, C, H, W) as (N, C, H, runs, RUN), with zeros where the last one is shorter."""
    padded = F.pad(value, (0, -value.shape[3] % RUN))
    return padded.view(*padded.shape[:3], -1, RUN)


def _pads_with_zeros(node: fx.Node) -> bool:
    """Whether a node puts zeros around images, and nothing else."""
    if node.target not in (_aten.constant_pad_nd.default, _aten.pad.default) or len(node.args[1]) != 4:  # type: ignore[arg-type]
        return False
    rest = node.args[2:]  # a mode and a value; or a value alone
    return not any(rest) or (rest[0] == "constant" and not any(rest[1:]))


def _given(node: fx.Node, place: int, default: int) -> Any:
    return node.args[place] if len(node.args) > place else default


def _pair(value: Any) -> tuple[int, int]:
    both = (value, value) if isinstance(value, int) else tuple(value) * (2 if len(value) == 1 else 1)
    return int(both[0]), int(both[1])
