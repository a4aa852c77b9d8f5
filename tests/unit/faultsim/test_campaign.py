"""Campaigns end to end on the bundled digits network: the same bytes however they are run, what is refused, and replayed lists."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effc.data import Dataset
from effc.errors import AlteredArtifactError, ConfigError, DataError, InputRejectedError, LimitError, OutputError
from effc.faultsim.campaign import Campaign, Shard, read_campaign, run_campaign
from effc.faultsim.merging import merge
from effc.faultsim.records import Record
from effc.faultsim.spec import spec_of
from effc.faultsim.store import CAMPAIGN
from effc.faultsim.subject import ProgramSubject
from effc.faultsim.summarise import summarise
from tests.unit.faultsim.networks import IMAGES, STEM, digits, digits_data, files, flat, run

# ---- the same bytes ------------------------------------------------------------------------------------------------------------


DEAD = 999_999_999  # above any process id
CAMPAIGNS: dict[str, dict[str, Any]] = {
    "single": {**STEM, "exhaustive": True, "bits": "29-30"},
    "rates": {"rates": [1e-5, 1e-4], "draws": 70, "where": ["parameters", "activation"]},
    "few images": {"faults": 600, "images_per_fault": 4, "bits": "28-31"},
    "strata": {"faults": 300, "stratify": ["bit"], "bits": "29-31"},
}


@functools.cache
def alone(name: str, root: Path) -> dict[str, bytes]:
    run(root / "alone", CAMPAIGNS[name])
    return files(root / "alone")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("alone")


@pytest.mark.parametrize(
    ("name", "jobs"),
    [
        ("strata", 2),
        *(pytest.param(name, jobs, marks=pytest.mark.slow) for name in CAMPAIGNS for jobs in (2, 4) if (name, jobs) != ("strata", 2)),
    ],
)
def test_workers_give_the_same_bytes(tmp_path: Path, root: Path, name: str, jobs: int) -> None:
    run(tmp_path / "jobs", {**CAMPAIGNS[name], "jobs": jobs})
    assert files(tmp_path / "jobs") == alone(name, root / name)


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_an_interrupted_campaign_goes_on_to_the_same_bytes(tmp_path: Path, root: Path, name: str) -> None:
    """Cut off in every second chunk, with what a killed process leaves behind."""

    @contextmanager
    def dying(label: str, total: int) -> Iterator[Any]:
        left = [530 if name == "few images" else 90]  # chunks have 512, or 64

        def advance(count: int) -> None:
            left[0] -= count
            if left[0] < 0:
                raise KeyboardInterrupt

        yield advance

    ends = 0
    for _ in range(40):
        try:
            run(tmp_path, CAMPAIGNS[name], progress=dying)
            break
        except KeyboardInterrupt:
            ends += 1
        stage = tmp_path / "results" / "stage-00"
        if stage.exists():
            (stage / f".chunk-00007.csv.effc-{DEAD}-0123abcd").write_bytes(b"half of it")
    assert ends
    assert files(tmp_path) == alone(name, root / name)


def test_shards_merged_give_the_same_bytes(tmp_path: Path, exhaustive: tuple[Path, Campaign]) -> None:
    shards = [tmp_path / f"shard{number}" for number in range(1, 6)]
    for number, folder in enumerate(shards, 1):
        part = run(folder, {**STEM, "exhaustive": True}, shard=Shard(number, 5))
        assert not part.complete
        assert part.planned == 1296
    merge(shards[::-1][:3], tmp_path / "half")
    half = read_campaign(tmp_path / "half")
    assert not half.complete
    assert "not complete" in summarise(half).notes[-1]
    merge(shards, tmp_path / "merged")
    assert files(tmp_path / "merged") == files(exhaustive[0])
    assert read_campaign(tmp_path / "merged").results == exhaustive[1].results
    merge([tmp_path / "half", shards[0], shards[1]], tmp_path / "half")  # into one of them
    assert files(tmp_path / "half") == files(exhaustive[0])


def test_a_campaign_is_read_without_its_model(root: Path) -> None:
    for name in CAMPAIGNS:
        alone(name, root / name)
        again = read_campaign(root / name / "alone")
        first = run(root / name / "alone", CAMPAIGNS[name])  # nothing is missing: nothing runs
        assert again.complete
        assert (again.results, again.planned, again.stages) == (first.results, first.planned, first.stages)
        assert summarise(again) == summarise(first)


# ---- refusals ------------------------------------------------------------------------------------------------------------------


def test_a_folder_of_another_campaign_is_refused_with_what_differs(tmp_path: Path) -> None:
    values = {"faults": 5, "seed": 3}
    run(tmp_path, values)
    before = files(tmp_path)
    other = digits_data(IMAGES)
    shifted = Dataset({"image": other.inputs["image"] + np.float32(0.125)}, other.labels)
    weight = digits().program.tensors["p_classifier_weight"].detach() * 2
    louder = ProgramSubject(digits().program.with_parameters({"classifier.weight": weight}), digits().name)
    for attempt, where in (
        (lambda: run(tmp_path, {**values, "seed": 4}), {"spec.seed"}),
        (lambda: run(tmp_path, {**values, "batch": 7}), {"spec.batch", "golden.sha256"}),
        (lambda: run(tmp_path, {**values, "threads": 2}), {"spec.threads"}),
        (lambda: run(tmp_path, values, shifted), {"data.sha256", "golden.sha256"}),
        (lambda: run_campaign(louder, other, spec_of(values), tmp_path), {"model.sha256", "golden.sha256"}),
    ):
        with pytest.raises(ConfigError, match="another campaign") as refused:
            attempt()
        assert where <= {problem.where for problem in refused.value.problems} | {"golden.sha256"}
    assert files(tmp_path) == before
    run(tmp_path, {**values, "require": ["sdc1 <= 0.5"], "memory": 1 << 21, "batch": IMAGES})  # these do not change a result


def test_shards_of_other_campaigns_are_not_merged(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(tmp_path / name, {"faults": 5, "seed": seed})
    with pytest.raises(ConfigError, match="different campaigns") as refused:
        merge([tmp_path / "a", tmp_path / "b", tmp_path / "c"], tmp_path / "out")
    assert [(Path(one.where).name, one.what) for one in refused.value.problems] == [("c", "spec.seed")]
    assert not (tmp_path / "out").exists()
    chunk = tmp_path / "b" / "results" / "stage-00" / "chunk-00000.csv"
    other = run(tmp_path / "c", {"faults": 5, "seed": 2})
    assert other.complete
    chunk.write_bytes((tmp_path / "c" / "results" / "stage-00" / "chunk-00000.csv").read_bytes())
    with pytest.raises(InputRejectedError, match="different results of the same injections"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")


def test_damaged_files_are_named(tmp_path: Path) -> None:
    values = {"faults": 5}
    run(tmp_path, values)
    chunk = tmp_path / "results" / "stage-00" / "chunk-00000.csv"
    good = chunk.read_bytes()
    chunk.write_bytes(good.replace(b"\n0,3,", b"\n0,4,"))
    for attempt in (lambda: run(tmp_path, values), lambda: read_campaign(tmp_path), lambda: merge([tmp_path], tmp_path / "out")):
        with pytest.raises(AlteredArtifactError, match=r"chunk-00000\.csv is damaged"):
            attempt()
    chunk.unlink()
    run(tmp_path, values)
    assert chunk.read_bytes() == good
    run(tmp_path / "longer", {"faults": 6})
    chunk.write_bytes((tmp_path / "longer" / chunk.relative_to(tmp_path)).read_bytes())
    with pytest.raises(AlteredArtifactError, match="other injections"):
        run(tmp_path, values)
    identity = tmp_path / CAMPAIGN
    identity.write_text(identity.read_text().replace('"population": ', '"population": 1'))
    with pytest.raises(InputRejectedError, match="malformed"):
        read_campaign(tmp_path)


Change = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    "change",
    [
        lambda identity: identity.pop("golden"),
        lambda identity: identity.pop("model"),
        lambda identity: identity["data"].pop("used"),
        lambda identity: identity["data"].update(used=0),
        lambda identity: identity["data"].update(used=10**6),
        lambda identity: identity["data"].update(labels="yes"),
        lambda identity: identity["golden"].update(correct=-1),
        lambda identity: identity["golden"].update(correct=17),
        lambda identity: identity["golden"].update(inferences=10**30),
        lambda identity: identity["model"].update(name=["digits"]),
        lambda identity: identity["model"].update(passes=[3]),
        lambda identity: identity["design"].update(batch_groups=0),
        lambda identity: identity["design"].update(batch_groups=17),
        lambda identity: identity["design"].update(sites=[]),
        lambda identity: identity["design"]["sites"][0].update(shape=[10**30]),
        lambda identity: identity["design"]["sites"][0].update(shape=[2**20, 2**20, 2**20]),
        lambda identity: identity["design"]["sites"][0].update(shape=[1] * 1000),
        lambda identity: identity["design"]["sites"][0].update(shape=[-1]),
        lambda identity: identity["design"]["sites"][0].update(kind="weights"),
        lambda identity: identity["design"]["sites"][0]["view"].update(dtype="load"),
        lambda identity: identity["design"]["sites"][0]["view"].update(dtype="__path__"),
        lambda identity: identity["design"]["sites"][0]["view"].update(name="int8"),  # without a scale
        lambda identity: identity["design"]["sites"][0]["view"].update(name="int8", scale=1e300),
        lambda identity: identity.update(list_sha256="0" * 64),
        lambda identity: identity["versions"].update(drawing="0"),
        lambda identity: identity.update(more=1),
        lambda identity: identity.update(spec=[]),
        lambda identity: identity["spec"].update({"most-faults": 4}),  # of 5
        lambda identity: identity["spec"].update({"faults": None, "margin": 1e-300}),
    ],
)
def test_an_altered_identity_is_refused_before_anything_is_written(tmp_path: Path, one: Path, change: Change) -> None:
    identity = json.loads((one / CAMPAIGN).read_bytes())
    change(identity)
    (tmp_path / "shard").mkdir()
    (tmp_path / "shard" / CAMPAIGN).write_text(json.dumps(identity))
    for attempt in (lambda: read_campaign(tmp_path / "shard"), lambda: merge([tmp_path / "shard"], tmp_path / "out")):
        with pytest.raises(InputRejectedError):
            attempt()
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small campaign, not to be changed."""
    folder = tmp_path_factory.mktemp("one")
    run(folder, {"faults": 5})
    return folder


