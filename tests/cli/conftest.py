"""One compiled digits network for all tests of the command line, made once, by the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from effc.cli.main import cli

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples" / "digits.onnx"
CALIBRATION = ROOT / "examples" / "digits_calibration.npz"
TEST = ROOT / "examples" / "digits_test.npz"
PASSES = "eliminate-dead,fold-constants,fold-batch-norm,ranger"

Effc = Callable[..., Result]


@pytest.fixture(scope="session")
def effc() -> Effc:
    """Run `effc ...` in this process; `result.exit_code`, `result.stdout` and `result.stderr` are what a shell would see."""

    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(cli, [str(argument) for argument in arguments], catch_exceptions=False)

    return invoke


@pytest.fixture(scope="session")
def compiled(effc: Effc, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The artifact and what `--json` said about making it."""
    out = tmp_path_factory.mktemp("compiled") / "digits"
    result = effc(
        *("compile", DIGITS, "--passes", PASSES, "--data", CALIBRATION, "--eval", TEST, "--max-drop", "0.01", "-o", out, "--json")
    )
    assert result.exit_code == 0, result.output
    return out, json.loads(result.stdout)


@pytest.fixture
def artifact(compiled: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(compiled[0], tmp_path / "artifact"))
