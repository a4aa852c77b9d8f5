"""Fixtures around the small artifact of dense_artifact.py, and those of a GPU that there is not (gpu_fixtures.py)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from effc.runtime import write_artifact
from tests.unit.runtime.dense_artifact import CODE, compile_c, fields, files
from tests.unit.runtime.gpu_fixtures import compiled, digits, driver, machine  # noqa: F401  fixtures


@pytest.fixture(scope="session")
def cc() -> str:
    found = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if found is None:
        pytest.skip("no C compiler (cc, gcc or clang) on this machine")
    return found


@pytest.fixture(scope="session")
def library(cc: str, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return compile_c(cc, CODE, tmp_path_factory.mktemp("library"))


@pytest.fixture
def out(library: bytes, tmp_path: Path) -> Path:
    write_artifact(tmp_path / "out", files(library), fields(), {"measurements.json": b"{}"})
    return tmp_path / "out"
