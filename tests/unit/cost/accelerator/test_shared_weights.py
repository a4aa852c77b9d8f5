"""Weights count as often as they are there: once for all of a batch that meets them, and once for all layers that share them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from effc.compiler.accelerating import model_program
from effc.compiler.accelerator_counts import count_program
from effc.cost import node_cost
from effc.cost.accelerator import Accelerator, find_accelerator
from effc.cost.accelerator.description import Sram
from effc.cost.accelerator.event_driven import count_events
from effc.cost.accelerator.layers import products_of
from effc.cost.accelerator.layout import Part, laid_out, weights_stay
from effc.cost.accelerator.memory import residence, stored_weights
from effc.cost.accelerator.naming import stored_as
from effc.cost.accelerator.product import Product
from effc.data import Dataset
from effc.frontends import load_program
from effc.ir import Program

ARRAY = find_accelerator("event-driven").model_copy(update={"rows": 3, "columns": 2})


class Times(nn.Module):
    """A stored tensor on one side of a product, the input on the other."""

    def __init__(self, weights: tuple[int, ...], *, before: bool) -> None:
        super().__init__()
        self.weight, self.before = nn.Parameter(torch.ones(weights)), before

    def forward(self, x: Tensor) -> Tensor:
        return self.weight @ x if self.before else x @ self.weight


def times(weights: tuple[int, ...], inputs: tuple[int, ...], *, before: bool) -> tuple[Program, Product]:
    program = load_program(Times(weights, before=before).eval(), example_inputs=(torch.zeros(2, *inputs),))
    (product,) = products_of(program)
    return program, product


CASES = [
    # weights, inputs of a sample, groups, rows, columns
    ((9, 7), (4, 6, 9), False, (1, 24, 7)),
    ((7, 9), (4, 9, 6), True, (1, 24, 7)),
    ((4, 7, 9), (4, 9, 6), True, (4, 6, 7)),
    ((4, 9, 7), (3, 4, 6, 9), False, (4, 18, 7)),
    ((4, 7, 9), (3, 4, 9, 6), True, (4, 18, 7)),
    ((3, 1, 9, 7), (3, 4, 6, 9), False, (3, 24, 7)),
    ((3, 1, 7, 9), (1, 4, 9, 6), True, (3, 24, 7)),  # inputs that three matrices share
    ((9,), (4, 6, 9), False, (1, 24, 1)),
    ((9,), (4, 9, 6), True, (1, 24, 1)),
]


@pytest.mark.parametrize(("weights", "inputs", "before", "sizes"), CASES)
def test_a_batch_meets_the_same_weights(
    weights: tuple[int, ...], inputs: tuple[int, ...], before: bool, sizes: tuple[int, int, int]
) -> None:
    program, product = times(weights, inputs, before=before)
    assert (product.groups, product.rows, product.columns, product.depth) == (*sizes, 9)
    assert product.weights == math.prod(weights)
    assert product.by_column == before and product.stored
    (node,) = (node for node in program.nodes if node.name == product.node)
    assert product.results == math.prod(int(size) for size in node.meta["val"].shape[1:])
    if len(weights) > 1:
        assert product.macs == node_cost(node).macs
    # every event meets all weights that it is multiplied by, told by the product itself
    active = torch.rand((5, *product.shape), generator=torch.Generator().manual_seed(len(inputs))) < 0.3
    ones = torch.ones(weights)
    found = [ones @ one.float() if before else one.float() @ ones for one in active]
    events = count_events(product, active, ARRAY)
    assert events.macs == pytest.approx(sum(float(one.sum()) for one in found) / 5)
    assert events.touched == pytest.approx(sum(int((one > 0).sum()) for one in found) / 5)


def test_rows_that_meet_other_weights_are_told_apart() -> None:
    """Which group and row an input has: a core's cycles are those of the units that it owns."""
    _, product = times((2, 9, 7), (3, 2, 6, 9), before=False)
    active = torch.zeros((1, *product.shape), dtype=torch.bool)
    active[0, 0, 1, 1, 4] = True  # row 1 * 6 + 4 of group 1, all 9 of its inputs
    chunks, places = 4, 18
    units = [(1 * chunks + chunk) * (places + (places % ARRAY.rows == 0)) + 10 for chunk in range(chunks)]
    busiest = max(sum(9 for unit in units if unit % ARRAY.rows == core) for core in range(ARRAY.rows))
    assert count_events(product, active, ARRAY).cycles == busiest


