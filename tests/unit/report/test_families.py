"""A report explains every kernel family that there is."""

from __future__ import annotations

import ast
from pathlib import Path

from effc.lowering import kernels, streaming
from effc.report.families import FAMILIES, described


def made(path: Path) -> set[str]:
    """The families that a file's `Implementation(function, family, ...)` and `WeightRows(...).implementation(family, note)` name."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    named = [call.args[1] for call in calls if isinstance(call.func, ast.Name) and call.func.id == "Implementation"]
    named += [
        call.args[0]
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr == "implementation" and len(call.args) == 2
    ]
    return {str(argument.value) for argument in named if isinstance(argument, ast.Constant)}


def test_every_family_is_described() -> None:
    files = [path for package in (kernels, streaming) for path in Path(package.__file__).parent.glob("*.py")]
    assert {family for path in files for family in made(path)} | {family for family, _ in kernels.SCHEDULED} == set(FAMILIES)


def test_those_that_occur_are_described_once() -> None:
    assert [family for family, _ in described(["pool", "conv", "pool", "a plug-in's"])] == ["conv", "pool"]
