"""The engine's shortcuts change nothing: late start, early stop and kept golden values give the bits of a plain loop over whole passes."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from effc.data import Dataset
from effc.errors import ConfigError
from effc.faultsim.engine import ProgramEngine, record_of
from effc.faultsim.faults import Injection
from effc.faultsim.golden import Rerun, Runner, same_bits
from effc.faultsim.images import BatchGroups
from effc.faultsim.outcomes import Outcome, Reference
from effc.faultsim.records import Record
from effc.faultsim.sites import Site, find_sites
from effc.faultsim.workers import torch_threads
from effc.frontends import load_program
from tests.unit.faultsim.networks import (
    NETWORKS,
    PlainLoop,
    all_sites,
    digits,
    digits_data,
    engine_of,
    injection,
    laid_out,
    program,
    samples,
)

DATA = samples()
BATCH = 4
SWITCHES = list(itertools.product((True, False), repeat=2))  # early stop, late start


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """As a campaign does, and small operators are quicker so."""
    with torch_threads(1):
        yield


@functools.cache
def batches() -> list[Any]:
    return BatchGroups(DATA, ["x"], images=None, per_fault=None, batch=BATCH, seed=0).batches(0)


def same(new: Sequence[Tensor], old: Sequence[Tensor]) -> bool:
    return all(torch.equal(one.view(torch.int32), other.view(torch.int32)) for one, other in zip(new, old, strict=True))


@functools.cache
def engine_for(name: str, early: bool, late: bool) -> ProgramEngine:
    """One engine for all examples: a fault that was not undone would show in the next."""
    return engine_of(program(name), all_sites(program(name)), DATA, batch=BATCH, early_stop=early, late_start=late)


@functools.cache
def plain_loop(name: str) -> PlainLoop:
    return PlainLoop(program(name), all_sites(program(name)))


@functools.cache
def fault_free(name: str) -> list[tuple[Tensor, ...]]:
    with torch.inference_mode():
        return [program(name).call(*laid_out(batch.inputs)) for batch in batches()]


def plain_record(name: str, experiment: Injection) -> Record:
    """One record by the loop: all flips are real."""
    total = Outcome()
    for batch, golden in zip(batches(), fault_free(name), strict=True):
        total += Reference(golden, batch.labels).judge(plain_loop(name).outputs(experiment, batch.inputs))
    return record_of(experiment, total, (len(experiment.bits), 0, 0, 0))


@st.composite
def experiments(draw: st.DrawFn, sites: Sequence[Site]) -> Injection:
    """One to four bits anywhere; the upper ones more often, as the lower ones hardly do anything."""
    places = []
    for _ in range(draw(st.integers(1, 4))):
        site = draw(st.integers(0, len(sites) - 1))
        places.append((site, draw(st.integers(0, sites[site].elements - 1)), draw(st.one_of(st.integers(0, 31), st.integers(20, 31)))))
    return injection(*zip(*places, strict=True))


@pytest.mark.parametrize("name", NETWORKS)
class TestEqualsThePlainLoop:
    @given(choice=st.data())
    @settings(max_examples=40, deadline=None)
    def test_outputs_bit_for_bit(self, name: str, choice: st.DataObject) -> None:
        """Several faults in several layers, stored and computed; the run after each fault is the golden one again."""
        sites = all_sites(program(name))
        experiment = choice.draw(experiments(sites))
        expected = [plain_loop(name).outputs(experiment, batch.inputs) for batch in batches()]
        for early, late in SWITCHES:
            ran: list[Rerun] = []
            engine = engine_for(name, early, late)
            engine._runner.rerun = spied(engine._runner, ran)  # type: ignore[method-assign]
            engine.run([experiment])
            for number, (result, golden) in enumerate(zip(ran, fault_free(name), strict=True)):
                assert same(result.outputs or golden, expected[number])
                assert same(engine._golden(0, number, batches()[number])[0].outputs, golden)

    @given(choice=st.data())
    @settings(max_examples=15, deadline=None)
    def test_records_are_the_same_with_every_switch(self, name: str, choice: st.DataObject) -> None:
        sites = all_sites(program(name))
        drawn = choice.draw(st.lists(experiments(sites), min_size=1, max_size=4))
        found = [engine_for(name, *switches).run(drawn) for switches in SWITCHES]
        expected = [plain_record(name, one) for one in drawn]
        assert [one._replace(before=0, after=0) for one in found[0]] == expected
        assert all(other == found[0] for other in found[1:])


def spied(runner: Runner, ran: list[Rerun]) -> Any:
    """`rerun` that also keeps its results."""

    def rerun(*arguments: Any) -> Rerun:
        ran.append(Runner.rerun(runner, *arguments))
        return ran[-1]

    return rerun


def site_named(sites: Sequence[Site], name: str) -> int:
    return next(number for number, one in enumerate(sites) if one.name == name)


def test_a_masked_fault_ends_the_run() -> None:
    """`dead` is a convolution whose ReLU gives zeros whatever its weights: two operators run, not the whole network."""
    sites = all_sites(program("residual"))
    fault = injection([site_named(sites, "dead.weight")], [5], [22])
    computed = {}
    for early, late in SWITCHES:
        engine, ran = engine_for("residual", early, late), list[Rerun]()
        engine._runner.rerun = spied(engine._runner, ran)  # type: ignore[method-assign]
        (record,) = engine.run([fault])
        assert (record.flips, record.inferences, record.masked) == (1, 6, 6)
        assert [one.outputs for one in ran] == [None, None]
        computed[early, late] = ran[0].nodes
    assert computed == {(True, True): 2, (True, False): 10, (False, True): 6, (False, False): 14}


def test_a_permanent_fault_of_a_value_hits_the_same_element_of_every_sample() -> None:
    """The sign of score 2: it changes the outputs of all samples, there and nowhere else, whatever the batches."""
    sites = all_sites(program("residual"))
    head = next(number for number, one in enumerate(sites) if one.key == program("residual").nodes[-1].name)
    for batch in (1, 4, 6):
        engine, ran = engine_of(program("residual"), sites, DATA, batch=batch), list[Rerun]()
        engine._runner.rerun = spied(engine._runner, ran)  # type: ignore[method-assign]
        (record,) = engine.run([injection([head], [2], [31])])
        assert record.flips == 1
        assert record.inferences == 6
        assert record.masked == 0
        faulty = torch.cat([one.outputs[0] for one in ran if one.outputs])
        golden = torch.cat([engine._golden(0, number, None)[0].outputs[0] for number in range(len(ran))])  # type: ignore[arg-type]
        assert torch.equal(faulty[:, 2], -golden[:, 2])
        assert torch.equal(faulty[:, [0, 1, 3, 4]], golden[:, [0, 1, 3, 4]])


def test_a_transient_fault_hits_one_inference() -> None:
    """Six groups of one image each: every injection is judged on its own."""
    sites = find_sites(program("residual"), where=("activation",))
    engine = engine_of(program("residual"), sites, DATA, per_fault=1)
    faults = [injection([0], [7], [30], batch_group=group) for group in (3, 0, 5)]
    together = engine.run(faults)
    assert [one.inferences for one in together] == [1, 1, 1]
    assert together == [engine_of(program("residual"), sites, DATA, per_fault=1).run([one])[0] for one in faults]


def test_counts_and_words_of_effects() -> None:
    """Weight 0 of `head` is set to 1.5 = 0x3fc00000: bits 22 to 29 are one, 30 and 31 zero, 0 to 21 zero."""
    names = {name: key for key, name in program("residual").tensor_names.items()}
    weight = program("residual").tensors[names["head.weight"]].detach().clone()
    weight.view(-1)[0] = 1.5
    changed = program("residual").with_parameters({"head.weight": weight})
    sites = find_sites(changed, layers=("head.weight",))
    word, negative = 0x3FC00000, -0x40400000  # 0xbfc00000 as int32
    for effect, bits, values, flips, silent, after in (
        ("flip", [31], None, 1, 0, negative),
        ("stuck-at-1", [22], None, 0, 1, word),
        ("stuck-at-0", [22], None, 1, 0, 0x3F800000),
        ("burst", [0, 1], None, 2, 0, word + 3),
        ("random", list(range(32)), [True] + [False] * 31, 9, 23, 1),
    ):
        fault = injection([0] * len(bits), [0] * len(bits), bits, values=None if values is None else np.array(values))
        fault = Injection(0, 0, 1, fault.sites, fault.elements, fault.bits, 0, fault.values)
        (record,) = engine_of(changed, sites, DATA, effect=effect).run([fault])
        assert (record.flips, record.silent, record.before, record.after) == (flips, silent, word, after), effect
        if not flips:
            assert record.masked == 6


def test_golden_values_that_do_not_fit_into_memory_are_made_again() -> None:
    sites = all_sites(program("residual"))
    faults = [injection([site], [1], [bit]) for site in range(len(sites)) for bit in (23, 30, 31)]
    kept = engine_of(program("residual"), sites, DATA, batch=1, memory=1)
    assert kept.run(faults) == engine_of(program("residual"), sites, DATA, batch=1).run(faults)
    assert len(kept._kept) == 1


def test_an_emulated_view_is_where_the_golden_run_starts() -> None:
    """int2 of a weight holds two magnitudes: the golden outputs are those of the rounded weights, and the program is left alone."""
    before = {name: tensor.detach().clone() for name, tensor in program("residual").tensors.items()}
    sites = find_sites(program("residual"), where=("weight",), view="int3")
    engine = engine_of(program("residual"), sites, DATA)
    rounded = {}
    for one in sites:
        weight = before[one.key]
        scale = torch.tensor(float(weight.abs().max()) / 3, dtype=torch.float32)
        rounded[one.name] = (weight.double() / scale.double()).round().clamp(-4, 3).float() * scale
    with torch.inference_mode():
        expected = [program("residual").with_parameters(rounded).call(*batch.inputs) for batch in batches()]
    for (outputs, _), (golden,) in zip(engine.golden_run(), expected, strict=True):
        assert np.array_equal(outputs[0], golden.numpy())
    engine.run([injection([0], [0], [2])])
    assert all(torch.equal(tensor, before[name]) for name, tensor in program("residual").tensors.items())


class Gather(nn.Module):
    """A fault in the indices sends them out of the table."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("order", torch.tensor([3, 0, 2, 1]))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, self.order]


