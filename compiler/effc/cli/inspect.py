"""`effc inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from effc.cli.console import common_options, emit_json, heading, note, table
from effc.cli.options import limit_option, shape_option
from effc.cli.text import bytes_text
from effc.errors import counted

if TYPE_CHECKING:
    from effc.runtime import Manifest
    from effc.runtime.plan import Step

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
        kept = {"state_bytes": manifest.state_bytes, "state_sizes": manifest.state_sizes} if manifest.states else {}
        emit_json({**data, **kept, **({"text": text} if with_text else {})})
        return
    extension = data["target"].get("extension")
    whose = f" of {extension['package']} {extension['version']}" if extension else ""
    heading(f"{path}: {data['source'].get('name')} for {data['target'].get('name')}{whose}")
    several = " (frames in order)" if manifest.streams else " (any number of samples)"
    for spec in manifest.frame_inputs:
        note(f"input {spec}{several if spec.batched and manifest.symbolic_batch else ''}")
    for spec in manifest.frame_outputs:
        note(f"output {spec}")
    note(f"passes: {', '.join(data['passes']) or 'none'}")
    note(f"versions: {', '.join(f'{name} {version}' for name, version in data['versions'].items())}")
    if manifest.plan is not None:
        plan = manifest.plan
        macs = sum(step.macs for step in plan.steps)
        memory = f"{bytes_text(plan.arena_bytes)} scratch, {bytes_text(plan.parameter_bytes)} weights"
        note(f"plan: {counted(len(plan.steps), 'step')}, {macs:,} multiply-accumulates, {memory}")
        if plan.fresh:
            listed = sum(bool(step.active) for step in plan.steps)
            others = counted(len(plan.fresh), "other step")
            note(f"{listed} of them compute only what may have changed; a frame that is computed whole takes {others}")
        rows = [
            (
                index,
                ", ".join(step.sources) or step.kernel,
                " + ".join(step.ops),
                _kernel(step),
                f"{step.macs:,}",
                bytes_text(step.bytes),
            )
            for index, step in enumerate(plan.steps)
        ]
        table(("step", "computes", "operators", "kernel", "MACs", "moves"), rows, numbers=("step", "MACs", "moves"))
    else:
        note("runs on TVM's virtual machine")
    if manifest.states:
        _show_states(manifest)
    rows_of_files = [(name, f"{entry.bytes:,}", entry.sha256[:16]) for name, entry in sorted(manifest.files.items())]
    table(("file", "bytes", "sha256"), rows_of_files, numbers=("bytes",))
    if text is not None:
        note(text.rstrip("\n"))


def _show_states(manifest: Manifest) -> None:
    shapes = {spec.name: str(spec).partition(": ")[2] for spec in manifest.inputs}
    whose = {state.input: "effc's own" if state.resident else "passed in and out, in two buffers" for state in manifest.states}
    rows = [(name, shapes.get(name, ""), whose.get(name, "effc's own"), bytes_text(size)) for name, size in manifest.state_sizes.items()]
    table(("state", "holds", "", "bytes"), rows, numbers=("bytes",))
    how = "; effc stream runs it on a clip, a video or a camera" if manifest.executor != "c" else ", in a struct of the caller"
    note(f"a stream keeps {bytes_text(manifest.state_bytes)} from frame to frame{how}")


def _kernel(step: Step) -> str:
    name = f"{step.family}, changes only" if step.active else step.family
    return f"{name}: {step.note}" if step.note else name
