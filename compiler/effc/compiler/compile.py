"""`compile_model`: load, rewrite, judge, lower, try out, write. Nothing is written before all of that has passed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from effc.compiler import dumping, gate, summary
from effc.compiler.backends import Compiled, backend_of
from effc.compiler.budget import over_budget, refuse_budget
from effc.compiler.c_self_tests import SourcesTrial
from effc.compiler.clips import golden_clip
from effc.compiler.contents import artifact_files, manifest_fields
from effc.compiler.crosscheck import SelfTestRun
from effc.compiler.estimating import estimate_lowered
from effc.compiler.golden import Checks, golden_inputs
from effc.compiler.inputs import ARRAYS, DataSource, Inputs, check_files, held_arrays, read_inputs
from effc.compiler.movement import movement
from effc.compiler.preparing import context_of, read_model
from effc.compiler.settings import Settings, settings_of
from effc.compiler.trial import Trial
from effc.compiler.wavering import settled
from effc.data import HeldArrays
from effc.errors import ConfigError
from effc.ir import Program
from effc.lowering import Options, lower
from effc.lowering.measuring import with_rates
from effc.lowering.tuning import load_tiles
from effc.passes import Decision, Pass, Pipeline, parse_passes
from effc.passes.base import Progress, silent
from effc.report import Quality, Report, render
from effc.runtime import Manifest, preflight, write_artifact
from effc.targets import C99, CUDA, Target, find_target

__all__ = ["CompileResult", "compile_model", "compile_with"]


@dataclass(frozen=True, repr=False)
class CompileResult:
    """What a compile made.

    Attributes:
        path: the artifact.
        manifest: its manifest.
        program: the final program.
        decisions: what every pass did, or why not, site by site.
        quality: the metric before and after; None without evaluation data.
        trial: how the compiled code did on the golden inputs; None where it cannot run on this machine.
        emulated: what the static self-test said under an emulator; for C sources, that of the board, else that built on this machine.
            None for this machine's own code, and where nothing here can run it.
        report: what `report.html` shows.
        sources: how C sources did; None for other code.
    """

    path: Path
    manifest: Manifest
    program: Program
    decisions: tuple[Decision, ...]
    quality: Quality | None
    trial: Trial | None
    emulated: SelfTestRun | None
    report: Report
    sources: SourcesTrial | None = None

    def __repr__(self) -> str:
        quality, trial = self.quality, self.trial
        judged = "not judged" if quality is None else f"{quality.metric} {quality.text(quality.before)} -> {quality.text(quality.after)}"
        parts = {
            "path": str(self.path),
            "target": self.manifest.data["target"]["name"],
            "passes": ",".join(self.program.provenance.passes),
            "quality": judged,
            "call": "not run" if trial is None else f"{trial.call / 1000:,.1f} µs",
        }
        return f"CompileResult({', '.join(f'{name}={value!r}' for name, value in parts.items())})"


def compile_model(
    source: Any,
    out: str | Path,
    *,
    passes: str | Sequence[str] = "",
    data: DataSource | None = None,
    eval: DataSource | None = None,
    init: str | Path | None = None,
    checkpoints: str | Path | None = None,
    metric: Literal["top1", "agreement", "kl", "perplexity", "max-error"] | None = None,
    max_drop: float | None = None,
    preprocess: str | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    target: str = "cpu",
    batch: int = 1,
    max_ram: int | str | None = None,
    max_flash: int | str | None = None,
    seed: int = 0,
    limits: Mapping[str, int] | None = None,
    check_import: bool = True,
    winograd: Literal["auto", "off", "f2", "f4"] = "auto",
    tune: float = 0.0,
    tuning: str | Path | None = None,
    rates: str | Path | None = None,
    emit_onnx: bool = False,
    force: bool = False,
    dump_ir: str | Path | None = None,
    example_inputs: Sequence[Any] | None = None,
    states: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> CompileResult:
    """Compile a trained network to an artifact.

    Args:
        source: path of an `.onnx` or `.pt2` file, an `nn.Module` (with `example_inputs`), or an `ExportedProgram`.
        out: the artifact's directory; replaced in one step where it is an older artifact.
        passes: `fold-batch-norm,ranger{option=value}`, or a sequence of such texts.
        data: calibration and training data: the path of an `.npz`, a `.npy` or a folder of images; or arrays in memory, by input name
            with labels under `y` (as in an `.npz`), or one array for a model with one input. The leading axis counts samples.
        eval: held-out data in the same forms, for the gate and the report; no pass sees them.
        init: a safetensors file with the parameters from before training, by the source's names, for passes that rewind to them (`prune`).
        checkpoints: a folder where passes that train keep how far they are after each epoch; the same compile goes on from there.
        metric: `top1`, `agreement`, `kl`, `perplexity` or `max-error`; top1 with labels, else agreement with the source (max-error
            where outputs have no classes).
        max_drop: largest accepted loss of the metric, absolute (0.01 is one point of top1); None only reports it.
        preprocess: how images become inputs: `size=32,channels=3,mean=...,std=...,layout=nchw,range=0..1`.
        input_shapes: sizes by input name where an ONNX file leaves more than the batch open.
        target: a name from `effc targets`.
        batch: samples of one call of the compiled code.
        max_ram, max_flash: for a microcontroller: bytes that the program may need at most, or text as `64k` or `1M` (of 1024).
        seed: the root of all randomness.
        limits: raised limits on untrusted models by name.
        check_import: whether an ONNX import is compared with onnxruntime on random inputs.
        winograd: `auto` takes Winograd's algorithm for 3x3 convolutions where it pays and its measured error is small; `off`; `f2` or `f4`.
        tune: seconds to measure the fastest tiles on this machine; they are remembered in the user's cache.
        tuning: a file of measured tiles to use: the tuning.json of an artifact.
        rates: a file of measured rates to decide by where to skip: the rates.json of an artifact.
        emit_onnx: write the transformed model into the artifact as `model.onnx`, too.
        force: replace a directory that holds other files.
        dump_ir: a folder for the program's text after each pass, and at last in TVM's relax, before kernels are picked.
        example_inputs: for an nn.Module, the tensors of one call.
        states: for a step of a streaming program, `(inputs..., states...) -> (outputs..., new states...)`: the name of each input that is
            a state -> that of the output with its new value, `{"keys": "keys_next"}`. `effc.runtime.Stream` runs the artifact.
        progress: shows long work.

    Raises:
        GateFailed: the metric fell by more than `max_drop`, or the program is over `max_ram` or `max_flash`.
        InconclusiveError: the samples of `eval` are too few to tell whether it did; or code and stack decide whether it is.
        UsageError, UnsupportedModelError, InputRejectedError, VerificationError, MissingDependencyError: see `effc.errors`. Whatever is
            raised, nothing was written to `out`.
    """
    held = held_arrays({"data": data, "eval": eval})
    settings = settings_of(
        {
            "passes": passes,
            "data": ARRAYS if "data" in held else data,
            "eval": ARRAYS if "eval" in held else eval,
            "init": init,
            "checkpoints": checkpoints,
            "metric": metric,
            "max_drop": max_drop,
            "preprocess": preprocess,
            "input_shapes": {name: tuple(shape) for name, shape in (input_shapes or {}).items()},
            "states": dict(states or {}),
            "target": target,
            "batch": batch,
            "max_ram": max_ram,
            "max_flash": max_flash,
            "seed": seed,
            "limits": dict(limits or {}),
            "check_import": check_import,
            "winograd": winograd,
            "tune": tune,
            "tuning": tuning,
            "rates": rates,
            "emit": ("onnx",) if emit_onnx else (),
        }
    )
    return compile_with(
        settings,
        source,
        out,
        held=held,
        force=force,
        dump_ir=dump_ir,
        example_inputs=example_inputs,
        progress=progress,
    )


def compile_with(
    settings: Settings,
    source: Any,
    out: str | Path,
    *,
    held: Mapping[str, HeldArrays] = MappingProxyType({}),
    force: bool = False,
    dump_ir: str | Path | None = None,
    example_inputs: Sequence[Any] | None = None,
    progress: Progress | None = None,
) -> CompileResult:
    """`compile_model` with the settings in one object, as a config file and flags make it; `held`: data and eval that are in memory."""
    progress = progress or silent
    preflight(out, force=force)
    target, passes = find_target(settings.target, settings.target_package), parse_passes(settings.passes)
    if settings.tune and not target.runs_here:
        instead = "give --tuning, a file measured there" if target.family not in (C99, CUDA) else "tiles of such code are not tuned"
        raise ConfigError(f"--tune measures on this machine, and code for {target.name} cannot run here: {instead}")
    refuse_budget(settings, target)
    backend = backend_of(target)
    backend.require(target)
    tiles = load_tiles(settings.tuning, target) if settings.tuning is not None else {}
    target = with_rates(target, settings.rates)
    if settings.max_drop is not None and settings.eval is None:
        raise ConfigError("max-drop needs held-out data to judge by: give --eval test.npz")
    check_files(settings, held)
    pipeline = Pipeline(passes)
    original = read_model(settings, source, progress, example_inputs)
    _refuse_other_batch(original, settings.batch)
    given = read_inputs(settings, original, passes, held)
    checks = Checks(golden_inputs(original, given.data, settings.seed, settings.batch))
    rewritten = _rewrite(original, passes, pipeline, checks, given, target, settings, dump_ir, progress)
    choose = golden_clip if rewritten.program.interface.resident else settled
    checks = choose(checks, [(run.applied, run.after) for run in rewritten.log], original, given.data)
    lossy = any(not one.exact for one in passes)
    quality = gate.judge(original, rewritten.program, given.held_out, settings, progress, lossy=lossy)
    options = Options(winograd=settings.winograd, tiles=tiles)
    lowered = lower(rewritten.program, target, batch=settings.batch, options=options, tune_seconds=settings.tune, progress=progress)
    estimated = estimate_lowered(rewritten.program, lowered, target) if target.family == C99 else None
    if estimated is not None and (missed := over_budget(settings, estimated)) is not None:
        raise missed
    files = artifact_files(rewritten.program, lowered, target, checks, settings)
    fields = manifest_fields(rewritten.program, lowered, target, given)
    tried = backend.tried(Compiled(rewritten.program, lowered, checks, target), files, fields, progress)
    files |= tried.files
    trial, emulated, sources = tried.trial, tried.emulated, tried.sources
    final, log, unable = rewritten.program, rewritten.log, tried.unable
    report = summary.make_report(original, final, log, quality, lowered, trial, emulated, target, sources, estimated, unable)
    measurements = {
        "measurements.json": summary.measurements(trial, sources),
        "report.json": summary.as_json(report),
        "report.html": render(report),
    }
    manifest = write_artifact(out, files, fields, measurements, force)
    return CompileResult(Path(out), manifest, rewritten.program, rewritten.decisions, quality, trial, emulated, report, sources)


def _refuse_other_batch(program: Program, batch: int) -> None:
    """Raises ConfigError where a batch is asked for that a program of a fixed one cannot have."""
    fixed = program.interface.batch
    if batch == 1 or fixed.symbolic or all(value.shape[:1] == (batch,) for value in program.interface.inputs):
        return
    raise ConfigError(f"batch {batch}: the batch of this model is fixed: {fixed.reason}")


@dataclass(frozen=True)
class _Rewritten:
    program: Program
    decisions: tuple[Decision, ...]
    log: tuple[summary.PassRun, ...]


def _rewrite(
    original: Program,
    passes: Sequence[Pass],
    pipeline: Pipeline,
    checks: Checks,
    given: Inputs,
    target: Target,
    settings: Settings,
    dump_ir: str | Path | None,
    progress: Progress,
) -> _Rewritten:
    """Run the passes; after each, run the golden inputs and compare."""
    context = context_of(settings, given, target, progress)
    dump = dumping.Dump(dump_ir)
    dump.write(0, "source", original)
    checks.start(original)
    runs: list[summary.PassRun] = []
    started, before = time.monotonic(), original
    with progress("passes", len(passes)) as advance:

        def observe(index: int, applied: Pass, program: Program) -> None:
            nonlocal started, before
            seconds = time.monotonic() - started
            dump.write(index + 1, applied.name, program)
            checks.after(applied, program)
            decisions = tuple(context.decisions[sum(len(run.decisions) for run in runs) :])
            curves = tuple(context.curves[sum(len(run.curves) for run in runs) :])
            moved = movement(applied, before, program, checks, given)
            runs.append(summary.PassRun(applied, seconds, before, program, moved, decisions, curves))
            started, before = time.monotonic(), program
            advance(1)

        result = pipeline(original, context, observe=observe)
        dump.write_relax(len(passes) + 1, result, settings.batch)
    return _Rewritten(result, tuple(context.decisions), tuple(runs))
