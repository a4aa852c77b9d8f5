"""`effc estimate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from effc.cli.console import common_options, emit_json, heading, is_debugging, note, progress_bars, table
from effc.cli.native_warnings import held_back
from effc.cli.options import DATA_RULE, budget_options, check_import_option, limit_option, shape_option

if TYPE_CHECKING:
    from effc.report import EstimateReport

__all__ = ["command"]

_NAMES = 28  # letters of a line of names: the table of steps fits into 100 columns


@click.command("estimate")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--target", help="A microcontroller, or c99 for any machine; see `effc targets`.  [default: an artifact's own]")
@click.option("--passes", help='Passes in order, with options: "fold-batch-norm,ranger{option=value}".')
@click.option("--data", type=click.Path(path_type=Path), help=f"Calibration and training data of the passes: {DATA_RULE}")
@click.option("--preprocess", help="How images become inputs; see `effc compile --help`.")
@shape_option
@click.option(
    "--state", "states", multiple=True, metavar="INPUT=OUTPUT", help="An input that is a state, and the output with its new value."
)
@budget_options
@click.option("--seed", type=int, help="Root of all randomness.  [default: 0]")
@limit_option
@check_import_option
@click.option("--report", type=click.Path(path_type=Path), help="Write an HTML page with the arena over time.")
@common_options
def command(source: Path, report: Path | None, as_json: bool, **flags: Any) -> int:
    """Say what the network in SOURCE (.onnx, .pt2 or an artifact) needs on a microcontroller: RAM, flash and work, in all and by step.

    No C compiler is needed: the arena and the weights are exact, the sizes of code and stack are ranges.
    """
    from effc.cli.arrays import check_output
    from effc.cli.pairs import parse_limits, parse_shapes, parse_states
    from effc.compiler.budget import over_budget
    from effc.compiler.estimating import estimate
    from effc.compiler.settings import load_settings

    flags["input_shapes"] = parse_shapes(flags["input_shapes"]) or None
    flags["limits"] = parse_limits(flags["limits"]) or None
    flags["states"] = parse_states(flags["states"]) or None
    settings = load_settings(None, flags)
    if report is not None:
        check_output(report, suffixes=(".html",), option="--report")
    with progress_bars() as progress, held_back(debug=is_debugging()):
        found = estimate(settings, source, progress=progress)
    if report is not None:
        from effc.cli.stream_results import write_page
        from effc.report import render_estimate

        write_page(report, render_estimate(found))
    missed = over_budget(settings, found)
    if as_json:
        budget = {"message": missed.message, "problems": [one.as_json() for one in missed.problems]} if missed is not None else None
        emit_json({**found.as_json(), "over_budget": budget, "report": None if report is None else str(report)})
        return 0 if missed is None else missed.exit_code
    _show(found)
    if report is not None:
        note(f"written: {report}")
    if missed is not None:
        raise missed
    return 0


def _show(found: EstimateReport) -> None:
    from effc.report import span_text

    heading(f"{found.title} on {found.target}")
    used = f"at most {found.peak_bytes:,} in use, in step {found.peak_step}" if found.layers else ""
    memory = [
        ("RAM", "arena", _exact(found.arena_bytes), used),
        *([("RAM", "states of a stream", _exact(found.state_bytes), "")] if found.state_bytes else []),
        ("RAM", "inputs", _exact(found.input_bytes), "the caller's"),
        ("RAM", "outputs", _exact(found.output_bytes), "the caller's"),
        ("RAM", "stack", span_text(found.stack_bytes), "without interrupts"),
        ("RAM", "all", span_text(found.ram_bytes), ""),
        ("flash", "weights", _exact(found.weight_bytes), ""),
        ("flash", "code", span_text(found.code_bytes), "with its constants"),
        *([("flash", "the compiler's arithmetic", span_text(found.library_bytes), "in software")] if found.library_bytes[1] else []),
        ("flash", "all", span_text(found.flash_bytes), ""),
    ]
    table(("", "what", "bytes", ""), memory, numbers=("bytes",))
    rows = [
        (
            index,
            layer.name,
            layer.family,
            _exact(layer.macs),
            _exact(layer.weight_bytes),
            _exact(layer.result_bytes),
            _exact(layer.arena_bytes),
        )
        for index, layer in enumerate(found.layers)
    ]
    columns = ("step", "computes", "kernel", "MACs", "weights", "result", "in use")
    table(columns, rows, numbers=("step", *columns[3:]), widest={"computes": _NAMES})
    note(f"{found.macs:,} multiply-accumulates; sizes in bytes; in use: of the arena")
    for sentence in found.notes:
        note(sentence)


def _exact(count: int) -> str:
    return f"{count:,}"
