"""C texts that lie beside this module, with `@KEY@` where something is put in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

__all__ = ["filled"]

_FOLDER = Path(__file__).parent / "templates"


def filled(name: str, values: Mapping[str, str]) -> str:
    """The text of a file of `templates` with every `@KEY@` replaced. Raises KeyError for a key without a value."""
    text = (_FOLDER / name).read_text(encoding="ascii")
    return re.sub(r"@([A-Z_]+)@", lambda found: values[found[1]], text)
