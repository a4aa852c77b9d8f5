"""Campaigns on an array: what a fault does to a whole network, drawing, resuming, other processes, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import fx

from benchmarks.array_by_multiplier import Array, Fault, Geometry, simulate
from effc.cost.accelerator.description import Accelerator, find_accelerator
from effc.errors import ConfigError
from effc.faultsim.accelerator import ArraySubject, for_array
from effc.faultsim.accelerator.engine import ArrayEngine
from effc.faultsim.accelerator.places import array_sites
from effc.faultsim.campaign import Campaign, read_campaign, run_campaign
from effc.faultsim.images import BatchGroups
from effc.faultsim.outcomes import Reference
from effc.faultsim.replay import Replay
from effc.faultsim.spec import spec_of
from effc.faultsim.summarise import fault_rows, summarise
from effc.ir import Program
from tests.unit.faultsim.networks import digits, digits_data, injection


def subject(**changes: Any) -> ArraySubject:
    description = find_accelerator("systolic-32x32")
    return ArraySubject(for_array(digits().program, digits_data(64)), "digits.onnx", description.model_copy(update=changes))


def campaign(folder: Path, subject: ArraySubject, *, samples: int = 24, replay: Replay | None = None, **values: Any) -> Campaign:
    return run_campaign(subject, digits_data(samples), spec_of({"accelerator": "systolic-32x32", **values}), folder, replay=replay)


class PlainArray(fx.Interpreter):
    """Every product of a network by the simulation of single multipliers, all with the same fault."""

    def __init__(self, program: Program, array: Array, fault: Fault) -> None:
        super().__init__(program.exported.graph_module)
        self._program, self._array, self._fault = program, array, fault

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is torch.ops.effc.conv_integer.default:
            x, w, _, _, stride, padding, dilation, groups = args
            geometry = Geometry(tuple(stride), tuple(padding), tuple(dilation), groups)
            shape = target(*args).shape
            sums = simulate(x.numpy().astype(np.int64), w.numpy().astype(np.int64), geometry, self._array, self._fault)
            return torch.from_numpy(sums).to(torch.int32).reshape(shape)
        if target is torch.ops.effc.matmul_integer.default:
            x, w = args[0].numpy().astype(np.int64)[:, :, None], args[1].numpy().astype(np.int64).T[:, :, None]
            return torch.from_numpy(simulate(x, w, Geometry((1,), (0, 0), (1,), 1), self._array, self._fault))[:, :, 0].to(torch.int32)
        return super().call_function(target, args, kwargs)


@pytest.mark.parametrize(
    ("where", "effect", "bit", "place", "dataflow"),
    [
        ("pe-sum", "stuck-at-1", 12, (5, 3), "weight-stationary"),
        ("pe-product", "stuck-at-0", 6, (2, 1), "output-stationary"),
    ],
)
def test_a_stuck_multiplier_goes_through_the_whole_network(
    where: str, effect: str, bit: int, place: tuple[int, int], dataflow: str
) -> None:
    """The record of an engine on 8 x 6 multipliers is that of a network whose every product is simulated multiplier by multiplier."""
    mine, data = subject(rows=8, columns=6, dataflow=dataflow), digits_data(3)
    spec = spec_of({"where": where, "effect": effect, "accelerator": "x"})
    images = BatchGroups(data, ["image"], images=None, per_fault=None, batch=2, seed=0)
    sites = mine.sites(spec)
    engine = mine.engine(spec, sites, images)
    (record,) = engine.run([injection([0], [sites[0].element(place)], [bit])])
    total = [0, 0, 0]
    for batch in images.batches(0):
        tensors = [mine.program.tensors[name] for name in mine.program.tensor_names]
        with torch.no_grad():
            golden = mine.program.call(*batch.inputs)
            faulty = PlainArray(mine.program, Array(8, 6, dataflow), Fault(where, bit, effect, place)).run(*tensors, *batch.inputs)
        outcome = Reference(golden, batch.labels).judge(faulty)
        total = [a + b for a, b in zip(total, (outcome.masked, outcome.non_critical, outcome.critical), strict=True)]
        assert not torch.equal(golden[0], faulty[0])
    assert [record.masked, record.non_critical, record.critical] == total
    assert (record.flips, record.silent) == (1, 0)


def test_places_and_population_are_those_of_the_array(tmp_path: Path) -> None:
    found = campaign(tmp_path / "out", subject(), where="pe", effect="stuck-at-1", faults=20, seed=3)
    assert found.design.population.size == 32 * 32 * (16 + 32)
    rows = list(fault_rows(found))
    assert {row.tensor for row in rows} == {"array.pe-product", "array.pe-sum"}
    assert all(len(row.index) == 2 and max(row.index) < 32 and row.bit < 32 for row in rows)
    assert summarise(found).notes[0] == (
        "The network ran in int8 on systolic-32x32: 32 rows of 32 multipliers, weight-stationary. "
        "A place in pe-product and pe-sum is (row, column)."
    )
    assert any(row.critical for row in rows)
    assert not all(row.critical for row in rows)
    flips = array_sites(subject().program, subject().products, subject().description, spec_of({"where": "accumulator", "accelerator": "x"}))
    shapes = [site.shape for site in flips]
    assert shapes == [(1, 16, 64), (5, 32, 16), (9, 32, 16), (4, 10, 1)]  # folds of 32 rows for K = 9, 144, 288 and 128
    assert [flips[0].layer, flips[-1].layer] == ["stem", "classifier"]
    words = spec_of({"where": "sram", "effect": "stuck-at-0", "accelerator": "x"})
    small = subject(sram=find_accelerator("systolic-32x32").sram.model_copy(update={"activations": 100}))
    weights = 16 * 9 + 32 * 16 * 9 + 32 * 32 * 9 + 128 * 10  # all of them stay
    assert [site.shape for site in small.sites(words)] == [(weights,), (100,)]
    tight = subject(sram=find_accelerator("systolic-32x32").sram.model_copy(update={"weights": weights - 1}))
    half = (weights - 1) // 2  # the layers take the halves by turns; 9,216 go on into the other one
    assert next(site.shape for site in tight.sites(words)) == (half + 32 * 16 * 9,)


def test_what_a_place_is_and_why_samples_are_left_out(tmp_path: Path) -> None:
    """Of the kinds of sites that there are, and of what happens there."""
    says = {
        ("accumulator", "flip"): ["A place in accumulator is (fold, channel, position)."],
        ("accumulator", "stuck-at-1"): ["A place in accumulator is (column)."],
        ("sram", "stuck-at-0"): ["A place in sram-weight and sram-activation is (address)."],
        ("sram", "flip"): [
            "A place in sram-weight is a weight's index in its tensor.",
            "A place in sram-activation is the index of a number in a sample's input of the layer.",
        ],
    }
    values = {"faults": 2, "images_per_fault": 3, "seed": 1}
    for (where, effect), sentences in says.items():
        notes = summarise(campaign(tmp_path / f"{where}-{effect}", subject(), samples=8, where=where, effect=effect, **values)).notes
        assert notes[0].split("weight-stationary. ")[1] == " ".join(sentences)
        assert notes[1] == "6 of 8 samples are used: each injection is tried on a group of 3, with 2 samples left over."
    some = campaign(tmp_path / "some", subject(), samples=20, where="accumulator", images=5, **values)
    assert (
        summarise(some).notes[1]
        == "3 of 20 samples are used: images is 5; each injection is tried on a group of 3, with 2 samples left over."
    )


@pytest.mark.slow
def test_one_process_two_processes_a_resume_and_a_replay_agree(tmp_path: Path) -> None:
    mine, values = subject(), {"where": "pe-sum", "effect": "stuck-at-0", "faults": 70, "images": 8}
    whole = campaign(tmp_path / "one", mine, **values)
    two = campaign(tmp_path / "two", mine, jobs=2, **values)
    assert whole.results == two.results
    (tmp_path / "one" / "results" / "stage-00" / "chunk-00001.csv").unlink()
    again = campaign(tmp_path / "one", mine, **values)
    assert again.results == whole.results
    assert again.found == 64
    read = read_campaign(tmp_path / "one")  # without the model
    assert read.results == whole.results
    assert summarise(read).overall == summarise(whole).overall
    some = list(fault_rows(whole))[:3]
    lines = ["Injection,Layer,TensorIndex,Bit", *(f'{row.injection},{row.tensor},"{row.index}",{row.bit}' for row in some)]
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    replay = Replay.read(tmp_path / "list.csv")
    values = {"where": "pe-sum", "effect": "stuck-at-0", "images": 8}
    listed = campaign(tmp_path / "listed", mine, replay=replay, faults_csv="list.csv", **values)
    assert [row.critical for row in fault_rows(listed)] == [row.critical for row in some]


def test_another_array_is_another_campaign(tmp_path: Path) -> None:
    campaign(tmp_path, subject(), where="pe-sum", effect="stuck-at-1", faults=5, images=4)
    assert json.loads((tmp_path / "campaign.json").read_text())["model"]["accelerator"]["columns"] == 32
    with pytest.raises(ConfigError, match="another campaign") as caught:
        campaign(tmp_path, subject(columns=16), where="pe-sum", effect="stuck-at-1", faults=5, images=4)
    assert "model.accelerator.columns" in [problem.where for problem in caught.value.problems]


def test_a_transient_upset_hits_one_sample(tmp_path: Path) -> None:
    found = campaign(tmp_path, subject(), where="accumulator", duration="transient", faults=12, bits="20")
    assert all(record.inferences == 1 for record in found.results[0])
    assert any(record.masked == 0 for record in found.results[0])


def test_a_bit_that_is_stuck_at_what_it_has_is_silent(tmp_path: Path) -> None:
    """A column that no product of the network has channels for."""
    mine = subject(columns=64)
    spec = spec_of({"where": "pe-sum", "effect": "stuck-at-0", "accelerator": "x"})
    images = BatchGroups(digits_data(4), ["image"], images=None, per_fault=None, batch=4, seed=0)
    engine: ArrayEngine = mine.engine(spec, mine.sites(spec), images)
    (record,) = engine.run([injection([0], [40], [3])])  # row 0, column 40; no layer has over 32 channels
    assert (record.flips, record.silent, record.masked) == (0, 1, 4)


def hints(**values: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        subject().sites(spec_of({"accelerator": "x", **values}))
    return [one.hint for one in caught.value.problems]


def refused(description: Accelerator | None = None, **values: Any) -> list[str]:
    mine = subject() if description is None else dataclasses.replace(subject(), description=description)
    with pytest.raises(ConfigError) as caught:
        mine.sites(spec_of({"accelerator": "x", **values}))
    return [f"{one.where} {one.what}" for one in caught.value.problems]


def test_what_does_not_fit_is_said_at_once(tmp_path: Path) -> None:
    assert refused(where="pe") == ["pe-product effect flip", "pe-sum effect flip"]  # a multiplier is faulty for good
    assert hints(where="pe-sum") == ["effect stuck-at-0 or stuck-at-1; a single upset is one of where = accumulator or sram"]
    wide = subject().description.bytes.model_copy(update={"activation": 2, "accumulator": 3})
    assert refused(subject(bytes=wide).description) == ["systolic-32x32: bytes.activation 2", "systolic-32x32: bytes.accumulator 3"]
    assert refused(where=("weight", "sram"), view="int8", rates=(1e-6,), ops="conv2d") == [
        "where 'weight'",
        "rates of bit errors",
        "view int8",
        "ops conv2d",
    ]
    assert refused(where="sram", effect="stuck-at-1", layers="stem", duration="transient") == ["layers stem", "duration transient"]
    assert refused(where="accumulator", layers="steam") == ["layers 'steam'"]
    assert refused(where="accumulator", effect="random") == ["effect random"]
    assert refused(find_accelerator("event-driven"), where="accumulator", effect="stuck-at-0") == ["accumulator stuck-at-0"]
    with pytest.raises(ConfigError, match="nowhere to put faults") as caught:
        digits().sites(spec_of({"where": "pe-sum"}))
    assert "--accelerator" in caught.value.problems[0].hint
    (tmp_path / "list.csv").write_text('Injection,Layer,TensorIndex,Bit\n0,array.pe-sum,"(0, 0)",3\n0,array.pe-sum,"(0, 1)",3\n')
    replay = Replay.read(tmp_path / "list.csv")
    with pytest.raises(ConfigError, match="one at a time"):
        campaign(tmp_path / "out", subject(), replay=replay, faults_csv="list.csv", where="pe-sum", effect="stuck-at-1")
