"""Work in a process of its own that answers with one JSON object: its time, memory and crashes are nobody else's."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import REPOSITORY

__all__ = ["answer", "in_child", "peak_bytes"]

_LIMIT = 1200  # seconds


def in_child(module: str, arguments: Sequence[str]) -> dict[str, Any]:
    """What a module that ends with `answer` says in a process of its own; `{"failed": why}` where it died."""
    command = [sys.executable, "-m", module, *arguments]
    try:
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=_LIMIT)
    except subprocess.TimeoutExpired:
        return {"failed": f"no answer in {_LIMIT} s"}
    lines = done.stdout.strip().splitlines()
    try:
        found: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, json.JSONDecodeError):
        tail = " / ".join(done.stderr.strip().splitlines()[-3:])
        return {"failed": f"its process ended with code {done.returncode}: {tail[-300:]}"}
    return found


def answer(work: Callable[[], dict[str, Any]]) -> int:
    """Print what `work` returns, or how it failed, as the last line of stdout; the exit status."""
    try:
        said = work()
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent puts it into a row and measures the others
        said = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
    print(f"\n{json.dumps(said)}")
    return 1 if "failed" in said else 0


def peak_bytes() -> int:
    """The most memory that this process has held. On Linux `ru_maxrss` would also count what its parent held when it started this one."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
