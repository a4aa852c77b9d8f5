"""From what a compile did to the report's plain data."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from effc.compiler.c_self_tests import SourcesTrial
from effc.compiler.crosscheck import SelfTestRun
from effc.compiler.memory_plan import memory_of, stored_bytes
from effc.compiler.movement import Movement
from effc.compiler.sparsity import magnitudes, predictions, quality_curve, weight_facts
from effc.compiler.trial import Trial
from effc.errors import counted
from effc.ir import Program, source_of
from effc.lowering import Lowered
from effc.passes import Decision, Pass
from effc.passes.curve import Curve
from effc.report import EstimateReport, Layer, PassReport, Prediction, Quality, Range, Report, graphs_of, span_text
from effc.runtime.manifest import BESIDE
from effc.runtime.plan import Plan, Step
from effc.targets import C99, CUDA, Target

__all__ = ["PassRun", "as_json", "make_report", "measurements"]


@dataclass(frozen=True)
class PassRun:
    """One pass that ran: the programs around it, its time, how far it moved the outputs, its decisions, what its searches measured."""

    applied: Pass
    seconds: float
    before: Program
    after: Program
    moved: Movement
    decisions: tuple[Decision, ...]
    curves: tuple[Curve, ...] = ()


def make_report(
    original: Program,
    final: Program,
    log: Sequence[PassRun],
    quality: Quality | None,
    lowered: Lowered,
    trial: Trial | None,
    emulated: SelfTestRun | None,
    target: Target,
    sources: SourcesTrial | None = None,
    estimated: EstimateReport | None = None,
    unable: str = "",
) -> Report:
    """The report of one compile.

    Args:
        original, final: the program before and after the passes.
        log: the passes.
        quality: before and after.
        lowered: the code.
        trial, emulated, sources: how it did (`CompileResult`).
        target: what it is for.
        estimated: what C sources need.
        unable: why an emulator that is installed did not run it.
    """
    before, after = graphs_of(original, final)
    predicted = predictions(final, lowered, target)
    return Report(
        title=original.provenance.source,
        facts=(*_facts(original, final, lowered, trial, emulated, target, sources, estimated), *weight_facts(final, lowered, predicted)),
        before=before,
        after=after,
        quality=quality,
        passes=tuple(_pass_report(run) for run in log),
        layers=_layers(lowered, trial, predicted),
        memory=None if lowered.plan is None else memory_of(lowered.plan, target, _states(final, lowered.plan)),
        ranges=_ranges(final),
        curves=tuple(quality_curve(run.applied.spec, curve) for run in log for curve in run.curves),
        magnitudes=magnitudes(final),
        notes=tuple(_notes(original, lowered, trial, emulated, target, sources, unable)),
        whole_layers=tuple(_layer(step) for step in lowered.plan.fresh) if lowered.plan is not None else (),
    )


def measurements(trial: Trial | None, sources: SourcesTrial | None) -> bytes:
    """`measurements.json`: times, which are never the same twice, and what depends on this machine's tools, stay outside the manifest."""
    if sources is not None:
        verification = None if sources.verification is None else sources.verification.as_json()
        return _json({"run": None, "verification": verification, "self_tests": [one.as_json() for one in sources.self_tests]})
    if trial is None:
        return _json({"run": None})
    timing = {"threads": trial.threads, "call_ns": trial.call, "step_ns": list(trial.steps)}
    return _json({"run": timing, "verification": trial.verification.as_json()})


def as_json(report: Report) -> bytes:
    """`report.json`."""
    return _json(report.as_json())


