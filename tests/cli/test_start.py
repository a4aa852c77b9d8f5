"""The command line before it does anything: quick, light, and clear about wrong use."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from effc.cli.main import COMMANDS, cli
from effc.errors import InternalError

EFFC = Path(sys.executable).with_name("effc")


def test_help_is_quick() -> None:
    """0.3 s is the promise; the median of ten starts of the installed script, on a machine that may be busy."""

    def seconds() -> float:
        start = time.perf_counter()
        subprocess.run([str(EFFC), "--help"], check=True, capture_output=True)
        return time.perf_counter() - start

    assert statistics.median(seconds() for _ in range(10)) < 0.3


def test_help_of_every_command_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom effc.cli.main import cli\n"
        f"for name in {list(COMMANDS)}:\n"
        "    try:\n        cli.main([name, '--help'], prog_name='effc')\n"
        "    except SystemExit as end:\n        assert end.code == 0, name\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'tvm', 'numpy', 'scipy', 'pydantic', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [("targets", "--json"), ("inspect", "missing", "--json")])
def test_a_reader_that_went_away_is_an_interruption(arguments: tuple[str, ...]) -> None:
    with subprocess.Popen([str(EFFC), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (130, b"")


def test_completion_lists_the_commands() -> None:
    environment = {**os.environ, "_EFFC_COMPLETE": "bash_complete", "COMP_WORDS": "effc ", "COMP_CWORD": "1"}
    done = subprocess.run([str(EFFC)], env=environment, capture_output=True, text=True, check=False)
    assert {line.split(",")[1] for line in done.stdout.split()} == set(COMMANDS)


@pytest.mark.parametrize("arguments", [["nonsense"], ["run"], ["bench", "out", "--blocks", "0"], ["compile", "--no-such-flag"]])
def test_wrong_use_is_two(arguments: list[str]) -> None:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert "--help" in result.stderr


def test_no_command_at_all_shows_the_help() -> None:
    result = CliRunner().invoke(cli, [])
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: ")
    assert "error" not in result.stderr.splitlines()[0]
    assert all(name in result.stderr for name in COMMANDS)


def test_wrong_use_as_json() -> None:
    result = CliRunner().invoke(cli, ["run", "--json"])
    assert json.loads(result.stdout)["error"]["exit_code"] == 2
    assert result.stderr == ""


class TestUnexpected:
    """What no command raises on purpose."""

    @pytest.fixture
    def failing(self, monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
        raised: list[Exception] = []

        @click.command("doctor")
        @click.option("--json", is_flag=True, expose_value=False)
        @click.option("--debug", is_flag=True, expose_value=False)
        def command() -> None:
            raise raised[0]

        monkeypatch.setattr("effc.cli.doctor.command", command)
        return raised

    def test_a_bug_is_seventy_and_says_where_to_report_it(self, failing: list[Exception]) -> None:
        failing.append(ZeroDivisionError("boom"))
        result = CliRunner().invoke(cli, ["doctor"])
        assert result.exit_code == 70
        assert "ZeroDivisionError: boom" in result.stderr
        assert "issue tracker" in result.stderr
        assert "Traceback" not in result.stderr

    def test_debug_shows_the_traceback(self, failing: list[Exception]) -> None:
        failing.append(InternalError("broken"))
        result = CliRunner().invoke(cli, ["doctor", "--debug"])
        assert result.exit_code == 70
        assert "Traceback" in result.stderr

    def test_interrupted_is_one_hundred_and_thirty(self, monkeypatch: pytest.MonkeyPatch) -> None:
        @click.command("doctor")
        def command() -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("effc.cli.doctor.command", command)
        assert CliRunner().invoke(cli, ["doctor"]).exit_code == 130

    def test_a_message_cannot_steer_the_terminal(self, failing: list[Exception]) -> None:
        failing.append(InternalError("\x1b]0;owned\x07"))
        assert "\x1b" not in CliRunner().invoke(cli, ["doctor"]).stderr


def test_a_reader_that_goes_away_is_no_error() -> None:
    process = subprocess.Popen([str(EFFC), "targets", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate()
    assert b"Traceback" not in errors
    assert b"error" not in errors
