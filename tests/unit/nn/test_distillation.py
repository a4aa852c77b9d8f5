"""`distillation`: the formula, its gradient, what is not mixed."""

from __future__ import annotations

import math

import pytest
import torch

from effc.errors import UsageError
from effc.nn.distillation import distillation


def test_it_is_the_mean_cross_entropy_against_the_teacher() -> None:
    student = torch.tensor([[math.log(0.5), math.log(0.5)], [math.log(0.9), math.log(0.1)]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[math.log(3.0), 0.0], [5.0, 5.0]], dtype=torch.float64, requires_grad=True)
    expected = (math.log(2) + -(0.5 * math.log(0.9) + 0.5 * math.log(0.1))) / 2
    loss = distillation(student, teacher)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    as_probabilities = distillation(student.exp(), torch.softmax(teacher, -1), probabilities=True)
    assert as_probabilities.item() == pytest.approx(expected, rel=1e-12)
    assert distillation(student[None] + 7, teacher[None]).item() == pytest.approx(expected, rel=1e-12)  # logits; more axes
    loss.backward()
    assert student.grad is not None and teacher.grad is None
    assert torch.allclose(student.grad, (torch.softmax(student, -1) - torch.softmax(teacher, -1)).detach() / 2)


def test_a_probability_of_zero_is_no_infinity() -> None:
    student = torch.tensor([[1.0, 0.0]], requires_grad=True)
    loss = distillation(student, torch.tensor([[0.5, 0.5]]), probabilities=True)
    assert loss.item() == pytest.approx(-0.5 * math.log(torch.finfo(torch.float32).tiny))
    loss.backward()
    assert student.grad is not None and torch.isfinite(student.grad).all()


def test_shapes_must_agree() -> None:
    with pytest.raises(UsageError, match=r"\[2, 3\] and \[2, 1\]"):
        distillation(torch.zeros(2, 3), torch.zeros(2, 1))
