"""The gate's three verdicts, and what they say."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effc.compiler.gate import judge
from effc.compiler.settings import Settings
from effc.data import Dataset
from effc.errors import EffcWarning, GateFailed, InconclusiveError
from effc.frontends import load_program
from effc.ir import Program
from effc.passes.base import silent
from effc.report import Quality


class Table(nn.Module):
    """Row `i` of a table of logits for sample `i`: any set of predictions, at will."""

    def __init__(self, rows: np.ndarray[Any, Any]) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.from_numpy(rows))

    def forward(self, index: Tensor) -> Tensor:
        return self.rows[index]


def predicting(classes: list[int]) -> Program:
    return load_program(Table(np.eye(3, dtype=np.float32)[[*classes, 0, 0]] * 9).eval(), example_inputs=(torch.tensor([0, 1]),))


def judged(before: list[int], after: list[int], labels: list[int] | None, *, lossy: bool = True, **chosen: Any) -> Quality:
    data = Dataset({"index": np.arange(len(before))}, None if labels is None else np.array(labels))
    quality = judge(predicting(before), predicting(after), data, Settings(**chosen), silent, lossy=lossy)
    assert quality is not None
    return quality


def test_over_the_bound_is_missed_however_few_the_samples() -> None:
    right = [0] * 100
    with pytest.raises(
        GateFailed, match=r"fell from 1\.0000 to 0\.9000, by 0\.1000 .*10 of 100 predictions changed.*over --max-drop 0\.05"
    ):
        judged(right, [1] * 10 + [0] * 90, right, max_drop=0.05)
    with pytest.raises(GateFailed):
        judged([0, 0], [1, 0], [0, 0], max_drop=0.1)


@pytest.mark.parametrize("count", [1, 30])
def test_too_few_samples_decide_nothing(count: int) -> None:
    with pytest.raises(InconclusiveError, match=r"no prediction changed\. About 390 samples") as caught:
        judged([0] * count, [0] * count, [0] * count, max_drop=0.01)
    assert caught.value.exit_code == 7
    assert judged([0] * 400, [0] * 400, [0] * 400, max_drop=0.01).changed == 0
    with pytest.raises(InconclusiveError, match="bound that is the measured value itself"):
        judged([0] * count, [0] * count, [0] * count, max_drop=0)


def test_without_a_lossy_pass_nothing_has_to_be_estimated() -> None:
    assert judged([0], [0], [0], max_drop=0, lossy=False).drop == 0
    with pytest.raises(GateFailed):
        judged([0, 0], [0, 1], [0, 0], max_drop=0, lossy=False)


def test_a_drop_of_the_very_bound_is_within_it() -> None:
    """1 - 495/500 is a little over 0.01 in floating point."""
    right = [0] * 500
    assert judged(right, [1] * 5 + right[5:], right, max_drop=0.01, lossy=False).drop == pytest.approx(0.01)


def test_changed_predictions_count_where_neither_is_right() -> None:
    quality = judged([1, 0], [2, 0], [0, 0])
    assert quality.drop == 0 and quality.changed == 1 and quality.movement == "1 of 2 predictions changed"


def test_what_is_better_smaller_rises() -> None:
    with pytest.raises(GateFailed, match=r"kl on 40 held-out samples rose from 0 to .*, by"):
        judged([0] * 40, [1] * 40, None, metric="kl", max_drop=0.01)
    with pytest.raises(InconclusiveError, match="two samples or more"):
        judged([0], [0], None, metric="kl", max_drop=0.01)
    alone = judged([0], [1], None, metric="kl")
    assert alone.high is None and alone.interval == "no interval from 1 sample" and alone.loss == "rise"


def test_labels_that_never_fit_are_said() -> None:
    with pytest.warns(EffcWarning, match="top1 of the source is 0 on 2 samples"):
        judged([0, 0], [0, 0], [1, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error", EffcWarning)
        judged([0, 0], [0, 0], [0, 1])


def test_one_sample_is_seven_on_the_command_line_and_writes_nothing(effc_on_digits: Any, tmp_path: Path) -> None:
    result = effc_on_digits(1, "ranger")
    error = json.loads(result.stdout)["error"]
    assert (result.exit_code, error["type"]) == (7, "InconclusiveError")
    assert "1 held-out sample cannot tell" in error["message"] and "no prediction changed" in error["message"]
    assert not (tmp_path / "out").exists()


@pytest.fixture
def effc_on_digits(tmp_path: Path) -> Any:
    from click.testing import CliRunner

    from effc.cli.main import cli

    examples = Path(__file__).resolve().parents[3] / "examples"

    def compiled(samples: int, passes: str) -> Any:
        with np.load(examples / "digits_test.npz") as held_out:
            np.savez(tmp_path / "few.npz", x=held_out["x"][:samples], y=held_out["y"][:samples])
        chosen = ["--passes", passes, "--data", str(examples / "digits_calibration.npz"), "--eval", str(tmp_path / "few.npz")]
        arguments = ["compile", str(examples / "digits.onnx"), *chosen, "--max-drop", "0.01", "-o", str(tmp_path / "out"), "--json"]
        return CliRunner().invoke(cli, arguments)

    return compiled
