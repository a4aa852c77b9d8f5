"""The line of a running stream on stderr: written over and over, only on a terminal."""

from __future__ import annotations

import sys
import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from effc.runtime.stream_record import StreamRecorder

__all__ = ["LiveLine"]

_PERIOD = 0.1  # seconds between two writes
_LATEST = 64  # frames behind the numbers shown


class LiveLine:
    """A context manager; the line is gone at its end."""

    def __init__(self) -> None:
        self._is_on = sys.stderr.isatty()
        self._next = 0.0
        self._latest: deque[tuple[float, float]] = deque(maxlen=_LATEST)

    def show(self, recorder: StreamRecorder, total: int | None) -> None:
        """Say where the stream is: the rate of computing, and the share that was computed, over the latest frames."""
        if not self._is_on:
            return
        self._latest.append(recorder.last)
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _PERIOD
        times, shares = zip(*self._latest, strict=True)
        mean = sum(times) / len(times)
        frame = f"{recorder.frames:,}" + (f"/{total:,}" if total is not None else "")
        line = f"frame {frame}  {mean / 1e6:.2f} ms  {1e9 / mean:,.0f} frames/s  computed {sum(shares) / len(shares):.1%}"
        sys.stderr.write(f"\r\x1b[2K{line}")
        sys.stderr.flush()

    def __enter__(self) -> LiveLine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._is_on:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()
