"""`effc check` for every kind of file: ONNX is checked node by node without importing; an exported program is read and translated.

With a target, what is fine so far is also lowered as far as the target needs it to be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from effc.errors import Problem, UnsupportedModelError
from effc.frontends import CheckReport, Limits, check_model, load_program

if TYPE_CHECKING:
    from effc.ir import Program
    from effc.targets import Target

__all__ = ["check_file"]


def check_file(
    path: Path, limits: Limits, *, input_shapes: dict[str, Sequence[int]] | None = None, target: str | None = None
) -> CheckReport:
    """List everything in a file that effc cannot take; for a target, also what cannot be lowered there.

    Raises:
        UsageError: there is no such file, or it is of another kind; ConfigError: input shapes for a `.pt2` file, an unknown target.
        InputRejectedError: the file cannot be read. UnsupportedModelError: for a reason that is no node's.
        MissingDependencyError: the target's compiler would have to tell, and is not installed.
    """
    from effc.targets import find_target

    processor = None if target is None else find_target(target)
    if path.suffix.lower() == ".onnx":
        report = check_model(path, limits, input_shapes=input_shapes)
        if processor is None or not report.supported:
            return report
        program = load_program(path, input_shapes=input_shapes, limits=limits, check_import=False)
        return replace(report, problems=_refused(program, processor), target=processor.name)
    try:
        program = load_program(path, input_shapes=input_shapes, limits=limits)  # says which kinds of file there are
    except UnsupportedModelError as error:
        if not error.problems:
            raise
        return CheckReport(path.name, None, (), (), {}, error.problems)
    return CheckReport(
        model=path.name,
        opset=None,
        inputs=tuple(map(str, program.interface.inputs)),
        outputs=tuple(map(str, program.interface.outputs)),
        operators=dict(Counter(str(node.target) for node in program.nodes).most_common()),
        problems=_refused(program, processor),
        target=target or "",
    )


def _refused(program: Program, target: Target | None) -> tuple[Problem, ...]:
    """The nodes that lowering refuses.

    Raises UnsupportedModelError where no node is the reason, MissingDependencyError where only a tool that is not here could tell.
    """
    from effc.lowering import lower, untranslatable
    from effc.lowering.backends import backend_of

    problems = untranslatable(program)
    if problems or target is None or not backend_of(target).needs_plan(target):
        return problems  # what does not plan runs on TVM's virtual machine
    try:
        lower(program, target)
    except UnsupportedModelError as error:
        if not error.problems:
            raise
        return error.problems
    return ()
