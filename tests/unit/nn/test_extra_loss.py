"""Terms of the loss come and go in any order, and end whatever the step does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from effc.nn.extra_loss import attach, detach


class Step(nn.Module):
    def training_step(self, loss: Tensor | None) -> Tensor | None:
        if loss is not None and loss < 0:
            raise ArithmeticError("a step fails")
        return loss


class Constant:
    def __init__(self, number: float) -> None:
        self.number, self.events = number, ""

    def begin(self) -> None:
        self.events += "b"

    def value(self) -> Tensor:
        self.events += "v"
        return torch.tensor(self.number)

    def end(self) -> None:
        self.events += "e"


def test_terms_leave_in_any_order_and_the_last_takes_the_wrapper_away() -> None:
    module, one, ten = Step(), Constant(1.0), Constant(10.0)
    before = set(vars(module))
    attach(module, one)
    attach(module, ten)
    assert module.training_step(torch.tensor(0.5)) == 11.5
    detach(module, one)  # the first to come
    detach(module, one)  # twice is harmless
    assert module.training_step(torch.tensor(0.5)) == 10.5
    detach(module, ten)
    assert module.training_step(torch.tensor(0.5)) == 0.5
    assert set(vars(module)) == before


def test_a_skipped_batch_gets_no_term_and_every_step_ends() -> None:
    module, one = Step(), Constant(1.0)
    attach(module, one)
    assert module.training_step(None) is None
    assert one.events == "be"
    with pytest.raises(ArithmeticError):
        module.training_step(torch.tensor(-1.0))
    assert one.events == "bebe"
