"""Programs that are tried end with what they started, and their folders with them, however the trial ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from effc.compiler.scratch import run_within, scratch_folder

STARTS_ANOTHER = ["sh", "-c", "sleep 600 & echo $! > child; mv child started; wait"]


def wait_for(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    """Within some seconds; one that ended and that nobody waited for counts."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_what_takes_too_long_ends_with_what_it_started(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError, match="longer than 1 s"):
        run_within(1, STARTS_ANOTHER, tmp_path)
    assert is_gone(int((tmp_path / "started").read_text()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_trial_leaves_neither_a_program_nor_a_folder(number: signal.Signals) -> None:
    code = f"""
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # these tests may run in the background, or under nohup
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from effc.compiler.scratch import run_within, scratch_folder
with scratch_folder() as folder:
    print(folder, flush=True)
    run_within(600, {STARTS_ANOTHER!r}, folder)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        wait_for(folder / "started")
        child = int((folder / "started").read_text())
        process.send_signal(number)
        status = process.wait(60)
    assert number == signal.SIGINT or status == 128 + number
    assert is_gone(child) and not folder.exists()


def in_a_folder() -> bool:
    with scratch_folder() as folder:
        return folder.exists()


def test_other_handlers_stay_and_come_back() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN), signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with scratch_folder():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(in_a_folder).result(), "Python takes handlers in the main thread alone"
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGHUP, before[1])


def test_folders_of_processes_that_were_killed_are_tidied_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead, alive = tmp_path / "effc-trial-4194305-abc", tmp_path / f"effc-trial-{os.getpid()}-abc"  # the first is no process: over pid_max
    dead.mkdir()
    alive.mkdir()
    with scratch_folder() as folder:
        assert folder.parent == tmp_path and not dead.exists() and alive.exists()
    assert not folder.exists()


def test_what_programs_write_lies_in_the_folder_and_is_english(tmp_path: Path) -> None:
    done = run_within(60, ["sh", "-c", "echo $TMPDIR $LC_ALL; cat; exit 3"], tmp_path)
    assert (done.returncode, done.stdout) == (3, f"{tmp_path} C\n")
