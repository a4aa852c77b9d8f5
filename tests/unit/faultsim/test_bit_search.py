"""Progressive bit search: gradients of bits by hand, the worst flip against an exhaustive search, and chosen flips against random ones."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effc.data import Dataset
from effc.errors import ConfigError, DataError
from effc.faultsim.bit_gradient import bit_gains, flipped, largest, offers
from effc.faultsim.bit_search import SearchSpec, search
from effc.faultsim.formats import view_named
from effc.faultsim.labelled import Labelled, Loss
from effc.faultsim.random_flips import random_flips
from effc.faultsim.weights_in_view import Place, WeightsInView
from effc.frontends import load_program
from effc.ir import Program

EXAMPLES = Path(__file__).parents[3] / "examples"


def two_layers(seed: int) -> tuple[Program, Dataset]:
    torch.manual_seed(seed)
    program = load_program(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), example_inputs=[torch.zeros(3, 4)])
    generator = np.random.default_rng(seed)
    return program, Dataset({"input": generator.normal(size=(16, 4)).astype(np.float32)}, generator.integers(0, 3, 16))


def bytes_of(program: Program) -> list[bytes]:
    return [tensor.detach().numpy().tobytes() for tensor in program.tensors.values()]


@pytest.fixture(scope="module")
def digits() -> tuple[Program, Dataset, Dataset]:
    program = load_program(EXAMPLES / "digits.onnx", check_import=False)
    attack, held_out = np.load(EXAMPLES / "digits_calibration.npz"), np.load(EXAMPLES / "digits_test.npz")
    return program, Dataset({"image": attack["x"][:128]}, attack["y"][:128]), Dataset({"image": held_out["x"]}, held_out["y"])


# ---- the gradient of a bit -----------------------------------------------------------------------------------------------------


def test_gains_of_int8_are_exact_differences_of_a_linear_loss() -> None:
    values = torch.tensor([-63.5, 1.5, 0.0, 20.0])  # scale 1/2: words -127, 3, 0, 40
    slope = torch.tensor([0.25, 2.0, -4.0, -1.0])
    view = view_named("int8").fitted(values)
    words = view.encode(values)
    gains = bit_gains(view, words, slope, range(8))
    for bit in range(8):
        for element in range(4):
            trial = words.clone()
            trial[element : element + 1] = flipped(view, trial[element : element + 1], bit)
            moved = (view.decode(trial).double() * slope.double()).sum() - (values.double() * slope.double()).sum()
            assert gains[element, bit] == moved
    # the paper's form: 2^i (the highest bit: -2^7) times the scale times dL/dw, and the direction in which the bit can go
    assert gains[1].tolist() == [-1, -2, 4, 8, 16, 32, 64, -128]
    assert gains[0, 7] == 128 * 0.5 * 0.25
    assert gains[2].tolist() == [-2, -4, -8, -16, -32, -64, -128, 256]


def test_gains_of_f32_where_values_stop_being_finite() -> None:
    values = torch.tensor([1.5, 1.0, 1.0, 0.5, 1.5, 2.0, 1.0])
    slope = torch.tensor([-1e-9, 1e-9, -1e-9, 1e-3, 0.0, 3.0, math.nan])
    view = view_named("f32")
    gains = bit_gains(view, view.encode(values), slope, [30, 31])
    huge = (0.5 * 2.0**128 - 0.5) * float(slope[3])
    assert gains[:, 0].tolist() == [math.inf, math.inf, -math.inf, huge, 0, -6, 0]  # NaN, Inf, Inf, 2^127, NaN without a slope, 0
    assert gains[5, 1] == -12 and gains[0, 1] == -3 * float(slope[0])


def test_offers_look_at_the_steepest_elements_and_rank_ties_by_place() -> None:
    assert largest(torch.tensor([1.0, 3.0, 2.0, 3.0, 2.0]), 3).tolist() == [1, 2, 3]
    values = torch.tensor([127.0, 1.0, 1.0, 1.0])
    view = view_named("int8").fitted(values)
    found = offers(view, view.encode(values), torch.tensor([0.5, 2.0, 2.0, 1.0]), [0, 1, 2], candidates=2)
    assert [(one.gain, one.element, one.bit) for one in found] == [(8, 1, 2), (8, 2, 2), (4, 1, 1), (4, 2, 1)]


def test_the_gradient_is_that_of_the_mean_cross_entropy() -> None:
    module = nn.Linear(2, 2, bias=False)
    module.weight.data = torch.tensor([[1.27, -0.5], [0.2, 0.9]])  # scale 0.01: int8 keeps these
    program = load_program(module, example_inputs=[torch.zeros(3, 2)])
    x, y = np.array([[1.0, 2.0], [-3.0, 0.5]], np.float32), np.array([0, 1])
    weights = WeightsInView(program, "int8")
    Labelled(program, Dataset({"input": x}, y)).backward(weights)
    scores = x.astype(np.float64) @ np.array([[1.27, 0.2], [-0.5, 0.9]])
    shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    np.testing.assert_allclose(weights.gradients()[0].numpy(), ((shares - np.eye(2)[y]).T @ x / 2).reshape(-1), rtol=1e-5)


# ---- losses that are not finite ------------------------------------------------------------------------------------------------


def test_a_nan_counts_as_an_infinite_loss_and_a_wrong_prediction() -> None:
    program = load_program(nn.Identity(), example_inputs=[torch.zeros(3, 2)])
    labelled = Labelled(program, Dataset({"input": np.array([[2, 0], [2, 0], [0, 2]], np.float32)}, np.array([0, 0, 0])))
    assert labelled.accuracy_of_program == pytest.approx(2 / 3)

    def network(inputs: Tensor) -> Tensor:
        return torch.tensor([[math.nan, 0.0], [math.inf, 0.0], [0.0, 1.0]])

    assert labelled.accuracy(network) == pytest.approx(1 / 3)  # an infinite score is still the largest one
    loss = labelled.loss(network)
    assert loss.infinite == 2 and loss.mean == pytest.approx(math.log1p(math.e)) and loss.value == math.inf
    assert Loss(2, 0.1) > Loss(1, 9.0) > Loss(0, 50.0)


# ---- the search ----------------------------------------------------------------------------------------------------------------


def loss_in_numpy(weights: list[Any], biases: list[Any], data: Dataset) -> float:
    hidden = np.maximum(data.inputs["input"].astype(np.float64) @ weights[0].T + biases[0], 0)
    scores = hidden @ weights[1].T + biases[1]
    assert data.labels is not None
    picked = scores[np.arange(len(scores)), data.labels]
    return float(np.mean(np.log(np.exp(scores).sum(1)) - picked))


@pytest.mark.parametrize("seed", range(5))
def test_the_first_flip_is_the_worst_of_all_or_nearly(seed: int) -> None:
    program, data = two_layers(seed)
    state = {name: program.tensors[key].detach().double().numpy() for key, name in program.tensor_names.items()}
    biases = [state["0.bias"], state["2.bias"]]
    scales = [np.abs(state[name]).max() / 127 for name in ("0.weight", "2.weight")]
    words = [np.rint(state[name] / scale).astype(np.int8) for name, scale in zip(("0.weight", "2.weight"), scales, strict=True)]
    losses = {}
    for layer in range(2):
        for index in np.ndindex(words[layer].shape):
            for bit in range(8):
                trial = [array.copy() for array in words]
                trial[layer].view(np.uint8)[index] ^= 1 << bit
                losses[layer, index, bit] = loss_in_numpy([w * s for w, s in zip(trial, scales, strict=True)], biases, data)
    golden = loss_in_numpy([w * s for w, s in zip(words, scales, strict=True)], biases, data)

    result = search(program, data, data, SearchSpec("int8", flips=1), seed=0)
    step = result.steps[0]
    found = losses[("0.weight", "2.weight").index(step.tensor), step.index, step.bit]
    assert result.quantised_loss == pytest.approx(golden, rel=1e-5) and step.loss == pytest.approx(found, rel=1e-5)
    # within a layer the search follows the gradient, so it may miss the worst flip; it finds at least half of its rise
    assert found - golden >= 0.5 * (max(losses.values()) - golden) > 0


def test_a_flip_that_is_taken_back_makes_the_distance_smaller() -> None:
    program, data = two_layers(1)
    predicted = Dataset(data.inputs)  # without labels: the program's own predictions
    result = search(program, predicted, predicted, SearchSpec("int8", flips=40, candidates=40, bits=(7,)), seed=0)
    changed: set[Any] = set()
    for step in result.steps:
        changed ^= {(step.tensor, step.index, step.bit)}
        assert step.distance == len(changed)
    assert result.clean_accuracy == 1 and result.distance < len(result.steps) < 40
    assert "first order" in result.stopped
    losses = [result.quantised_loss, *(step.loss for step in result.steps)]
    assert all(step.together == 1 for step in result.steps) and losses == sorted(losses)


class Valley(nn.Module):
    """A loss that rises with u = a.x at 0.25, is lower at 2.25, and higher at 4.25; bit 6 of a weight of `a` moves u by 2."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 1, bias=False), nn.Linear(1, 3), nn.Linear(3, 2, bias=False)
        self.a.weight.data = torch.tensor([[4.0, 4.0, 127.0]]) / 32
        self.b.weight.data, self.b.bias.data = torch.ones(3, 1), torch.tensor([0.0, -1.0, -3.0])
        self.c.weight.data = torch.tensor([[-1.0, 2.0, -4.0], [0.0, 0.0, 0.0]])

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.c(torch.relu(self.b(self.a(x))))
        return result


