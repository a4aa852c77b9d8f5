"""A compile whose result is a streaming program: samples are frames wherever it is run, checked and judged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

import effc.passes
from effc.compiler import compile_model
from effc.compiler.clips import golden_clip
from effc.compiler.crosscheck import rehearse
from effc.compiler.golden import Checks, golden_inputs, run_program, runner
from effc.compiler.resets import every_frame_by_itself
from effc.compiler.verification import verify_artifact
from effc.compiler.wavering import spread, wavering
from effc.data import Dataset
from effc.errors import ConfigError, VerificationError
from effc.faultsim.sites import find_sites
from effc.ir import Program, run_clip
from effc.lowering import Lowered, lower
from effc.passes import Context, Pass
from effc.passes.profiling import Watch
from effc.passes.quality import Judge
from effc.runtime import load
from tests.unit.ir.streaming_net import Net, clip, per_frame, streaming


@dataclass(frozen=True)
class Streamed(Pass):
    """Stands for the pass that makes streaming programs."""

    threshold: float = 0.3

    name: ClassVar[str] = "streamed"
    exact: ClassVar[bool] = False
    idempotent: ClassVar[bool] = False

    def run(self, program: Program, context: Context) -> Program:
        return streaming(program, self.threshold)


@dataclass(frozen=True)
class Unchanged(Streamed):
    """With a threshold of zero nothing changes, bit for bit."""

    threshold: float = 0.0

    name: ClassVar[str] = "unchanged"
    exact: ClassVar[bool] = True


class Shown:
    def __init__(self) -> None:
        self.values: list[Tensor] = []

    def see(self, value: Tensor) -> None:
        self.values.append(value.clone())


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effc.passes, "PASSES", (*effc.passes.PASSES, Streamed, Unchanged))


def test_from_compile_to_verify_samples_are_frames_of_a_clip(tmp_path: Path) -> None:
    x = clip(70).numpy()  # more than goes into one call of an evaluation
    torch.manual_seed(3)
    module, out = Net().eval(), tmp_path / "out"
    result = compile_model(module, out, example_inputs=(clip()[:1],), passes="streamed", data=x[:20], eval=x, metric="max-error")
    session = load(out)
    assert [state["resident"] for state in session.manifest.data["states"]] == [True] * 4
    assert [spec.name for spec in session.inputs] == ["x"]
    expected = run_clip(result.program, {"x": torch.from_numpy(x)})["output"].numpy()
    np.testing.assert_allclose(session.run({"x": x})["output"], expected, atol=1e-4 * np.abs(expected).max())
    dense = run_program(per_frame(), {"x": x})["scores"]
    parts = [slice(0, 64), slice(64, 70)]  # the unit of a max-error is the largest magnitude in a call
    worst = max(float(np.abs(expected[part] - dense[part]).max() / np.abs(dense[part]).max()) for part in parts)
    assert result.quality.after == pytest.approx(worst, rel=1e-3)
    assert worst > 1e-3
    with np.load(out / "golden.npz") as golden:
        frames = golden["input/x"]
        assert frames.tolist() == x[: len(frames)].tolist()
        assert len(frames) > 2
    checks = Checks({"x": frames})
    checks.start(result.program)
    assert rehearse(result.program, checks, 1) < 1e-5  # as for another machine: the third frame, after two that are not compared
    np.savez(tmp_path / "data.npz", x=x)
    verdict = verify_artifact(out, data=tmp_path / "data.npz")
    assert verdict.passed
    assert [finding.samples for finding in verdict.findings] == [len(frames), len(frames), 70]


def test_a_stream_that_misses_changes_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    still = np.repeat(clip(1).numpy(), 6, axis=0)  # golden frames in which nothing moves: no code can be wrong on them
    options: dict[str, Any] = {"example_inputs": (clip()[:1],), "passes": "unchanged", "data": still}
    torch.manual_seed(3)
    module, out = Net().eval(), tmp_path / "out"
    program = compile_model(module, out, **options).program
    assert every_frame_by_itself(program)
    finding = verify_artifact(out).findings[2]
    assert finding.passed and finding.must_hold and "reset before every frame" in finding.what
    assert finding.verification.tolerance == 0.0

    def lower_wrongly(given: Program, *args: Any, **kwargs: Any) -> Lowered:
        return lower(streaming(compiled, threshold=0.01), *args, **kwargs)

    exported, batch = torch.export.export(module, (clip()[:1],)), program.interface.batch
    compiled = Program.from_exported(exported, program.provenance, batch=batch, input_names=["x"], output_names=["output"])
    monkeypatch.setattr("effc.compiler.compile.lower", lower_wrongly)
    with pytest.raises(VerificationError, match="after a reset") as caught:
        compile_model(module, tmp_path / "wrong", **options)
    assert [problem.where for problem in caught.value.problems] == ["output output"]
    assert not (tmp_path / "wrong").exists()


def test_only_truncations_at_zero_leave_every_frame_by_itself() -> None:
    assert not every_frame_by_itself(per_frame())
    assert not every_frame_by_itself(streaming(per_frame(), threshold=0.3))
    assert not every_frame_by_itself(streaming(per_frame(), last=0.3))


def test_an_exact_pass_is_held_to_the_frames_one_by_one() -> None:
    checks = Checks({"x": clip(8).numpy()})
    checks.start(per_frame())
    checks.after(Unchanged(), streaming(per_frame()))  # torch's sums differ with the batch: compared with all at once this would raise
    assert checks.differences[0].worst == 0.0


def test_without_data_a_patch_moves_over_noise() -> None:
    checks = Checks(golden_inputs(per_frame(), None, seed=0))
    checks.start(per_frame())
    frames = golden_clip(checks, [(Unchanged(), streaming(per_frame()))], per_frame(), None).inputs["x"]
    moved = (frames[1:] != frames[:-1]).any(1)
    assert len(frames) == 8
    assert moved.reshape(7, -1).sum(1).tolist() == [9] * 7  # of 144 pixels


def test_golden_frames_end_before_rounding_decides() -> None:
    two = clip(2)
    x = torch.cat([two[:1].expand(4, -1, -1, -1), two[1:].expand(4, -1, -1, -1)])  # what moves, moves from frame 3 to frame 4
    seen = Shown()
    watch = Watch(streaming(per_frame()), {"relu_1": (seen,)})
    watch.run_batch(Dataset({"x": two.numpy()}))
    gaps = (seen.values[1] - seen.values[0]).square().mean(1).sqrt().flatten()
    edge = float(gaps[gaps > 0].median())  # as far as one pixel moves
    shaky = streaming(per_frame(), last=edge)
    found = wavering(shaky, {"x": x.numpy()})
    assert found.tolist() == [False] * 4 + [True] * 4
    assert spread(shaky, {"x": x.numpy()}) > 5e-5
    checks = Checks({"x": x.numpy()})
    checks.start(per_frame())
    chosen = golden_clip(checks, [(Streamed(edge), shaky)], per_frame(), Dataset({"x": x.numpy()}))
    assert np.array_equal(chosen.inputs["x"], x[:4])
    assert golden_clip(checks, [(Streamed(edge), shaky)], per_frame(), Dataset({"x": x[3:].numpy()})).inputs["x"].shape[0] == 2
    assert not wavering(streaming(per_frame()), {"x": x.numpy()}).any()  # a threshold of zero changes no value


def test_evaluations_and_observers_follow_the_clip() -> None:
    program, x = streaming(per_frame(), threshold=0.3), clip(10).numpy()
    data, expected = Dataset({"x": x}), run_program(program, {"x": x})["scores"]
    run = runner(program)
    assert np.array_equal(np.concatenate([run({"x": part})["scores"] for part in (x[:3], x[3:])]), expected)
    watch = Watch(program, {})
    parts = [watch.run_batch(part)["scores"].numpy() for part in data.batches(4)]
    assert np.array_equal(np.concatenate(parts), expected)
    judge = Judge(program, data, "max-error")
    assert [judge.judge(program)[0] for _ in range(2)] == [0.0, 0.0]  # each begins at a reset, the reference, too


def test_a_streaming_program_is_no_subject_of_faults() -> None:
    with pytest.raises(ConfigError, match="streaming"):
        find_sites(streaming(per_frame()))
