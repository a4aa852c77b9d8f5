"""Compare the speed of engines fairly: each in its own process, on the same processors, in alternating blocks.

A block is a run of calls of one engine. Blocks of the engines alternate, in turning order, so that whatever slows the machine for seconds
slows all of them. Engines that are not measured are stopped (SIGSTOP), because idle thread pools spin for a while and would take their
rivals' time. Every call gets fresh inputs, which are made outside the timed part.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from effc import errors
from effc.errors import DataError, EffcError, InternalError

__all__ = ["Comparison", "Contender", "Ratio", "Timing", "artifact_contender", "compare_engines", "contender_arguments"]

_START_LIMIT = 600.0  # seconds an engine may take to start
_MOST_BLOCKS = 4  # a block takes so many times its length at the most, with the making of inputs
_RESAMPLES = 2000


@dataclass(frozen=True)
class Contender:
    """An engine with its model: a label for tables, and the command of a worker (see `effc.runtime.bench_worker`)."""

    label: str
    command: tuple[str, ...]


@dataclass(frozen=True)
class Timing:
    """Durations of one call, in nanoseconds, over all blocks; `settings` is what the worker says about itself."""

    label: str
    median: float
    percentile5: float
    percentile95: float
    calls: int
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Ratio:
    """Time of `other` divided by time of `label`: above 1, `label` is faster. `low`, `high`: 95 % bootstrap interval over blocks."""

    label: str
    other: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Timings in the order of the contenders; ratios of the first against each other one.

    `durations` are the nanoseconds behind them: by contender, then block, then call. Blocks of the same number were measured in one round.
    """

    timings: tuple[Timing, ...]
    ratios: tuple[Ratio, ...]
    durations: tuple[tuple[tuple[int, ...], ...], ...]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON, without the single durations."""
        return {"timings": [asdict(timing) for timing in self.timings], "ratios": [asdict(ratio) for ratio in self.ratios]}


def contender_arguments(
    inputs: Sequence[Mapping[str, Any]], *, threads: int, samples: Path | None = None, seed: int = 0
) -> tuple[str, ...]:
    """The options that all contenders of one comparison share.

    Args:
        inputs: name, concrete shape and dtype of every input.
        threads: worker threads of each engine; they run on that many of the processors that this process may use.
        samples: npz with real samples by input name; random normal values (integers: 0 to 99) without it.

    Raises:
        DataError: more threads than processors, or none.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if not 1 <= threads <= len(allowed):
        raise DataError(f"{threads} threads, but this process may use {len(allowed)} processors; a comparison needs one for each thread")
    cpus = ",".join(map(str, allowed[:threads]))
    common = ("--threads", str(threads), "--cpus", cpus, "--inputs", json.dumps(list(inputs)), "--seed", str(seed))
    return common if samples is None else (*common, "--samples", str(samples))


def artifact_contender(path: Path | str, options: Sequence[str], label: str = "effc") -> Contender:
    """An artifact as a contender."""
    return Contender(label, (sys.executable, "-m", "effc.runtime.bench_worker", str(path), *options))


def compare_engines(
    contenders: Sequence[Contender],
    *,
    blocks: int = 20,
    block_seconds: float = 0.2,
    warm_up_seconds: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Time the contenders against each other; takes about `len(contenders) * (warm_up_seconds + blocks * block_seconds)`.

    Raises the error of an engine that does not start (such as MissingDependencyError), and InternalError when one dies.
    """
    if not contenders or blocks < 1:
        raise DataError("a comparison needs at least one engine and one block")
    with ExitStack() as stack:
        workers = [stack.enter_context(_worker(contender)) for contender in contenders]
        calls = [worker.calibrate(warm_up_seconds, block_seconds) for worker in workers]
        durations: list[list[list[int]]] = [[] for _ in workers]
        for block in range(blocks):
            order = range(len(workers)) if block % 2 == 0 else reversed(range(len(workers)))
            for index in order:
                durations[index].append(workers[index].block(calls[index]))
            if progress is not None:
                progress(block + 1, blocks)
    timings = tuple(_timing(worker, taken) for worker, taken in zip(workers, durations, strict=True))
    medians = [np.array([np.median(block) for block in taken]) for taken in durations]
    ratios = tuple(_ratio(contenders[0], other, theirs / medians[0]) for other, theirs in zip(contenders[1:], medians[1:], strict=True))
    return Comparison(timings, ratios, tuple(tuple(tuple(block) for block in taken) for taken in durations))


class _Worker:
    """The parent's end of a worker. It sleeps, stopped, except while it is asked something."""

    def __init__(self, contender: Contender, process: subprocess.Popen[bytes], log: Path) -> None:
        self.label = contender.label
        self._process = process
        self._log = log
        self._received = b""
        self.settings: dict[str, Any] = self._answer(_START_LIMIT)["ready"]
        self._process.send_signal(signal.SIGSTOP)

    def block(self, calls: int, limit: float = _START_LIMIT) -> list[int]:
        """Durations of one block in nanoseconds."""
        self._process.send_signal(signal.SIGCONT)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"block": calls}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._death() from None
        durations: list[int] = self._answer(limit)["ns"]
        self._process.send_signal(signal.SIGSTOP)
        return durations

    def calibrate(self, warm_up: float, block: float) -> int:
        """Warm the engine up and return how many calls fill a block, for which fresh inputs are not made for much longer than that."""
        end, fastest, calls = time.monotonic() + warm_up, float("inf"), 1
        while True:
            begun = time.monotonic()
            fastest = min(fastest, float(np.median(self.block(calls))))
            with_inputs = (time.monotonic() - begun) / calls
            if time.monotonic() >= end:
                return max(3, min(10_000, round(block * 1e9 / fastest), round(_MOST_BLOCKS * block / with_inputs)))
            calls = max(1, min(2 * calls, round(warm_up * 1e9 / fastest)))

    def _answer(self, limit: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        end = time.monotonic() + limit
        while b"\n" not in self._received:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise InternalError(f"{self.label} gave no answer in {limit:.0f} s")
            part = os.read(self._process.stdout.fileno(), 1 << 20)
            if not part:
                raise self._death()
            self._received += part
        line, _, self._received = self._received.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            kind = getattr(errors, answer["error"]["type"], EffcError)
            raise kind(f"{self.label}: {answer['error']['message']}")
        return answer

    def _death(self) -> EffcError:
        code = self._process.wait(10)
        tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-5:])
        return InternalError(f"{self.label}: its process ended with code {code}\n{tail}")


@contextmanager
def _worker(contender: Contender) -> Iterator[_Worker]:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with open(log, "wb") as sink:
            process = subprocess.Popen(contender.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sink)
        try:
            yield _Worker(contender, process, log)
        finally:
            process.kill()
            process.communicate()


def _timing(worker: _Worker, blocks: list[list[int]]) -> Timing:
    every = np.concatenate([np.array(block) for block in blocks])
    low, median, high = np.percentile(every, [5, 50, 95])
    return Timing(worker.label, float(median), float(low), float(high), len(every), worker.settings)


def _ratio(first: Contender, other: Contender, per_block: np.ndarray[Any, np.dtype[np.float64]]) -> Ratio:
    generator = np.random.default_rng(0)  # the interval is a function of the measurements
    draws = np.median(generator.choice(per_block, (_RESAMPLES, len(per_block))), axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return Ratio(first.label, other.label, float(np.median(per_block)), float(low), float(high))