def test_an_operator_that_fails_is_a_detected_error() -> None:
    gather = load_program(Gather(), example_inputs=(torch.randn(3, 2, 4, 4),))
    sites = find_sites(gather)
    far, near = engine_of(gather, sites, Dataset(DATA.inputs, DATA.labels % 4)).run([injection([0], [1], [40]), injection([0], [1], [2])])
    assert (far.critical, far.due, far.correct, far.flips) == (6, 6, 0, 1)
    assert far.golden_correct > 0
    assert (near.due, near.flips) == (0, 1)
    assert near.masked == 0


class Shows(nn.Module):
    """An output is a parameter itself, another a view of one."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.turned = nn.Parameter(torch.randn(5, 2)), nn.Parameter(torch.randn(2, 5))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return x.flatten(1) * 2, self.turned.t(), self.plain


def test_outputs_that_are_stored_tensors_show_their_faults() -> None:
    shows = load_program(Shows(), example_inputs=(torch.randn(5, 2),))
    sites = find_sites(shows)
    inputs = torch.ones(5, 2)
    for site in (0, 1):
        runner = Runner(shows)
        golden = runner.golden([inputs])
        tensor = shows.tensors[sites[site].key].detach()
        before = tensor.clone()
        tensor.view(-1)[3] += 1
        result = runner.rerun(golden, [sites[site].key], {})
        assert result.outputs is not None
        assert not all(same_bits(new, old) for new, old in zip(result.outputs, golden.outputs, strict=True))
        tensor.copy_(before)


class Tied(nn.Module):
    """One weight under two names, and a buffer in the memory of another."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(32, 32, bias=False), nn.Linear(32, 32, bias=False)
        self.other.weight = self.one.weight
        self.table = nn.Parameter(torch.randn(3, 32))
        self.register_buffer("row", self.table.detach()[1])

    def forward(self, x: Tensor) -> Tensor:
        return (self.other(self.one(x.flatten(1))) + self.row) @ self.table.t()


