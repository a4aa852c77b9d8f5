"""`effc passes`."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from effc.cli.console import common_options, emit_json, note, table

__all__ = ["command"]


@click.command("passes")
@common_options
def command(as_json: bool) -> None:
    """List the passes and their options."""
    from effc.passes import PASSES

    rows = [_describe(kind) for kind in PASSES]
    if as_json:
        emit_json({"passes": rows})
        return

    def options(row: dict[str, Any]) -> str:
        return ", ".join(f"{option['name']}={option['default']}" for option in row["options"]) or "-"

    table(
        ("pass", "outputs", "data", "options", "what"),
        [(row["name"], _guarantee(row), "--data" if row["needs_data"] else "-", options(row), row["summary"]) for row in rows],
    )
    note('effc compile model.onnx --passes "fold-batch-norm,ranger{option=value}" -o out/')


def _guarantee(row: dict[str, Any]) -> str:
    if not row["exact"]:
        return "may change"
    return "the same bits" if row["tolerance"] == 0 else f"within {row['tolerance']:g}"


def _describe(kind: Any) -> dict[str, Any]:
    options = [
        {"name": field.name.replace("_", "-"), "type": str(field.type), "default": _default(field)} for field in dataclasses.fields(kind)
    ]
    return {
        "name": kind.name,
        "summary": (kind.__doc__ or "").strip().splitlines()[0],
        "exact": kind.exact,
        "tolerance": kind.tolerance,
        "needs_data": kind.needs_data,
        "after": [earlier.name for earlier in kind.after],
        "options": options,
    }


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return None if field.default_factory is dataclasses.MISSING else field.default_factory()
