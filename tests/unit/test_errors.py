"""Words that messages share."""

from __future__ import annotations

import pytest

from effc.errors import counted


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (counted(0, "node"), "0 nodes"),
        (counted(1, "node"), "1 node"),
        (counted(1347, "sample"), "1,347 samples"),
        (counted(1, "node is", "nodes are"), "1 node is"),
        (counted(2, "node is", "nodes are"), "2 nodes are"),
    ],
)
def test_counts_are_followed_by_the_right_number(said: str, expected: str) -> None:
    assert said == expected
