"""`NAME=VALUE` options."""

from __future__ import annotations

import re
from collections.abc import Sequence

from effc.errors import ConfigError, Problem

__all__ = ["parse_limits", "parse_shapes", "parse_states"]


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`image=1x3x32x32` -> {"image": (1, 3, 32, 32)}. Raises ConfigError with everything that is wrong."""
    found, problems = {}, []
    for text in texts:
        name, _, sizes = text.rpartition("=")
        if not name or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sizes):
            problems.append(Problem("--input-shape", repr(text), "is no shape", "write name=1x3x32x32"))
        else:
            found[name] = tuple(int(size) for size in sizes.split("x"))
    if problems:
        raise ConfigError("shapes of inputs cannot be read", problems)
    return found


_LIMITS = ("model_bytes", "nodes", "tensor_elements", "folded_bytes", "nesting", "data_bytes")


def parse_limits(texts: Sequence[str]) -> dict[str, int]:
    """`nodes=200000` -> {"nodes": 200000}. Raises ConfigError with everything that is wrong."""
    found, problems = {}, []
    for text in texts:
        name, _, number = text.rpartition("=")
        if name.replace("-", "_") not in _LIMITS or not re.fullmatch(r"[1-9][\d_]*", number):
            problems.append(Problem("--limit", repr(text), "is no limit", f"write nodes=200000; limits: {', '.join(_LIMITS)}"))
        else:
            found[name.replace("-", "_")] = int(number)
    if problems:
        raise ConfigError("limits cannot be read", problems)
    return found


def parse_states(texts: Sequence[str]) -> dict[str, str]:
    """`keys=keys_next` -> {"keys": "keys_next"}. Raises ConfigError with everything that is wrong."""
    found: dict[str, str] = {}
    problems = []
    for text in texts:
        name, _, writer = text.partition("=")
        if not name or not writer:
            hint = "write keys=keys_next: an input and the output with its new value"
            problems.append(Problem("--state", repr(text), "is no state", hint))
        elif name in found:
            problems.append(Problem("--state", repr(text), f"names the input {name!r} again"))
        else:
            found[name] = writer
    if problems:
        raise ConfigError("states cannot be read", problems)
    return found