@pytest.mark.parametrize(
    "spec",
    [
        {"faults": None, "rates": [1e-9], "draws": 10**8, "most-faults": 10**9},
        {"faults": None, "rates": [1e-9], "draws": 10**30, "most-faults": 10**30},
        {"faults": None, "precision": 0.1, "most-faults": 10**30},
    ],
)
def test_more_injections_than_can_be_listed_are_refused(tmp_path: Path, one: Path, spec: dict[str, Any]) -> None:
    identity = json.loads((one / CAMPAIGN).read_bytes())
    identity["spec"].update(spec)
    site = identity["design"]["sites"][0]
    identity["design"]["sites"] = [{**site, "shape": [2**30]}]
    rate = (spec.get("rates") or [None])[0]
    identity["design"].update(
        population=2**35, groups=[{"name": "all" if rate is None else "BER 1e-09", "rate": rate, "population": 2**35}]
    )
    (tmp_path / CAMPAIGN).write_text(json.dumps(identity))
    with pytest.raises(LimitError, match="run the campaign's own command"):
        read_campaign(tmp_path)


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for values, error, words in (
        ({"exhaustive": True, "most_faults": 1000}, ConfigError, "more than most-faults"),
        ({"faults": 5, "bits": "40"}, ConfigError, "bits 0 to 31"),
        ({"faults": 5, "effect": "burst", "burst": 40}, ConfigError, "fits no number"),
        ({"faults": 5, "images": 17}, DataError, "17 images"),
        ({"faults": 5, "images_per_fault": 17}, DataError, "17 images per fault"),
        ({"faults": 5, "layers": ["nowhere"]}, ConfigError, "nowhere"),
        ({"effect": "random", "stratify": ["bit"]}, ConfigError, "stratified by bit"),
    ):
        with pytest.raises(error, match=words) as refused:
            run(tmp_path / "out", values)
        assert refused.value.exit_code == 2
    with pytest.raises(ConfigError, match="cannot be cut into shards"):
        run(tmp_path / "out", {"faults": 500, "stratify": ["bit"]}, shard=Shard(1, 2))
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="holds no campaign"):
        run(tmp_path, {"faults": 5})


