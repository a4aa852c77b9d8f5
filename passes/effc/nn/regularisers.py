"""Losses that make activations sparse: `l1` and `hoyer_square`.

Both take a batch of activations, are computed per sample and averaged over the batch, so that their size does not depend on it. Both
accompany the FATReLU of Kurtz et al. (ICML 2020) in its authors' public code, SparseML, which takes the Hoyer-square of the whole batch as
one vector and divides it by the batch size instead. Half-precision inputs are summed in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from effc.errors import UsageError

__all__ = ["REGULARISERS", "hoyer_square", "l1"]


def l1(x: Tensor) -> Tensor:
    """The sum of |x| of each sample, averaged over the batch.

    Args:
        x: (batch, ...), floating point, not empty.

    Returns:
        A scalar in x's unit, at least float32.

    Raises:
        UsageError: x is no such batch.
    """
    return _samples(x).abs().sum(1).mean()


def hoyer_square(x: Tensor) -> Tensor:
    """(sum |x|)^2 / sum x^2 of each sample, averaged over the batch: about the number of elements that matter, whatever their scale.

    It is 1 for a sample with one nonzero element, n for n elements of equal magnitude, 0 for a sample of zeros (whose gradient is 0, too).

    Args:
        x: (batch, ...), floating point, not empty.

    Returns:
        A scalar without a unit, at least float32.

    Raises:
        UsageError: x is no such batch.
    """
    samples = _samples(x)
    # The ratio does not change with a sample's scale; at a scale of 1 no square over- or underflows. As a constant it takes no part
    # in the gradient, and need not: the ratio's derivative with respect to it is 0.
    scale = samples.detach().abs().amax(1, keepdim=True)
    samples = samples / torch.where(scale == 0, torch.ones_like(scale), scale)
    squares = (samples * samples).sum(1)
    return (samples.abs().sum(1).square() / torch.where(squares == 0, torch.ones_like(squares), squares)).mean()


REGULARISERS = {"hoyer-square": hoyer_square, "l1": l1}


def _samples(x: Tensor) -> Tensor:
    """(batch, elements), at least float32."""
    if x.ndim == 0 or x.numel() == 0 or not x.dtype.is_floating_point:
        raise UsageError(f"a sparsity regulariser takes a batch of floating-point activations, (batch, ...); got {x.dtype}{list(x.shape)}")
    return x.reshape(x.shape[0], -1).to(torch.promote_types(x.dtype, torch.float32))
