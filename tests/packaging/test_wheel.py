"""The built wheel: all four roots, typed, with the files that are not Python, and no `effc/__init__.py`."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_wheel_holds_everything_that_the_roots_hold(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    assert "effc/__init__.py" not in names
    kinds = {".py", ".typed", ".c", ".h", ".jinja", ".html", ".css", ".toml"}
    expected = {
        str(path.relative_to(ROOT / root))
        for root in ("compiler", "passes", "runtime", "faultsim")
        for path in (ROOT / root / "effc").rglob("*")
        if path.is_file() and path.suffix in kinds and "__pycache__" not in path.parts
    }
    assert expected - names == set()
    assert not {name for name in names if name.startswith(("tests/", "benchmarks/", "examples/"))}
