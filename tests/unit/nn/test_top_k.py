"""`TopK` and `StatisticalTopK`: counts on known distributions, calibration, the smoothed threshold, export."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from effc.errors import ConfigError, DataError
from effc.frontends.torch import load_module
from effc.nn import StatisticalTopK, TopK


def kept(x: Tensor) -> Tensor:
    """Elements over zero of each row."""
    return (x > 0).sum(-1).double()


# ---- TopK ----------------------------------------------------------------------------------------------------------------------


def test_the_k_largest_of_each_row_stay_as_a_count_and_as_a_share() -> None:
    x = torch.tensor([[3.0, -1.0, 2.0, 5.0], [-4.0, -2.0, -3.0, -1.0]], requires_grad=True)
    expected = torch.tensor([[3.0, 0.0, 0.0, 5.0], [0.0, -2.0, 0.0, -1.0]])
    for layer in (TopK(2), TopK(0.5), TopK(0.4)):  # 1.6 rounds to 2
        assert torch.equal(layer(x), expected)
    assert torch.equal(TopK(1.0)(x), x)
    assert TopK(1)(x).count_nonzero() == 2  # a count of 1, no share
    assert TopK(1e-9).count(4) == 1
    TopK(2)(x).sum().backward()
    assert torch.equal(x.grad, (expected != 0).float())


@pytest.mark.parametrize("k", [0, -1, 0.0, 1.5, True, math.nan])
def test_what_is_neither_count_nor_share_is_refused(k: float) -> None:
    with pytest.raises(ConfigError, match="TopK: k is"):
        TopK(k)


def test_a_count_over_the_row_is_refused_when_called() -> None:
    with pytest.raises(ValueError, match="from 1 to the length of a row, 4"):
        TopK(5)(torch.ones(2, 4))


# ---- StatisticalTopK: how many stay --------------------------------------------------------------------------------------------

D, K, ROWS = 13824, 1106, 128
# Elements of d = 13824 over mean + Q(1 - 1106 / 13824) deviations: 1106 by construction for Gaussian ones.
LAWS = {
    "gaussian": (stats.norm.rvs, stats.norm.sf, 1.0),
    "laplace": (stats.laplace.rvs, stats.laplace.sf, math.sqrt(2)),
    "student5": (lambda **options: stats.t.rvs(5, **options), lambda t: stats.t.sf(t, 5), math.sqrt(5 / 3)),
    "cubed": (lambda **options: stats.norm.rvs(**options) ** 3, lambda t: stats.norm.sf(t ** (1 / 3)), math.sqrt(15)),
}
REPORTED = {"gaussian": 1104, "laplace": 950, "student5": 896, "cubed": 543}


def rows(law: str, d: int = D, count: int = ROWS) -> Tensor:
    return torch.from_numpy(LAWS[law][0](size=(count, d), random_state=7)).float() * 3 + 5  # neither mean nor scale may matter


@pytest.mark.parametrize("law", LAWS)
def test_counts_are_those_of_the_distribution(law: str) -> None:
    """Right for Gaussian rows, short for heavy tails, as the tail probability at the same number of deviations says."""
    layer = StatisticalTopK(K / D)
    counts = kept(layer(rows(law)))
    _, over, deviation = LAWS[law]
    expected = D * over(layer.deviations * deviation)
    assert counts.mean().item() == pytest.approx(expected, rel=0.015)
    assert counts.mean().item() == pytest.approx(REPORTED[law], rel=0.015)
    if law == "gaussian":
        assert expected == pytest.approx(K, abs=1e-6)
        assert 10 < counts.std().item() < 40


def test_short_rows_scatter_and_heavy_tails_fall_short() -> None:
    layer = StatisticalTopK(32 / 256)
    gaussian, heavy = kept(layer(rows("gaussian", 256, 2000))), kept(layer(rows("cubed", 256, 2000)))
    assert gaussian.mean().item() == pytest.approx(32, abs=0.5)
    assert gaussian.std().item() == pytest.approx(3, abs=1)
    assert heavy.mean().item() < 26


@pytest.mark.parametrize("law", LAWS)
def test_fit_finds_the_deviations_of_other_distributions(law: str) -> None:
    x = rows(law)
    layer = StatisticalTopK(K / D)
    gaussian = layer.deviations
    assert layer.fit(x[: ROWS // 2]) == layer.deviations
    assert kept(layer(x[: ROWS // 2])).mean().item() == pytest.approx(K, abs=0.1)  # on the rows it was given
    assert kept(layer(x[ROWS // 2 :])).mean().item() == pytest.approx(K, rel=0.02)  # on fresh ones
    assert (layer.deviations == pytest.approx(gaussian, abs=0.01)) == (law == "gaussian")


def test_fit_leaves_constant_rows_out_and_refuses_what_has_no_quantile() -> None:
    layer = StatisticalTopK(0.25)
    row = torch.tensor([[0.0, 1.0, 2.0, 30.0]])
    alone = layer.fit(row)
    assert layer.fit(torch.cat([row, torch.full((3, 4), 7.0)])) == alone
    assert torch.equal(kept(layer(row)), torch.tensor([1.0]).double())
    for bad in (torch.ones(3, 4), torch.tensor([[1.0, math.nan]]), torch.ones(2, 3, dtype=torch.int64), torch.empty(0, 4)):
        with pytest.raises(DataError, match=r"StatisticalTopK\.fit"):
            layer.fit(bad)
    assert layer.deviations == alone


def test_a_fit_is_saved_with_the_weights() -> None:
    source, target = nn.Sequential(StatisticalTopK(0.1)), nn.Sequential(StatisticalTopK(0.1))
    source[0].deviations = 2.125
    target.load_state_dict(source.state_dict())
    assert target[0].deviations == 2.125


# ---- StatisticalTopK: the smoothed threshold -----------------------------------------------------------------------------------


def test_the_smoothed_form_is_huber_s_in_units_of_the_row_s_deviation() -> None:
    """A row of mean 0 and deviation 2, theta = 0 (a share of one half): delta = 0.75 * 2 = 1.5."""
    layer = StatisticalTopK(0.5, smoothing=0.75)
    assert layer.deviations == 0.0
    x = torch.tensor([[-3.0, -1.0, -1.0, 1.0, 1.0, 3.0, -math.sqrt(3), math.sqrt(3)]]).double()
    x = x * 2 / x.std(correction=0)
    one, three, root = x[0, 3].item(), x[0, 5].item(), x[0, 7].item()
    expected = [0, 0, 0, one**2 / 3, one**2 / 3, three - 0.75, 0, root - 0.75]
    assert one < 1.5 < root
    assert layer(x)[0].tolist() == pytest.approx(expected, abs=1e-12)
    assert layer.eval()(x)[0].tolist() == pytest.approx([0, 0, 0, one, one, three, 0, root], abs=1e-12)


def test_the_smoothed_form_has_a_continuous_gradient_and_none_of_constant_rows() -> None:
    generator = torch.Generator().manual_seed(1)
    layer = StatisticalTopK(0.3, smoothing=0.5)
    x = torch.randn(3, 12, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))
    constant = torch.full((2, 5), 0.5, requires_grad=True)
    layer(constant).sum().backward()
    assert torch.equal(constant.grad, torch.zeros(2, 5))
    nearly = StatisticalTopK(0.3, smoothing=1e-9)
    exact = nearly.eval()(x)
    assert torch.allclose(nearly.train()(x), exact, atol=1e-8)


@pytest.mark.parametrize("arguments", [{"share": 0.0}, {"share": 1.0}, {"share": 0.1, "smoothing": -1.0}, {"share": 0.1, "form": "sharp"}])
def test_arguments_out_of_range_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="StatisticalTopK"):
        StatisticalTopK(**arguments)


def test_only_the_soft_form_can_be_smoothed() -> None:
    with pytest.raises(ConfigError, match="no smoothed threshold"):
        StatisticalTopK(0.1, smoothing=0.5, form="mask")


# ---- export --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "op"),
    [
        (TopK(3), "keep_top_k"),
        (TopK(0.25), "keep_top_k"),
        (StatisticalTopK(0.2, smoothing=0.3), "statistical_top_k"),
        (StatisticalTopK(0.2, form="hard"), "statistical_top_k"),
        (StatisticalTopK(0.2, form="mask"), "statistical_top_k"),
    ],
)
def test_a_program_of_the_layer_is_one_effc_op(layer: nn.Module, op: str) -> None:
    generator = torch.Generator().manual_seed(2)
    program = load_module(layer.train(), (torch.randn(2, 5, 16, generator=generator),))
    assert program.interface.batch.symbolic, program.interface.batch.reason
    assert [node.target for node in program.nodes] == [getattr(torch.ops.effc, op).default]
    x = torch.randn(4, 5, 16, generator=generator)
    assert torch.equal(program.run({program.interface.inputs[0].name: x})["output"], layer.eval()(x))
