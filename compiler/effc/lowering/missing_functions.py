"""Which nodes need functions of a C library that a target without an operating system does not have.

The linker names the functions, once the code is linked with all that effc brings; which kernel asks for one stands among the names of
that kernel's own object file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from effc.errors import Problem, UnsupportedModelError
from effc.lowering.drafts import Call, Draft
from effc.lowering.emit import Kernel, compiled_code
from effc.lowering.toolchain import link_static
from effc.runtime.selftest import sources
from effc.targets import Target

__all__ = ["missing_functions", "require_functions"]


def require_functions(objects: Sequence[bytes], compiled: Mapping[str, Kernel], drafted: Draft, chip: Any, target: Target) -> None:
    """Look for functions that neither the code nor effc brings.

    Args:
        objects: the code, for a target without an operating system.
        compiled: its kernels by symbol. drafted: who calls them. chip: the tvm.target.Target.

    Raises:
        UnsupportedModelError: with all nodes whose kernels need one.
        MissingDependencyError: there is no linker, or no C library for such a machine.
    """
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "main.c")
        program.write_text("int main(void) { return 0; }\n")
        library = [path for path in sources(target.architecture) if path.name != "selftest.c"]
        try:
            link_static(objects, [*library, program], {}, target)
        except UnsupportedModelError as error:
            raise UnsupportedModelError(error.message, _by_nodes(error.problems, compiled, drafted, chip)) from error


def missing_functions(compiled: Mapping[str, Kernel], drafted: Draft, chip: Any, target: Target) -> tuple[Problem, ...]:
    """The same of kernels that nothing calls yet, as problems."""
    try:
        code = compiled_code({symbol: kernel.function for symbol, kernel in compiled.items()}, chip)
        require_functions([code], compiled, drafted, chip, target)
    except UnsupportedModelError as error:
        return error.problems
    return ()


def _by_nodes(problems: Sequence[Problem], compiled: Mapping[str, Kernel], drafted: Draft, chip: Any) -> tuple[Problem, ...]:
    """Problems that name functions, with the nodes that need them in the place of the compiled code."""
    objects = {symbol: compiled_code({symbol: kernel.function}, chip) for symbol, kernel in compiled.items()}
    found: list[Problem] = []
    for problem in problems:
        name = b"\0" + problem.what.encode() + b"\0"  # as a table of names in an ELF file holds it
        callers = [call for call in drafted.calls if name in objects.get(call.function, b"")]
        found += [_in_call(problem, call) for call in callers] or [problem]
    return tuple(dict.fromkeys(found))


def _in_call(problem: Problem, call: Call) -> Problem:
    """`sinf` is what an operator `sin` needs; where none is called like the function, any of the kernel's may need it."""
    asking = [part.origin for part in call.parts if part.origin.op.split(".")[0] == problem.what.removesuffix("f") and part.origin.source]
    sources = tuple(dict.fromkeys(origin.source for origin in asking)) or call.sources
    ops = tuple(dict.fromkeys(origin.op for origin in asking)) or call.ops
    return replace(problem, where=", ".join(sources) or call.function, what=f"{', '.join(ops)} ({problem.what})")
