"""`effc check`."""

from __future__ import annotations

from pathlib import Path

import click

from effc.cli.console import common_options, emit_json, heading, note, table

__all__ = ["command"]

_UNSUPPORTED = 3


@click.command("check")
@click.argument("model", type=click.Path(path_type=Path))
@common_options
def command(model: Path, as_json: bool) -> int:
    """List everything in MODEL that effc cannot compile, in one table; exit code 3 if anything."""
    from effc.frontends import check_model

    report = check_model(model)
    if as_json:
        emit_json(report.as_json())
    else:
        heading(f"{model.name}: opset {report.opset}, {sum(report.operators.values())} nodes")
        table(("operator", "nodes"), sorted(report.operators.items(), key=lambda item: (-item[1], item[0])), numbers=("nodes",))
        if report.problems:
            table(("node", "operator", "why", "what works"), [(p.where, p.what, p.why, p.hint) for p in report.problems])
            note(f"{len(report.problems)} nodes are not supported", bad=True)
        else:
            note("every node is supported")
    return _UNSUPPORTED if report.problems else 0