def _json(document: Any) -> bytes:
    return (json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _facts(
    original: Program,
    final: Program,
    lowered: Lowered,
    trial: Trial | None,
    emulated: SelfTestRun | None,
    target: Target,
    sources: SourcesTrial | None,
    estimated: EstimateReport | None,
) -> list[tuple[str, str]]:
    origin = original.provenance
    facts = [
        ("source", f"{origin.source} ({origin.format}, {origin.sha256[:12]})"),
        *([("import", origin.checked)] if origin.checked else []),
        ("target", f"{target.name} ({lowered.cpu or target.summary})" + ("" if target.origin is None else f" of {target.origin.package}")),
        ("batch", _batch(final, lowered, target)),
        *(_memory_facts(lowered, target) if estimated is None else _microcontroller_facts(estimated)),
    ]
    if lowered.plan is not None:
        facts.append(("multiply-accumulates", _macs(lowered.plan)))
        if original.interface.states or final.interface.states:
            facts.append(("states", f"{sum(size for _, size in _states(final, lowered.plan)) / 1000:,.1f} kB a stream"))
    facts.append(("code", f"{len(lowered.code) / 1000:,.1f} kB" if sources is None else "C99 sources in c/"))
    if trial is not None:
        facts.append(("one call", f"{trial.call / 1000:,.1f} µs with {counted(trial.threads, 'thread')}, called from Python"))
        facts.append(("differs from the program by", f"{trial.verification.worst:.1e} of the largest magnitude"))
    if sources is not None and sources.verification is not None:
        facts.append(("differs from the program by", f"{sources.verification.worst:.1e} of the largest magnitude"))
    if sources is not None:
        facts += [(f"self-test on {one.where}", one.text) for one in sources.self_tests]
    elif emulated is not None:
        facts.append((f"self-test under {emulated.emulator}", emulated.text))
    return facts


def _batch(final: Program, lowered: Lowered, target: Target) -> str:
    if final.interface.resident:
        return "one frame a call; the samples of a run are one clip"
    batch = final.interface.batch
    if not batch.symbolic:
        return f"fixed: {batch.reason}"
    return f"{lowered.batch} a call" + ("" if target.family == C99 else ", any number a run")


def _memory_facts(lowered: Lowered, target: Target) -> list[tuple[str, str]]:
    """What the code takes in the memory of a process."""
    plan = lowered.plan
    if plan is None:
        return [("weights", f"{sum(array.nbytes for array in lowered.parameters.values()) / 1000:,.1f} kB in memory")]
    what = "weights, scratch, inputs and outputs" + (", states" if plan.state_bytes else "")
    return [
        ("weights", f"{stored_bytes(plan, target) / 1000:,.1f} kB in memory"),
        ("scratch memory", f"{plan.arena_bytes / 1000:,.1f} kB"),
        ("peak memory of a call", f"{_peak_bytes(plan) / 1000:,.1f} kB: {what}"),
    ]


def _microcontroller_facts(estimated: EstimateReport) -> list[tuple[str, str]]:
    """RAM and flash apart, in bytes; see `EstimateReport`."""
    states = f", states {estimated.state_bytes:,}" if estimated.state_bytes else ""
    arithmetic = f", the compiler's arithmetic {span_text(estimated.library_bytes)}" if estimated.library_bytes[1] else ""
    caller = f"the caller's inputs {estimated.input_bytes:,} and outputs {estimated.output_bytes:,}"
    ram = f"arena {estimated.arena_bytes:,}{states}, {caller}, stack {span_text(estimated.stack_bytes)}"
    flash = f"weights {estimated.weight_bytes:,}, code {span_text(estimated.code_bytes)}{arithmetic}"
    return [
        ("RAM", f"{span_text(estimated.ram_bytes)} bytes: {ram}"),
        ("flash", f"{span_text(estimated.flash_bytes)} bytes: {flash}"),
    ]


def _notes(
    original: Program,
    lowered: Lowered,
    trial: Trial | None,
    emulated: SelfTestRun | None,
    target: Target,
    sources: SourcesTrial | None,
    unable: str,
) -> list[str]:
    notes = [*lowered.notes, *lowered.remarks]
    if sources is not None:
        notes += [f"{sentence}." for sentence in sources.notes]
    elif trial is None and emulated is None:
        own = lowered.plan is not None and target.family != CUDA
        how = "Copy `selftest` there and run it" if own else "golden.npz holds vectors to test it with: `effc verify` there"
        tried = "the same program, lowered for this machine, gave the right results"
        why = f" ({unable})" if unable else ""
        notes.append(f"The code is for {target.name} and was not run{why}; {tried}. {how}.")
    if not original.interface.batch.symbolic:
        notes.append(f"The batch is fixed: {original.interface.batch.reason}.")
    return notes


def _pass_report(run: PassRun) -> PassReport:
    worst = run.moved.worst
    return PassReport(
        spec=run.applied.spec,
        exact=run.applied.exact,
        difference=worst if math.isfinite(worst) else None,
        seconds=run.seconds,
        nodes_before=_operators(run.before),
        nodes_after=_operators(run.after),
        decisions=tuple({key: value for key, value in decision.as_json().items() if key != "pass_name"} for decision in run.decisions),
        measured_on=run.moved.on,
    )


def _operators(program: Program) -> int:
    """Nodes that compute tensors; arithmetic on sizes is no work of the network."""
    return sum(not isinstance(node.meta.get("val"), torch.SymInt) for node in program.nodes)


def _layers(lowered: Lowered, trial: Trial | None, predicted: Sequence[Prediction | None]) -> tuple[Layer, ...]:
    if lowered.plan is None:
        return ()
    times: Sequence[float | None] = trial.steps if trial is not None and trial.steps else [None] * len(lowered.plan.steps)
    return tuple(_layer(step, taken, expected) for step, taken, expected in zip(lowered.plan.steps, times, predicted, strict=True))


def _layer(step: Step, taken: float | None = None, expected: Prediction | None = None) -> Layer:
    name, ops = ", ".join(step.sources) or step.kernel, " + ".join(step.ops)
    return Layer(name, ops, step.family, step.macs, step.bytes, taken, step.note, expected, bool(step.active))


def _macs(plan: Plan) -> str:
    """Of one call; a streaming program's frame that is not computed whole has as many at the most, and mostly less."""
    total = sum(step.macs for step in plan.steps)
    listed = sum(step.macs for step in plan.steps if step.active)
    return f"{total:,}" + (f", {listed / total:.1%} of them in layers that compute only what changed" if listed else "")


def _peak_bytes(plan: Plan) -> int:
    outside = sum(buffer.size for room in ("input", "output") for buffer in plan.in_room(room))
    return plan.parameter_bytes + plan.arena_bytes + plan.state_bytes + outside


def _states(program: Program, plan: Plan) -> list[tuple[str, int]]:
    """(name, bytes) of what a stream keeps: the states, two buffers of each that is passed in and out; what the code keeps beside them."""
    names = {state.input for state in program.interface.states}
    kept = [(buffer.name, buffer.size) for buffer in plan.in_room("state") if buffer.name in names]
    kept += [(buffer.name, 2 * buffer.size) for buffer in plan.in_room("input") if buffer.name in names]
    beside = plan.state_bytes - sum(buffer.size for buffer in plan.in_room("state") if buffer.name in names)
    return [*kept, *([(BESIDE, beside)] if beside else [])]


def _ranges(program: Program) -> tuple[Range, ...]:
    """Every observed value that is still in the program, with the bounds that stand right behind it."""
    found = []
    for node in program.graph.nodes:
        fact = program.facts.values.get(node.name)
        if fact is None:
            continue
        bounds = [bound for user in node.users if (bound := _bounds(program, user)) is not None]
        lower = min((low for low, _ in bounds), default=None)
        upper = max((high for _, high in bounds), default=None)
        found.append(Range(source_of(node), fact.minimum, fact.maximum, fact.density, lower, upper))
    return tuple(found)


def _bounds(program: Program, node: Any) -> tuple[float, float] | None:
    """The loosest bounds of an `effc::bound` node, whose lower one is 0 where it has none; None for any other."""
    if not str(node.target).startswith("effc.bound"):
        return None
    low, high = (
        torch.zeros(1) if argument is None else program.tensors.get(argument.name, torch.empty(0)).detach().flatten()
        for argument in node.args[1:3]
    )
    if not low.numel() or not high.numel():
        return None
    values = (float(low.min()), float(high.max()))
    return values if all(map(math.isfinite, values)) else None
