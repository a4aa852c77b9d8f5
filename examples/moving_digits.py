"""Short videos of handwritten digits that bounce over a textured background, for `train_moving_digits`.

The digits are scikit-learn's (1,797 images of 8x8, UCI Optical Recognition of Handwritten Digits). Images are split before any video is
made: a digit that is seen in training is in no test video. Each video has a background, a path and sensor noise of its own; the background
stands still.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn import functional as F

__all__ = ["FRAMES", "SIZE", "Videos", "load"]

FRAMES, SIZE = 10, 32
_DIGIT = 14  # pixels of a digit's side
_SLOWEST, _FASTEST = 1.0, 2.0  # pixels a frame
_COARSE, _FINE = 0.35, 0.15  # brightness of the background: large patches and single pixels
_NOISE = 2 / 255  # standard deviation, of each pixel in each frame


@dataclass(frozen=True)
class Videos:
    """x: (N, FRAMES, 1, SIZE, SIZE) float32 in [0, 1]. y: (N,) int64, the digit."""

    x: Tensor
    y: Tensor


def load(seed: int, per_image: int) -> tuple[Videos, Videos]:
    """Training and test videos: `per_image` of each training image, one of each test image (a stratified quarter)."""
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)
    x, x_test, y, y_test = train_test_split(
        images, digits.target.astype(np.int64), test_size=0.25, random_state=seed, stratify=digits.target
    )
    training = [_videos(x, y, np.random.default_rng((seed, copy))) for copy in range(per_image)]
    joined = Videos(torch.cat([one.x for one in training]), torch.cat([one.y for one in training]))
    return joined, _videos(x_test, y_test, np.random.default_rng((seed, per_image)))


def _videos(images: NDArray[np.float32], labels: NDArray[np.int64], random: np.random.Generator) -> Videos:
    digits = _resized(images, _DIGIT, "bilinear")
    background = _COARSE * _resized(random.random((len(images), 8, 8), np.float32), SIZE, "bicubic")
    background += _FINE * random.random(background.shape, np.float32)
    x = np.repeat(background[:, None], FRAMES, axis=1)
    for video, digit, path in zip(x, digits, _paths(len(images), random), strict=True):
        for frame, (row, column) in zip(video, path, strict=True):
            window = frame[row : row + _DIGIT, column : column + _DIGIT]
            np.maximum(window, digit, out=window)
    x += random.normal(0.0, _NOISE, x.shape).astype(np.float32)
    return Videos(torch.from_numpy(x.clip(0.0, 1.0))[:, :, None], torch.from_numpy(labels))


def _paths(count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Rows and columns of the digits' corners, (count, FRAMES, 2): straight lines that bounce off the edges."""
    room = SIZE - _DIGIT
    start = random.uniform(0, room, (count, 1, 2))
    angle, speed = random.uniform(0, 2 * np.pi, (count, 1)), random.uniform(_SLOWEST, _FASTEST, (count, 1))
    velocity = speed[..., None] * np.stack([np.sin(angle), np.cos(angle)], -1)
    unfolded = np.mod(start + np.arange(FRAMES)[None, :, None] * velocity, 2 * room)
    return np.rint(np.minimum(unfolded, 2 * room - unfolded)).astype(np.int64)


def _resized(images: NDArray[np.float32], size: int, mode: str) -> NDArray[np.float32]:
    resized: NDArray[np.float32] = F.interpolate(torch.from_numpy(images)[:, None], size=size, mode=mode, align_corners=False)[:, 0].numpy()
    return resized
