"""Axes of a sample that are folded into the batch: its entries are positions of one call, and faults come once a sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.array_by_multiplier import Array, Fault, Geometry, Ints, simulate
from effc.compiler.accelerator_counts import count_program
from effc.cost.accelerator import find_accelerator
from effc.cost.accelerator.layers import products_of
from effc.data import Dataset
from effc.errors import ConfigError
from effc.faultsim.accelerator import ArraySubject, for_array
from effc.faultsim.accelerator.engine import ArrayUnit
from effc.faultsim.accelerator.faults import WIDTHS, ArrayFault, patterns
from effc.faultsim.accelerator.functional import MODES, Tally, run_on_array
from effc.faultsim.accelerator.gemms import gemms_of
from effc.faultsim.accelerator.mapping import Mapping
from effc.faultsim.accelerator.places import mapping_of
from effc.faultsim.accelerator.samples import with_samples
from effc.faultsim.accelerator.work import Gemm
from effc.faultsim.golden import Runner
from effc.faultsim.spec import spec_of
from effc.frontends import load_program
from effc.ir import Program
from tests.unit.faultsim.accelerator.layers import convolution, matrix_product, operands

DATAFLOWS = ("weight-stationary", "output-stationary", "input-stationary", "event-driven")


class Tokens(nn.Module):
    """A linear layer on the tokens of all samples, and one on those of each."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x.reshape(-1, 8)).relu().reshape(x.shape[0], 4, 6))


class Frames(nn.Module):
    """Convolutions, one of them depthwise, and a linear layer on the frames of all clips."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Linear(4 * 4 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x.flatten(0, 1)).relu()).relu().flatten(1)
        return self.c(y).unflatten(0, (x.shape[0], 3)).mean(1)


SHAPES = {Tokens: (4, 8), Frames: (3, 2, 6, 6)}


def quantised(module: nn.Module, shape: tuple[int, ...], seed: int = 0) -> tuple[Program, Dataset]:
    torch.manual_seed(seed)
    program = load_program(module.eval(), example_inputs=(torch.randn(2, *shape),))
    words = np.random.default_rng(seed).standard_normal((4, *shape)).astype(np.float32)
    data = Dataset({program.interface.inputs[0].name: words}, None, None if program.interface.batch.symbolic else 2)
    return for_array(program, data), data


def differences(product: Gemm, array: Array, fault: Fault, words: Ints, weights: Ints, zero_point: int) -> tuple[Ints, Ints]:
    """Faulty sums (S, O, M), and the operator's result in its own shape."""
    given = operands(product, words, weights, zero_point)
    sums = product.sums(given.x, product.matrix(given.weights))
    mapping = Mapping(array.rows, array.columns, array.dataflow, array.skip)
    for pattern in patterns(ArrayFault(fault.kind, fault.bit, fault.effect, fault.place), product, mapping, given):
        pattern.add_to(sums)
    return sums.flatten(1, 2).numpy(), product.shaped(sums, given.x).numpy()


FAULTS = [
    *((kind, effect) for kind in ("pe-product", "pe-sum") for effect in ("stuck-at-0", "stuck-at-1")),
    *((kind, "flip") for kind in ("accumulator", "sram-weight", "sram-activation")),
    *((kind, "stuck-at-1") for kind in ("sram-weight", "sram-activation")),
]


