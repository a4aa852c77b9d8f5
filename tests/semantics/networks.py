"""Random small networks for property tests: boundary shapes, branches, shared weights, every layer that passes rewrite."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

__all__ = ["Sample", "networks"]


@dataclass(frozen=True)
class Sample:
    """A network and the shape of one sample."""

    net: nn.Module
    shape: tuple[int, ...]


class Chain(nn.Module):
    """Layers one after another; some results are added to, or joined with, an earlier one of the same plane."""

    def __init__(self, layers: list[nn.Module], joins: dict[int, str], classes: int, features: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.joins = joins
        self.head = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        before = x
        for index, layer in enumerate(self.layers):
            y = layer(x)
            how = self.joins.get(index)
            if how == "add" and y.shape[1:] == before.shape[1:]:
                y = y + before
            elif how == "cat" and y.shape[2:] == before.shape[2:]:
                y = torch.cat([y, before], 1)[:, : y.shape[1]]
            before, x = x, y
        return self.head(x.flatten(1))


@st.composite
def networks(draw: st.DrawFn) -> Sample:
    """A network in eval mode with random weights and batch-norm statistics, reproducible from the drawn seed."""
    torch.manual_seed(draw(st.integers(0, 2**31)))
    channels, height, width = draw(st.integers(1, 5)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    shape = (channels, height, width)
    layers: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 6))):
        layer, channels, height, width = _layer(draw, channels, height, width)
        layers.append(layer)
    joins = draw(st.dictionaries(st.integers(0, len(layers) - 1), st.sampled_from(["add", "cat"]), max_size=3))
    net = Chain(layers, joins, draw(st.integers(1, 4)), channels * height * width).eval()
    return Sample(net, shape)


def _layer(draw: st.DrawFn, channels: int, height: int, width: int) -> tuple[nn.Module, int, int, int]:
    kind = draw(st.sampled_from(["conv", "norm", "activation", "pool", "dropout", "mlp"]))
    if kind == "conv":
        return _conv(draw, channels, height, width)
    if kind == "mlp":
        return _mlp(draw, width), channels, height, width
    if kind == "norm":
        norm = nn.BatchNorm2d(channels, affine=draw(st.booleans()))
        norm.running_mean, norm.running_var = torch.randn(channels), torch.rand(channels) + 0.05
        if norm.affine:
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
        return norm, channels, height, width
    if kind == "pool" and height > 1 and width > 1:
        pool = draw(st.sampled_from([nn.MaxPool2d(2, padding=1), nn.AvgPool2d(2, 1), nn.AvgPool2d(2, padding=1), nn.AdaptiveAvgPool2d(1)]))
        _, _, h, w = pool(torch.zeros(1, channels, height, width)).shape
        return pool, channels, h, w
    if kind == "dropout":
        return nn.Dropout(0.5), channels, height, width
    choices = [nn.ReLU(), nn.ReLU6(), nn.Tanh(), nn.GELU(), nn.SiLU(), nn.Hardswish(), nn.LeakyReLU(0.1), nn.PReLU()]
    return draw(st.sampled_from(choices)), channels, height, width


class Gated(nn.Module):
    """down(act(gate(x)) * up(x)) on the last axis."""

    def __init__(self, width: int, hidden: int, activation: nn.Module) -> None:
        super().__init__()
        self.gate, self.up, self.down, self.activation = *(nn.Linear(width, hidden) for _ in range(2)), nn.Linear(hidden, width), activation

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.gate(x)) * self.up(x))


def _mlp(draw: st.DrawFn, width: int) -> nn.Module:
    hidden, activation = draw(st.integers(1, 12)), draw(st.sampled_from([nn.ReLU(), nn.GELU(), nn.SiLU(), nn.Sigmoid()]))
    if draw(st.booleans()):
        return Gated(width, hidden, activation)
    return nn.Sequential(nn.Linear(width, hidden), activation, nn.Linear(hidden, width, bias=draw(st.booleans())))


def _conv(draw: st.DrawFn, channels: int, height: int, width: int) -> tuple[nn.Module, int, int, int]:
    kernel, padding = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    stride, dilation = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    if min(height, width) + 2 * padding < (kernel - 1) * dilation + 1:
        kernel, dilation = 1, 1
    groups = channels if draw(st.booleans()) else 1
    out = groups * draw(st.integers(1, 3))
    conv = nn.Conv2d(channels, out, kernel, stride, padding, dilation, groups, bias=draw(st.booleans()))
    _, _, h, w = conv(torch.zeros(1, channels, height, width)).shape
    return conv, out, h, w
