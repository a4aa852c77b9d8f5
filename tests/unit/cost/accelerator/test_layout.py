"""Where tensors lie in a memory: by hand, and by the same decision that says what moves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from effc.cost.accelerator import find_accelerator
from effc.cost.accelerator.layout import Part, laid_out, weights_stay
from effc.cost.accelerator.memory import residence
from effc.cost.accelerator.product import Product


def test_what_stays_shares_no_word() -> None:
    found = laid_out([3, 5, 2], 10, stay=True)
    assert found.words == 10
    assert found.tensors == ((Part(0, 0, 3),), (Part(3, 0, 5),), (Part(8, 0, 2),))
    owners = [[tensor for tensor in range(3) if found.elements(tensor, address)] for address in range(10)]
    assert owners == [[0]] * 3 + [[1]] * 5 + [[2]] * 2
    assert found.elements(1, 4) == (1,)


def test_what_goes_takes_the_halves_by_turns() -> None:
    """Halves of 4 words: 3 in the first, 2 in the second, 9 as 4 in the first, 4 in the second, 1 in the first, and 4 in the second."""
    found = laid_out([3, 2, 9, 4], 8, stay=False)
    assert found.words == 8
    assert [found.elements(tensor, 0) for tensor in range(4)] == [(0,), (), (0, 8), ()]
    assert [found.elements(tensor, 5) for tensor in range(4)] == [(), (1,), (5,), (1,)]
    small = laid_out([3, 2], 1000, stay=False)  # the second buffer begins behind the largest part of the first
    assert (small.words, small.tensors) == (5, ((Part(0, 0, 3),), (Part(3, 0, 2),)))


@pytest.mark.parametrize("room", [19, 20])
def test_the_decision_is_the_one_that_bytes_are_counted_by(room: int) -> None:
    array = find_accelerator("systolic-32x32")
    array = array.model_copy(update={"sram": array.sram.model_copy(update={"weights": room})})
    product = Product("a", "mm", "a", "x", (5, 4), 1, 5, 5, 2, 10, 2)
    assert residence([product, replace(product, name="b")], array).weights == weights_stay(20, array) == (room >= 20)