@pytest.mark.parametrize("dataflow", DATAFLOWS)
@pytest.mark.parametrize("groups", [1, 4])
def test_frames_are_a_further_axis_of_positions(dataflow: str, groups: int) -> None:
    """A brute force of a convolution over (frame, place) with a kernel of one frame: the same sums, but frames lie in front of channels."""
    draw = np.random.default_rng([groups, 1])
    words, weights = draw.integers(-128, 128, (2, 3, 4, 4, 5)), draw.integers(-128, 128, (4, 4 // groups, 2, 3))  # (S, frame, C, y, x)
    words[draw.random(words.shape) < 0.3] = 7
    product = convolution(Geometry((2, 1), (1, 0, 0, 1), (1, 1), groups, 7))
    product.per_sample = 3
    geometry = Geometry((1, 2, 1), (0, 1, 0, 0, 0, 1), (1, 1, 1), groups, 7)
    array, shape, changed = Array(4, 3, dataflow, 2 if dataflow == "event-driven" else None), words.shape, 0
    beside, deep = words.swapaxes(1, 2), weights[:, :, None]  # (S, C, frame, y, x)
    clean = simulate(beside, deep, geometry, array, None)
    for kind, effect in FAULTS:
        for _ in range(2):
            if kind == "accumulator":
                depth = weights[0].size
                steps = -(-depth // 4) if dataflow in DATAFLOWS[::2] else depth
                place = (int(draw.integers(steps)), int(draw.integers(4)), int(draw.integers(clean.shape[2])))
            elif kind.startswith("pe"):
                place = (int(draw.integers(4)), int(draw.integers(3)))
            else:
                place = (int(draw.integers(words[0].size if kind == "sram-activation" else weights.size)),)
            fault = there = Fault(kind, int(draw.integers(WIDTHS[kind])), effect, place)
            if kind == "sram-activation":
                frame, channel, y, x = np.unravel_index(place[0], shape[1:])
                there = Fault(kind, fault.bit, effect, (int(np.ravel_multi_index((channel, frame, y, x), beside.shape[1:])),))
            truth = simulate(beside, deep, geometry, array, there)
            sums, result = differences(product, array, fault, words.reshape(6, *shape[2:]), weights, 7)
            assert np.array_equal(sums, truth), fault
            assert np.array_equal(result, truth.reshape(2, 4, 3, *result.shape[2:]).swapaxes(1, 2).reshape(result.shape))
            changed += not np.array_equal(truth, clean)
    assert changed > len(FAULTS)


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_rows_of_a_matrix_are_positions_of_their_sample(dataflow: str) -> None:
    draw = np.random.default_rng(3)
    words, weights = draw.integers(-128, 128, (2, 5, 6)), draw.integers(-128, 128, (6, 7))
    product, array = matrix_product(), Array(4, 3, dataflow)
    product.per_sample = 5
    places = {"pe-product": (2, 1), "pe-sum": (2, 1), "accumulator": (1, 4, 3), "sram-weight": (8,), "sram-activation": (6 * 3 + 2,)}
    for kind, effect in FAULTS:
        fault = there = Fault(kind, 6, effect, places[kind])
        if kind == "sram-activation":
            there = Fault(kind, 6, effect, (5 * 2 + 3,))
        elif kind == "sram-weight":
            there = Fault(kind, 6, effect, (6 * 1 + 1,))  # (K, N) here, (N, K) of a convolution
        truth = simulate(words.swapaxes(1, 2), weights.T[:, :, None], Geometry((1,), (0, 0), (1,), 1), array, there)
        sums, result = differences(product, array, fault, words.reshape(10, 6), weights, 0)
        assert np.array_equal(sums, truth), fault
        assert np.array_equal(result, truth.swapaxes(1, 2).reshape(10, 7))


@pytest.mark.parametrize(
    ("module", "entries", "accumulators", "words"),
    [
        (Tokens, [4, 1], [(1, 6, 4), (1, 5, 4)], [(4, 8), (4, 6)]),
        (Frames, [3, 3, 3], [(1, 4, 48), (1, 4, 48), (2, 5, 3)], [(3, 2, 6, 6), (3, 4, 4, 4), (3, 64)]),
    ],
)
def test_sites_are_those_of_a_sample(module: type[nn.Module], entries: list[int], accumulators: Any, words: Any) -> None:
    program, _ = quantised(module(), SHAPES[module])
    mine = ArraySubject(program, "x", find_accelerator("systolic-32x32"))
    assert [one.per_sample for one in mine.products] == entries
    shapes = {where: [site.shape for site in mine.sites(spec_of({"where": where}))] for where in ("accumulator", "sram-activation")}
    assert shapes == {"accumulator": accumulators, "sram-activation": words}
    rows = [one.rows for one in products_of(program)]
    assert [shape[2] for shape in accumulators] == rows  # as the cost model counts them


def test_a_fault_is_in_one_output_of_a_sample_and_rows_own_theirs() -> None:
    """Of the first layer's 4 x 6 sums of a sample: an upset changes one, in each sample; a stuck row r of 4 those of token r."""
    program, _ = quantised(Tokens(), SHAPES[Tokens])
    description = find_accelerator("systolic-32x32").model_copy(update={"dataflow": "output-stationary", "rows": 4, "columns": 4})
    first = ArraySubject(program, "x", description).products[0]
    node = next(node for node in program.nodes if node.name == first.name)
    unit = ArrayUnit(first, mapping_of(description), node.target)
    arguments: list[tuple[Any, ...]] = []

    def kept(*given: Any) -> Any:
        arguments.append(given)
        return unit(*given)

    Runner(program, computing={first.name: kept}).golden([torch.randn(2, 4, 8)])
    clean = unit(*arguments[0])
    unit.fault = ArrayFault("accumulator", 20, "flip", (7, 1, 2))
    assert (unit(*arguments[0]) != clean).nonzero().tolist() == [[2, 1], [6, 1]]
    for row in range(4):
        unit.fault = ArrayFault("pe-sum", 20, "stuck-at-0", (row, 1))
        other = ArrayFault("pe-sum", 20, "stuck-at-1", (row, 1))
        hit = unit(*arguments[0]) != clean
        unit.fault = other
        hit |= unit(*arguments[0]) != clean
        assert hit.nonzero().tolist() == [[sample * 4 + row, channel] for sample in (0, 1) for channel in (1, 5)]


@pytest.mark.parametrize("module", [Tokens, Frames])
def test_executed_as_counted_and_bit_for_bit(module: type[nn.Module]) -> None:
    program, data = quantised(module(), SHAPES[module])
    name = program.interface.inputs[0].name
    samples = torch.from_numpy(data.inputs[name])
    expected = program.call(samples)[0]
    for dataflow in DATAFLOWS:
        ((found,),) = run_on_array(program, Mapping(5, 3, dataflow), "dense", [[samples]])
        assert torch.equal(found, expected), dataflow
    description = find_accelerator("event-driven").model_copy(update={"rows": 4, "columns": 4})
    frames, counted = [[samples[index : index + 1]] for index in range(4)], count_program(program, description, data)
    for mode in MODES[1:]:
        tally, first = Tally(), Tally()
        outputs = run_on_array(program, mapping_of(description), mode, frames, tally)
        assert torch.equal(torch.cat([one for (one,) in outputs]), torch.cat([program.call(*frame)[0] for frame in frames]))
        run_on_array(program, mapping_of(description), mode, frames[:1] if mode == "delta" else [], first)
        for product, counts in zip(products_of(program), counted.layers, strict=True):
            events, of = counts.events["zeros" if mode == "zero-skipping" else "delta"], product.name
            times = 4 if mode == "zero-skipping" else 3  # the first frame has none before it
            assert tally.multiplications[of] - first.multiplications.get(of, 0) == round(times * events.macs) > 0
            assert tally.cycles[of] - first.cycles.get(of, 0) == round(times * events.cycles) > 0


class Turns(nn.Module):
    """Tokens in front of the batch, and after that in turns; then values that are laid one behind the other, and tokens backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.apart, self.turns, self.twice, self.picked, self.fine = (nn.Linear(8, 8) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.apart(x.transpose(0, 1))
        y = self.turns(y.reshape(-1, 8)).reshape(4, -1, 8).transpose(0, 1)
        both = self.twice(torch.cat([y, y + 1]))
        y = both[: x.shape[0]] + both[x.shape[0] :]
        return self.fine(self.picked(y.reshape(-1, 8).flip(0)).flip(0).reshape(-1, 4, 8))


def test_where_samples_are_not_known_is_said_at_once() -> None:
    program, _ = quantised(Turns(), (4, 8))
    with pytest.raises(ConfigError, match="samples that faults can be put into") as caught:
        _ = ArraySubject(program, "x", find_accelerator("systolic-32x32")).products
    problems = caught.value.problems
    assert [problem.where for problem in problems] == ["apart", "turns", "twice", "picked"]
    assert problems[0].why == "the batch is not the first axis of its input (of one sample: [4, 1, 8], of three: [4, 3, 8])"
    assert all("may not lie one after the other" in problem.why and "reshape" in problem.hint for problem in problems[1:])
    assert "its input has 4 entries of each sample" in problems[1].why


def test_fixed_batches() -> None:
    """Of one sample everything is that sample's; of two an axis of two counts them, and another one is refused."""

    class Fixed(nn.Module):
        def __init__(self, samples: int) -> None:
            super().__init__()
            self.samples, self.a, self.b = samples, nn.Linear(8, 6), nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x.reshape(self.samples * 4, 8)).relu()
            return self.b(y.reshape(self.samples, 4, 6)).sum()

    for samples in (1, 2):
        program = load_program(Fixed(samples).eval(), example_inputs=(torch.randn(samples, 4, 8),))
        assert not program.interface.batch.symbolic
        words = np.random.default_rng(0).standard_normal((4, 4, 8)).astype(np.float32)
        integers = for_array(program, Dataset({program.interface.inputs[0].name: words}, None, samples))
        if samples == 1:
            assert [one.per_sample for one in with_samples(integers, gemms_of(integers))] == [4, 1]
            continue
        with pytest.raises(ConfigError) as caught:
            with_samples(integers, gemms_of(integers))
        (problem,) = caught.value.problems
        assert (problem.where, problem.why) == ("a", "the first axis of its input has 8 entries, and a call has 2 samples")
