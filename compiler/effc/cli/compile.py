"""`effc compile`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from effc.cli.console import common_options, emit_json, heading, is_debugging, note, progress_bars, table
from effc.cli.native_warnings import held_back
from effc.cli.options import DATA_RULE, budget_options, check_import_option, limit_option, shape_option
from effc.cli.text import bytes_text
from effc.errors import counted

if TYPE_CHECKING:
    from effc.compiler import CompileResult
    from effc.runtime import Verification

__all__ = ["command"]


@click.command("compile")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Directory of the artifact.")
@click.option("--passes", help='Passes in order, with options: "fold-batch-norm,ranger{option=value}".')
@click.option("--data", type=click.Path(path_type=Path), help=f"Calibration and training data: {DATA_RULE}")
@click.option(
    "--eval",
    type=click.Path(path_type=Path),
    help="Held-out data in the same form: for the gate at the end and the report, never for a pass.",
)
@click.option(
    "--init",
    type=click.Path(path_type=Path),
    help="Parameters from before training (.safetensors, the source's names), for passes that rewind to them, such as prune.",
)
@click.option(
    "--checkpoints",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where passes that train keep how far they are after each epoch; the same compile goes on from there.",
)
@click.option(
    "--metric",
    type=click.Choice(["top1", "agreement", "kl", "perplexity", "max-error"]),
    help="How quality is judged.  [default: top1 with labels, else agreement; max-error where outputs have no classes]",
)
@click.option(
    "--max-drop",
    type=float,
    help="Largest accepted loss of the metric (0.01 is one point of top1). Exit 1 when it is larger, 7 when there are too few samples to "
    "tell; nothing is written then.",
)
@click.option(
    "--preprocess",
    help="How images become inputs: size=32x48,channels=3,range=0..1,mean=0.485;0.456;0.406,std=0.229;0.224;0.225,layout=nchw "
    "(quote it; ':' serves as well as ';'). range says what black and white become; mean and std are applied after it, in its units.",
)
@shape_option
@click.option(
    "--state",
    "states",
    multiple=True,
    metavar="INPUT=OUTPUT",
    help="An input that is a state of a streaming model, and the output with its new value.",
)
@click.option("--target", help="What to compile for; see `effc targets`.  [default: cpu]")
@click.option("--batch", type=int, help="Samples of one call of the compiled code.  [default: 1]")
@budget_options
@click.option("--emit", multiple=True, type=click.Choice(["onnx"]), help="Write the transformed model into the artifact, too.")
@click.option("--seed", type=int, help="Root of all randomness.  [default: 0]")
@click.option(
    "--winograd",
    type=click.Choice(["auto", "off", "f2", "f4"]),
    help="Winograd's algorithm for 3x3 convolutions: where it pays, never, or one of its forms wherever its measured error is small.  "
    "[default: auto]",
)
@click.option(
    "--tune",
    type=float,
    metavar="SECONDS",
    help="Measure on this machine which tiles are fastest, for so long at most. They are remembered in ~/.cache/effc and written into the "
    "artifact as tuning.json.",
)
@click.option("--tuning", type=click.Path(path_type=Path), help="Use the measured tiles of this file, such as an artifact's tuning.json.")
@click.option(
    "--rates",
    type=click.Path(path_type=Path),
    help="Decide by the rates of this file where zeros are skipped, such as an artifact's rates.json.  [default: effc targets measure's]",
)
@limit_option
@check_import_option
@click.option("--config", type=click.Path(path_type=Path), help="A TOML file with these options; a flag beats the file.")
@click.option("--force", is_flag=True, help="Replace a directory that holds files that are not effc's.")
@click.option("--explain", is_flag=True, help="Show what every pass did at every site, or why not. For kernels: effc inspect.")
@click.option(
    "--dump-ir", type=click.Path(path_type=Path), metavar="DIR", help="Write the program's text after each pass, and in TVM's relax."
)
@common_options
def command(
    source: Path,
    output: Path,
    config: Path | None,
    force: bool,
    explain: bool,
    dump_ir: Path | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Rewrite the network in SOURCE (.onnx or .pt2) with passes and compile it to an artifact."""
    from effc.cli.pairs import parse_limits, parse_shapes, parse_states
    from effc.compiler.settings import load_settings

    flags["input_shapes"] = parse_shapes(flags["input_shapes"]) or None
    flags["limits"] = parse_limits(flags["limits"]) or None
    flags["states"] = parse_states(flags["states"]) or None
    flags["emit"] = flags["emit"] or None
    settings = load_settings(config, flags)
    from effc.compiler.compile import compile_with

    with progress_bars() as progress, held_back(debug=is_debugging()):
        result = compile_with(settings, source, output, force=force, dump_ir=dump_ir, progress=progress)
    if as_json:
        emit_json(_document(result))
    else:
        _show(result, explain)


def _document(result: CompileResult) -> dict[str, Any]:
    report = result.report.as_json()
    return {
        "artifact": str(result.path),
        "manifest_sha256": result.manifest.digest,
        "passes": report["passes"],
        "quality": report["quality"],
        "notes": report["notes"],
        "facts": dict(result.report.facts),
        "verification": None if (checked := _verification(result)) is None else checked.as_json(),
        "self_test": None if result.emulated is None else {"emulator": result.emulated.emulator, "output": result.emulated.text},
        "self_tests": None if result.sources is None else [one.as_json() for one in result.sources.self_tests],
        "call_ns": None if result.trial is None else result.trial.call,
    }


def _verification(result: CompileResult) -> Verification | None:
    if result.trial is not None:
        return result.trial.verification
    return None if result.sources is None else result.sources.verification


def _changed(decisions: Sequence[Mapping[str, Any]]) -> str:
    """Rows without an operator tell of the whole, of a cycle of training: they are no sites."""
    if not decisions:
        return "nothing to do"
    sites = [row for row in decisions if row["op"]] or decisions
    return f"{sum(bool(row['done']) for row in sites)} of {len(sites)}"


def _show(result: CompileResult, explain: bool) -> None:
    report = result.report
    if report.passes:
        rows = [
            (
                entry.spec,
                _changed(entry.decisions),
                f"{entry.nodes_before} -> {entry.nodes_after}",
                "same" if entry.difference == 0 else "not finite" if entry.difference is None else f"{entry.difference:.1e}",
                entry.measured_on,
                f"{entry.seconds:.2f}",
            )
            for entry in report.passes
        ]
        table(
            ("pass", "sites changed", "operators", "outputs moved", "measured on", "s"),
            rows,
            numbers=("sites changed", "operators", "outputs moved", "s"),
        )
    if explain:
        for entry in report.passes:
            if entry.decisions:
                heading(entry.spec)
                table(
                    ("", "site", "op", "why"),
                    [("done" if row["done"] else "left", row["site"], row["op"], row["why"]) for row in entry.decisions],
                )
    quality = report.quality
    if quality is not None:
        allowed = "" if quality.allowed is None else f", accepted: {quality.allowed:g}"
        note(
            f"{quality.metric} on {counted(quality.samples, 'held-out sample')}: {quality.text(quality.before)} before, "
            f"{quality.text(quality.after)} after; {quality.loss} {quality.text(quality.drop)} "
            f"(95 % interval: {quality.interval}{allowed}; {quality.movement})"
        )
    for sentence in report.notes:
        note(sentence)
    for label, value in report.facts:
        note(f"{label}: {value}")
    size = sum(entry.bytes for entry in result.manifest.files.values())
    note(f"artifact: {result.path} ({bytes_text(size)}, {len(result.manifest.files)} files); report: {result.path / 'report.html'}")
