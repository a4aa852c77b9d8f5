"""Fourier transforms as products with constant matrices, in real arithmetic, and the windows around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effc.frontends.onnx.operators.base import Node, Operator, Unsupported, Value
from effc.frontends.onnx.operators.values import check_table, dtype_of, ints, normal_axis, number, tensor

__all__ = ["OPERATORS"]


def _matrices(rows: int, length: int, inverse: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin of the transform's angles, (rows, length); exact multiples are reduced before the angle is taken."""
    check_table(rows * length, f"a transform of {length} elements")
    turns = (np.outer(np.arange(rows), np.arange(length)) % length) / length
    angle = 2 * np.pi * turns * (1 if inverse else -1)
    scale = 1 / length if inverse else 1.0
    return torch.tensor(np.cos(angle) * scale).to(dtype), torch.tensor(np.sin(angle) * scale).to(dtype)


def _transform(x: Tensor, axis: int, length: int, inverse: bool, onesided: bool) -> Tensor:
    """`x` holds real parts, or real and imaginary ones, in its last axis; cut or padded with zeros to `length` along `axis`."""
    size = x.shape[axis]
    if not isinstance(size, int):
        raise Unsupported("a transform along an axis of symbolic size", "fix the size with --input-shape")
    x = x.movedim(axis, -2)
    if inverse and onesided:
        return _real_inverse(x, length).movedim(-2, axis)
    if size > length:
        x = torch.narrow(x, -2, 0, length)
    elif size < length:
        x = torch.constant_pad_nd(x, [0, 0, 0, length - size], 0.0)
    cos, sin = _matrices(length // 2 + 1 if onesided else length, length, inverse, x.dtype)
    real = x[..., 0]
    if x.shape[-1] == 1:
        parts = (torch.matmul(real, cos.t()), torch.matmul(real, sin.t()))
    else:
        imaginary = x[..., 1]
        parts = (
            torch.matmul(real, cos.t()) - torch.matmul(imaginary, sin.t()),
            torch.matmul(real, sin.t()) + torch.matmul(imaginary, cos.t()),
        )
    return torch.stack(parts, -1).movedim(-2, axis)


def _real_inverse(x: Tensor, length: int) -> Tensor:
    """The real signal of a one-sided spectrum: every inner frequency counts twice, for itself and its conjugate."""
    wanted = length // 2 + 1
    have = x.shape[-2]
    x = torch.narrow(x, -2, 0, wanted) if have > wanted else torch.constant_pad_nd(x, [0, 0, 0, wanted - have], 0.0)
    cos, sin = _matrices(wanted, length, True, x.dtype)
    counts = torch.full((wanted, 1), 2.0, dtype=x.dtype)
    counts[0] = 1.0
    if length % 2 == 0:
        counts[-1] = 1.0
    signal = torch.matmul(x[..., 0], cos * counts)
    if x.shape[-1] > 1:
        signal = signal - torch.matmul(x[..., 1], sin * counts)
    return signal.unsqueeze(-1)


def dft(node: Node, x: Value, length: Value = None, axis: Value = None) -> Tensor:
    x = tensor(x)
    along = int(node.get("axis", 1)) if node.opset < 20 else -2 if axis is None else int(number(axis, "axis"))
    dim = normal_axis(along, x.ndim)
    inverse, onesided = bool(node.get("inverse", 0)), bool(node.get("onesided", 0))
    if length is not None:
        count = ints(length, "dft_length")[0]
    else:
        count = 2 * (x.shape[dim] - 1) if inverse and onesided else x.shape[dim]
    return _transform(x, dim, count, inverse, onesided)


def stft(node: Node, x: Value, step: Value, window: Value = None, length: Value = None) -> Tensor:
    x, hop = tensor(x), ints(step, "frame_step")[0]
    x = x.unsqueeze(-1) if x.ndim == 2 else x
    weights = None if window is None else tensor(window)
    if length is not None:
        count = ints(length, "frame_length")[0]
    elif weights is not None:
        count = weights.shape[0]
    else:
        raise Unsupported("neither window nor frame_length is given", "the file is malformed; check it with onnx.checker")
    frames = (x.shape[1] - count) // hop + 1
    check_table(frames * count, f"{frames} frames of {count} elements")
    index = (np.arange(frames)[:, None] * hop + np.arange(count)[None, :]).reshape(-1)
    cut = torch.index_select(x, 1, torch.tensor(index)).reshape(x.shape[0], frames, count, x.shape[2])
    cut = cut if weights is None else cut * weights.reshape(-1, 1)
    return _transform(cut, 2, count, False, bool(node.get("onesided", 1)))


def _window(form: Callable[[Any], Any]) -> Callable[..., Tensor]:
    def call(node: Node, size: Value) -> Tensor:
        count = ints(size, "size")[0]
        check_table(count, "a window")
        period = count if node.get("periodic", 1) else count - 1
        phase = np.arange(count) * 2 * np.pi / max(period, 1)
        return torch.tensor(form(phase)).to(dtype_of(int(node.get("output_datatype", 1))))

    return call


OPERATORS = (
    Operator("BlackmanWindow", _window(lambda p: 0.42 - 0.5 * np.cos(p) + 0.08 * np.cos(2 * p)), 17, constants=(0,)),
    Operator("DFT", dft, 17),
    Operator("HammingWindow", _window(lambda p: 25 / 46 - 21 / 46 * np.cos(p)), 17, constants=(0,)),
    Operator("HannWindow", _window(lambda p: 0.5 - 0.5 * np.cos(p)), 17, constants=(0,)),
    Operator("STFT", stft, 17),
)
