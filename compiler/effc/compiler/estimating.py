"""What a network needs on a microcontroller, found without a toolchain: it is lowered as `effc compile` does it, but nothing is built.

Memory is read off the plan and exact. The sizes of code and stack depend on the C compiler: they are ranges (`code_size`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from effc.compiler.code_size import code_sizes
from effc.compiler.inputs import check_files, read_inputs
from effc.compiler.memory_plan import memory_of
from effc.compiler.preparing import context_of, read_model
from effc.compiler.settings import Settings
from effc.errors import ConfigError
from effc.ir import Program
from effc.ir.storage import load_program_bytes
from effc.lowering import Lowered, lower
from effc.passes import Pipeline, parse_passes
from effc.passes.base import Progress, silent
from effc.report import EstimateLayer, EstimateReport
from effc.report.arena_svg import in_use, unused
from effc.runtime import open_artifact
from effc.runtime.manifest import MANIFEST
from effc.runtime.plan import Plan, Step
from effc.targets import C99, Target, all_targets, find_target

__all__ = ["estimate", "estimate_lowered"]

_RANGES = (
    "Arena, weights, states, inputs and outputs are exact. Code and stack are ranges: gcc 12.2 stayed inside of them, from -Os to -O2, for "
    "six networks. The code counts what kernels of each family came to there by the length of their C, the calls, and the constants."
)


def estimate(settings: Settings, source: Any, *, progress: Progress | None = None) -> EstimateReport:
    """Load, rewrite with the passes, lower, and add up.

    Args:
        settings: of them passes, data, init, checkpoints, metric, preprocess, input_shapes, states, target, batch, seed, limits and
            check_import count.
        source: as for `compile_model`; or the folder of an artifact, whose program, target and batch are taken then.
        progress: shows long work.

    Raises:
        ConfigError: the target is no microcontroller. Else what `compile_model` raises while it reads, rewrites and lowers.
    """
    progress = progress or silent
    if _is_artifact(source):
        return _of_artifact(settings, Path(source), progress)
    target, passes = _microcontroller(settings.target), parse_passes(settings.passes)
    check_files(settings)
    pipeline = Pipeline(passes)
    original = read_model(settings, source, progress)
    given = read_inputs(settings, original, passes)
    program = pipeline(original, context_of(settings, given, target, progress))
    return estimate_lowered(program, lower(program, target, batch=settings.batch, progress=progress), target)


def _is_artifact(source: Any) -> bool:
    """Whether a source is the folder of an artifact."""
    return isinstance(source, str | Path) and (Path(source) / MANIFEST).is_file()


def _of_artifact(settings: Settings, path: Path, progress: Progress) -> EstimateReport:
    """Of the program in an artifact, for its own target unless the settings name another."""
    artifact = open_artifact(path)
    set_anyway = [name for name in ("passes", "data", "preprocess", "input_shapes", "states") if getattr(settings, name)]
    if set_anyway:
        flags = ", ".join(name.replace("_", "-") for name in set_anyway)
        raise ConfigError(f"{path} is an artifact, whose passes have run: {flags} cannot be given; estimate its source to change them")
    own = artifact.manifest.data
    target = _microcontroller(settings.target if "target" in settings.model_fields_set else own["target"]["name"])
    with progress("reading the artifact", 1) as advance:
        program = load_program_bytes(artifact.read("program.pt2"), name="program.pt2")
        advance(1)
    batch = settings.batch if "batch" in settings.model_fields_set else own["batch"]["size"]
    return estimate_lowered(program, lower(program, target, batch=batch, progress=progress), target)


def _microcontroller(name: str) -> Target:
    """The target of this name. Raises ConfigError where it is no microcontroller."""
    target = find_target(name)
    if target.family != C99:
        known = ", ".join(one.name for one in all_targets() if one.family == C99)
        raise ConfigError(f"target {target.name}: estimates are for targets that get C99 sources: --target {known}")
    return target


def estimate_lowered(program: Program, lowered: Lowered, target: Target) -> EstimateReport:
    """The estimate of a program that has been lowered for a target of family c99."""
    plan = lowered.plan
    assert plan is not None  # these targets run nothing else
    memory = memory_of(plan, target)
    used = in_use(memory)
    sizes = code_sizes(lowered.functions, plan, target)
    steps = (*plan.steps, *plan.fresh)
    return EstimateReport(
        title=Path(program.provenance.source).name,
        target=target.name,
        arena_bytes=plan.arena_bytes,
        peak_step=used.index(max(used)) if used else 0,
        weight_bytes=memory.parameter_bytes,
        state_bytes=plan.state_bytes,
        input_bytes=sum(one.size for one in plan.in_room("input")),
        output_bytes=sum(one.size for one in plan.in_room("output")),
        macs=sum(step.macs for step in (*plan.steps[:1], *plan.fresh)) if plan.fresh else sum(step.macs for step in plan.steps),
        code_bytes=sizes.code,
        library_bytes=sizes.library,
        stack_bytes=sizes.stack,
        layers=tuple(_layer(step, plan, count) for step, count in zip(steps, used, strict=True)),
        memory=memory,
        notes=(*unused(memory), _RANGES, *lowered.notes),
    )


def _layer(step: Step, plan: Plan, arena: int) -> EstimateLayer:
    buffers = {one.name: one for one in plan.buffers}
    written = [buffers[name] for name in dict.fromkeys(step.writes)]
    return EstimateLayer(
        name=", ".join(step.sources) or "(copy)",
        ops=", ".join(step.ops),
        family=step.family,
        macs=step.macs,
        weight_bytes=sum(buffers[name].size for name in dict.fromkeys(step.reads) if buffers[name].room == "parameter"),
        result_bytes=sum(one.size for one in written if not (one.room == "arena" and one.first == one.last)),
        arena_bytes=arena,
    )