def test_neighbouring_heads_share_a_key() -> None:
    class Grouped(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    inputs = [torch.zeros(2, 4, 5, 8), torch.zeros(2, 2, 6, 8), torch.zeros(2, 2, 6, 3)]
    program = load_program(Grouped().eval(), example_inputs=inputs)
    first, second = products_of(program)
    assert (first.groups, first.rows, first.depth, first.columns) == (2, 10, 8, 6)
    assert (second.groups, second.rows, second.depth, second.columns) == (2, 10, 6, 3)
    assert (first.weights, second.weights, second.results) == (2 * 6 * 8, 2 * 6 * 3, 4 * 5 * 3)


class Tied(nn.Module):
    """A layer that is called twice, another layer, and products with the first one's weights, turned, and with a part of them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.one(self.one(x))) @ self.one.weight.t() @ self.one.weight[:, :3]


@pytest.fixture(scope="module")
def tied() -> Program:
    return load_program(Tied().eval(), example_inputs=(torch.zeros(2, 6),))


def machine(name: str, weights: int) -> Accelerator:
    return find_accelerator(name).model_copy(update={"sram": Sram(activations=1 << 20, weights=weights, outputs=1 << 20)})


def test_shared_weights_stay_once(tied: Program) -> None:
    products = products_of(tied)
    assert [one.weights for one in products] == [36, 36, 36, 36, 18]
    first, again, other, turned, part = (one.tensor for one in products)
    assert first == again == turned and len({first, other, part}) == 3
    assert stored_weights(products) == 36 + 36 + 18
    room = stored_weights(products)
    assert residence(products, machine("event-driven", room)).weights
    assert not residence(products, machine("event-driven", room - 1)).weights
    assert stored_weights([replace(one, tensor=None) for one in products]) == sum(one.weights for one in products)


@pytest.mark.parametrize("name", ["event-driven", "systolic-32x32"])
def test_shared_weights_come_from_outside_for_each_layer_or_for_none(name: str) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.layer(self.layer(x))
            return result

    program = load_program(Twice().eval(), example_inputs=(torch.zeros(2, 6),))
    there = [one.costs["dense"].dram_bytes for one in model_program(program, machine(name, 36)).layers]
    away = [one.costs["dense"].dram_bytes for one in model_program(program, machine(name, 35)).layers]
    assert there == [6, 6], "the input and the result"
    assert away == [6 + 36, 6 + 36]


def test_words_of_weights() -> None:
    """Views of all of a tensor are that tensor, whatever made them; other values that the program makes of it are others."""

    class Made(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.scale = nn.Parameter(torch.ones(4, 6)), nn.Parameter(torch.ones(4, 1))

        def forward(self, x: Tensor) -> Tensor:
            views = x @ self.weight.t() + x @ self.weight.reshape(2, 2, 6).permute(2, 0, 1).flatten(1)
            made = nn.functional.linear(x, self.weight * self.scale) + x @ (self.weight * self.scale).t()
            return views + made + nn.functional.linear(x, self.weight + self.scale)

    program = load_program(Made().eval(), example_inputs=(torch.zeros(2, 6),))
    one, other, made, turned, added = (product.tensor for product in products_of(program))
    assert one == other == next(name for name, user in program.tensor_names.items() if user == "weight")
    assert made == turned and len({one, made, added}) == 3
    linear = next(node for node in program.nodes if str(node.target) == "aten.linear.default")
    assert stored_as(linear.all_input_nodes[1]) == made, "the word that campaigns ask for"


def test_what_is_shared_has_one_place() -> None:
    found = laid_out([3, 5, 3, 2], 10, stay=True, names=["a", "b", "a", "c"])
    assert found.words == 10
    assert found.tensors == ((Part(0, 0, 3),), (Part(3, 0, 5),), (Part(0, 0, 3),), (Part(8, 0, 2),))
    assert laid_out([3, 3], 8, stay=False, names=["a", "a"]) == laid_out([3, 3], 8, stay=False), "what goes comes anew"
    assert weights_stay(10, machine("event-driven", 10)) and not weights_stay(11, machine("event-driven", 10))


def test_counts_on_data_of_a_batch_of_columns() -> None:
    program, product = times((7, 9), (4, 9, 6), before=True)
    frames = (torch.rand((3, 4, 9, 6), generator=torch.Generator().manual_seed(0)) < 0.25).float()
    (counts,) = count_program(program, ARRAY, Dataset({program.interface.inputs[0].name: frames.numpy()})).layers
    assert counts.single["zeros"].macs == pytest.approx(float(frames.sum()) * 7 / 3)
    assert product.macs == 4 * 7 * 9 * 6
