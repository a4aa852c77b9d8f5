"""`effc estimate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from effc.cli.console import common_options, emit_json, heading, is_debugging, note, progress_bars, table
from effc.cli.native_warnings import held_back
from effc.cli.options import DATA_RULE, check_import_option, limit_option, shape_option

if TYPE_CHECKING:
    from effc.report import EstimateReport

__all__ = ["command"]


@click.command("estimate")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--target", required=True, help="A microcontroller, or c99 for any machine; see `effc targets`.")
@click.option("--passes", help='Passes in order, with options: "fold-batch-norm,ranger{option=value}".')
@click.option("--data", type=click.Path(path_type=Path), help=f"Calibration and training data of the passes: {DATA_RULE}")
@click.option("--preprocess", help="How images become inputs; see `effc compile --help`.")
@shape_option
@click.option(
    "--state", "states", multiple=True, metavar="INPUT=OUTPUT", help="An input that is a state, and the output with its new value."
)
@click.option("--seed", type=int, help="Root of all randomness.  [default: 0]")
@limit_option
@check_import_option
@click.option("--report", type=click.Path(path_type=Path), help="Write an HTML page with the arena over time.")
@common_options
def command(source: Path, report: Path | None, as_json: bool, **flags: Any) -> None:
    """Say what the network in SOURCE (.onnx or .pt2) needs on a microcontroller: RAM, flash and work, in all and step by step.

    No C compiler is needed: the arena and the weights are exact, the sizes of code and stack are ranges.
    """
    from effc.cli.arrays import check_output
    from effc.cli.pairs import parse_limits, parse_shapes, parse_states
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
    if as_json:
        emit_json({**found.as_json(), "report": None if report is None else str(report)})
    else:
        _show(found)
        if report is not None:
            note(f"written: {report}")


def _show(found: EstimateReport) -> None:
    heading(f"{found.title} on {found.target}")
    memory = [
        ("RAM", "arena", _exact(found.arena_bytes), f"most in use in step {found.peak_step}"),
        *([("RAM", "states of a stream", _exact(found.state_bytes), "")] if found.state_bytes else []),
        ("RAM", "stack", _span(found.stack_bytes), "without interrupts"),
        ("RAM", "inputs, outputs", f"{found.input_bytes:,}, {found.output_bytes:,}", "the caller's"),
        ("flash", "weights", _exact(found.weight_bytes), ""),
        ("flash", "code", _span(found.code_bytes), "with its constants"),
        *([("flash", "the compiler's arithmetic", _span(found.library_bytes), "in software")] if found.library_bytes[1] else []),
    ]
    table(("", "what", "bytes", ""), memory, numbers=("bytes",))
    rows = [
        (
            index,
            layer.name,
            layer.family,
            f"{layer.macs:,}",
            _exact(layer.weight_bytes),
            _exact(layer.result_bytes),
            _exact(layer.arena_bytes),
        )
        for index, layer in enumerate(found.layers)
    ]
    columns = ("step", "computes", "kernel", "MACs", "weights", "result", "arena in use")
    table(columns, rows, numbers=("step", *columns[3:]))
    note(f"{found.macs:,} multiply-accumulates; sizes in bytes")
    for sentence in found.notes:
        note(sentence)


def _exact(count: int) -> str:
    return f"{count:,}"


def _span(ends: tuple[int, int]) -> str:
    return f"{ends[0]:,} to {ends[1]:,}"
