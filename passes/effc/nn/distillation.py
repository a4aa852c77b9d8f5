"""The distillation loss: a student learns the class probabilities of a teacher.

    KD = mean over samples of  sum_c -p_c * log q_c        p = softmax(teacher), q = softmax(student), temperature 1

It is the cross-entropy of the student against the teacher's distribution (Hinton et al., arXiv 1503.02531), so its smallest value is the
teacher's entropy and not 0. No labels are needed. ProAct (arXiv 2406.06313) trains its bounds by it, with the unbounded network as teacher.
"""

from __future__ import annotations

import torch
from torch import Tensor

from effc.errors import UsageError

__all__ = ["distillation"]


def distillation(student: Tensor, teacher: Tensor, *, probabilities: bool = False) -> Tensor:
    """Cross-entropy of the student's distribution against the teacher's, averaged over all axes but the last.

    Args:
        student, teacher: (..., C) scores of the same shape, floating point. No gradient reaches the teacher.
        probabilities: both are probabilities already, not logits. A student's 0 counts as the smallest normal number of the dtype.

    Returns:
        A scalar, in nats.

    Raises:
        UsageError: the shapes differ, or there is no class axis.
    """
    if student.shape != teacher.shape or student.ndim == 0:
        raise UsageError(
            f"distillation: student and teacher have the shapes {list(student.shape)} and {list(teacher.shape)}, not one (..., C)"
        )
    teacher = teacher.detach()
    if probabilities:
        return -(teacher * student.clamp_min(torch.finfo(student.dtype).tiny).log()).sum(-1).mean()
    return -(torch.softmax(teacher, -1) * torch.log_softmax(student, -1)).sum(-1).mean()