# ---- what is drawn and counted -------------------------------------------------------------------------------------------------


def test_a_rate_of_zero_changes_nothing(tmp_path: Path) -> None:
    campaign = run(tmp_path, {"rates": [0.0], "draws": 10})
    right = campaign.identity["golden"]["correct"]
    assert flat(campaign) == [Record(0, draw, 0, 0, 16, 16, 0, 0, 0, 0, 0, 0, right, right, 0) for draw in range(10)]
    (group,) = summarise(campaign).groups
    assert (group.empty, group.flips, group.shares["masked"].value) == (10, 0, 1.0)
    assert group.accuracy is not None
    assert group.accuracy.value == right / 16


def test_draws_without_a_fault_are_counted_apart(tmp_path: Path) -> None:
    """811,000 bits at 1e-6: (1 - 1e-6)^811,000 = 44 % of the draws have none."""
    campaign = run(tmp_path, {"rates": [1e-6], "draws": 60, "where": ["weight"]})
    empty = [record for record in flat(campaign) if record.flips == 0]
    assert 15 <= len(empty) <= 38
    assert all(record.masked == record.inferences == 16 for record in empty)
    summary = summarise(campaign)
    assert summary.groups[0].empty == len(empty)
    assert summary.groups[0].injections == 60
    assert any("had no fault" in sentence for sentence in summary.notes)


