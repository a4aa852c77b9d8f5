"""Channels that live and die together: what a pruner of whole channels decides about.

Behind `a = relu(norm(conv1(x)))` and `conv2(a)` channel c of the group is row c of conv1's weight and bias, element c of the norm's four
tensors, and column c of conv2's weight. Where a residual sum adds two layers, their channels are one group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ChannelGroup", "Slice"]


@dataclass(frozen=True)
class Slice:
    """Where a stored tensor holds the channels of a group.

    Attributes:
        tensor: its name, as the module or the program calls it.
        axis: the axis that counts channels.
        start: the first index on that axis (a concatenation puts several groups on one axis).
        repeat: adjacent indices per channel: channel c has `start + c * repeat` to `start + (c + 1) * repeat - 1` (H * W of them where a
            linear layer reads a flattened image).
    """

    tensor: str
    axis: int
    start: int = 0
    repeat: int = 1

    def select(self, channels: Tensor) -> Tensor:
        """The indices on the axis of the given channels (int64), in order."""
        return (self.start + channels[:, None] * self.repeat + torch.arange(self.repeat)).reshape(-1)


@dataclass(frozen=True)
class ChannelGroup:
    """Some channels of a network.

    Attributes:
        name: of the layer that makes them (the first one where several do).
        size: how many there are.
        makes: what computes a channel: rows of weights, biases, the tensors of norms. All 0 there (running variances aside) makes the
            channel 0 behind a ReLU, and behind no activation.
        reads: what multiplies a channel: columns of the weights of the layers behind it.
    """

    name: str
    size: int
    makes: tuple[Slice, ...]
    reads: tuple[Slice, ...]

    def norms(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The sum of magnitudes of all that makes each channel: float64 (size,). Only matrices count: biases and norms have no scale to
        compare with."""
        total = torch.zeros(self.size, dtype=torch.float64)
        for one in self.makes:
            values = tensors[one.tensor].detach()
            if values.ndim < 2:
                continue
            rows = values.abs().double().movedim(one.axis, 0).reshape(values.shape[one.axis], -1).sum(1)
            total += rows[one.start : one.start + self.size * one.repeat].reshape(self.size, one.repeat).sum(1)
        return total
