"""Products on a device that skip the rows of zero inputs: which rows are read, what comes out, in the same bits every time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.unit.lowering.cuda.on_host import ALWAYS, NEVER, computed, needs_host, with_zeros
from tests.unit.lowering.functions_of_torch import normal

pytestmark = needs_host
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# (depth, columns, rows): one of everything; columns that end inside of a load, of a tile; slices of k that are not full; most rows
SHAPES = ((1, 1, 1), (3, 17, 1), (300, 1, 2), (257, 1030, 1), (600, 520, 3), (1300, 65, 8))


class Layer(nn.Module):
    """Weights stored in a type, sums in float32."""

    def __init__(self, depth: int, columns: int, dtype: torch.dtype = torch.float32, whole: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(depth)
        values = (
            torch.randint(-8, 9, (columns, depth), generator=generator).float()
            if whole
            else torch.randn(columns, depth, generator=generator)
        )
        self.weight = nn.Parameter((values if whole else values / depth**0.5).to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.float())


class Side(nn.Module):
    """Layers side by side, each with an input of its own: one compilation for all."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        return [layer(x) for layer, x in zip(self.layers, inputs, strict=True)]


def near(got: np.ndarray, layer: nn.Module, x: Tensor) -> None:
    """Float32 sums of up to 1300 products, in any order, against sums in double precision."""
    with torch.no_grad():
        wanted = layer.double()(x.double()).numpy() if not isinstance(layer, Layer) else (x.double() @ layer.weight.double().T).numpy()
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6 * max(1e-30, float(np.abs(wanted).max())))


@pytest.mark.parametrize("first", [0, *(pytest.param(number, marks=pytest.mark.slow) for number in (1, 2))])
def test_products_of_any_size(first: int) -> None:
    """With weights of every type in turn: of any two neighbouring shapes each meets another one in each run."""
    layers = [Layer(depth, columns, DTYPES[(first + at) % 3]) for at, (depth, columns, _) in enumerate(SHAPES)]
    inputs = [normal(rows, depth) for depth, _, rows in SHAPES]
    sets = [[with_zeros(x, density) for x in inputs] for density in (0.0, 0.3, 1.0)]
    result = computed(Side(layers), *sets)
    assert set(result.families) == {"skipping"}
    for given, outputs in zip(sets, result.outputs, strict=True):
        for layer, x, got in zip(layers, given, outputs, strict=True):
            near(got, layer, x)
    assert all((got == 0).all() for got in result.outputs[0])


def test_whole_numbers_are_summed_exactly() -> None:
    """Each listed row is added once, with its own input: a wrong or missing index would change a sum of integers."""
    shapes = ((1, 40, 1), (33, 9, 2), (512, 260, 1), (1000, 130, 4), (2049, 300, 1))
    layers = [Layer(depth, columns, torch.float16, whole=True) for depth, columns, _ in shapes]
    inputs = [torch.randint(-4, 5, (rows, depth), generator=torch.Generator().manual_seed(1)).float() for depth, _, rows in shapes]
    sets = [[with_zeros(x, density, seed) for x in inputs] for density, seed in ((0.05, 1), (0.5, 2), (1.0, 3))]
    result = computed(Side(layers), *sets)
    for given, outputs in zip(sets, result.outputs, strict=True):
        for layer, x, got in zip(layers, given, outputs, strict=True):
            np.testing.assert_array_equal(got, (x @ layer.weight.float().T).detach().numpy())


@pytest.mark.parametrize("dtype", [pytest.param(one, marks=[] if one == torch.float16 else pytest.mark.slow) for one in DTYPES], ids=str)
def test_rows_of_zeros_are_not_read(dtype: torch.dtype) -> None:
    """Weights that would make NaN of any sum they enter stand in the rows whose inputs are zero, of either sign."""
    layer, x = Layer(700, 270, dtype), with_zeros(normal(2, 700), 0.2)
    x[:, 5] = -0.0
    empty = (x == 0).all(0)
    clean = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight[:, empty] = torch.nan
    ((got,),) = computed(layer, [x]).outputs
    assert np.isfinite(got).all()
    wanted = (x.double()[:, ~empty] @ clean.double()[:, ~empty].T).numpy()
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6 * float(np.abs(wanted).max()))


def test_nan_and_infinity() -> None:
    """NaN is not zero; a zero in one row of several meets the weights of the others' places, as in a full product."""
    layer = Layer(40, 24, whole=True)
    with torch.no_grad():
        layer.weight[3, 7] = math.inf
    nan, infinite, several = torch.zeros(2, 40), torch.zeros(2, 40), torch.zeros(2, 40)
    nan[0, 4], infinite[1, 9], several[0, 7] = math.nan, -math.inf, 2.0
    ((of_nan,), (of_infinite,), (of_several,)) = computed(layer, [nan], [infinite], [several]).outputs
    assert np.isnan(of_nan[0]).all()
    assert (of_nan[1] == 0).sum() >= 23
    column = layer.weight.detach()[:, 9].numpy()
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(of_infinite[1], column * -np.inf)
    assert of_several[0, 3] == math.inf
    assert math.isnan(of_several[1, 3])  # 0 * inf, because row 0 needs the weight


def test_what_is_fused_behind_a_product() -> None:
    """Biases, bounds, activations and residuals: in the first launch where there is one slice, else in the last."""

    class Block(nn.Module):
        def __init__(self, depth: int) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(depth, 70)
            for name, value in (("threshold", 0.6), ("lower", -0.5), ("upper", 0.75)):
                self.register_buffer(name, torch.tensor(value))

        def forward(self, x: Tensor, residual: Tensor) -> Tensor:
            x = torch.ops.effc.sparsify(x, self.threshold, "magnitude")
            y = torch.ops.effc.bound(self.layer(x), self.lower, self.upper, "clamp")
            return residual + torch.relu(y)

    for depth in (90, 900):
        block, x, residual = Block(depth), normal(2, depth), normal(2, 70, seed=1)
        result = computed(block, [x, residual])
        assert result.families == ["generic", "skipping"]  # the threshold, and all of the rest
        wanted = block(x, residual).detach().numpy()
        np.testing.assert_allclose(result.outputs[0][0], wanted, rtol=0, atol=2e-6)


def test_all_rows_where_that_is_predicted_to_be_faster_and_the_plan_says_so() -> None:
    layer, x = Layer(600, 140, torch.bfloat16), normal(3, 600)
    result = computed(layer, [x], rates=NEVER)
    assert result.families == ["streaming"]
    assert "density 50% (88% for 3 inputs at once): skipping" in result.notes[0]
    near(result.outputs[0][0], layer, x)


@pytest.mark.slow
def test_both_kernels_give_the_same_bits_where_no_input_is_zero() -> None:
    layer, x = Layer(1000, 300), normal(1, 1000)
    skipping, streaming = (computed(layer, [x], rates=rates) for rates in (ALWAYS, NEVER))
    assert (skipping.families, streaming.families) == (["skipping"], ["streaming"])
    assert skipping.outputs[0][0].tobytes() == streaming.outputs[0][0].tobytes()


def test_more_rows_than_registers_are_left_to_others() -> None:
    layer, x = Layer(64, 64), normal(9, 64)
    result = computed(layer, [x])
    assert not {"skipping", "streaming", "masked"} & set(result.families)
    near(result.outputs[0][0], layer, x)
