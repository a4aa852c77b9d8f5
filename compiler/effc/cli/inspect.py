"""`effc inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from effc.cli.console import common_options, emit_json, heading, note, table
from effc.cli.options import limit_option, shape_option
from effc.cli.text import bytes_text
from effc.errors import counted

__all__ = ["command"]


@click.command("inspect")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--text", is_flag=True, help="Of an artifact, show its program's text as well.")
@shape_option
@limit_option
@common_options
def command(path: Path, text: bool, input_shapes: tuple[str, ...], limits: tuple[str, ...], as_json: bool) -> None:
    """Show a model (.onnx, .pt2) as program text, or what is in an artifact (a directory)."""
    if path.is_dir():
        _artifact(path, text, as_json)
        return
    from effc.cli.pairs import parse_limits, parse_shapes
    from effc.frontends import Limits, load_program
    from effc.ir.printing import format_program

    program = load_program(path, input_shapes=parse_shapes(input_shapes) or None, limits=Limits(**parse_limits(limits)))
    if as_json:
        emit_json(_program_document(program))
    else:
        note(format_program(program).rstrip("\n"))


def _program_document(program: Any) -> dict[str, Any]:
    from effc.ir.printing import format_program

    return {
        "provenance": program.provenance.as_json(),
        "interface": program.interface.as_json(),
        "operators": len(program.nodes),
        "parameters": sum(tensor.numel() for tensor in program.tensors.values()),
        "parameter_bytes": sum(tensor.numel() * tensor.element_size() for tensor in program.tensors.values()),
        "facts": program.facts.as_json()["values"],
        "text": format_program(program),
    }


def _artifact(path: Path, with_text: bool, as_json: bool) -> None:
    from effc.runtime import open_artifact

    artifact = open_artifact(path)
    manifest = artifact.manifest
    data = dict(manifest.data)
    text = None
    if with_text:
        from effc.ir.printing import format_program
        from effc.ir.storage import load_program_bytes

        text = format_program(load_program_bytes(artifact.read("program.pt2"), name=str(path / "program.pt2")))
    if as_json:
        emit_json({**data, "text": text} if with_text else data)
        return
    heading(f"{path}: {data['source'].get('name')} for {data['target'].get('name')}")
    for spec in manifest.inputs:
        note(f"input {spec}{' (any number of samples)' if spec.batched and manifest.symbolic_batch else ''}")
    for spec in manifest.outputs:
        note(f"output {spec}")
    note(f"passes: {', '.join(data['passes']) or 'none'}")
    note(f"versions: {', '.join(f'{name} {version}' for name, version in data['versions'].items())}")
    if manifest.plan is not None:
        plan = manifest.plan
        macs = sum(step.macs for step in plan.steps)
        memory = f"{bytes_text(plan.arena_bytes)} scratch, {bytes_text(plan.parameter_bytes)} weights"
        note(f"plan: {counted(len(plan.steps), 'step')}, {macs:,} multiply-accumulates, {memory}")
        rows = [
            (
                index,
                ", ".join(step.sources) or step.kernel,
                " + ".join(step.ops),
                f"{step.family}: {step.note}" if step.note else step.family,
                f"{step.macs:,}",
                bytes_text(step.bytes),
            )
            for index, step in enumerate(plan.steps)
        ]
        table(("step", "computes", "operators", "kernel", "MACs", "moves"), rows, numbers=("step", "MACs", "moves"))
    else:
        note("runs on TVM's virtual machine")
    rows_of_files = [(name, f"{entry.bytes:,}", entry.sha256[:16]) for name, entry in sorted(manifest.files.items())]
    table(("file", "bytes", "sha256"), rows_of_files, numbers=("bytes",))
    if text is not None:
        note(text.rstrip("\n"))
