"""Products on a device whose results are multiplied by a mask: only the others are computed, and their weights alone are read."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effc.targets import find_target
from tests.unit.lowering.cuda.on_host import NEVER, computed, needs_host, with_zeros
from tests.unit.lowering.functions_of_torch import normal

pytestmark = needs_host


class Masked(nn.Module):
    """A product multiplied by a mask that is given."""

    def __init__(self, depth: int, columns: int, dtype: torch.dtype = torch.float32, activation: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(depth)
        self.weight = nn.Parameter((torch.randn(columns, depth, generator=generator) / depth**0.5).to(dtype))
        self.bias = nn.Parameter(torch.randn(columns, generator=generator))
        self.activation = activation

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = torch.sigmoid(x) if self.activation else x
        return nn.functional.linear(x, self.weight.float(), self.bias) * mask


# (depth, columns, rows, type): loads that the rows of weights do not fill, lanes without a load, columns that do not fill a block
CASES = (
    (1, 1, 1, torch.float32),
    (37, 45, 2, torch.float32),
    (640, 33, 1, torch.float16),
    (1100, 70, 3, torch.bfloat16),
    (264, 100, 8, torch.float32),
)


class Side(nn.Module):
    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        return [layer(*inputs[2 * at : 2 * at + 2]) for at, layer in enumerate(self.layers)]


@pytest.mark.parametrize("activation", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["as it lies", "computed"])
def test_products_of_any_size(activation: bool) -> None:
    layers = [Masked(depth, columns, dtype, activation) for depth, columns, _, dtype in CASES]
    plain = [x for depth, columns, rows, _ in CASES for x in (normal(rows, depth), normal(rows, columns, seed=1))]
    sets = [[x if at % 2 == 0 else with_zeros(x, density) for at, x in enumerate(plain)] for density in (0.0, 0.3, 1.0)]
    result = computed(Side(layers), *sets)  # type: ignore[arg-type]
    assert [family for family in result.families if family != "generic"] == ["masked"] * len(CASES)
    for given, outputs in zip(sets, result.outputs, strict=True):
        for at, (layer, got) in enumerate(zip(layers, outputs, strict=True)):
            x, mask = given[2 * at].double(), given[2 * at + 1].double()
            x = torch.sigmoid(x) if activation else x
            wanted = ((x @ layer.weight.double().T + layer.bias.double()) * mask).detach().numpy()
            np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6 * max(1e-30, float(np.abs(wanted).max())))


@pytest.mark.parametrize(
    "dtype", [torch.float16, *(pytest.param(one, marks=pytest.mark.slow) for one in (torch.float32, torch.bfloat16))], ids=str
)
def test_weights_of_masked_results_are_not_read(dtype: torch.dtype) -> None:
    """Weights that make NaN of any sum stand where the mask is zero, of either sign: those results are zero."""
    layer, x, mask = Masked(96, 130, dtype), normal(2, 96), with_zeros(normal(2, 130, seed=1), 0.2)
    mask[:, 3] = -0.0
    empty = (mask == 0).all(0)
    with torch.no_grad():
        layer.weight[empty] = torch.nan
    ((got,),) = computed(layer, [x, mask]).outputs
    assert (got[:, empty.numpy()] == 0).all()
    wanted = ((x.double() @ layer.weight.double().T + layer.bias.double()) * mask.double()).detach().numpy()[:, ~empty.numpy()]
    np.testing.assert_allclose(got[:, ~empty.numpy()], wanted, rtol=0, atol=2e-6 * float(np.abs(wanted).max()))


def test_nan_in_the_mask_is_not_zero() -> None:
    layer, x, mask = Masked(16, 8), normal(1, 16), torch.zeros(1, 8)
    mask[0, 2], mask[0, 5] = math.nan, math.inf
    ((got,),) = computed(layer, [x, mask]).outputs
    assert math.isnan(got[0, 2])
    assert math.isinf(got[0, 5])
    assert (np.delete(got[0], [2, 5]) == 0).all()


def test_all_weights_where_that_is_predicted_to_be_faster() -> None:
    layer, x, mask = Masked(64, 40), normal(1, 64), normal(1, 40, seed=1)
    result = computed(layer, [x, mask], rates=NEVER)
    assert result.families == ["streaming"]
    assert "of its mask, density 50%" in result.notes[0]
    wanted = layer(x, mask).detach().numpy()
    np.testing.assert_allclose(result.outputs[0][0], wanted, rtol=0, atol=2e-6 * float(np.abs(wanted).max()))


class Gated(nn.Module):
    """The feed-forward part of a language model: a gate of which few are kept, what they multiply, and the way back."""

    def __init__(self, width: int, inner: int, k: int, dtype: torch.dtype) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)

        def weights(*shape: int) -> nn.Parameter:
            return nn.Parameter((torch.randn(*shape, generator=generator) / shape[-1] ** 0.5).to(dtype))

        self.k, self.gate, self.up, self.down = k, weights(inner, width), weights(inner, width), weights(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.nn.functional.silu(nn.functional.linear(x, self.gate.float()))
        return nn.functional.linear(torch.ops.effc.keep_top_k(gate, self.k) * nn.functional.linear(x, self.up.float()), self.down.float())


@pytest.mark.parametrize(
    ("width", "inner", "k", "rows", "dtype"),
    [
        (40, 100, 9, 1, torch.float32),
        pytest.param(136, 513, 60, 2, torch.float16, marks=pytest.mark.slow),
        pytest.param(70, 300, 30, 1, torch.bfloat16, marks=pytest.mark.slow),
    ],
)
def test_a_gated_part_is_four_kernels_that_give_what_torch_gives(width: int, inner: int, k: int, rows: int, dtype: torch.dtype) -> None:
    """The gate decides which results of `up` are computed, and they which rows of `down` are read."""
    module, x = Gated(width, inner, k, dtype), normal(rows, width)
    result = computed(module, [x], density=0.1, target=find_target("cuda:sm_80"))
    assert result.families[1:] == ["rows", "masked", "skipping"]
    wanted = module(x).detach().numpy()
    np.testing.assert_allclose(result.outputs[0][0], wanted, rtol=0, atol=5e-6 * float(np.abs(wanted).max()))
