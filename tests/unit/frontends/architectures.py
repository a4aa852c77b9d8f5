"""Nine architectures with seeded random weights, small enough to export, import and compile within a test, and three ways to export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from effc.ir.torch_compat import import_torchvision

__all__ = ["ARCHITECTURES", "EXPORTS", "Architecture", "Export"]


Inputs = Callable[[torch.Generator], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Export:
    """Which of torch's two exporters writes which opset."""

    dynamo: bool
    opset: int


EXPORTS = {"dynamo20": Export(True, 20), "legacy13": Export(False, 13), "legacy17": Export(False, 17)}


@dataclass(frozen=True)
class Architecture:
    """How a network is made, and what it takes.

    Attributes:
        build: makes the network; may raise ImportError where torchvision is not installed.
        inputs: makes the arguments of one call at batch 1.
        lowered: the export that is also compiled; the others give TVM nearly the same graph.
        quick: the exports that the fast suite can afford.
        batched: whether the batch is symbolic in every export; elsewhere it may stay fixed.
    """

    build: Callable[[], nn.Module]
    inputs: Inputs
    lowered: str = "dynamo20"
    quick: tuple[str, ...] = ()
    batched: bool = True

    def network(self) -> nn.Module:
        """The network in eval mode, seeded, such that its output depends on its input."""
        torch.manual_seed(0)  # torch's and torchvision's initialisers take no generator
        network = _revealing(self.build())
        if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
            _calibrated(network, self.inputs)
        return network.eval()


def _revealing(network: nn.Module) -> nn.Module:
    """Give every parameter something to say: a head of zeros (ViT's) makes any output right, fresh normalisations scale by one."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                module.weight.uniform_(0.5, 1.5)
        for parameter in network.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.1)
    return network


def _calibrated(network: nn.Module, inputs: Inputs) -> None:
    """Statistics for batch norm, as training would leave them: with a fresh one's the signal dies on the way through a deep network."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # the statistics of this batch alone
    with torch.no_grad():
        network.train()(*(torch.cat(images) for images in zip(*(inputs(generator) for _ in range(8)), strict=True)))


# ---- torchvision's -----------------------------------------------------------------------------------------------------------------


def _classifier(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        network: nn.Module = getattr(import_torchvision().models, name)(weights=None, num_classes=10)
        return network

    return build


def _vision_transformer() -> nn.Module:
    """ViT-B/16's layers, narrower: its 330 MB would go through the exporter three times."""
    sizes = {"image_size": 48, "patch_size": 16, "num_layers": 4, "num_heads": 4, "hidden_dim": 64, "mlp_dim": 128, "num_classes": 10}
    network: nn.Module = import_torchvision().models.VisionTransformer(**sizes)
    return network


def _image(size: int, channels: int = 3) -> Inputs:
    return lambda generator: (torch.randn(1, channels, size, size, generator=generator),)


# ---- our own -----------------------------------------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """Token ids through an embedding and a TransformerEncoder, padding (token 0) masked: its positions must not be looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(50, 32)
        self.positions = nn.Parameter(torch.randn(1, 12, 32) * 0.1)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu", norm_first=False)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = self.encoder(self.tokens(tokens) + self.positions, src_key_padding_mask=tokens == 0)
        return result


def _tokens(generator: torch.Generator) -> tuple[Tensor, ...]:
    tokens = torch.randint(1, 50, (1, 12), generator=generator)
    tokens[:, 9:] = 0
    return (tokens,)


class Recurrent(nn.Module):
    """Two bidirectional LSTM layers, a classifier on the last step; the final states are outputs too."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 12, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(24, 5)
        for parameter in self.lstm.parameters():
            nn.init.normal_(parameter, std=0.5)  # torch's own start is so small that the second layer hardly moves

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y, (h, c) = self.lstm(x)
        return self.head(y[:, -1]), y, h.transpose(0, 1), c.transpose(0, 1)


def _sequence(generator: torch.Generator) -> tuple[Tensor, ...]:
    return (torch.randn(1, 5, 8, generator=generator),)


class Unet(nn.Module):
    """Two levels down and up again: strided pooling, a transposed convolution, a bilinear resize, skip connections."""

    def __init__(self) -> None:
        super().__init__()
        self.down0, self.down1, self.bottom = self._block(3, 8), self._block(8, 16), self._block(16, 32)
        self.up1, self.up0 = nn.ConvTranspose2d(32, 16, 2, stride=2), nn.Upsample(scale_factor=2, mode="bilinear")
        self.merge1, self.merge0 = self._block(32, 16), self._block(24, 8)
        self.head = nn.Conv2d(8, 2, 1)

    @staticmethod
    def _block(before: int, after: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down0(x)
        middle = self.down1(nn.functional.max_pool2d(fine, 2))
        y = self.up1(self.bottom(nn.functional.max_pool2d(middle, 2)))
        y = self.up0(self.merge1(torch.cat([middle, y], 1)))
        result: Tensor = self.head(self.merge0(torch.cat([fine, y], 1)))
        return result


class IndexMix(nn.Module):
    """Every usual way to take and put elements by index, negative and data-dependent ones included. x: (batch, 8, 6), i: (batch, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(5, 6))
        self.picks: Tensor
        self.register_buffer("picks", torch.tensor([-1, 0, 3, -8]))

    def forward(self, x: Tensor, i: Tensor) -> tuple[Tensor, ...]:
        best, where = torch.topk(x, 3, dim=1)
        ordered, order = torch.sort(x, dim=2, descending=True)
        taken = torch.gather(x, 1, where) + best
        put = torch.zeros_like(x).scatter(1, where, taken * 2)
        sliced = x[:, -7:-1:2, 1:] - x[:, 1::3, :-1]
        picked = x[:, self.picks] + torch.index_select(x, 1, torch.tensor([7, 0, 2, 2]))
        looked_up = self.table[i] + self.table[x[:, :4, 0].argmax(1)].unsqueeze(1)
        chosen = torch.where(put > x, put, x.flip(1)).masked_fill(x.roll(1, 2) < -1.0, 0.5)
        last = x[:, -1] * x[..., -2:].cumsum(1)[:, -1, -1:]
        pairs = self.table[i, order[:, -4:, 0]]
        written = x.clone()
        written[:, -3:-1, 1] = best[:, :2, 0]
        return put, order, ordered[:, :, -1], sliced, picked, looked_up, chosen, last, pairs, written


def _indexed(generator: torch.Generator) -> tuple[Tensor, ...]:
    return torch.randn(1, 8, 6, generator=generator), torch.randint(-5, 5, (1, 4), generator=generator)


ARCHITECTURES = {
    "resnet18": Architecture(_classifier("resnet18"), _image(64)),
    "mobilenet_v3_small": Architecture(_classifier("mobilenet_v3_small"), _image(64)),
    "shufflenet_v2": Architecture(_classifier("shufflenet_v2_x0_5"), _image(64)),
    "vit": Architecture(_vision_transformer, _image(48)),
    "swin_t": Architecture(_classifier("swin_t"), _image(64), lowered="legacy17", batched=False),
    "transformer_encoder": Architecture(Encoder, _tokens, quick=("dynamo20",), batched=False),
    "bidirectional_lstm": Architecture(Recurrent, _sequence, lowered="legacy17", quick=("legacy17",)),
    "unet": Architecture(Unet, _image(32), quick=("dynamo20",)),
    "index_mix": Architecture(IndexMix, _indexed, lowered="dynamo20", quick=("dynamo20", "legacy17"), batched=False),
}
