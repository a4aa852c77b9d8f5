"""`effc faultsim`: a campaign (`effc.cli.faultsim_campaign`), and what belongs to one."""

from __future__ import annotations

import importlib
from typing import Any

import click

__all__ = ["command"]

_DEFAULT = "campaign"
_OTHERS = {
    "compare": "the difference between two campaigns of the same faults, draw by draw",
    "merge": "put the shards of a campaign together, judge it, and write its reports",
    "worst": "search the bit flips that hurt most (BFA), beside random ones",
}


class _Faultsim(click.Group):
    """A group whose first argument may be a model: then a campaign is meant."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in (_DEFAULT, *_OTHERS):  # the help of a campaign shows it as a command of its own
            args = [_DEFAULT, *(args or ["--help"])]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_OTHERS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in (_DEFAULT, *_OTHERS):
            return None
        found: click.Command = importlib.import_module(f"effc.cli.faultsim_{cmd_name}").command
        return found


def _group() -> Any:
    return _Faultsim(name="faultsim", help="Fault simulation: bit flips in a network's numbers, and what they do to its predictions.")


command = _group()
