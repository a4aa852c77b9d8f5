"""Modules that no program can be made of: refused by operator with the documented error, and torch itself says nothing beside it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from effc.errors import UnsupportedModelError
from effc.frontends import load_program


class Calls(nn.Module):
    """A module around a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


DATA_DEPENDENT: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "nonzero": (torch.nonzero, r"nonzero: aten\.nonzero\.default: the shape of its result depends on the data"),
    "sum of nonzero": (lambda x: torch.nonzero(x).sum(0), r"nonzero: aten\.nonzero\.default"),
    "mask": (lambda x: x[x > 0], r"aten\.index\.Tensor: the shape"),
    "size of unique": (lambda x: torch.zeros(torch.unique(x).shape[0]) + 1, r"unique"),
    "item": (lambda x: x * x.sum().int().item(), r"aten\.item\.default: makes a number of a tensor's element"),
    "slice by item": (lambda x: x[:, : x.sum().int().item()], r"aten\.item\.default: makes a number"),
}


@pytest.mark.parametrize("name", DATA_DEPENDENT)
def test_what_only_the_data_decide_is_refused_by_operator(name: str) -> None:
    function, expected = DATA_DEPENDENT[name]
    module = Calls(function)
    for source in (module, torch.export.export(module, (torch.ones(2, 3),), strict=False)):
        with pytest.raises(UnsupportedModelError, match=expected) as caught:
            load_program(source, example_inputs=(torch.ones(2, 3),))
        assert len(caught.value.problems) == 1  # not those that only carry it on
        assert caught.value.exit_code == 3


def test_all_of_them_are_listed() -> None:
    def two(x: Tensor) -> Tensor:
        chosen = x[x > 0]
        return torch.nonzero(chosen)

    with pytest.raises(UnsupportedModelError) as caught:
        load_program(Calls(two), example_inputs=(torch.ones(2, 3),))
    assert [problem.where for problem in caught.value.problems] == ["index", "nonzero"]


def test_sizes_that_shapes_decide_and_unused_choices_are_no_reason_to_refuse() -> None:
    def fine(x: Tensor) -> Tensor:
        torch.nonzero(x)
        return x.reshape(x.shape[0], -1)[:, : x.shape[1] // 2]

    assert load_program(Calls(fine), example_inputs=(torch.ones(2, 4),)).interface.batch.symbolic


@torch.library.custom_op("effc_test::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    """An operator of somebody's library."""
    return x * 2


@twice.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def test_control_flow_and_foreign_operators_are_refused() -> None:
    def branch(x: Tensor) -> Tensor:
        chosen: Tensor = torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (x,))
        return chosen

    with pytest.raises(UnsupportedModelError, match=r"cond: calls another graph; .*torch\.where"):
        load_program(Calls(branch), example_inputs=(torch.ones(2, 3),))
    with pytest.raises(UnsupportedModelError, match=r"effc_test\.twice.*is neither an ATen nor an effc operator"):
        load_program(Calls(twice), example_inputs=(torch.ones(2, 3),))


def test_a_refusal_is_all_that_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    """torch prints the graph so far, once for every attempt."""
    with pytest.raises(UnsupportedModelError, match="data-dependent"):
        load_program(Calls(lambda x: x if x.sum() > 0 else -x), example_inputs=(torch.ones(2, 3),))
    said = capfd.readouterr()
    assert said.out + said.err == ""
