"""Whatever a user calls things, C gets identifiers and comments that mean nothing else."""

from __future__ import annotations

import re

import pytest

from effc.lowering.c99.names import comment, identifier

HOSTILE = [
    "int",
    "return",
    "class",
    "uint8_t",
    "",
    " ",
    "7",
    "__FILE__",
    "a b",
    "a-b",
    '";system("x");//',
    "*/ #error",
    "/* x",
    "line\nbreak",
    "back\\\n",
    "??/",
    "???/",
    "é",
    "名前",
    "\x00\x1b[2J",
    "x" * 10_000,
    "\ud800",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_identifiers_are_short_words_that_c_does_not_know(name: str) -> None:
    found = identifier(name)
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,30}", found) and "__" not in found
    assert found not in {"int", "return", "class", "uint8_t"}


def test_other_names_are_other_identifiers() -> None:
    taken: set[str] = set()
    for name in [*HOSTILE, "x" * 10_001, "a_b", "a b ", "int_1", "à"]:
        found = identifier(name, taken)
        assert found not in taken
        taken.add(found)
    assert identifier("conv1.weight") == "conv1_weight"


@pytest.mark.parametrize("name", HOSTILE)
def test_comments_stay_in_their_line(name: str) -> None:
    found = comment(f"{name}{name}")
    assert re.fullmatch(r"[ -~]{0,120}", found)
    assert not re.search(r"\*/|/\*|\?\?|\\", found)
