"""The text of a small network before and after each pass, beside this file; `EFFC_UPDATE_GOLDEN=1` writes it anew."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from effc.data import load_dataset
from effc.frontends import load_program
from effc.ir import Program
from effc.ir.printing import format_program
from effc.passes import PASSES, Context, Pass, Pipeline

FOLDER = Path(__file__).parent


def compare(name: str, text: str) -> None:
    path = FOLDER / f"{name}.txt"
    if os.environ.get("EFFC_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text, f"{path.name} differs; look at it, then run with EFFC_UPDATE_GOLDEN=1"


@pytest.fixture(scope="module")
def digits() -> Program:
    return load_program("examples/digits.onnx")


def test_before(digits: Program) -> None:
    compare("digits", format_program(digits))


@pytest.mark.parametrize("kind", PASSES, ids=lambda kind: kind.name)
def test_after_each_pass(kind: type[Pass], digits: Program) -> None:
    data = load_dataset("examples/digits_calibration.npz", digits.interface.inputs)
    context = Context(fit=data.part(np.arange(0, len(data), 10)), selection=data.part(np.arange(5, len(data), 10)))
    compare(f"digits.{kind.name}", _without_digits(format_program(Pipeline([kind()])(digits, context))))


def _without_digits(text: str) -> str:
    """Profiled ranges differ in their last digits between processors: two are enough here."""
    import re

    return re.sub(r"\d+\.\d+", lambda number: f"{float(number[0]):.2g}", text)
