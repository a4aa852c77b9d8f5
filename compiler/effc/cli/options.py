"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

__all__ = ["DATA_RULE", "budget_options", "check_import_option", "limit_option", "shape_option"]

DATA_RULE = (
    "an .npz with an array per input under its name (x serves a single input) and labels under y, a .npy for a single input, "
    "or a folder of images, subfolders being the classes in alphabetical order."
)
check_import_option = click.option(
    "--check-import/--no-check-import",
    default=None,
    help="Whether an ONNX import is compared with onnxruntime on random inputs.  [default: it is]",
)

shape_option = click.option(
    "--input-shape",
    "input_shapes",
    multiple=True,
    metavar="NAME=1x3x32x32",
    help="Sizes of an input where the model leaves more than the batch open.",
)
limit_option = click.option(
    "--limit", "limits", multiple=True, metavar="NAME=NUMBER", help="Raise a limit on untrusted models and data: nodes=200000."
)


def budget_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--max-ram` and `--max-flash`; their texts become numbers in the settings."""
    ram = "arena, states, stack, inputs and outputs"
    exits = "Exit 1 when it is more, 7 when only the upper end of a range is. 64k and 1M are of 1024."
    command = click.option("--max-flash", metavar="BYTES", help=f"Of a microcontroller: the most for weights and code. {exits}")(command)
    return click.option("--max-ram", metavar="BYTES", help=f"Of a microcontroller: the most for {ram}. {exits}")(command)
