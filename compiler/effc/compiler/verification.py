"""Whether an artifact computes what its own program computes, and what its source computes; and if not, since which pass.

A streaming artifact is compared with itself, too, with a reset before every frame (`resets`).

For an ONNX source onnxruntime is asked, too: the import of the source is effc's own work, so a misread operator would be on both sides.

An artifact that differs from its own program is a bug of effc. One that differs from its source may have been meant to: a lossy pass
changes the function. The outputs after every pass, which the artifact carries for its golden inputs, tell which pass it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from effc.compiler.c_self_tests import SelfTest, artifact_self_tests
from effc.compiler.c_session import c_session
from effc.compiler.comparing import BATCH, first_divergence, is_own_source, joined, parts_of, samples_in, top1
from effc.compiler.emulated import foreign_target, lacks_gpu, of_foreign, verdict_elsewhere, without_gpu
from effc.compiler.golden import calls, run_program
from effc.compiler.resets import check_resets
from effc.compiler.verdict import Finding, Verdict, is_exact
from effc.compiler.wavering import spread, wavering
from effc.data import Dataset, load_dataset
from effc.data.preprocess import Preprocess
from effc.errors import DataError, Problem
from effc.frontends import Limits, load_program
from effc.frontends.onnx.reference import CannotRunError, Reference, open_reference
from effc.ir import Program
from effc.ir.storage import load_program_bytes
from effc.runtime import Artifact, Session, Verification, load, open_artifact, verify_golden
from effc.runtime.tensors import Array
from effc.runtime.verify import TOLERANCE, Difference, compare

__all__ = ["Finding", "Verdict", "verify_artifact"]


def verify_artifact(
    path: Path | str,
    *,
    source: Path | str | None = None,
    data: Path | str | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    limits: Limits | None = None,
    threads: int | None = None,
    check_import: bool = True,
) -> Verdict:
    """Compare an artifact with its golden vectors and its own program, with its source where given, on data where given.

    An ONNX source is compared with onnxruntime, too, whether its import was checked (`check_import`) or not. C sources are built by this
    machine's C compiler and called; their self-test is run here, and on QEMU's board where the tools for that are installed. Where it did
    not run is no failure: the verdict's `self_tests` tell. Of code for another processor the self-test is run under its emulator, of code
    for a GPU that is not here its CUDA C on the CPU; source and data are compared with the program that the code was made from.

    Raises whatever loading the artifact, the source or the data raises; differences are in the verdict.
    """
    opened = open_artifact(path)
    foreign = foreign_target(opened)
    if foreign is not None or lacks_gpu(opened):
        _refuse_absent({"--source": source, "--data": data})
        original = None if source is None else load_program(source, input_shapes=input_shapes, limits=limits, check_import=check_import)
        program = load_program_bytes(opened.read("program.pt2"), name="program.pt2")
        dataset = None if data is None else load_dataset(data, program.interface.frame_inputs, preprocess=_preprocess(opened))
        ran = without_gpu(opened, program) if foreign is None else of_foreign(opened, foreign)
        return verdict_elsewhere(opened, ran, program, original, dataset)
    is_c = opened.manifest.executor == "c"
    session = c_session(path) if is_c else load(path, threads=threads)
    artifact = session.artifact
    program = load_program_bytes(artifact.read("program.pt2"), name="program.pt2")
    specs = list(session.manifest.data["passes"])
    lossy = tuple(spec for spec in specs if not is_exact(spec))
    inputs, _ = artifact.golden()
    count = samples_in(session.manifest, inputs, session.inputs)
    outputs = session.run(inputs)
    findings = [
        Finding("artifact against its golden outputs", verify_golden(session), count, None, True),
        Finding("artifact against its own program, golden inputs", compare(outputs, run_program(program, inputs)), count, None, True),
    ]
    tests = artifact_self_tests(opened) if is_c else ()
    findings += [_of_self_test(one, opened, count) for one in tests if one.passed is not None]
    notes = [f"the self-test of the C sources did not run on {one.where}: {one.said}; {one.how}" for one in tests if one.passed is None]
    resets = check_resets(session, program, inputs)
    if resets is not None:
        what = "artifact as a stream against itself with a reset before every frame, bit for bit"
        findings.append(Finding(what, resets, count, None, True))
    original = None if source is None else load_program(source, input_shapes=input_shapes, limits=limits, check_import=check_import)
    diverging = ""
    if original is not None:
        expected = run_program(original, inputs)
        label, exact = first_divergence(artifact, expected, specs)
        diverging = label
        between = Finding("artifact against the source, golden inputs", compare(outputs, expected), count, top1(outputs, expected), exact)
        findings.append(between)
    dataset = None
    if data is not None:
        dataset = load_dataset(data, session.inputs, preprocess=_preprocess(artifact))
        findings += _on_data(session, program, original, dataset, bool(lossy))
    if source is not None and original is not None and Path(source).suffix.lower() == ".onnx":
        try:
            reader = open_reference(Path(source), input_shapes, limits or Limits())
            findings += _against_reader(reader, original, session, "golden inputs", [inputs], not lossy)
            if dataset is not None:
                parts = [dict(part.inputs) for part in parts_of(program, dataset)]
                findings += _against_reader(reader, original, session, "data", parts, not lossy)
        except CannotRunError as error:
            notes.append(f"not compared with onnxruntime: {error}")
    return Verdict(tuple(findings), diverging, lossy, tuple(notes), is_own_source(artifact, original), tests)


def _refuse_absent(given: Mapping[str, Path | str | None]) -> None:
    """Raises DataError with the files that are not there."""
    absent = [Problem(flag, str(path), "does not exist") for flag, path in given.items() if path is not None and not Path(path).exists()]
    if absent:
        raise DataError("there are no such files", absent)


def _of_self_test(test: SelfTest, artifact: Artifact, count: int) -> Finding:
    difference = Difference("self-test", 0.0 if test.passed else float("inf"), None, "" if test.passed else test.said)
    here = test.where == "this machine"
    where = test.where if here else f"{artifact.manifest.data['target']['name']} on {test.where}"
    return Finding(f"self-test of the C sources, {where} (0: it passed)", Verification((difference,), TOLERANCE), count, None, True)


def _on_data(session: Session, program: Program, original: Program | None, dataset: Dataset, lossy: bool) -> list[Finding]:
    ours, own, theirs = [], [], []
    for part in parts_of(program, dataset):
        inputs = dict(part.inputs)
        ours.append(session.run(inputs))
        own.append(run_program(program, inputs))
        if original is not None:
            theirs.append(run_program(original, inputs))
    mine, count = joined(ours), len(dataset)
    reference = joined(own)
    findings = [_against_itself(program, dataset, mine, reference)]
    if original is not None:
        expected = joined(theirs)
        findings.append(Finding("artifact against the source, data", compare(mine, expected), count, top1(mine, expected), not lossy))
    return findings


def _against_itself(program: Program, dataset: Dataset, mine: dict[str, Array], reference: dict[str, Array]) -> Finding:
    """On all samples, or on those where no threshold of the program is decided by rounding.

    What was decided in one frame of a clip is seen in those that follow, so there all are compared, and to no more than rounding explains.
    """
    where, count, same = "data", len(dataset), top1(mine, reference)
    if program.interface.resident and not compare(mine, reference).passed:
        allowed = 2 * spread(program, dataset.inputs)
        if allowed > TOLERANCE:
            where = f"data, within {allowed:.2g}, twice what rounding its weights otherwise moves the program itself by"
            return Finding(f"artifact against its own program, {where}", compare(mine, reference, allowed), count, same, True)
    elif program.interface.batch.symbolic and not compare(mine, reference).passed:
        shaky = np.concatenate([wavering(program, part.inputs) for part in dataset.batches(BATCH)])
        if shaky.any() and not shaky.all():
            mine, reference = ({name: array[~shaky] for name, array in side.items()} for side in (mine, reference))
            where, count = (
                f"data where no threshold is decided by rounding ({int(shaky.sum())} of {count} left out)",
                count - int(shaky.sum()),
            )
    return Finding(f"artifact against its own program, {where}", compare(mine, reference), count, same, True)


def _against_reader(
    reader: Reference, original: Program, session: Session, where: str, parts: Sequence[dict[str, Array]], must_hold: bool
) -> list[Finding]:
    """One finding for every unit that outputs are compared in. Raises CannotRunError."""
    ours = joined([session.run(part) for part in parts])
    theirs = joined([reader.run_samples(one, original.interface) for part in parts for one in calls(original, part)])
    agreements = reader.judge({name: ours[name] for name in theirs}, theirs)
    count = sum(samples_in(session.manifest, part, session.inputs) for part in parts)
    findings = []
    for unit, accepted in dict.fromkeys((one.unit, one.accepted) for one in agreements):
        inside = [one for one in agreements if (one.unit, one.accepted) == (unit, accepted)]
        # an average that is off has no largest element to show
        differences = tuple(Difference(one.name, float("inf") if one.why else one.size, None, one.why) for one in inside)
        what = f"artifact against {reader.name}, {where}{'' if 'magnitude' in unit else f', {unit}'}"
        findings.append(Finding(what, Verification(differences, accepted), count, top1(ours, theirs), must_hold))
    return findings


def _preprocess(artifact: Artifact) -> Preprocess | None:
    stored = artifact.manifest.data["preprocess"]
    return Preprocess.from_json(stored) if stored else None
