"""From a trained network to an artifact.

    result = compile_model("model.onnx", "out/", passes="fold-batch-norm,ranger", data="calibration.npz")

Importing this package imports neither torch nor TVM; its names do, on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from effc.compiler.compile import CompileResult, compile_model
    from effc.compiler.settings import Settings, load_settings

__all__ = ["CompileResult", "Settings", "compile_model", "load_settings"]

_HOMES = {
    "CompileResult": "effc.compiler.compile",
    "Settings": "effc.compiler.settings",
    "compile_model": "effc.compiler.compile",
    "load_settings": "effc.compiler.settings",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
