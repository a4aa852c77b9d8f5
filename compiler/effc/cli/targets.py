"""`effc targets`."""

from __future__ import annotations

import click

from effc.cli.console import common_options, emit_json, table

__all__ = ["command"]


@click.command("targets")
@common_options
def command(as_json: bool) -> None:
    """List the processors to compile for."""
    from effc.targets import all_targets

    targets = all_targets()
    if as_json:
        emit_json({"targets": [target.as_json() for target in targets]})
        return
    rows = [
        (
            target.name,
            _runs(target.runs_here, target.emulator),
            f"{target.lanes} x f32",
            f"{target.l1 >> 10} KiB",
            f"{target.l2 >> 10} KiB",
            target.summary,
        )
        for target in targets
    ]
    table(("target", "runs here", "vector", "L1", "L2", "what"), rows, numbers=("L1", "L2"))


def _runs(here: bool, emulator: str) -> str:
    if here:
        return "yes"
    return f"with {emulator}" if emulator else "no"
