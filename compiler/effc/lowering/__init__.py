"""Lowering: Program -> relax -> kernels -> plan -> machine code; `onnx` writes ONNX."""

from __future__ import annotations

from effc.lowering.execution import run_lowered
from effc.lowering.kernels.options import Options
from effc.lowering.lower import Lowered, lower, untranslatable
from effc.lowering.onnx import export_onnx
from effc.lowering.parameters import ParameterSource
from effc.lowering.translating import relax_text

__all__ = ["Lowered", "Options", "ParameterSource", "export_onnx", "lower", "relax_text", "run_lowered", "untranslatable"]
