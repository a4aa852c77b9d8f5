"""Where in a package's own code an error came from: what its author looks for first, and a traceback of effc's hides."""

from __future__ import annotations

import traceback

__all__ = ["place_in"]


def place_in(error: BaseException, module: str) -> str:
    """`, at /path/hooks.py:12`, the innermost frame of a package in an error's traceback; empty where the error is not from its code.

    Args:
        error: with its traceback.
        module: a module of the package; all that begins with the same top-level name is the package's.
    """
    top = module.partition(".")[0]
    frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if _is_of(frame.f_globals.get("__name__"), top)]
    if frames:
        frame, line = frames[-1]
        return f", at {frame.f_code.co_filename}:{line}"
    if isinstance(error, SyntaxError) and error.filename:
        return f", at {error.filename}:{error.lineno}"
    return ""


def _is_of(name: object, top: str) -> bool:
    return isinstance(name, str) and name.partition(".")[0] == top
