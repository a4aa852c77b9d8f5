"""The arithmetic that effc's quantised ops share. Affine 8- and 16-bit quantisation: real = (integer - zero_point) * scale.

    quantise(r)      q = saturate(round(r) + zero_point), ties to even; NaN becomes the lowest integer
    requantise(acc)  quantise(float32(acc) * multiplier), multiplier = x_scale * w_scale / y_scale in float32, in this order
    accumulate       exact integer sums, kept modulo 2^32 in int32

Scales are float tensors, zero points integer tensors of the quantised dtype; both are scalars (shape () or (1,)) or one entry a channel.
Sums are formed in float64, which is exact up to 2^53: more than 10^11 products of two 9-bit numbers, whatever the order of summation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from effc.ir.ops.base import Cost

__all__ = ["QUANTISED", "accumulated", "along", "bytes_of", "centred", "convolve", "quantise", "requantise"]

QUANTISED = (torch.uint8, torch.int8, torch.uint16, torch.int16)

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def along(values: Tensor, dims: int, axis: int) -> Tensor:
    """Scalars as shape (), one entry a channel shaped to broadcast against a tensor of `dims` dimensions along `axis`."""
    if values.ndim > 1:
        raise ValueError(f"a scale or zero point of shape {tuple(values.shape)}: one number, or one a channel, is meant")
    if values.ndim == 0 or values.shape[0] == 1:
        return values.reshape(())
    shape = [1] * dims
    shape[axis] = values.shape[0]
    return values.reshape(shape)


def quantise(real: Tensor, zero_point: Tensor) -> Tensor:
    """Integers of the zero point's dtype from a tensor in steps of the scale; `zero_point` broadcasts."""
    if zero_point.dtype not in QUANTISED:
        raise ValueError(f"a zero point of {zero_point.dtype}: the quantised types are uint8, int8, uint16 and int16")
    limits = torch.iinfo(zero_point.dtype)
    zero = zero_point.to(torch.float32)
    lowest, highest = limits.min - zero, limits.max - zero
    steps = torch.round(real).to(torch.float32)
    kept = torch.where(steps >= lowest, torch.minimum(steps, highest), lowest)  # NaN compares false
    return (kept + zero).to(torch.int32).to(zero_point.dtype)


def requantise(accumulator: Tensor, multiplier: Tensor, zero_point: Tensor) -> Tensor:
    """Int32 sums at the scale of the output."""
    return quantise(accumulator.to(torch.float32) * multiplier, zero_point)


def centred(values: Tensor, zero_point: Tensor) -> Tensor:
    """`values - zero_point` without overflow, as float64 integers; `zero_point` broadcasts."""
    return values.to(torch.float64) - zero_point.to(torch.float64)


def accumulated(sums: Tensor) -> Tensor:
    """Exact sums as int32, modulo 2^32."""
    return sums.to(torch.int64).to(torch.int32)


def convolve(
    x: Tensor,
    x_zero_point: Tensor,
    w: Tensor,
    w_zero_point: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Float64 sums of a convolution; padding stands for the real number 0, so it holds the zero point of x."""
    dims = x.ndim - 2
    pads = [item for axis in reversed(range(dims)) for item in (padding[axis], padding[axis + dims])]
    image = torch.constant_pad_nd(centred(x, along(x_zero_point, 0, 0)), pads, 0.0)
    kernel = centred(w, along(w_zero_point, w.ndim, 0))
    return _CONV[dims](image, kernel, None, list(stride), 0, list(dilation), groups)


def bytes_of(*tensors: Tensor | None) -> int:
    return sum(int(tensor.numel()) * tensor.element_size() for tensor in tensors if tensor is not None)


def elementwise_cost(result: Tensor, *operands: Tensor) -> Cost:
    """Cost of an op that only moves and scales."""
    return Cost(macs=0, bytes=bytes_of(result, *operands))
