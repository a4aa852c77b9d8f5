"""Convolutions and matrix products in tiles: the numbers of torch for every shape, however it meets tiles, vectors, edges and groups."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from effc.ir import Batch, Program, Provenance
from effc.lowering import Lowered, lower, run_lowered
from effc.lowering.kernels.packing import Packed
from effc.lowering.kernels.products import pieces
from effc.lowering.kernels.tiles import candidates, choose, split
from effc.lowering.parameters import ParameterSource
from effc.targets import Target, find_target

NARROW = find_target("x86-64-v3")
TARGETS = [find_target("cpu"), *([NARROW] if NARROW.runs_here else [])]


class Several(nn.Module):
    """Layers side by side, each with an input of its own: one compilation for all."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        return [layer(x) for layer, x in zip(self.layers, inputs, strict=True)]


def check(layers: Sequence[nn.Module], inputs: Sequence[Tensor], target: Target, tolerance: float = 1e-5) -> Lowered:
    """Compiled layers give what torch gives, to `tolerance` of the largest magnitude; returns the code."""
    net = Several(layers).eval()
    exported = torch.export.export(net, (*inputs,))
    program = Program.from_exported(exported, Provenance("net", "torch", "0"), batch=Batch(False))
    lowered = lower(program, replace(target, runs_here=True))
    arrays = {value.name: x.numpy() for value, x in zip(program.interface.inputs, inputs, strict=True)}
    outputs = run_lowered(lowered, program, arrays)
    with torch.no_grad():
        expected = net.double()(*(x.double() for x in inputs))
    for (name, value), wanted in zip(outputs.items(), expected, strict=True):
        largest = max(1e-30, float(wanted.abs().max()))
        np.testing.assert_allclose(value, wanted.numpy(), rtol=0, atol=tolerance * largest, err_msg=name)
    return lowered


def families(lowered: Lowered) -> list[str]:
    assert lowered.plan is not None
    return [step.family for step in lowered.plan.steps if step.macs]


def image(batch: int, channels: int, *sizes: int) -> Tensor:
    return torch.randn(batch, channels, *sizes, generator=torch.Generator().manual_seed(0))


CONVOLUTIONS = [
    # batch, channels, sizes, features, window, stride, padding, dilation, groups
    (1, 1, (1, 1), 1, 1, 1, 0, 1, 1),
    (1, 3, (17, 31), 64, 7, 2, 3, 1, 1),
    (2, 17, (13, 11), 33, 3, 2, 1, 1, 1),
    (1, 5, (12, 15), 48, 3, 1, 2, 2, 1),
    (1, 8, (29, 29), 15, 3, 1, 1, 1, 1),
    (1, 16, (7, 57), 70, 3, 1, 1, 1, 1),
    (3, 32, (7, 7), 96, 3, 1, 1, 1, 2),
    (1, 12, (9, 9), 18, 3, 3, 0, 1, 3),
    (1, 24, (5, 6), 40, 1, 1, 0, 1, 1),
    (1, 40, (14, 14), 24, 1, 2, 0, 1, 1),
    (2, 8, (3, 3), 16, 5, 1, 4, 1, 1),
    (1, 4, (40, 2), 31, (5, 1), (2, 1), (4, 0), (3, 1), 1),
    (1, 64, (28, 28), 64, 3, 1, 1, 1, 1),
    (2, 5, (9, 9), 20, 3, 2, 4, 4, 1),  # TVM divides what may be negative wrongly
    (5, 5, (13, 7), 20, 3, 2, 4, 4, 1),
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_convolutions_of_every_kind(target: Target) -> None:
    layers, inputs = [], []
    torch.manual_seed(0)
    for batch, channels, sizes, features, window, stride, padding, dilation, groups in CONVOLUTIONS:
        layers.append(nn.Conv2d(channels, features, window, stride, padding, dilation, groups))
        inputs.append(image(batch, channels, *sizes))
    assert set(families(check(layers, inputs, target))) <= {"conv", "winograd", "depthwise"}


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_other_numbers_of_axes(target: Target) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv1d(7, 20, 5, 2, 3), nn.Conv1d(16, 16, 3, padding=2, dilation=2), nn.Conv3d(3, 19, (3, 1, 3), (1, 2, 1), (2, 0, 1))]
    check(layers, [image(2, 7, 33), image(1, 16, 50), image(1, 3, 5, 6, 7)], target)


def test_what_is_fused_behind() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(20, 20, 3, padding=1, bias=False), nn.Conv2d(20, 20, 1)
            self.norm = nn.BatchNorm2d(20)
            self.norm.running_mean = torch.linspace(-1, 1, 20)
            self.norm.running_var = torch.linspace(0.5, 2, 20)

        def forward(self, x: Tensor) -> Tensor:
            y = nn.functional.hardswish(self.norm(self.first(x)))
            return torch.clamp(self.second(y) + x, -0.5, 3.0)

    torch.manual_seed(0)
    lowered = check([Block()], [image(2, 20, 9, 10)], TARGETS[0])
    assert lowered.plan is not None
    assert len(lowered.plan.steps) == 4  # to channels last, two convolutions with all that follows them, and back


def test_unequal_padding_is_the_convolutions_own() -> None:
    torch.manual_seed(0)
    lowered = check([nn.Sequential(nn.ZeroPad2d((0, 1, 2, 3)), nn.Conv2d(6, 16, 3, 2))], [image(1, 6, 8, 8)], TARGETS[0])
    assert lowered.plan is not None
    assert sum("pad" in operator for step in lowered.plan.steps for operator in step.ops) == 0


