"""`effc`: the group of commands. A command's module is imported when it is needed, and imports heavy packages when it runs."""

from __future__ import annotations

import importlib
from typing import Any, NoReturn

import click

from effc.cli.failure import leave

__all__ = ["cli", "main"]

COMMANDS = {
    "compile": "rewrite a network with passes and compile it to an artifact",
    "check": "list everything in a model that effc cannot compile",
    "estimate": "say what RAM, flash and work a network needs on a microcontroller",
    "model-npu": "say what a network needs on an accelerator that skips zeros, or what did not change: cycles, bytes, energy",
    "run": "run an artifact on data",
    "stream": "run a streaming artifact on a clip, a video or a camera, frame by frame",
    "verify": "compare an artifact with its own program, and with its source",
    "bench": "time an artifact, alone or beside another engine",
    "faultsim": "put bit flips into a network, and measure what they do to its predictions",
    "inspect": "show a model, a program or an artifact as readable text",
    "passes": "list the passes and their options",
    "targets": "list the processors to compile for",
    "doctor": "say what is installed, what is missing, and how to get it",
}


class _Commands(click.Group):
    """A group whose commands live in `effc.cli.<name>`, and whose errors become one message and a documented exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"effc.cli.{cmd_name.replace('-', '_')}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, args: Any = None, *rest: Any, **extra: Any) -> NoReturn:
        leave(lambda arguments: super(_Commands, self).main(arguments, *rest, **{**extra, "standalone_mode": False}), args)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="effc")
def cli() -> None:
    """A hardware-aware compiler for the efficiency and reliability of neural networks.

    Exit codes: 0 ok, 1 a gate failed, 2 usage, 3 unsupported model, 4 input rejected, 5 effc's result differs from its reference,
    6 missing dependency, 7 inconclusive gate, 70 internal error, 130 interrupted.
    """


def main() -> NoReturn:
    """The console script."""
    cli.main(prog_name="effc")
