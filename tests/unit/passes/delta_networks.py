"""Small networks and clips for the tests of the pass `delta`."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effc.data import Dataset
from effc.ir import Batch, Program, Provenance

SIZE = 12


def program_of(net: nn.Module, *inputs: Tensor, symbolic: bool = True) -> Program:
    dimension = torch.export.Dim("batch", min=1)
    shapes = tuple({0: dimension} for _ in inputs) if symbolic else None
    exported = torch.export.export(net.eval(), inputs, dynamic_shapes=shapes)
    return Program.from_exported(exported, Provenance("net", "torch", "0"), batch=Batch(symbolic))


def clip(frames: int = 10, channels: int = 3, size: int = SIZE, noise: float = 0.0, seed: int = 0) -> Tensor:
    """A square that moves over a still background by one pixel a frame: (T, C, size, size)."""
    generator = np.random.default_rng(seed)
    background = generator.standard_normal((channels, size, size)).astype(np.float32)
    square = 2 * generator.standard_normal((channels, 3, 3)).astype(np.float32)
    made = np.stack([background] * frames)
    for t in range(frames):
        left = t % (size - 3)
        made[t, :, 2:5, left : left + 3] = square
    made += noise * generator.standard_normal(made.shape).astype(np.float32)
    return torch.from_numpy(made)


def dataset(frames: Tensor, program: Program) -> Dataset:
    return Dataset({program.interface.frame_inputs[0].name: frames.numpy()})


class Residual(nn.Module):
    """conv, bn, relu; a block with a skip; a stride with another skip by a 1x1 convolution; global pool and classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.c, self.d, self.short = nn.Conv2d(8, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(8, 16, 1, 2)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem_bn(self.stem(x)))
        x = torch.relu(self.b(torch.relu(self.a(x))) + x)
        x = torch.relu(self.d(torch.relu(self.c(x))) + self.short(x))
        return self.head(x.mean((2, 3)))


class Mobile(nn.Module):
    """Depthwise blocks with a composed SiLU, a squeeze-and-excite gate, a pool, a concatenation, an upsampling, and an image as output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depth, self.point = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1)
        self.gate, self.after, self.last = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(14, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x * torch.sigmoid(x)
        y = self.point(F.hardswish(self.depth(x)))
        y = y * torch.sigmoid(self.gate(F.adaptive_avg_pool2d(y, 1)))
        z = F.interpolate(F.max_pool2d(F.relu(self.after(y)), 2), scale_factor=2.0, mode="nearest")
        return torch.softmax(self.last(torch.cat([x, z], 1)), 1)
