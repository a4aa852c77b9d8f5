"""A campaign from end to end: what is drawn, run, kept and summarised."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from effc.data import Dataset
from effc.errors import AlteredArtifactError, ConfigError, InputRejectedError, InternalError
from effc.faultsim.design import Design
from effc.faultsim.drawing import DRAWING
from effc.faultsim.engine import Engine
from effc.faultsim.outcomes import Outcome
from effc.faultsim.records import Record
from effc.faultsim.replay import Replay
from effc.faultsim.schedule import Schedule, Step
from effc.faultsim.spec import CampaignSpec, spec_of
from effc.faultsim.statistics.sequential import Decision
from effc.faultsim.store import SCHEMA, SCHEMA_VERSION, Store, canonical
from effc.faultsim.subject import ProgramSubject, Subject
from effc.faultsim.workers import Crew, golden_digest, torch_threads
from effc.runtime.tensors import pack_npz, unpack_npz

__all__ = ["Campaign", "Shard", "read_campaign", "run_campaign"]

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
_JOB, _DATA = "job.json", "data.npz"


@dataclass(frozen=True)
class Shard:
    """Part `number` of `of`, from 1."""

    number: int
    of: int

    def takes(self, chunk: int) -> bool:
        """Whether it makes that chunk."""
        return chunk % self.of == self.number - 1


@dataclass(frozen=True)
class Campaign:
    """What a campaign left.

    Attributes:
        identity: as in campaign.json.
        design: its experiments. `schedule`: its stages.
        results: the records of every group, in the order of their draws.
        complete: nothing is missing. `planned`: injections of the stages that are known.
        stages: how many were begun.
        numbers: the list's own numbers of its injections, for a replayed list.
        found: injections that were there before this run.
        decision: of a campaign with a precision: whether it was reached, and the interval over all looks.
    """

    identity: dict[str, Any]
    design: Design
    schedule: Schedule
    results: tuple[tuple[Record, ...], ...]
    complete: bool
    planned: int
    stages: int
    numbers: tuple[int, ...] = ()
    decision: Decision | None = None
    found: int = 0


def run_campaign(
    subject: Subject,
    data: Dataset,
    spec: CampaignSpec,
    folder: Path,
    *,
    replay: Replay | None = None,
    shard: Shard | None = None,
    progress: Progress | None = None,
) -> Campaign:
    """Run a campaign, or what is missing of it.

    Args:
        subject: what faults are put into. `data`: the samples. `spec`: the campaign.
        folder: where its results are kept; one that holds the same campaign is gone on with.
        replay: the list, where the spec replays one.
        shard: make only a part of the chunks.
        progress: opens a bar for each stage.

    Raises:
        ConfigError, DataError: the campaign does not fit the subject or the data; the folder holds another campaign, or one that was begun
            where the fault-free run has other bits.
        VerificationError: a worker's fault-free run has other bits than this process's.
        AlteredArtifactError: a file of the campaign is damaged.
    """
    with torch_threads(spec.threads):
        setting = _assemble(subject, data, spec, replay)
        schedule = Schedule(spec, setting.design.groups)
        schedule.planned()
        if shard is not None and schedule.is_adaptive:
            raise ConfigError(
                "a campaign whose later stages depend on earlier results cannot be cut into shards: run it whole, with --jobs"
            )
        golden, outcome = golden_digest(setting.engine)
    # as it is read again: reports show its parts in this order, whoever writes them
    identity = json.loads(canonical(_identity(subject, data, setting, replay, golden, outcome)))
    store = Store(folder, identity, None if replay is None else replay.content)
    with tempfile.TemporaryDirectory(prefix="effc-faultsim-") as work:
        if spec.jobs > 1:
            _prepare(Path(work), subject, data, setting.spec, folder, identity)
        crew = Crew(spec.jobs, spec.threads, setting.design, setting.engine, store, Path(work), _build, golden)
        try:
            numbers = () if replay is None else replay.numbers
            campaign = _make_stages(identity, setting.design, schedule, store, crew, shard, progress, numbers)
        finally:
            crew.close()
    if campaign.complete:
        store.tidy()
    return campaign


def read_campaign(folder: Path) -> Campaign:
    """What a folder holds, without its model. Raises ConfigError, InputRejectedError, AlteredArtifactError."""
    from effc.faultsim.reading import read_design

    identity, design, store, numbers = read_design(folder)
    try:
        return _make_stages(identity, design, Schedule(design.spec, design.groups), store, None, None, None, numbers)
    except (MemoryError, OverflowError) as error:
        raise InputRejectedError(f"{folder}: the campaign claims more than this machine can hold ({error})") from error


@dataclass(frozen=True)
class _Setting:
    spec: CampaignSpec  # with the batch filled in
    design: Design
    engine: Engine
    used: int  # samples


def _assemble(subject: Subject, data: Dataset, spec: CampaignSpec, replay: Replay | None) -> _Setting:
    sites = subject.sites(spec)
    images = subject.images(data, spec, spec.batch or subject.batch(spec))
    fixed = spec.model_copy(update={"batch": images.batch})
    listed = None if replay is None else replay.places(sites, spec.reach)
    design = Design.of(fixed, sites, len(images), listed=listed)
    return _Setting(fixed, design, subject.engine(fixed, sites, images), images.used)


def _identity(subject: Subject, data: Dataset, setting: _Setting, replay: Replay | None, golden: str, outcome: Outcome) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "model": subject.identity(),
        "data": {"sha256": data.sha256, "samples": len(data), "used": setting.used, "labels": data.labels is not None},
        "spec": setting.spec.identity(),
        "design": setting.design.as_json(),
        "versions": {"drawing": DRAWING, "numpy": np.__version__, "torch": torch.__version__},
        "list_sha256": None if replay is None else replay.sha256,
        "golden": {"sha256": golden, "correct": outcome.correct, "inferences": outcome.inferences},
    }


def _make_stages(
    identity: dict[str, Any],
    design: Design,
    schedule: Schedule,
    store: Store,
    crew: Crew | None,
    shard: Shard | None,
    progress: Progress | None,
    numbers: tuple[int, ...],
) -> Campaign:
    """Go through the stages: make what is missing where there is a crew, and read what is there."""
    results: list[list[Record]] = [[] for _ in design.groups]
    complete, stage, planned, found = True, 0, 0, 0
    step: Step | None = None
    while complete:
        step = schedule.next(stage, step, results)
        additional = step.additional
        if additional is None:
            break
        chunks = list(design.chunks(stage, [len(records) for records in results], additional))
        planned += sum(additional)
        found += sum(len(chunk.keys) for chunk in chunks if store.has(stage, chunk.number))
        missing = [chunk for chunk in chunks if not store.has(stage, chunk.number) and (shard is None or shard.takes(chunk.number))]
        if crew is not None and missing:
            count = sum(len(chunk.keys) for chunk in missing)
            bar = (
                progress(f"stage {stage + 1}" if schedule.is_adaptive else "injecting", count)
                if progress
                else nullcontext(lambda done: None)
            )
            with bar as advance:
                crew.make(missing, advance)
        for chunk in chunks:
            if not store.has(stage, chunk.number):
                complete = False
                continue
            records = store.read(stage, chunk.number)
            if [(record.group, record.draw) for record in records] != list(chunk.keys):
                raise AlteredArtifactError(
                    f"{store.folder}: chunk {chunk.number} of stage {stage} holds other injections than the campaign's: remove it, and run "
                    "the campaign again"
                )
            for record in records:
                results[record.group].append(record)
        for records in results:
            records.sort(key=lambda record: record.draw)
        stage += 1
    return Campaign(
        identity, design, schedule, tuple(map(tuple, results)), complete, planned, stage, numbers, step.decision if step else None, found
    )


def _prepare(work: Path, subject: Subject, data: Dataset, spec: CampaignSpec, folder: Path, identity: dict[str, Any]) -> None:
    """What a worker process reads."""
    subject.save(work)
    arrays = {f"input/{name}": array for name, array in data.inputs.items()}
    (work / _DATA).write_bytes(pack_npz(arrays if data.labels is None else {**arrays, "labels": data.labels}))
    job = {
        "spec": spec.model_dump(mode="json"),
        "folder": str(folder.resolve()),
        "kind": subject.kind,
        "name": identity["model"]["name"],
        "unit": data.unit,
        "identity": identity,
    }
    (work / _JOB).write_text(json.dumps(job))


def _build(work: Path) -> tuple[Design, Engine, Store]:
    """In a worker: the campaign from the working folder."""
    job = json.loads((work / _JOB).read_text())
    arrays = unpack_npz((work / _DATA).read_bytes())
    inputs = {name.removeprefix("input/"): array for name, array in arrays.items() if name != "labels"}
    data = Dataset(inputs, arrays.get("labels"), job["unit"])
    spec = spec_of(job["spec"])
    folder = Path(job["folder"])
    replay = Replay.kept(folder, job["identity"]["list_sha256"]) if spec.faults_csv is not None else None
    setting = _assemble(_subject(job["kind"], work, job["name"]), data, spec, replay)
    return setting.design, setting.engine, Store(folder, job["identity"])


def _subject(kind: str, work: Path, name: str) -> Subject:
    if kind == "program":
        return ProgramSubject.load(work, name)
    if kind == "artifact":
        from effc.faultsim.artifact_subject import ArtifactSubject

        return ArtifactSubject.load(work, name)
    if kind == "array":
        from effc.faultsim.accelerator.subject import ArraySubject

        return ArraySubject.load(work, name)
    raise InternalError(f"there is no subject of kind {kind!r}")
