"""Work counted from shapes, against counts by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from effc.cost import program_cost
from effc.ir import Batch, Program, Provenance
from effc.ir.torch_compat import import_torchvision


def macs(net: nn.Module, *shape: int, batch: int = 1) -> int:
    dimension = torch.export.Dim("batch", min=1)
    exported = torch.export.export(net.eval(), (torch.zeros(2, *shape),), dynamic_shapes=({0: dimension},))
    return program_cost(Program.from_exported(exported, Provenance("net", "torch", "0"), batch=Batch(True)), batch).macs


@pytest.mark.parametrize(
    ("net", "shape", "expected"),
    [
        (nn.Conv2d(4, 6, 3, groups=2, stride=2, padding=1), (4, 5, 7), 6 * 3 * 4 * (4 // 2) * 9),
        (nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), (4, 3, 3), 4 * 9 * 3 * 4),
        (nn.Linear(5, 7), (3, 5), 3 * 5 * 7),
        (nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), (2, 4, 4), 0),
    ],
)
def test_multiply_accumulates_by_hand(net: nn.Module, shape: tuple[int, ...], expected: int) -> None:
    assert macs(net, *shape) == expected
    assert macs(net, *shape, batch=5) == 5 * expected


def test_attention_counts_both_products() -> None:
    class Attention(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.scaled_dot_product_attention(x, x[..., :3, :], x[..., :3, :])

    assert macs(Attention(), 2, 7, 4) == 2 * (7 * 3 * 4) * 2


def test_bytes_count_what_moves_and_nothing_for_a_view() -> None:
    exported = torch.export.export(nn.Sequential(nn.Flatten(), nn.ReLU()), (torch.zeros(2, 3, 4),))
    program = Program.from_exported(exported, Provenance("net", "torch", "0"), batch=Batch(False))
    assert program_cost(program).bytes == 2 * 24 * 4


def test_resnet18_has_the_published_number() -> None:
    """Convolutions and the product at the end, 224 x 224 pixels: 1.814 G multiply-accumulates."""
    net = import_torchvision().models.resnet18(weights=None)
    assert macs(net, 3, 224, 224) == 1_814_073_344
