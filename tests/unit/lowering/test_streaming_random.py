"""Random networks of all kinds of layers, in all kinds of sizes: streamed over lists and computed whole they give the same bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effc.errors import UnsupportedModelError
from effc.lowering.streaming.keeping import NoListsError
from tests.unit.lowering.streams import Compiled, special, streaming, wrong

Shape = tuple[int, int, int]
_HEIGHTS, _WIDTHS = (1, 2, 5, 9, 16, 23, 40, 64, 70), (1, 3, 7, 16, 17, 33, 48, 63, 64, 65, 70, 130)
_KINDS = (
    "convolution",
    "convolution",
    "convolution",
    "depthwise",
    "grouped",
    "pool",
    "padded pool",
    "add",
    "cat",
    "enlarge",
    "slice",
    "view",
)
_ACTIVATIONS = (torch.relu, F.relu6, torch.sigmoid, F.leaky_relu, F.hardswish, lambda x: x)
_LARGEST = 90_000  # elements


class Random(nn.Module):
    """Layers behind each other and side by side; `frame` is the shape that it takes."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.choose = np.random.default_rng(seed)
        self.frame = (self.one_of(1, 2, 3, 4, 7, 16), self.one_of(*_HEIGHTS), max(self.one_of(*_WIDTHS), 2))
        self.shapes: list[Shape] = [self.frame]
        self.sources: list[tuple[int, ...]] = []
        self.layers = nn.ModuleList()
        for _ in range(self.one_of(3, 4, 5, 6)):
            self.grow()
        self.outputs = {len(self.shapes) - 1, self.one_of(*range(len(self.shapes)))}

    def one_of(self, *values: int) -> int:
        return int(self.choose.choice(values))

    def grow(self) -> None:
        """Add a layer, where a chosen one fits."""
        source = self.one_of(*range(max(0, len(self.shapes) - 2), len(self.shapes)))
        layer = _Layer(str(self.choose.choice(_KINDS)), self.shapes[source][0], self)
        others = [number for number, shape in enumerate(self.shapes) if shape[1:] == self.shapes[source][1:]]
        sources = (source, self.one_of(*others))
        try:
            shape = tuple(layer(*(torch.zeros(1, *self.shapes[number]) for number in sources)).shape[1:])
        except RuntimeError:  # a window is larger than the image, or channels are not the same
            return
        if shape[1] * shape[2] > 1 and np.prod(shape) <= _LARGEST:
            self.layers.append(layer)
            self.sources.append(sources)
            self.shapes.append(shape)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        values = [x]
        for layer, sources in zip(self.layers, self.sources, strict=True):
            values.append(layer(*(values[number] for number in sources)))
        return tuple(values[number] * 1 for number in sorted(self.outputs))


class _Layer(nn.Module):
    def __init__(self, kind: str, channels: int, net: Random) -> None:
        super().__init__()
        one_of, self.kind = net.one_of, kind
        self.pads = [one_of(0, 1, 2, 3) for _ in range(4)]
        self.activation = _ACTIVATIONS[one_of(*range(len(_ACTIVATIONS)))]
        self.mean, self.view, self.extra = bool(one_of(0, 1)), one_of(0, 1, 2, 3, 4), one_of(0, 5, 8)
        self.windows = (one_of(2, 3), one_of(1, 2), one_of(0, 1), bool(one_of(0, 1)))  # size, stride, padding, ceil
        if kind in ("convolution", "depthwise", "grouped"):
            window = ((1, 1), (3, 3), (5, 5), (1, 3), (3, 1))[one_of(0, 1, 2, 3, 4)]
            dilation, groups = one_of(1, 1, 2), {"depthwise": channels, "grouped": 2 - channels % 2}.get(kind, 1)
            features = channels if kind == "depthwise" else groups * one_of(1, 3, 7, 16, 17, 40)
            if one_of(0, 1):
                self.pads = [dilation * (window[1] // 2)] * 2 + [dilation * (window[0] // 2)] * 2
            self.convolution = nn.Conv2d(channels, features, window, one_of(1, 1, 2, 3, 4), 0, dilation, groups, bool(one_of(0, 1, 1)))

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        samples, channels, height, width = x.shape
        size, stride, padding, ceil = self.windows
        match self.kind:
            case "pool" if self.mean:
                return F.avg_pool2d(x, size, stride, padding, ceil, count_include_pad=bool(self.extra))
            case "pool":
                return F.max_pool2d(x, size, stride, padding, 1, ceil)
            case "padded pool":
                return F.max_pool2d(F.pad(x, (0, self.pads[0], 0, self.pads[1])), size, stride)
            case "add":
                return torch.relu(x + 0.5 * other)
            case "cat":
                return torch.cat([x, other], 1)
            case "enlarge":
                return F.interpolate(x, scale_factor=2.0, mode="nearest")
            case "slice":
                return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra, self.extra))
            case "view":
                views = (x.reshape(samples, 1, channels * height, width), x.transpose(2, 3), torch.roll(x, (1, 2), (2, 3)), x.flip(3))
                return (*views, x * x.mean((2, 3), keepdim=True))[self.view]
        result = self.convolution(F.pad(x, self.pads))
        return self.activation(result + other if result.shape == other.shape else result)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cpu", "x86-64-v3"])
def test_random_networks(target: str) -> None:
    families: list[str] = []
    whole = 0
    for seed in range(60):
        net = Random(seed)
        try:
            program = streaming(net, special(net.frame))
            code = Compiled(program, target, winograd="off")  # Winograd spreads what an infinity becomes
        except UnsupportedModelError:  # no convolution reads the frame
            continue
        except NoListsError:
            whole += 1
            continue
        families += [*code.listed.values()]
        assert not wrong(code, program, special(net.frame)), f"seed {seed}"
    assert whole <= 3
    for family in ("conv", "depthwise", "pool", "map"):
        assert families.count(f"listed {family}") >= 5