def test_more_bits_are_flipped_together_where_one_does_not_raise_the_loss() -> None:
    program = load_program(Valley().eval(), example_inputs=[torch.zeros(3, 3)])
    data = Dataset({"x": np.array([[1, 1, 0]] * 2, np.float32)}, np.array([0, 0]))
    spec = SearchSpec("int8", flips=2, bits=(6,), layers=("a",))
    result = search(program, data, data, spec, seed=0)
    assert [(step.index, step.before, step.after, step.together) for step in result.steps] == [
        ((0, 0), 0.125, 2.125, 2),
        ((0, 1), 0.125, 2.125, 2),
    ]
    expected = [math.log1p(math.exp(f)) for f in (0.25, 2.25 - 2 * 1.25, 4.25 - 2 * 3.25 + 4 * 1.25)]
    assert [result.quantised_loss, *(step.loss for step in result.steps)] == pytest.approx(expected)
    alone = search(program, data, data, SearchSpec("int8", flips=1, bits=(6,), layers=("a",)), seed=0)
    assert alone.steps == () and "raise the loss" in alone.stopped and alone.distance == 0


def test_chosen_flips_hurt_far_more_than_random_ones(digits: tuple[Program, Dataset, Dataset]) -> None:
    program, attack, held_out = digits
    before = bytes_of(program)
    spec = SearchSpec("int8", flips=5)
    result = search(program, attack, held_out, spec, seed=0)
    average = random_flips(program, held_out, spec, draws=6, seed=0)
    assert bytes_of(program) == before
    assert result.clean_accuracy == average.clean_accuracy > 0.98 and result.quantised_accuracy == average.quantised_accuracy > 0.98
    assert result.population == average.population == 8 * (16 * 9 + 32 * 16 * 9 + 32 * 32 * 9 + 10 * 128)
    assert average.levels[4].mean - result.steps[4].accuracy > 0.4
    assert average.levels[4].minimum == average.accuracies[:, 4].min() <= average.levels[4].quantiles[0]
    assert search(program, attack, held_out, SearchSpec("int8", flips=2), seed=0).steps == result.steps[:2]
    fewer = random_flips(program, held_out, spec, draws=2, seed=0)
    assert np.array_equal(fewer.accuracies, average.accuracies[:2])