def test_tensors_that_share_memory() -> None:
    tied = load_program(Tied(), example_inputs=(torch.randn(3, 2, 4, 4),))
    assert len(find_sites(tied, ops=("linear",))) == 1  # both names are one tensor, read twice
    with pytest.raises(ConfigError, match="one in another"):
        engine_of(tied, find_sites(tied), DATA)


def test_same_bits() -> None:
    nan = torch.tensor([float("nan"), 0.0])
    assert same_bits(nan, nan.clone())
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not same_bits(torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.float64))
    assert same_bits((torch.arange(4).reshape(2, 2), 3), (torch.arange(4).reshape(2, 2).t().contiguous().t(), 3))


def test_the_digits_network() -> None:
    """With the bundled model, where a convolution's weights meet 64 positions: the four ways agree on faults of all kinds."""
    sites = all_sites(digits().program)
    generator = np.random.default_rng(2)
    faults = []
    for _ in range(40):
        chosen = generator.integers(0, len(sites), 2)
        faults.append(injection(chosen, [int(generator.integers(sites[one].elements)) for one in chosen], generator.integers(18, 32, 2)))
    found = [engine_of(digits().program, sites, digits_data(8), early_stop=early, late_start=late).run(faults) for early, late in SWITCHES]
    assert all(other == found[0] for other in found[1:])
    assert 0 < sum(one.critical > 0 for one in found[0]) < 40