def test_silent_faults_are_counted_apart(tmp_path: Path) -> None:
    """Bit 30 of a weight under 2 is zero already: stuck at 0 it changes nothing, stuck at 1 it is a flip."""
    values = {**STEM, "bits": "30", "exhaustive": True, "effect": "stuck-at-0"}
    campaign = run(tmp_path / "zero", values)
    assert {(record.flips, record.silent, record.masked) for record in flat(campaign)} == {(0, 1, 16)}
    group = summarise(campaign).groups[0]
    assert (group.silent, group.flips, group.empty) == (144, 0, 0)
    ones = run(tmp_path / "one", {**values, "effect": "stuck-at-1"})
    flips = run(tmp_path / "flip", {**values, "effect": "flip"})
    assert flat(ones) == flat(flips)


def test_transient_faults_hit_one_image(tmp_path: Path) -> None:
    campaign = run(tmp_path, {"faults": 200, "duration": "transient", "where": ["activation"], "bits": "30"})
    assert {record.inferences for record in flat(campaign)} == {1}
    assert campaign.design.batch_groups == 16
    assert len({campaign.design.draw(0, number).batch_group for number in range(200)}) == 16


# ---- the exhaustive campaign ---------------------------------------------------------------------------------------------------


def test_an_exhaustive_campaign_is_certain(exhaustive: tuple[Path, Campaign]) -> None:
    _, campaign = exhaustive
    summary = summarise(campaign)
    records = flat(campaign)
    assert len(records) == 1296 == summary.population
    for share in ("masked", "non_critical", "critical", "sdc1", "due"):
        exact = sum(getattr(record, share) for record in records) / (16 * 1296)
        one = summary.overall[share]
        assert one.value == pytest.approx(exact, abs=1e-12)
        assert one.high - one.low == pytest.approx(0, abs=1e-12)
    assert summary.overall["critical"].value > 0.01
    assert {cell.bit for cell in summary.bits} == set(range(23, 32))
    worst = max(summary.bits, key=lambda cell: cell.critical.value)
    assert worst.bit == 30
    drawn = [campaign.design.draw(0, number) for number in range(1296)]
    assert [(one.elements.tolist(), one.bits.tolist()) for one in drawn] == [([n // 9], [23 + n % 9]) for n in range(1296)]


@pytest.mark.parametrize(
    "values", [{"faults": 400}, {"faults": 400, "stratify": ["bit"]}, {"faults": 640, "images_per_fault": 8, "stratify": ["bit"]}]
)
def test_a_sample_lies_near_the_truth(tmp_path: Path, exhaustive: tuple[Path, Campaign], values: dict[str, Any]) -> None:
    truth = summarise(exhaustive[1]).overall["critical"].value
    campaign = run(tmp_path, {**STEM, **values, "seed": 1})
    summary = summarise(campaign)
    found = summary.overall["critical"]
    assert found.low <= truth <= found.high
    assert found.value == pytest.approx(truth, abs=0.03)
    assert len({(group, draw) for group, draw, *_ in flat(campaign)}) == len(flat(campaign)) == values["faults"]
    if "stratify" in values:
        assert [group.population for group in summary.groups] == [144] * 9  # the groups are a partition of the population
        sites = [campaign.design.draw(group, draw) for group, draw, *_ in flat(campaign)]
        assert all(one.bits[0] == 23 + one.group for one in sites)


def test_a_precision_is_reached(tmp_path: Path, exhaustive: tuple[Path, Campaign]) -> None:
    campaign = run(tmp_path, {**STEM, "precision": 0.4, "stratify": ["bit"]})
    assert campaign.complete
    assert campaign.decision is not None
    assert campaign.decision.reached
    found = summarise(campaign).overall["critical"]
    assert (found.high - found.low) / 2 <= 0.4 * found.value
    assert found.low <= summarise(exhaustive[1]).overall["critical"].value <= found.high
    assert read_campaign(tmp_path).results == campaign.results


def test_torch_has_its_threads_back(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    run(tmp_path, {"faults": 2, "threads": before + 1})
    assert torch.get_num_threads() == before
