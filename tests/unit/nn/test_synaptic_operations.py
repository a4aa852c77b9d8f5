"""`SynapticOperations`: every product with an input that is not 0, counted once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from effc.nn import SynapticOperations


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Conv2d(4, 6, 3, stride=2, groups=2),
        nn.Conv2d(4, 4, 5, padding=2, dilation=2, groups=4, bias=False),
    ],
)
def test_a_convolution_is_counted_like_its_products(layer: nn.Conv2d) -> None:
    x = torch.randn(3, 4, 9, 9, generator=torch.Generator().manual_seed(0)).relu()
    with SynapticOperations(layer) as count:
        layer(x)
        layer(x[:1])
    ones = nn.functional.conv2d(
        (x != 0).float(), torch.ones_like(layer.weight), None, layer.stride, layer.padding, layer.dilation, layer.groups
    )
    wanted = ones.sum((1, 2, 3)).double()
    assert torch.equal(count.total(), torch.cat([wanted, wanted[:1]]))
    assert (
        count.total_dense()
        == nn.functional.conv2d(
            torch.ones(1, 4, 9, 9), torch.ones_like(layer.weight), None, layer.stride, layer.padding, layer.dilation, layer.groups
        ).sum()
    )


def test_layers_add_up_and_nothing_is_counted_outside() -> None:
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, -1]]))
        net[0].bias.zero_()
    with SynapticOperations(net) as count:
        net(torch.tensor([[1.0, 0.0, 0.0], [2.0, 3.0, -4.0]]))
    net(torch.ones(1, 3))
    assert {name: rows.tolist() for name, rows in count.performed.items()} == {"0": [5.0, 15.0], "2": [2.0, 6.0]}
    assert count.total().tolist() == [7.0, 21.0] and count.dense == {"0": 15.0, "2": 10.0}
