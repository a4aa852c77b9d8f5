"""What a network needs on a microcontroller, found without a toolchain: it is lowered as `effc compile` does it, but nothing is built.

Memory is read off the plan and exact. The sizes of code and stack depend on the C compiler: they are ranges (`code_size`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from effc.compiler.code_size import code_sizes
from effc.compiler.inputs import check_files, read_inputs
from effc.compiler.settings import Settings
from effc.errors import ConfigError
from effc.frontends import Limits, load_program
from effc.ir import Program
from effc.lowering import Lowered, lower
from effc.passes import Context, Pipeline, parse_passes
from effc.passes.base import Progress, silent
from effc.report import Block, EstimateLayer, EstimateReport, Memory
from effc.report.arena_svg import in_use
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
        settings: of them passes, data, init, checkpoints, preprocess, input_shapes, states, target, seed, limits and check_import count.
        source: as for `compile_model`.
        progress: shows long work.

    Raises:
        ConfigError: the target is no microcontroller. Else what `compile_model` raises while it reads, rewrites and lowers.
    """
    progress = progress or silent
    target, passes = find_target(settings.target), parse_passes(settings.passes)
    if target.family != C99:
        known = ", ".join(one.name for one in all_targets() if one.family == C99)
        raise ConfigError(f"target {target.name}: estimates are for targets that get C99 sources: {known}")
    check_files(settings)
    pipeline = Pipeline(passes)
    with progress("reading the model", 1) as advance:
        original = load_program(
            source,
            input_shapes=settings.input_shapes or None,
            limits=Limits(**settings.limits),
            states=settings.states or None,
            check_import=settings.check_import,
        )
        advance(1)
    given = read_inputs(settings, original, passes)
    context = Context(
        given.fit,
        given.selection,
        target,
        settings.seed,
        progress,
        metric=settings.metric,
        initial=given.initial,
        checkpoints=settings.checkpoints,
    )
    program = pipeline(original, context)
    return estimate_lowered(program, lower(program, target, batch=settings.batch, progress=progress), target)


def estimate_lowered(program: Program, lowered: Lowered, target: Target) -> EstimateReport:
    """The estimate of a program that has been lowered for a target of family c99."""
    plan = lowered.plan
    assert plan is not None  # these targets run nothing else
    memory = Memory(plan.arena_bytes, plan.parameter_bytes, len(plan.steps) + len(plan.fresh), _blocks(plan))
    used = in_use(memory)
    sizes = code_sizes(lowered.functions, plan, target)
    steps = (*plan.steps, *plan.fresh)
    return EstimateReport(
        title=Path(program.provenance.source).name,
        target=target.name,
        arena_bytes=plan.arena_bytes,
        peak_step=used.index(max(used)) if used else 0,
        weight_bytes=sum(one.size for one in plan.in_room("parameter")),
        state_bytes=plan.state_bytes,
        input_bytes=sum(one.size for one in plan.in_room("input")),
        output_bytes=sum(one.size for one in plan.in_room("output")),
        macs=sum(step.macs for step in (*plan.steps[:1], *plan.fresh)) if plan.fresh else sum(step.macs for step in plan.steps),
        code_bytes=sizes.code,
        library_bytes=sizes.library,
        stack_bytes=sizes.stack,
        layers=tuple(_layer(step, plan, count) for step, count in zip(steps, used, strict=True)),
        memory=memory,
        notes=(_RANGES, *lowered.notes),
    )


def _blocks(plan: Plan) -> tuple[Block, ...]:
    return tuple(Block(one.name, one.offset, one.size, one.first, one.last) for one in plan.in_room("arena"))


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
