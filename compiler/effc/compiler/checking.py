"""`effc check` for every kind of file: ONNX is checked node by node without importing; an exported program is read and translated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from effc.errors import UnsupportedModelError
from effc.frontends import CheckReport, Limits, check_model, load_program

__all__ = ["check_file"]


def check_file(path: Path, limits: Limits, *, input_shapes: dict[str, Sequence[int]] | None = None) -> CheckReport:
    """List everything in a file that effc cannot take.

    Raises:
        UsageError: there is no such file, or it is of another kind; ConfigError: input shapes for a `.pt2` file.
        InputRejectedError: the file cannot be read. UnsupportedModelError: for a reason that is no node's.
    """
    if path.suffix.lower() == ".onnx":
        return check_model(path, limits, input_shapes=input_shapes)
    try:
        program = load_program(path, input_shapes=input_shapes, limits=limits)  # says which kinds of file there are
    except UnsupportedModelError as error:
        if not error.problems:
            raise
        return CheckReport(path.name, None, (), (), {}, error.problems)
    from effc.lowering import untranslatable

    return CheckReport(
        model=path.name,
        opset=None,
        inputs=tuple(map(str, program.interface.inputs)),
        outputs=tuple(map(str, program.interface.outputs)),
        operators=dict(Counter(str(node.target) for node in program.nodes).most_common()),
        problems=untranslatable(program),
    )