PRODUCTS = [(1, 17, 1000), (3, 5, 7), (5, 3, 1), (17, 33, 40), (197, 24, 48), (14, 64, 32), (15, 65, 33), (2, 1, 100), (128, 40, 129)]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_linear_layers(target: Target) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(inner, columns) for _, inner, columns in PRODUCTS]
    lowered = check(layers, [image(rows, inner) for rows, inner, _ in PRODUCTS], target)
    assert families(lowered) == ["matmul"] * len(PRODUCTS)


class Product(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_products_of_computed_operands(target: Target) -> None:
    layers = [
        Product(lambda x: x @ x.transpose(-1, -2)),
        Product(lambda x: torch.relu(x.transpose(-1, -2) @ (x * 2)) + 1),
        Product(lambda x: (x[:, :1] * 1.5) @ x.transpose(-1, -2).contiguous()),
        Product(lambda x: x[:1] @ torch.tanh(x).mT),
    ]
    check(layers, [image(3, 19, 33), image(2, 3, 7, 32), image(2, 5, 20, 16), image(4, 30, 9)], target)


@settings(max_examples=8, deadline=None, derandomize=True, phases=[Phase.generate])  # a failing example is small enough, and slow to shrink
@given(st.data())
def test_random_convolutions(data: st.DataObject) -> None:
    number = st.integers(1, 9)
    layers, inputs = [], []
    torch.manual_seed(0)
    for _ in range(6):
        groups = data.draw(st.sampled_from([1, 1, 1, 2, 3]))
        channels, features = groups * data.draw(number), groups * data.draw(st.sampled_from([1, 2, 3, 8, 15, 16, 17, 31, 33, 48]))
        window, dilation = (data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))), data.draw(st.integers(1, 3))
        padding = (data.draw(st.integers(0, 3)), data.draw(st.integers(0, 3)))
        least = [max(1, (k - 1) * dilation + 1 - 2 * p) for k, p in zip(window, padding, strict=True)]
        sizes = [low + data.draw(st.sampled_from([0, 1, 2, 12, 13, 14, 27])) for low in least]
        stride = (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)))
        layers.append(nn.Conv2d(channels, features, window, stride, padding, dilation, groups))
        inputs.append(image(data.draw(st.integers(1, 2)), channels, *sizes))
    check(layers, inputs, TARGETS[data.draw(st.integers(0, len(TARGETS) - 1))])


def test_runs_of_tiles_cover_every_position_once() -> None:
    for extent, rows in itertools.product(range(1, 60), range(1, 31)):
        runs = split(extent, rows)
        covered = [start + number * size + row for start, size, tiles in runs for number in range(tiles) for row in range(size)]
        assert covered == list(range(extent))
        assert max(size for _, size, _ in runs) <= rows


def test_tiles_fit_into_the_registers() -> None:
    for lanes, registers in ((16, 32), (8, 16), (4, 32)):
        for width, outputs in itertools.product((1, 7, 14, 56, 197), (1, 16, 64, 1000)):
            for tile in candidates(width, outputs, lanes, registers):
                assert tile.rows * tile.vectors + tile.vectors + 1 <= registers
            assert choose(width, outputs, 64, lanes, registers).rows <= width


@pytest.mark.parametrize("width", range(1, 40))
def test_pieces_are_powers_of_two(width: int) -> None:
    found = pieces(width)
    assert sum(size for _, size in found) == width
    assert all(size & (size - 1) == 0 for _, size in found)
    assert [first for first, _ in found] == [sum(size for _, size in found[:index]) for index in range(len(found))]


def unpacked(stored: np.ndarray[Any, Any], source: ParameterSource, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """The source tensor, put together from a packed one as the manifest describes it, element by element."""
    result = np.full(shape, np.nan, stored.dtype)
    cut = dict(source.blocks)
    for place in np.ndindex(shape):
        outer = [place[axis] // cut.get(axis, 1) for axis in source.permutation]
        result[place] = stored[(*outer, *(place[axis] % size for axis, size in source.blocks))]
    return result


def test_the_source_of_a_packed_tensor_says_where_each_element_is() -> None:
    weight = np.arange(5 * 3 * 2 * 4, dtype=np.float32).reshape(5, 3, 2, 4)
    packing = Packed((0, 1, 2, 3), ((0, 2),))
    stored = packing(weight)
    assert stored.shape == (3, 3, 2, 4, 2)
    assert not stored[2, ..., 1].any()  # the last block is filled up
    np.testing.assert_array_equal(unpacked(stored, packing.source(ParameterSource("w", "same")), weight.shape), weight)
    # on top of a transposition: channels last, then packed
    moved = packing.source(ParameterSource("w", "permutation", (0, 2, 3, 1)))
    np.testing.assert_array_equal(unpacked(packing(weight.transpose(0, 2, 3, 1)), moved, weight.shape), weight)


def test_stored_weights_can_be_found_again() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(5, 20, 3, padding=1)
    lowered = check([layer], [image(1, 5, 6, 6)], TARGETS[0])
    (name,) = [name for name, source in lowered.sources.items() if source.kind == "packed"]
    source = lowered.sources[name]
    assert source.name == "layers.0.weight"
    weight = layer.float().weight.detach().numpy()
    np.testing.assert_array_equal(unpacked(lowered.parameters[name], source, weight.shape), weight)
