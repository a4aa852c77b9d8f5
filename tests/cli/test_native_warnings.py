"""TVM's warnings from C++: held back, shown where the compile fails, and never at the price of anything else on stderr."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from effc.cli.native_warnings import held_back
from effc.errors import LimitError
from tests.cli.conftest import DIGITS

WARNING = "[12:15:26] /project/src/target/llvm/codegen_cpu.cc:1183: Warning: Unknown pragma pragma_scope\n"
OTHER = "[12:15:26] /project/src/target/llvm/codegen_cpu.cc:7: Error: broken\n"


def shout() -> None:
    for line in ("before\n", WARNING, OTHER, WARNING, "after\n"):
        os.write(2, line.encode())


def test_warnings_are_held_back_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    with held_back(debug=False):
        shout()
    os.write(2, WARNING.encode())
    assert capfd.readouterr().err == "before\n" + OTHER + "after\n" + WARNING


def test_with_debug_everything_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with held_back(debug=True):
        shout()
    assert capfd.readouterr().err.count(WARNING) == 2


def test_a_failure_shows_what_was_held_back(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with held_back(debug=False):
            shout()
            raise ValueError("why")

    with pytest.raises(ValueError, match="why"):
        fail()
    assert capfd.readouterr().err == "before\n" + OTHER + "after\n" + WARNING * 2


def test_the_last_words_of_an_abort_are_shown() -> None:
    code = "import os; from effc.cli.native_warnings import held_back\n"
    code += "with held_back(debug=False): os.write(2, b'LLVM ERROR: out\\n'); os.abort()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode < 0
    assert done.stderr == "LLVM ERROR: out\n"


def test_without_stderr_the_body_runs() -> None:
    code = "import os; os.close(2)\nfrom effc.cli.native_warnings import held_back\nwith held_back(debug=False): print('ran')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "ran\n"


@pytest.mark.parametrize("arguments", [[], ["--debug"]])
def test_a_compile_holds_them_back_unless_it_is_debugged(
    effc: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    def compile_with(*_: object, **__: object) -> None:
        shout()
        raise LimitError("enough")

    monkeypatch.setattr("effc.compiler.compile.compile_with", compile_with)
    assert effc("compile", DIGITS, "-o", tmp_path / "out", *arguments).exit_code == 4
    shown = capfd.readouterr().err
    assert "before\n" + (WARNING if arguments else "") + OTHER in shown
    assert OTHER + (WARNING if arguments else "") + "after\n" in shown
