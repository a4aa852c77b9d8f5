"""Campaigns on compiled code: where each source element is stored, faults against those of the program, undoing, what is refused, and that
worker processes change nothing."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from effc.compiler import compile_model
from effc.data import Dataset
from effc.errors import AlteredArtifactError, ConfigError, InternalError, VerificationError
from effc.faultsim.artifact_engine import ArtifactEngine
from effc.faultsim.artifact_subject import ArtifactSubject
from effc.faultsim.campaign import read_campaign, run_campaign
from effc.faultsim.engine import ProgramEngine
from effc.faultsim.faults import Injection
from effc.faultsim.images import BatchGroups
from effc.faultsim.replay import Replay
from effc.faultsim.sites import Site
from effc.faultsim.spec import CampaignSpec
from effc.faultsim.stored_map import StoredMap
from effc.faultsim.workers import torch_threads
from effc.ir.arrays import to_numpy
from effc.lowering.kernels.packing import Packed
from effc.lowering.parameters import ParameterSource
from effc.runtime import Session, write_artifact
from effc.runtime.manifest import StoredTensor

EXAMPLES = Path(__file__).parents[3] / "examples"
BATCH = 8
BIT_30 = 30


class Mixed(nn.Module):
    """A convolution for Winograd's algorithm, a batch norm that is not folded, and a matrix that is used in two directions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.square = nn.Parameter(torch.randn(8, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        result: Tensor = self.head(torch.relu(y @ self.square) + functional.linear(y, self.square))
        return result


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> ArtifactSubject:
    """Without Winograd's algorithm, whose sums of inputs overflow earlier than the convolution's own."""
    out = tmp_path_factory.mktemp("artifact") / "digits"
    compile_model(EXAMPLES / "digits.onnx", out, batch=BATCH, winograd="off", check_import=False)
    return ArtifactSubject(out, "digits")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> ArtifactSubject:
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("artifact") / "mixed"
    compile_model(Mixed().eval(), out, example_inputs=[torch.randn(2, 8, 8, 8)], winograd="f2")
    return ArtifactSubject(out, "mixed")


@pytest.fixture(scope="module")
def data() -> Dataset:
    held_out = np.load(EXAMPLES / "digits_test.npz")
    return Dataset({"image": held_out["x"]}, held_out["y"].astype(np.int64))


def the_same_files(path: Path, out: Path, **changes: Any) -> Path:
    """An artifact with other fields in its manifest."""
    content = json.loads((path / "manifest.json").read_bytes())
    files = {name: (path / name).read_bytes() for name in content["files"]}
    write_artifact(out, files, content | changes)
    return out


def listed(folder: Path, *rows: str) -> Replay:
    path = folder / "list.csv"
    path.write_text("\n".join(["Injection,Layer,TensorIndex,Bit", *rows]) + "\n")
    return Replay.read(path)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# ---- where elements are --------------------------------------------------------------------------------------------------------


