"""Every node test of the onnx package passes, or is refused with a reason that unsupported.toml declares. Nothing may be wrong."""

from __future__ import annotations

import os
import warnings

import pytest
import torch

from tests.onnx_nodes.cases import collect
from tests.onnx_nodes.engines import verdict
from tests.onnx_nodes.run import declared, run


def _hold_against_declaration(engine: str, results: dict[str, tuple[str, str]]) -> None:
    wrong = {name: why for name, (outcome, why) in results.items() if outcome == "wrong"}
    assert not wrong, "\n".join(f"{name}: {why}" for name, why in wrong.items())
    refused = {name for name, (outcome, _) in results.items() if outcome == "refused"}
    known = declared()[engine].keys() & results.keys()
    assert refused - known == set(), "refused, but not declared in unsupported.toml"
    assert known - refused == set(), "declared in unsupported.toml, but passes: run run.py --declare"


def _verdicts(engine: str, every: int) -> dict[str, tuple[str, str]]:
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {case.name: verdict(case, engine) for case in collect()[0][::every]}


def test_the_core_is_what_the_counts_are_about() -> None:
    cases, others = collect()
    names = {case.name for case in cases}
    assert len(names) == len(cases) >= 1638
    assert others > 0
    assert "test_relu" in names
    assert not any(name.startswith(("test_ai_onnx_ml", "test_strnorm", "test_adam")) for name in names)


def test_operator_functions_agree_with_onnx() -> None:
    """A third of the cases, node by node without torch.export."""
    _hold_against_declaration("interpreter", _verdicts("interpreter", 3))


def test_programs_agree_with_onnx() -> None:
    """A sample through torch.export."""
    _hold_against_declaration("program", _verdicts("program", 83))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["interpreter", "program", "tvm"])
def test_all(engine: str) -> None:
    names = [case.name for case in collect()[0]]
    _hold_against_declaration(engine, run(engine, names, os.cpu_count() or 1))
