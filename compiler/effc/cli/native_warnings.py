"""TVM's own warnings stay out of users' terminals, as torch's do: nobody but effc can act on them.

TVM writes them to the process's stderr from C++ (`[12:15:26] /project/src/...cc:1183: Warning: ...`) and has no switch. So stderr goes
through a filter for the time of a compile. The filter is a process of its own (this file, run as a script): when native code aborts, its
last words have already left this process and are shown. What was held back is shown where the compile fails, and never held with --debug.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

__all__ = ["held_back"]

_WARNING = re.compile(rb"\[\d\d:\d\d:\d\d\] \S+:\d+: Warning: ")
_END = 5  # seconds for the filter to finish; a process that effc started and that lives on may hold its end open


@contextmanager
def held_back(*, debug: bool) -> Iterator[None]:
    """Run the body without TVM's warnings on stderr; they are shown after all where it raises an error."""
    if debug:
        yield
        return
    with tempfile.NamedTemporaryFile() as kept:
        try:
            with _filtered(kept.name):
                yield
        except Exception:  # not swallowed: what was held back may explain it, so it is shown, and the error goes on
            if text := kept.read().decode("utf-8", "replace"):
                sys.stderr.write(text)
            raise


@contextmanager
def _filtered(kept: str) -> Iterator[None]:
    sys.stderr.flush()
    try:
        terminal = os.dup(2)
    except OSError:  # started without stderr: nothing is shown, so there is nothing to hold back
        yield
        return
    command = [sys.executable, "-I", "-S", __file__, kept]
    reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=terminal)
    assert reader.stdin is not None
    os.dup2(reader.stdin.fileno(), 2)
    reader.stdin.close()  # the process's stderr is its only writer now, and its end
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)
        os.close(terminal)
        try:
            reader.wait(_END)
        except subprocess.TimeoutExpired:
            reader.kill()
            reader.wait()


def _copy(source: BinaryIO, shown: BinaryIO, kept: BinaryIO) -> None:
    for line in source:
        target = kept if _WARNING.match(line) else shown
        target.write(line)
        target.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the compile; the end of its output is the end of this
    with open(sys.argv[1], "ab") as file, open(2, "wb", closefd=False) as stderr:
        _copy(sys.stdin.buffer, stderr, file)
