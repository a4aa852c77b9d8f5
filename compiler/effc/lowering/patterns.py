"""An extension's patterns on a program: their form is checked, each check is watched, and what was refused is counted.

`FuseOpsByPattern` asks a pattern's check about each part that has the pattern's form. What a check raises would come back from TVM without
the pattern's name, and what it refuses not at all; so effc asks it in between.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from effc.errors import MissingDependencyError, Problem, counted
from effc.lowering.extensions import Hooks, blamed, checking, origin_of
from effc.lowering.optimise import VIEWS
from effc.lowering.relax_edit import operands, operator_name
from effc.targets import Target

__all__ = ["Grouped", "grouped", "stored_values"]

_FORM = "(name, pattern), (name, pattern, annotations) or (name, pattern, annotations, check); or a relax.transform.FusionPattern"


@dataclass(frozen=True)
class Grouped:
    """A module in which every part that a pattern took is a call of a function of its own.

    Attributes:
        module: of relax.
        refused: how many parts had a pattern's form and were refused by its check, by the pattern's name.
    """

    module: Any
    refused: Mapping[str, int] = field(default_factory=dict)

    @property
    def nothing(self) -> str:
        """Why no part was taken, where none was."""
        if not self.refused:
            return "no part of the program matched its patterns"
        each = [f"{counted(count, 'part')} matched its pattern {name}" for name, count in self.refused.items()]
        whose = "its check refused" if len(each) == 1 else "their checks refused"
        return f"{', '.join(each)}, and {whose} {'it' if sum(self.refused.values()) == 1 else 'them'}"


def grouped(module: Any, parameters: Collection[str], hooks: Hooks, target: Target) -> Grouped:
    """Group what an extension's patterns take.

    Args:
        module: of relax, with channels last, before legalisation.
        parameters: names of main's arguments that are stored tensors.
        hooks: with patterns.
        target: of the extension.

    Raises:
        MissingDependencyError: its patterns have no such form, or a check raises.
    """
    from tvm import relax

    assert hooks.patterns is not None
    with blamed(target, "its patterns()"):
        given = hooks.patterns(target)
    problems = list(_misshapen(given))
    if problems:
        raise MissingDependencyError(f"{origin_of(target)}: what its patterns() gives is no list of patterns", problems)
    refused: dict[str, int] = {}
    failed: list[BaseException] = []
    patterns = [_watched(one, target, refused, failed) for one in given]
    with blamed(target, "grouping by its patterns"), checking(stored_values(module["main"], parameters)):
        result = relax.transform.FuseOpsByPattern(patterns, bind_constants=False)(module)
    if failed:
        raise failed[0]
    return Grouped(result, refused)


def stored_values(main: Any, parameters: Collection[str]) -> frozenset[Any]:
    """The variables of `main` that are stored tensors, or views of one, and what those variables are bound to.

    Args:
        main: a relax.Function.
        parameters: names of its arguments that are stored tensors.
    """
    found = {argument for argument in main.params if str(argument.name) in parameters}
    for block in main.body.blocks:
        for binding in block.bindings:
            read = operands(binding.value)
            if operator_name(binding.value) in VIEWS and read and all(one in found for one in read):
                found |= {binding.var, binding.value}
    return frozenset(found)


def _misshapen(given: Any) -> Iterator[Problem]:
    """Everything about the patterns that is not as it should be."""
    from tvm import relax

    if not isinstance(given, Sequence) or isinstance(given, str):
        yield Problem("its patterns", f"a {type(given).__name__}", "is no sequence", "give a list")
        return
    for index, one in enumerate(given):
        where = f"pattern {index}"
        if isinstance(one, relax.transform.FusionPattern):
            continue
        if not isinstance(one, tuple) or not 2 <= len(one) <= 5:
            what = f"a tuple of {len(one)}" if isinstance(one, tuple) else f"a {type(one).__name__}"
            yield Problem(where, what, "is no pattern", _FORM)
            continue
        name, pattern, annotations, check, *_ = (*one, None, None)
        where += f" ({name})" if isinstance(name, str) else ""
        if not isinstance(name, str):
            yield Problem(where, f"its name is a {type(name).__name__}", "must be a text", _FORM)
        if not isinstance(pattern, relax.dpl.DFPattern):
            yield Problem(where, f"its second part is a {type(pattern).__name__}", "is no pattern of tvm.relax.dpl", _FORM)
        named = isinstance(annotations, Mapping) and all(isinstance(part, relax.dpl.DFPattern) for part in annotations.values())
        if annotations is not None and not named:
            yield Problem(where, "its annotations", "must be a dict of names and of patterns that are parts of the pattern", _FORM)
        if check is not None and not callable(check):
            yield Problem(
                where, f"its check is a {type(check).__name__}", "must be a function of a context that gives True or False", _FORM
            )


def _watched(given: Any, target: Target, refused: dict[str, int], failed: list[BaseException]) -> Any:
    """The pattern with a check that counts what the given one refuses, and keeps what it raises: TVM would lose that."""
    from tvm.relax.transform import FusionPattern

    one = given if isinstance(given, FusionPattern) else FusionPattern(*given)
    check = given[3] if isinstance(given, tuple) and len(given) > 3 else one.check
    if check is None:
        return one
    name = str(one.name)
    return FusionPattern(name, one.pattern, one.annotation_patterns, _asked(name, check, target, refused, failed), one.attrs_getter)


def _asked(
    name: str, check: Callable[[Any], Any], target: Target, refused: dict[str, int], failed: list[BaseException]
) -> Callable[[Any], bool]:
    def asked(context: Any) -> bool:
        if failed:
            return False
        try:
            with blamed(target, f"its check of pattern {name}"):
                taken = bool(check(context))
        except Exception as error:  # noqa: BLE001 - raised again outside of TVM
            failed.append(error)
            return False
        if not taken:
            refused[name] = refused.get(name, 0) + 1
        return taken

    return asked
