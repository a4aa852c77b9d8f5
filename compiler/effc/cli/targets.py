"""`effc targets`: what effc compiles for; `effc targets measure`: how fast this machine skips zeros."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from effc.cli.console import common_options, emit_json, note, progress_bars, table

if TYPE_CHECKING:
    from effc.targets import Target

__all__ = ["command"]


@click.group("targets", invoke_without_command=True)
@common_options
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """List the processors to compile for; `effc targets measure` measures this one."""
    if context.invoked_subcommand is not None:
        return
    from effc.targets import all_targets, extensions_found

    found = extensions_found()
    targets = [*all_targets(), *(target for one in found for target in one.targets)]
    broken = [one for one in found if one.fault]
    if as_json:
        faults = [{"name": one.name, "package": str(one.package), "fault": one.fault} for one in broken]
        emit_json({"targets": [target.as_json() for target in targets], "broken": faults})
        return
    rows = [(target.name, _runs(target), *_hardware(target), _what(target)) for target in targets]
    table(("target", "runs here", "vector", "L1", "L2", "what"), rows, numbers=("L1", "L2"))
    for one in broken:
        note(f"{one.name} of package {one.package} cannot be used: {one.fault}", bad=True)


@command.command("measure")
@click.option("--threads", type=click.IntRange(min=1), help="Threads that kernels run on.  [default: all processors of this process]")
@common_options
def measure(threads: int | None, as_json: bool) -> None:
    """Measure how fast this machine multiplies one row, with all weights read and with rows skipped.

    Takes about ten seconds and 2 GB; best done while nothing else runs. Compiles for the target `cpu` decide by the result where to skip
    zeros; it is kept in ~/.cache/effc, and artifacts hold what they used as rates.json.
    """
    from effc.lowering.measuring import measure as measured
    from effc.lowering.measuring import remember
    from effc.runtime.threads import available_threads
    from effc.targets import find_target

    target, count = find_target("cpu"), threads or available_threads()
    with progress_bars() as bars, bars("measuring products", 4) as advance:
        rates = measured(target, count, advance)
    path = remember(rates, target)
    if as_json:
        emit_json({"file": str(path), "rates": rates.as_json()})
        return
    rows = [
        (name, f"{level.dense:.1f}", f"{level.skipping:.1f}", f"{level.start:.1f}")
        for name, level in (("the memory", rates.memory), ("the caches", rates.cache))
    ]
    columns = ("weights from", "dense [GB/s]", "skipping, of what it reads [GB/s]", "and for each row [ns]")
    table(columns, rows, numbers=columns[1:])
    note(f"each input that is looked at: {rates.scan:.2f} ns; {count} threads; kept in {path}")


def _hardware(target: Target) -> tuple[str, str, str]:
    """Vectors and caches; dashes where C sources use none and most machines have none."""
    if target.family == "c99":
        return "-", "-", "-"
    if target.family == "cuda":
        return "warps of 32", f"{target.l1 >> 10} KiB", f"{target.l2 >> 10} KiB"
    vector = f"{target.int32_lanes} x i32" if target.scalar_floats else f"{target.lanes} x f32"
    return vector, f"{target.l1 >> 10} KiB", f"{target.l2 >> 10} KiB"


def _what(target: Target) -> str:
    return target.summary if target.origin is None else f"{target.summary} [{target.origin.package}]"


def _runs(target: Target) -> str:
    if target.runs_here:
        return "yes"
    if target.family == "c99":
        return "its C sources do"
    if target.family == "cuda":
        return "with such a GPU"
    from effc.targets.emulators import emulator_for

    if not target.emulator:
        return "no"
    return f"with {target.emulator}" + ("" if emulator_for(target) else " (not installed)")
