"""Options that several commands share."""

from __future__ import annotations

import click

__all__ = ["DATA_RULE", "check_import_option", "limit_option", "shape_option"]

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
