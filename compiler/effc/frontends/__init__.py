"""Programs from ONNX files, PyTorch modules and exported programs.

    program = load_program("model.onnx")
    program = load_program(module, example_inputs=(torch.randn(1, 3, 224, 224),))
    report = check_model("model.onnx")          # every node that effc cannot take, without importing

Importing this package imports neither torch nor onnx; its names do, on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from effc.frontends.loading import load_program
    from effc.frontends.onnx.checking import CheckReport, check_model
    from effc.frontends.onnx.limits import Limits

__all__ = ["CheckReport", "Limits", "check_model", "load_program"]

_HOMES = {
    "CheckReport": "effc.frontends.onnx.checking",
    "Limits": "effc.frontends.onnx.limits",
    "check_model": "effc.frontends.onnx.checking",
    "load_program": "effc.frontends.loading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
