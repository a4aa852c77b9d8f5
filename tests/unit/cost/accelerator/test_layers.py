"""Products of programs: sizes as an array sees them, and as many multiply-accumulates as the cost of the nodes says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from effc.cost import node_cost
from effc.cost.accelerator.layers import products_of
from effc.cost.accelerator.product import Product
from effc.errors import UnsupportedModelError
from effc.frontends import load_program
from effc.ir import Program


class Mixed(nn.Module):
    """One of everything."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(6, 4, (1, 3), padding="same", groups=2)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4)
        self.up = nn.ConvTranspose2d(4, 3, 2, stride=2)
        self.line = nn.Conv1d(3, 5, 3)
        self.linear = nn.Linear(7, 6)
        self.matrix = nn.Parameter(torch.ones(9, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.up(self.depthwise(self.grouped(self.first(x))))  # (N, 3, 8, 8)
        z = self.line(y.flatten(2)[:, :, :9])  # (N, 5, 7)
        rows = self.linear(z)  # (N, 5, 6)
        left = torch.matmul(self.matrix, rows)  # (N, 9, 6)
        return torch.matmul(left, rows.transpose(1, 2))  # (N, 9, 5), both are computed


@pytest.fixture(scope="module")
def mixed() -> Program:
    return load_program(Mixed().eval(), example_inputs=[torch.zeros(2, 4, 8, 8)])


def sizes(one: Product) -> tuple[int, int, int, int]:
    return one.groups, one.rows, one.depth, one.columns


def test_sizes_of_all_kinds(mixed: Program) -> None:
    found = products_of(mixed)
    assert [sizes(one) for one in found] == [
        (1, 16, 36, 6),
        (2, 16, 9, 2),
        (4, 16, 9, 1),
        (1, 16, 4, 12),  # transposed: M are the inputs' places, N channels times taps
        (1, 7, 9, 5),
        (1, 5, 7, 6),
        (1, 6, 5, 9),  # W @ x: inputs are columns
        (1, 9, 6, 5),
    ]
    assert [one.results for one in found] == [96, 64, 64, 192, 35, 30, 54, 45]
    assert [one.stored for one in found] == [True] * 7 + [False]
    assert [one.first for one in found] == [True] + [False] * 7 and [one.last for one in found] == [False] * 7 + [True]
    assert found[6].by_column and found[6].shape == (1, 5, 6)


def test_multiply_accumulates_are_those_of_the_nodes(mixed: Program) -> None:
    nodes = {node.name: node for node in mixed.nodes}
    assert [one.macs for one in products_of(mixed)] == [node_cost(nodes[one.node]).macs for one in products_of(mixed)]
    assert sum(one.macs for one in products_of(mixed)) == sum(node_cost(node).macs for node in mixed.nodes)


def test_padding_that_torch_names(mixed: Program) -> None:
    window = products_of(mixed)[1].window
    assert window is not None and window.padding == ((0, 0), (1, 1)) and window.outputs == (4, 4)


def test_attention_is_two_products() -> None:
    class Attention(nn.Module):
        def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return nn.functional.scaled_dot_product_attention(q, k, v)

    inputs = [torch.zeros(2, 3, 4, 8), torch.zeros(2, 3, 5, 8), torch.zeros(2, 3, 5, 6)]
    program = load_program(Attention().eval(), example_inputs=inputs)
    first, second = products_of(program)
    assert (sizes(first), sizes(second)) == ((3, 4, 8, 5), (3, 4, 5, 6))
    assert second.input is None, "nobody sees the probabilities"
    assert first.macs + second.macs == sum(node_cost(node).macs for node in program.nodes)


def test_what_has_no_form_is_named_at_once() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.LSTM(4, 4, batch_first=True), nn.GRU(4, 4, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.other(self.one(x)[0])[0]
            return result

    program = load_program(Recurrent().eval(), example_inputs=[torch.zeros(2, 3, 4)])
    with pytest.raises(UnsupportedModelError) as caught:
        products_of(program)
    assert len(caught.value.problems) == 2


def test_shapes_are_those_of_a_call_whatever_batch_was_traced(mixed: Program) -> None:
    """Imports of quantised networks note shapes of the batch that they were traced with."""
    program = load_program(Mixed().eval(), example_inputs=[torch.zeros(2, 4, 8, 8)])
    for node in program.nodes:
        if isinstance(node.meta.get("val"), torch.Tensor):
            node.meta["val"] = torch.empty((3, *node.meta["val"].shape[1:]), device="meta")
    assert [(sizes(one), one.shape) for one in products_of(program)] == [(sizes(one), one.shape) for one in products_of(mixed)]