def test_one_exponent_bit_of_f32_is_enough(digits: tuple[Program, Dataset, Dataset]) -> None:
    program, attack, held_out = digits
    result = search(program, attack, held_out, SearchSpec("f32", flips=3), seed=0)
    assert result.quantised_accuracy == result.clean_accuracy  # the view changes nothing
    assert result.steps[0].bit == 30 and result.steps[0].accuracy < 0.2


def test_flips_reach_the_network_and_are_undone_bit_for_bit() -> None:
    program, data = two_layers(0)
    weights = WeightsInView(program, "f32")
    x = torch.from_numpy(data.inputs["input"])
    golden = weights(x)
    place = Place(1, 7, 31)
    value = weights.value(place)
    weights.flip(place)
    state = {"2.weight": program.tensors["p_2_weight"].detach().clone()}
    state["2.weight"][1, 2] = -value
    assert weights.index(place) == (1, 2) and weights.value(place) == -value
    assert torch.equal(weights(x), program.with_parameters(state).call(x)[0])
    with pytest.raises(Exception, match="differ from the golden"):
        weights.check_restored()
    weights.flip(place)
    weights.check_restored()
    assert torch.equal(weights(x), golden)


def test_what_does_not_fit_is_said_all_at_once() -> None:
    program, data = two_layers(0)
    with pytest.raises(ConfigError, match=r"flips: 0(.|\n)*candidates: -1"):
        SearchSpec(flips=0, candidates=-1)
    with pytest.raises(ConfigError, match=r"bits: 8: (.|\n)*bits: -1: "):
        search(program, data, data, SearchSpec("int8", bits=(8, -1)), seed=0)
    with pytest.raises(ConfigError, match="'conv\\*'"):
        search(program, data, data, SearchSpec("int8", layers=("conv*",)), seed=0)
    with pytest.raises(ConfigError, match="16 flips"):
        random_flips(program, data, SearchSpec(layers=("2",), bits=(7,), flips=16), draws=1, seed=0)
    with pytest.raises(DataError, match="classes 0 to 2"):
        search(program, Dataset(data.inputs, np.full(16, 3)), data, SearchSpec(), seed=0)
