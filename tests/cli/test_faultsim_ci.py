"""docs/faultsim-ci.yml: its command, on the bundled network, decides its budgets and turns green."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from tests.cli.conftest import DIGITS, ROOT, TEST, Effc


def test_the_workflow_can_turn_green(effc: Effc, tmp_path: Path) -> None:
    lines = (ROOT / "docs" / "faultsim-ci.yml").read_text().replace("\\\n", " ").splitlines()
    (command,) = [line for line in lines if line.strip().startswith("effc faultsim ")]
    words = shlex.split(command)
    for there, here in (("models/model.onnx", DIGITS), ("data/test.npz", TEST), ("resilience", tmp_path / "out")):
        assert words.count(there) == 1
        words[words.index(there)] = str(here)
    result = effc(*words[1:])
    assert result.exit_code == 0, result.output
    verdicts = json.loads((tmp_path / "out" / "report.json").read_bytes())["verdicts"]
    assert len(verdicts) == words.count("--require") >= 2
    assert {verdict["outcome"] for verdict in verdicts} == {"PASS"}
