"""`effc compile --state`: a step that was exported becomes a streaming artifact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from click.testing import Result
from torch import Tensor, nn

from effc.runtime import load


class Sum(nn.Module):
    def forward(self, x: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        total = total + x
        return total * 2, total


def test_states_by_name(effc: Callable[..., Result], tmp_path: Path) -> None:
    torch.export.save(torch.export.export(Sum(), (torch.randn(1, 3), torch.zeros(1, 3))), tmp_path / "step.pt2")
    command = ("compile", tmp_path / "step.pt2", "-o", tmp_path / "out")
    wrong = effc(*command, "--state", "total", "--state", "=output_1", "--state", "x=output", "--state", "x=output_1")
    assert wrong.exit_code == 2 and not (tmp_path / "out").exists()
    for part in ("'total': is no state", "'=output_1': is no state", "'x=output_1': names the input 'x' again"):
        assert part in wrong.stderr
    unknown = effc(*command, "--state", "sum=output_1")
    assert unknown.exit_code == 2 and "state 'sum': the name: is no input; inputs: x, total" in unknown.stderr
    done = effc(*command, "--state", "total=output_1")
    assert done.exit_code == 0, done.stderr
    assert [(state.input, state.output) for state in load(tmp_path / "out").manifest.states] == [("total", "output_1")]
