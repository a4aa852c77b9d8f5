"""`effc check`."""

from __future__ import annotations

from pathlib import Path

import click

from effc.cli.console import common_options, emit_json, heading, note, table
from effc.cli.options import limit_option, shape_option

__all__ = ["command"]

_UNSUPPORTED = 3
_USAGE = 2


@click.command("check")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--target", help="Also what cannot be lowered for this one; see `effc targets`.")
@shape_option
@limit_option
@common_options
def command(model: Path, target: str | None, input_shapes: tuple[str, ...], limits: tuple[str, ...], as_json: bool) -> int:
    """List everything in MODEL (.onnx or .pt2) that effc cannot compile, in one table; exit code 3 if anything."""
    from effc.cli.pairs import parse_limits, parse_shapes
    from effc.compiler.checking import check_file
    from effc.errors import ConfigError, counted
    from effc.frontends import Limits

    shapes = parse_shapes(input_shapes)
    report = check_file(model, Limits(**parse_limits(limits)), input_shapes=dict(shapes) if shapes else None, target=target)
    if as_json:
        emit_json(report.as_json())
    else:
        kind = "exported program" if report.opset is None else f"opset {report.opset}"
        nodes = f", {counted(sum(report.operators.values()), 'node')}" if report.operators or report.opset is not None else ""
        heading(f"{report.model}: {kind}{nodes}")
        for value in report.inputs:
            note(f"input {value}")
        for value in report.outputs:
            note(f"output {value}")
        if report.operators:
            table(("operator", "nodes"), report.operators.items(), numbers=("nodes",))
        if report.problems:
            table(("node", "operator", "why", "what works"), [(p.where, p.what, p.why, p.hint) for p in report.problems])
            note(f"{counted(len(report.problems), 'node is', 'nodes are')} not supported", bad=True)
        elif report.open_sizes:
            raise ConfigError("the model leaves sizes open that effc must know", report.open_sizes)
        if target and not report.target:
            note(f"what {target} lacks was not looked at: that takes a model whose nodes can all be imported", bad=True)
        for size in report.open_sizes:
            note(str(size), bad=True)
        if report.supported:
            note("every node is supported" + (f" by {target}" if target else ""))
    if report.problems:
        return _UNSUPPORTED
    return _USAGE if report.open_sizes else 0
