"""`effc model-npu`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from effc.cli.console import common_options, emit_json, heading, is_debugging, note, progress_bars, table
from effc.cli.native_warnings import held_back
from effc.cli.options import DATA_RULE, check_import_option, limit_option, shape_option

if TYPE_CHECKING:
    from effc.cost.accelerator import Accelerator
    from effc.report.accelerator import AcceleratorReport, ModeCost

__all__ = ["command"]

_NAMES = 26  # letters of a line of names; one takes two lines at most


@click.command("model-npu")
@click.argument("source", type=click.Path(path_type=Path), required=False)
@click.option("--accelerator", metavar="NAME|FILE", help="A description that effc ships (`--list`), or a .toml file of your own.")
@click.option("--list", "listed", is_flag=True, help="List the descriptions that effc ships; with --json all that is in them.")
@click.option("--passes", help='Passes in order, with options: "fold-batch-norm,delta{mode=exact}".')
@click.option("--data", type=click.Path(path_type=Path), help=f"What zeros and changes are counted on, and passes fit on: {DATA_RULE}")
@click.option("--samples", type=click.IntRange(min=1), help="Count on the first so many samples of the data.  [default: all]")
@click.option("--preprocess", help="How images become inputs; see `effc compile --help`.")
@shape_option
@click.option(
    "--state", "states", multiple=True, metavar="INPUT=OUTPUT", help="An input that is a state, and the output with its new value."
)
@click.option("--seed", type=int, help="Root of all randomness.  [default: 0]")
@limit_option
@check_import_option
@click.option("--report", type=click.Path(path_type=Path), help="Write an HTML page with the layers in all three modes.")
@common_options
def command(
    source: Path | None, accelerator: str | None, listed: bool, samples: int | None, report: Path | None, as_json: bool, **flags: Any
) -> int:
    """Model the network in SOURCE (.onnx, .pt2 or an artifact) on an accelerator: cycles, bytes and energy of every layer.

    Three ways to run it: dense, skipping inputs that are zero, and skipping those that are what they were in the sample before (frames of a
    video in order). Nothing is compiled; a model is no measurement, and what it leaves out stands in docs/accelerators.md.
    """
    from effc.cost.accelerator import find_accelerator, shipped
    from effc.errors import ConfigError

    if listed:
        _list(shipped(), as_json)
        return 0
    if source is None or accelerator is None:
        wanted = [name for name, given in (("a model or an artifact as SOURCE", source), ("--accelerator", accelerator)) if given is None]
        raise ConfigError(f"give {', and '.join(wanted)}; effc model-npu --list names the accelerators that effc ships")

    from effc.cli.arrays import check_output
    from effc.cli.pairs import parse_limits, parse_shapes, parse_states
    from effc.compiler.accelerating import model_accelerator
    from effc.compiler.settings import load_settings

    chosen = find_accelerator(accelerator)
    flags["input_shapes"] = parse_shapes(flags["input_shapes"]) or None
    flags["limits"] = parse_limits(flags["limits"]) or None
    flags["states"] = parse_states(flags["states"]) or None
    settings = load_settings(None, flags)
    if samples is not None and settings.data is None:
        raise ConfigError("--samples says how many of --data are counted on, and there are none: give --data, or leave it out")
    if report is not None:
        check_output(report, suffixes=(".html",), option="--report")
    with progress_bars() as progress, held_back(debug=is_debugging()):
        found = model_accelerator(settings, source, chosen, samples=samples, progress=progress)
    if report is not None:
        from effc.cli.stream_results import write_page
        from effc.report.accelerator_page import render_accelerator

        write_page(report, render_accelerator(found))
    if as_json:
        emit_json({**found.as_json(), "report": None if report is None else str(report)})
        return 0
    _show(found)
    if report is not None:
        note(f"written: {report}")
    return 0


def _list(known: list[Accelerator], as_json: bool) -> None:
    if as_json:
        emit_json({"accelerators": [one.as_json() for one in known]})
        return
    rows = [(one.name, f"{one.rows} x {one.columns}", one.dataflow, one.summary) for one in known]
    table(("accelerator", "array", "dataflow", "what"), rows)


def _show(found: AcceleratorReport) -> None:
    from effc.report.accelerator import MODES

    rewritten = found.before is not None
    heading(f"{found.title} on {found.accelerator['name']}: {found.accelerator['rows']} x {found.accelerator['columns']}")
    rows: list[tuple[str, ...]] = []
    for layer in found.layers:
        size = f"{layer.groups} x " * (layer.groups > 1) + f"{layer.rows} x {layer.depth} x {layer.columns}"
        shares = {"dense": 1.0, "zeros": layer.nonzero, "delta": layer.changed}
        for mode in found.own_modes:
            names = (_shortened(layer.name), size) if mode == "dense" else ("", "")
            cost = layer.costs[mode]
            cycles, *others = _numbers(cost)
            rows.append((*names, MODES[mode], _share(shares[mode]), cycles, cost.bound_by, *others))
    cycles_column, *other_columns = _COLUMNS
    columns = ["layer", "M x K x N", "mode", "inputs", cycles_column, "bound by", *other_columns]
    table(columns, rows, numbers=[name for name in columns[3:] if name != "bound by"], widest={"layer": _NAMES})
    totals = [
        (MODES[mode], *([program] if rewritten else []), *_numbers(one.total(mode)), f"{one.ideal(mode):,.0f}")
        for mode in found.modes
        for program, one in found.programs.items()
    ]
    numbers = [*_COLUMNS, "MACs at least"]
    table(["all layers", *(["program"] if rewritten else []), *numbers], totals, numbers=numbers)
    note("inputs: the share that is not zero, or changed; util.: of all that the array could multiply meanwhile; a call takes one sample")
    note("bound by: cycles are the largest of what the array computes, of comparing and listing inputs, and of waiting for DRAM")
    for sentence in found.notes:
        note(sentence)


_COLUMNS = ("cycles", "util.", "MACs", "SRAM [kB]", "DRAM [kB]", "energy [µJ]")


def _numbers(cost: ModeCost) -> tuple[str, ...]:
    from effc.report.accelerator import amount

    kilobytes = (amount(count / 1000) for count in (cost.sram_bytes, cost.dram_bytes))
    return f"{cost.cycles:,.0f}", f"{cost.utilisation:.1%}", f"{cost.macs:,.0f}", *kilobytes, amount(cost.energy.total / 1e6)


def _shortened(name: str) -> str:
    """What importers make of names can be a hundred letters: the ends tell them apart."""
    return name if len(name) <= 2 * _NAMES else f"{name[: _NAMES - 1]}…{name[-_NAMES:]}"


def _share(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.1%}"
