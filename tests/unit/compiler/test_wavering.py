"""Golden samples are none whose result hangs by rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from effc.compiler import compile_model
from effc.compiler.golden import Checks, run_program
from effc.compiler.wavering import settled, wavering
from effc.data import Dataset
from effc.frontends import load_program
from effc.ir import Program


class Jump(nn.Module):
    """Inputs under 1 are dropped; the rest is added up."""

    def __init__(self) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.effc.sparsify(x, self.threshold, "magnitude").sum(-1, keepdim=True)


def program() -> Program:
    return load_program(Jump(), example_inputs=(torch.zeros(1, 3),))


X = np.array([[1.0, 3, 0.2], [1.1, 3, 0.2], [-1.0, 3, 0.2], [0.9, 3, 0.2], [2.0, 3, 0.2]], np.float32)


def test_values_on_the_threshold_waver_and_others_do_not() -> None:
    assert wavering(program(), {"x": X}).tolist() == [True, False, True, False, False]
    smooth = load_program(nn.Linear(3, 1), example_inputs=(torch.zeros(1, 3),))
    assert not wavering(smooth, {smooth.interface.inputs[0].name: X}).any()


def test_golden_inputs_are_chosen_among_those_that_do_not() -> None:
    given = program()
    checks = Checks({"x": X[:2]})
    checks.start(given)
    chosen = settled(checks, [], given, Dataset({"x": X}))
    assert chosen.inputs["x"].tolist() == X[[1, 3]].tolist()
    assert chosen.outputs["output"].tolist() == run_program(given, {"x": X[[1, 3]]})["output"].tolist()
    assert settled(checks, [], given, Dataset({"x": X[[0, 2]]})) is checks  # there is no better one
    steady = Checks({"x": X[3:]})
    assert settled(steady, [], given, Dataset({"x": X})) is steady


def test_an_artifact_holds_them(tmp_path: Path) -> None:
    data = np.concatenate([X[[0, 2]]] * 4 + [X[[1, 3, 4]]])
    result = compile_model(Jump(), tmp_path / "out", example_inputs=(torch.zeros(1, 3),), passes="profile", data=data)
    assert result.trial is not None and result.trial.verification.passed
    with np.load(tmp_path / "out" / "golden.npz") as golden:
        assert golden["input/x"].tolist() == X[[1, 3, 4]].tolist()
