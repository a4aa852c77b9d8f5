"""What is tried out and thrown away: folders, and programs that run in them.

Neither outlives a failure, a limit of time, Ctrl-C, SIGTERM or a closed terminal.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

__all__ = ["run_within", "scratch_folder"]

_PREFIX = "effc-trial-"
_ENDS = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder that is gone afterwards. Tidies up after processes of this user that were killed: they hold whole sets of weights."""
    _remove_leftovers()
    with _ends_unwind(), tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-") as folder:
        yield Path(folder)


def run_within(seconds: float, command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder, with nothing to read; what it says is in English, for whoever looks for words in it.

    All that it started ends with it where it takes longer, or where whoever waits is interrupted: a compiler is several programs.

    Raises:
        TimeoutError: it took longer.
        OSError: it cannot be started.
    """
    environment = {**os.environ, "LC_ALL": "C", "TMPDIR": str(folder)}  # a compiler that is killed leaves its temporary files
    with (
        _ends_unwind(),
        subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment,
            start_new_session=True,
        ) as process,
    ):
        try:
            said, errors = process.communicate(timeout=seconds)
        except BaseException as error:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise TimeoutError(f"took longer than {seconds:g} s") from error
            raise
    return subprocess.CompletedProcess(command, process.returncode, said, errors)


@contextmanager
def _ends_unwind() -> Iterator[None]:
    """SIGTERM and SIGHUP raise SystemExit meanwhile, as a shell would count them: what runs in a session of its own does not get them.

    Only where they would end this process, so a caller's own handlers stay; and only in the main thread, where alone Python takes them.
    """
    here = threading.current_thread() is threading.main_thread()
    taken = [number for number in _ENDS if here and signal.getsignal(number) is signal.SIG_DFL]

    def leave(number: int, _frame: FrameType | None) -> None:
        for one in taken:
            signal.signal(one, signal.SIG_IGN)  # a closed terminal may send several; the first one's clean-up goes on
        raise SystemExit(128 + number)

    for number in taken:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _remove_leftovers() -> None:
    for entry in list(os.scandir(tempfile.gettempdir())):
        match = re.fullmatch(_PREFIX + r"(\d+)-\w+", entry.name)
        with suppress(OSError):  # another compile may be tidying up, too
            if match and not Path("/proc", match[1]).exists() and entry.stat(follow_symlinks=False).st_uid == os.getuid():
                shutil.rmtree(entry.path)