@given(st.data())
def test_every_source_element_is_at_its_place_and_the_rest_is_filling(draw: st.DataObject) -> None:
    shape = tuple(draw.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    order = tuple(draw.draw(st.permutations(range(len(shape)))))
    axes = st.integers(0, len(shape) - 1)
    blocks = tuple(draw.draw(st.lists(st.tuples(axes, st.integers(1, 4)), max_size=3)))  # an axis may be cut twice
    source = np.arange(1, math.prod(shape) + 1, dtype=np.int32).reshape(shape)
    stored = Packed(order, blocks)(source)
    said = Packed(order, blocks).source(ParameterSource("w", "same"))
    where = StoredMap.of(StoredTensor(0, "w", said.kind, said.permutation, said.blocks or None), shape)
    assert where is not None
    assert where.stored == stored.shape
    places = where.places(np.arange(source.size))
    assert len(set(places.tolist())) == source.size
    np.testing.assert_array_equal(stored.reshape(-1)[places], source.reshape(-1))
    assert not np.delete(stored.reshape(-1), places).any()
    where.check(stored, source)
    if source.size > 1:
        with pytest.raises(VerificationError, match="not the source's"):
            where.check(stored, source[::-1] if shape[0] > 1 else source + 1)


@pytest.mark.parametrize("which", ["digits", "mixed"])
def test_what_is_mapped_holds_the_programs_values_and_padding_is_no_population(which: str, request: pytest.FixtureRequest) -> None:
    subject: ArtifactSubject = request.getfixturevalue(which)
    session = Session(subject.artifact, threads=1)
    assert {one.site.key for one in subject.held} == set(session.parameter_names)
    kinds = set()
    for one in subject.held:
        if one.site.stands_for or not one.sources:
            continue
        (source,) = one.sources
        assert (one.site.name, one.site.layer, one.site.shape) == (source.name, source.layer, source.shape)
        stored = session.parameter_view(one.site.key).reshape(-1)
        assert one.map is not None
        places = one.map.places(np.arange(one.site.elements))
        expected = to_numpy(subject.program.tensors[source.key]).reshape(-1)
        assert stored[places].tobytes() == expected.tobytes()
        assert len(set(places.tolist())) == one.site.elements <= stored.size
        assert not np.delete(stored, places).any()
        kinds.add(subject.artifact.manifest.parameters[one.site.key].kind)
    assert {"same", "packed"} <= kinds


def test_what_is_no_plain_copy_of_one_source_has_names_of_its_own(mixed: ArtifactSubject) -> None:
    labels = {one.site.layer: one for one in mixed.held}
    winograd = labels["conv (transformed)"]
    assert (winograd.site.kind, winograd.map) == ("weight", None)
    assert winograd.site.elements == mixed.artifact.parameters()[winograd.site.key].size > 8 * 8 * 9
    assert set(winograd.site.stands_for) == {"conv.weight", "conv"}
    folded = [one for one in mixed.held if one.site.layer == "norm (transformed)"]
    assert {site.name for one in folded for site in one.sources} == {
        f"norm.{name}" for name in ("weight", "bias", "running_mean", "running_var")
    }
    copies = [one for one in mixed.held if [site.name for site in one.sources] == ["square"]]
    assert len(copies) == 2
    assert len({one.site.name for one in copies} | {"square"}) == 3
    assert all(one.site.shape == (8, 8) and one.site.layer.endswith("(copy)") for one in copies)
    names = [one.site.name for one in mixed.held]
    assert len(set(names)) == len(names)


def test_sites_are_chosen_as_in_the_program(mixed: ArtifactSubject) -> None:
    def names(**chosen: Any) -> list[str]:
        return [site.layer for site in mixed.sites(CampaignSpec(**chosen))]

    assert names(where=("weight",), layers=("conv",)) == ["conv (transformed)"]
    assert names(where=("bias",)) == ["conv", "head"]
    assert names(ops=("linear",), layers=("head*",)) == ["head", "head"]
    assert set(names(where=("norm",))) == {"norm (transformed)"}
    for wrong in ({"layers": ("nothing",)}, {"ops": ("conv3d",)}, {"where": ("bound",)}):
        with pytest.raises(ConfigError, match="nowhere to put faults"):
            names(**wrong)


# ---- faults --------------------------------------------------------------------------------------------------------------------


def test_faults_in_compiled_code_do_what_they_do_in_the_program(digits: ArtifactSubject, data: Dataset) -> None:
    """Bit 30 of weights and biases, 60 images a fault: a last batch of 4 in code that computes 8."""
    spec = CampaignSpec(images=60, faults=1)
    images = digits.images(data, spec, digits.batch(spec))
    mapped = [one for one in digits.held if not one.site.stands_for]
    session = Session(digits.artifact, threads=1)
    parameters = [session.parameter_view(name) for name in session.parameter_names]
    before = hashlib.sha256(b"".join(array.tobytes() for array in parameters)).digest()
    compiled = ArtifactEngine(session, mapped, images)
    together = BatchGroups(data, ["image"], images=60, per_fault=None, batch=60, seed=0)
    in_torch = ProgramEngine(digits.program, [one.sources[0] for one in mapped], together)
    np.testing.assert_allclose(np.concatenate([one for (one,), _ in compiled.golden_run()]), next(in_torch.golden_run())[0][0], atol=1e-4)

    generator = np.random.default_rng(3)
    injections = []
    for number in range(60):
        site = number % len(mapped)
        element = int(generator.integers(mapped[site].site.elements))
        injections.append(Injection(0, number, 1, np.array([site]), np.array([element]), np.array([BIT_30])))
    found = compiled.run(injections)
    with torch_threads(1):
        expected = in_torch.run(injections)
    pairs = 60 * len(injections)
    assert sum(record.inferences for record in found) == pairs
    for field in ("masked", "critical", "due", "correct", "lost"):
        assert sum(abs(getattr(a, field) - getattr(b, field)) for a, b in zip(found, expected, strict=True)) <= 0.01 * pairs
    assert 0.05 * pairs < sum(record.critical for record in found) < 0.95 * pairs
    assert [(record.before, record.after, record.flips) for record in found] == [(one.before, one.after, one.flips) for one in expected]
    assert hashlib.sha256(b"".join(array.tobytes() for array in parameters)).digest() == before

    # by hand: the same flips in both, pair by pair
    x = data.inputs["image"][:60]
    same = close = 0
    golden = session.run({"image": x})["logits"].argmax(1)
    for injection, record in zip(injections, found, strict=True):
        one = mapped[int(injection.sites[0])]
        assert one.map is not None
        words = session.parameter_view(one.site.key).reshape(-1).view(np.uint32)
        tensor = in_torch.program.tensors[one.sources[0].key].detach().numpy().reshape(-1).view(np.uint32)
        place = one.map.places(injection.elements)
        words[place] ^= np.uint32(1 << BIT_30)
        tensor[injection.elements] ^= np.uint32(1 << BIT_30)
        here = session.run({"image": x})["logits"]
        with torch_threads(1):
            there = in_torch.program.call(torch.from_numpy(x))[0].detach().numpy()
        words[place] ^= np.uint32(1 << BIT_30)
        tensor[injection.elements] ^= np.uint32(1 << BIT_30)
        finite = np.isfinite(here).all(1)
        assert record.critical == int((~finite | (np.nan_to_num(here, nan=-np.inf).argmax(1) != golden)).sum())
        same += int((here.argmax(1) == there.argmax(1)).sum())
        close += int(np.isclose(here, there, rtol=1e-3, atol=1e-3, equal_nan=True).all(1).sum())
    assert same >= 0.99 * pairs
    assert close >= 0.98 * pairs


def test_a_fault_that_is_not_undone_is_noticed(digits: ArtifactSubject, data: Dataset) -> None:
    images = digits.images(data, CampaignSpec(images=8), BATCH)
    session = Session(digits.artifact, threads=1)
    engine = ArtifactEngine(session, digits.held, images)
    place = np.zeros(1, np.int64)
    engine.run([Injection(0, 0, 1, place, place, place)])
    session.parameter_view(digits.held[0].site.key).reshape(-1).view(np.uint32)[1] ^= np.uint32(1)
    with pytest.raises(InternalError, match="not what it was"):
        engine.run([Injection(0, 0, 1, place, place, place)])


# ---- campaigns -----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_worker_processes_give_the_same_bytes(digits: ArtifactSubject, data: Dataset, tmp_path: Path) -> None:
    for jobs in (1, 2):
        spec = CampaignSpec(faults=150, images=20, jobs=jobs, seed=5)
        campaign = run_campaign(digits, data, spec, tmp_path / f"jobs{jobs}")
        assert campaign.complete
        assert campaign.planned == 150
    alone = everything(tmp_path / "jobs1")
    assert alone == everything(tmp_path / "jobs2")
    assert sum("chunk" in name for name in alone) == 3
    model = campaign.identity["model"]
    assert (model["kind"], model["sha256"], model["target"]) == ("artifact", digits.artifact.manifest.digest, "cpu")
    assert (campaign.identity["spec"]["batch"], campaign.identity["spec"]["threads"]) == (BATCH, 1)
    assert campaign.design.population.size == 32 * sum(one.site.elements for one in digits.held)
    assert read_campaign(tmp_path / "jobs1").results == campaign.results


def test_a_list_for_the_model_is_replayed_where_elements_have_their_places(digits: ArtifactSubject, data: Dataset, tmp_path: Path) -> None:
    spec = CampaignSpec(faults_csv=tmp_path / "list.csv", images=8)
    stem = next(one.site for one in digits.held if one.site.stands_for)
    own = f'2,{stem.name},"{stem.index(stem.elements - 1)}",30'  # by its stored name it is reached
    campaign = run_campaign(digits, data, spec, tmp_path / "out", replay=listed(tmp_path, "0,conv1,5,30", "1,classifier.bias,3,30", own))
    assert campaign.numbers == (0, 1, 2)
    assert read_campaign(tmp_path / "out").results == campaign.results
    conv1 = to_numpy(next(value for key, value in digits.program.tensors.items() if digits.program.tensor_names[key] == "conv1.weight"))
    assert campaign.results[0][0].before == int(conv1.reshape(-1).view(np.int32)[5])
    with pytest.raises(ConfigError, match="does not fit the model") as caught:
        listed(tmp_path, "0,stem,5,30", "1,stem.weight,5,30", "2,conv1,5,30").places(digits.sites(spec))
    assert [problem.what for problem in caught.value.problems] == ["'stem'", "'stem.weight'"]
    assert all("was transformed when it was compiled" in problem.why for problem in caught.value.problems)


def test_copies_are_told_from_their_source(mixed: ArtifactSubject, tmp_path: Path) -> None:
    sites = mixed.sites(CampaignSpec())
    with pytest.raises(ConfigError, match="square") as caught:
        listed(tmp_path, "0,square,5,30").places(sites)
    assert "is stored 2 times" in caught.value.problems[0].why
    copy = next(site for site in sites if site.layer.endswith("(copy)"))
    (places,) = listed(tmp_path, f"0,{copy.name},5,30").places(sites)
    assert [one.tolist() for one in places] == [[sites.index(copy)], [5], [30]]
    again = [Site.from_json(site.as_json()) for site in sites]  # as a campaign's folder keeps them
    assert [one.tolist() for one in listed(tmp_path, f"0,{copy.name},5,30").places(again)[0]] == [one.tolist() for one in places]


# ---- refused -------------------------------------------------------------------------------------------------------------------


def test_what_compiled_code_cannot_do_is_refused(digits: ArtifactSubject, data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="stored tensors alone") as caught:
        digits.sites(CampaignSpec(where=("weight", "activation", "input")))
    assert [problem.what for problem in caught.value.problems] == ["activation", "input"]
    assert "--executor program" in caught.value.problems[0].hint
    with pytest.raises(ConfigError, match="numbers that are stored"):
        digits.sites(CampaignSpec(view="int8"))
    assert digits.sites(CampaignSpec(view="f32")) == digits.sites(CampaignSpec())
    with pytest.raises(ConfigError, match="the batch does not fit"):
        digits.images(data, CampaignSpec(batch=16), 16)


class Total(nn.Module):
    def forward(self, x: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * (total + x), total + x


def test_a_program_with_states_is_refused(tmp_path: Path) -> None:
    zeros = torch.zeros(1, 4)
    compile_model(Total(), tmp_path / "out", example_inputs=(zeros, zeros), states={"total": "output_1"})
    with pytest.raises(ConfigError, match="streaming artifacts are not supported"):
        ArtifactSubject(tmp_path / "out", "total")


def test_a_wrong_map_and_a_replaced_artifact_are_found(digits: ArtifactSubject, tmp_path: Path) -> None:
    parameters = json.loads((digits.artifact.path / "manifest.json").read_bytes())["parameters"]
    conv = next(entry for entry in parameters.values() if entry["source"] == "conv2.weight")
    conv["permutation"] = [conv["permutation"][0], *conv["permutation"][:0:-1]]
    wrong = the_same_files(digits.artifact.path, tmp_path / "wrong", parameters=parameters)
    with pytest.raises(VerificationError, match=r"conv2\.weight is wrong"):
        _ = ArtifactSubject(wrong, "digits").held
    place = the_same_files(digits.artifact.path, tmp_path / "place")
    ArtifactSubject(place, "digits").save(tmp_path)
    assert ArtifactSubject.load(tmp_path, "digits").artifact.path == place
    the_same_files(wrong, place)
    with pytest.raises(AlteredArtifactError, match="compiled anew"):
        ArtifactSubject.load(tmp_path, "digits")
