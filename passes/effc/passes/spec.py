"""Passes as text: `fold-batch-norm,ranger{option=0.5,names=[a;b]}`.

    passes  = (pass ("," pass)*)?
    pass    = name ("{" option ("," option)* "}")?
    option  = key "=" value                       value: a number, true, false, a word, or [value;value]

`parse_passes` and `format_pass` are inverse to each other. Passes of other packages are found through the entry-point group `effc.passes`,
and only when a spec names them.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.metadata
import re
from collections.abc import Iterator
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from effc.errors import ConfigError, Problem
from effc.passes.base import Pass

__all__ = ["format_pass", "parse_passes"]

_PASS = re.compile(r"\s*([A-Za-z0-9_-]*)\s*(?:\{(.*)\})?\s*", re.DOTALL)
GROUP = "effc.passes"


def parse_passes(text: str) -> tuple[Pass, ...]:
    """The passes that a spec names, in order. Raises ConfigError with everything that is wrong in it."""
    problems: list[Problem] = []
    parts = list(_split(text, ",")) if text.strip() else []
    passes = [made for part in parts if (made := _parse_one(part.strip(), problems)) is not None]
    if problems:
        raise ConfigError("the passes cannot be read", problems)
    return tuple(passes)


def format_pass(pass_: Pass) -> str:
    """The pass with its non-default options."""
    options = []
    for field in dataclasses.fields(pass_):
        value = getattr(pass_, field.name)
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        if value != default:
            options.append(f"{field.name.replace('_', '-')}={_text(value)}")
    return pass_.name + (f"{{{','.join(options)}}}" if options else "")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return f"[{';'.join(_text(one) for one in value)}]"
    return str(value)


def _split(text: str, separator: str) -> Iterator[str]:
    """Parts between separators that stand outside of all brackets."""
    depth, start = 0, 0
    for index, character in enumerate(text):
        depth += (character in "{[") - (character in "}]")
        if character == separator and depth == 0:
            yield text[start:index]
            start = index + 1
    yield text[start:]


def _parse_one(part: str, problems: list[Problem]) -> Pass | None:
    if not part:
        problems.append(Problem("--passes", "nothing", "stands where a pass should", "a comma is at the end or doubled: take it out"))
        return None
    match = _PASS.fullmatch(part)
    if match is None or not match[1]:
        problems.append(Problem("--passes", repr(part), "is not a pass", "write name or name{option=value}"))
        return None
    kind = _find(match[1], problems)
    if kind is None:
        return None
    options = _options(kind, match[2] or "", problems)
    if options is None:
        return None
    try:
        return kind(**options)
    except ValueError as error:  # a pass checks its options in __post_init__
        problems.append(Problem(kind.name, part, str(error)))
        return None


def _find(name: str, problems: list[Problem]) -> type[Pass] | None:
    from effc.passes import PASSES

    table = {kind.name: kind for kind in PASSES}
    if name in table:
        return table[name]
    for entry in importlib.metadata.entry_points(group=GROUP, name=name):
        kind = entry.load()
        if isinstance(kind, type) and issubclass(kind, Pass) and kind.name == name:
            return kind
        problems.append(Problem(name, entry.value, "is not a pass of that name"))
        return None
    near = difflib.get_close_matches(name, table, 1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(table)}"
    problems.append(Problem("--passes", name, "there is no such pass", hint))
    return None


def _options(kind: type[Pass], text: str, problems: list[Problem]) -> dict[str, Any] | None:
    known = {field.name: field for field in dataclasses.fields(kind)}
    hints = get_type_hints(kind)
    options: dict[str, Any] = {}
    sound = True
    for part in [piece.strip() for piece in _split(text, ",")] if text.strip() else []:
        key, equals, value = (piece.strip() for piece in part.partition("="))
        name = key.replace("-", "_")
        if not equals or name not in known:
            names = ", ".join(field.replace("_", "-") for field in known) or "it has none"
            problems.append(Problem(kind.name, part or "nothing", "is not one of its options", f"options: {names}"))
            sound = False
            continue
        listed = value.startswith("[") and value.endswith("]")
        raw: Any = [piece.strip() for piece in value[1:-1].split(";") if piece.strip()] if listed else value
        try:
            options[name] = TypeAdapter(hints[name]).validate_python(raw)
        except ValidationError as error:
            problems.append(Problem(kind.name, part, error.errors()[0]["msg"]))
            sound = False
    return options if sound else None
