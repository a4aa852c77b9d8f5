"""Initialiser names as module paths, reversibly.

torch reads a dot in a parameter's name as a step into a submodule, so `layer1.0.conv1.weight` becomes the same path of modules and keeps
its name in the exported program. What cannot be a path is escaped in URL manner: an empty step, a percent sign, a step that every
`nn.Module` has as an attribute (`type`, `half`), and a name of which a longer one makes a module (`a` beside `a.b`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote, unquote

import torch

__all__ = ["module_paths", "source_name"]

_MARK = "%"  # alone at the end of a step: "this step was escaped only to differ from an attribute"


def module_paths(names: Iterable[str]) -> dict[str, str]:
    """The path of every name; no two are equal, none is a prefix of another, and `source_name` gives the name back."""
    ordered = list(dict.fromkeys(names))
    paths = {name: ".".join(_escaped(step) for step in name.split(".")) for name in ordered}
    inner = {".".join(path.split(".")[:depth]) for path in paths.values() for depth in range(1, path.count(".") + 1)}
    return {name: path + _MARK if path in inner else path for name, path in paths.items()}


def source_name(path: str) -> str:
    """The initialiser's name behind a module path."""
    return ".".join(unquote(step.removesuffix(_MARK) if step.endswith(_MARK) else step) for step in path.split("."))


def _escaped(step: str) -> str:
    step = _UNUSUAL.sub(lambda match: quote(match[0], safe=""), step)
    return step + _MARK if not step or step in _RESERVED else step


_UNUSUAL = re.compile(r"[^\w/:\[\]()<>@#+=, -]")
_RESERVED = frozenset(dir(torch.nn.Module())) | frozenset(torch.nn.Module().__dict__)
