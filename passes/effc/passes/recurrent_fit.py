"""The recurrent part of the pass `delta`: thresholds of recurrent layers from data, which layers gain, and the program with them.

A level, as everywhere in `delta`, is a share of a tensor's largest magnitude on the data: of a layer's input and of its hidden state. One
level is for all recurrent layers: the one given, or the largest of a halving row (`LEVELS`) whose outputs stay within the bound over all
calls of the data. A layer none of whose products is predicted to be faster by skipping (`effc.cost.skipping`, at the measured density)
stays dense, where the target is known.

What the data of a step program must hold is its inputs in the order of calls; states are carried (`recurrent_clip`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from effc.cost.skipping import skipping
from effc.data import Dataset
from effc.errors import DataError, counted
from effc.ir import Edit, Program
from effc.ir.ops.stream_clock import STREAM_CLOCK
from effc.passes.base import Context, Pass
from effc.passes.delta_recurrent import Operands, RecurrentDelta, Thresholds, rewrite_recurrent
from effc.passes.recurrent_clip import Calls, largest_error, run_calls
from effc.passes.recurrent_sites import RecurrentSite, recurrent_sites

__all__ = ["LEVELS", "RecurrentRule", "is_recurrent", "stream_recurrent"]

LEVELS = tuple(0.5**power for power in range(2, 11))  # 0.25, ..., 0.001: tried in this order


@dataclass(frozen=True)
class RecurrentRule:
    """How to choose thresholds.

    Attributes:
        level: of all layers; None to search for one under `max_error`.
        max_error: bound on the largest error of the outputs, relative to the largest magnitude of each; None beside `level`.
        refresh: calls after which sums start again from zero; 0 for never. Where the program has a clock of frames, they go by that.
        insist: keep layers that are not predicted to gain, too.
    """

    level: float | None
    max_error: float | None
    refresh: int = 0
    insist: bool = False


def is_recurrent(program: Program) -> bool:
    """Whether recurrent layers are all that `delta` could work on: there are some, and no input is an image."""
    images = [value for value in program.interface.frame_inputs if len(value.shape) == 4 and value.dtype.startswith("float")]
    return not images and bool(recurrent_sites(program))


def stream_recurrent(by: Pass, program: Program, reference: Program, context: Context, rule: RecurrentRule) -> Program:
    """Let recurrent layers work on differences, and log what was done at each.

    Args:
        by: in whose name decisions are logged.
        program: to rewrite; it may stream already.
        reference: what errors are measured against: the program as it came.
        context: `fit` are calls in order.
        rule: how to choose thresholds.

    Returns:
        The program with resident states where layers stream, and with facts about the density of all differences. The same program where
        no layer is rewritten.

    Raises:
        DataError: there are no data, or an output on them is NaN or infinite.
    """
    sites = recurrent_sites(program)
    for site in sites:
        if site.why_not:
            context.log(by, site.node, False, f"stays dense: {site.why_not}")
    sites = [site for site in sites if not site.why_not]
    if not sites:
        return program
    if context.fit is None:
        raise DataError(f"pass {by.name}: thresholds of recurrent layers need data: give --data calls.npz, calls in order")
    dense = run_calls(reference, context.fit)
    if not all(bool(torch.isfinite(value).all()) for one in dense.outputs for value in one.values()):
        raise DataError("an output is NaN or infinite on the calibration data: no threshold can be judged there")
    largest = _largest(program, sites, context.fit, rule)
    found = _fitted(program, sites, largest, dense, context.fit, rule)
    if found is None:
        for site in sites:
            why = f"the outputs' error is over {rule.max_error:.2%} at all levels down to {LEVELS[-1]:.4f}"
            context.log(by, site.node, False, f"stays dense: {why}")
        return program
    slow = {} if rule.insist else {one.site: why for one in found.done if (why := _slow(one, found, context))}
    if slow:
        for site in sites:
            if site.name in slow:
                context.log(by, site.node, False, f"stays dense: {slow[site.name]}")
        sites = [site for site in sites if site.name not in slow]
        if not sites:
            return program
        found = _fitted(program, sites, largest, dense, context.fit, rule)
        assert found is not None  # fewer layers that approximate
    for site, one in zip(sites, found.done, strict=True):
        context.log(by, site.node, True, _said(found, one))
    return found.program


@dataclass(frozen=True)
class _Found:
    """A rewritten program, and what it did on the data."""

    program: Program
    done: Sequence[RecurrentDelta]
    thresholds: Mapping[str, Thresholds]
    calls: Calls
    error: float

    def density(self, operands: Operands) -> float:
        """The share of differences that are not zero, over all steps."""
        each = [self.calls.seen[name].density for name in operands.differences]
        return sum(each) / max(1, len(each))


def _rewritten(
    program: Program, sites: Sequence[RecurrentSite], thresholds: Mapping[str, Thresholds], rule: RecurrentRule
) -> tuple[Program, list[RecurrentDelta]]:
    edit = Edit(program)
    clock = next((node for node in edit.nodes if node.target == STREAM_CLOCK.overload), None)
    done = rewrite_recurrent(edit, sites, thresholds, clock=clock, refresh=rule.refresh)
    return edit.done(), done


def _largest(program: Program, sites: Sequence[RecurrentSite], data: Dataset, rule: RecurrentRule) -> dict[str, Thresholds]:
    """The largest magnitudes of what each site multiplies: the thresholds of level 1."""
    exact, done = _rewritten(program, sites, {site.name: Thresholds(0.0, 0.0) for site in sites}, rule)
    seen = run_calls(exact, data, {name for one in done for operands in (one.inputs, one.hidden) for name in operands.values}).seen

    def most(operands: Operands) -> float:
        return max((max(abs(seen[name].minimum), abs(seen[name].maximum)) for name in operands.values), default=0.0)

    return {one.site: Thresholds(most(one.inputs), most(one.hidden)) for one in done}


def _fitted(
    program: Program, sites: Sequence[RecurrentSite], largest: Mapping[str, Thresholds], dense: Calls, data: Dataset, rule: RecurrentRule
) -> _Found | None:
    """The program at the level given, or at the largest one whose error is within the bound; None where there is none."""
    for level in LEVELS if rule.level is None else (rule.level,):
        limits = {site.name: Thresholds(level * largest[site.name].input, level * largest[site.name].hidden) for site in sites}
        made, done = _rewritten(program, sites, limits, rule)
        calls = run_calls(made, data, {name for one in done for operands in (one.inputs, one.hidden) for name in operands.differences})
        error = largest_error(calls, dense)
        if rule.max_error is None or error <= rule.max_error:
            facts = {name: seen.facts(calls.count) for name, seen in calls.seen.items()}
            return _Found(made.with_facts(made.facts.with_values(facts)), done, limits, calls, error)
    return None


def _slow(one: RecurrentDelta, found: _Found, context: Context) -> str:
    """Why a layer is not predicted to gain; empty where it is, or where the target is not known."""
    if context.target is None:
        return ""
    stored = sum(tensor.nbytes for tensor in found.program.tensors.values())
    decisions = [
        skipping(context.target, rows=1, depth=depth, columns=columns, density=found.density(operands), stored=stored)
        for operands in (one.inputs, one.hidden)
        for depth, columns in operands.matrices
    ]
    return "" if any(decision.pays for decision in decisions) else f"no product is predicted to be faster ({decisions[-1].why})"


def _said(found: _Found, one: RecurrentDelta) -> str:
    limits = found.thresholds[one.site]
    return (
        f"thresholds {limits.input:.4g} for inputs and {limits.hidden:.4g} for hidden states: {found.density(one.inputs):.1%} and "
        f"{found.density(one.hidden):.1%} of the differences are not zero over {counted(found.calls.count, 'call')}; "
        f"largest error of the outputs {found.error:.2%}"
    )
