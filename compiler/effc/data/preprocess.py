"""How an image becomes an input: `size=32,channels=3,mean=0.49;0.48;0.45,std=0.25;0.24;0.26,layout=nchw,range=0..1`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from effc.errors import ConfigError, Problem

__all__ = ["Preprocess", "preprocess_hint"]

Array = np.ndarray[Any, Any]
_KEYS = ("size", "channels", "mean", "std", "layout", "range")


@dataclass(frozen=True)
class Preprocess:
    """Steps from an 8-bit image to a float32 input, in this order: resize, scale to `range`, subtract `mean`, divide by `std`, lay out.

    Attributes:
        size: height and width in pixels; the image's own where None.
        channels: 3 for red, green and blue, 1 for grey.
        mean, std: one number, or one per channel, in units of `range`.
        layout: `nchw` or `nhwc`.
        range: what 0 and 255 become.
    """

    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = "nchw"
    range: tuple[float, float] = (0.0, 1.0)
    channels: int = 3

    @classmethod
    def parse(cls, text: str) -> Preprocess:
        """From the flag's text. Raises ConfigError with everything that is wrong."""
        problems: list[Problem] = []
        found: dict[str, Any] = {}
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            key, equals, value = part.partition("=")
            key = key.strip().lower()
            if key not in _KEYS or not equals:
                problems.append(Problem("--preprocess", part, *_stray(part)))
                continue
            try:
                found[key] = _value(key, value.strip())
            except ValueError as error:
                problems.append(Problem("--preprocess", part, str(error)))
        if found.get("channels") == 1:
            several = [key for key in ("mean", "std") if len(found.get(key, ())) > 1]
            problems += [Problem("--preprocess", key, "has three numbers for one channel") for key in several]
        if problems:
            raise ConfigError("--preprocess cannot be read", problems)
        return cls(**found)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Preprocess:
        fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
        return cls(**fields)

    def apply(self, image: Array) -> Array:
        """An image (H, W, channels) uint8, already of the right size, as float32 in the layout."""
        low, high = self.range
        scaled = image.astype(np.float32) * np.float32((high - low) / 255) + np.float32(low)
        normal = (scaled - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(normal.transpose(2, 0, 1) if self.layout == "nchw" else normal)


def preprocess_hint(shape: Sequence[int | str]) -> str:
    """The preprocessing that would give images an input's shape; empty where no image has it."""
    if len(shape) != 4 or not any(shape[axis] in (1, 3) for axis in (1, 3)):
        return ""
    first = shape[1] in (1, 3)
    channels, height, width = (shape[1], shape[2], shape[3]) if first else (shape[3], shape[1], shape[2])
    return f"--preprocess size={height}x{width},channels={channels},layout={'nchw' if first else 'nhwc'}"


def _stray(part: str) -> tuple[str, str]:
    """Why a part is no setting, and a hint."""
    try:
        float(part)
    except ValueError:
        return "is not one of its settings", f"known: {', '.join(_KEYS)}"
    return "is a number without a name", "settings are separated by commas, the numbers of one by ';' or ':': mean=0.485;0.456;0.406"


def _value(key: str, text: str) -> Any:
    if key == "size":
        sides = [int(_number(side)) for side in text.lower().split("x")]
        if len(sides) > 2 or min(sides) < 1 or "." in text:
            raise ValueError("expected 32 or 32x48 (height x width)")
        return (sides[0], sides[-1])
    if key == "layout":
        if text.lower() not in ("nchw", "nhwc"):
            raise ValueError("expected nchw or nhwc")
        return text.lower()
    if key == "channels":
        if text not in ("1", "3"):
            raise ValueError("expected 1 (grey) or 3 (red, green, blue)")
        return int(text)
    if key == "range":
        low, dots, high = text.partition("..")
        if not dots:
            raise ValueError("expected two numbers such as 0..1")
        return (_number(low), _number(high))
    numbers = tuple(_number(number) for number in text.replace(":", ";").split(";"))
    if len(numbers) not in (1, 3):
        raise ValueError("expected one number, or three separated by ';' or ':', as in 0.485;0.456;0.406")
    if key == "std" and min(numbers) <= 0:
        raise ValueError("must be positive")
    return numbers


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number") from None
    if not math.isfinite(number):
        raise ValueError(f"{text!r} is not finite")
    return number
