"""One engine in a process of its own: answers on stdout, in JSON lines, what it is asked on stdin.

    -> (start)            <- {"ready": {"engine": "effc 0.1.0", "threads": 2, ...settings}}   or {"error": {"type": ..., "message": ...}}
    -> {"block": 50}      <- {"ns": [50 durations of one call each, in nanoseconds]}
    -> (end of file)      the process ends

`python -m effc.runtime.bench_worker ARTIFACT --threads 2 --cpus 0,1 --inputs '[...]'` is the worker for an artifact. A worker for another
engine calls `serve` with its own `Engine`; it needs nothing else from here.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from effc.errors import EffcError
from effc.runtime.tensors import Array, unpack_npz

__all__ = ["Engine", "arguments", "main", "serve"]

_PR_SET_PDEATHSIG = 1
_SETTLE = 3  # calls before the timed ones of a block: they wake sleeping threads and warm the caches
_SETTLED = 50_000_000  # nanoseconds of calls that do that, however few


@dataclass(frozen=True)
class Engine:
    """A model that is ready to run.

    Attributes:
        name: name and version.
        settings: what a reader needs to judge the comparison; JSON.
        run: one inference, inputs by name; returns when the outputs are there.
        own_clock: what `run` returns are the nanoseconds that count, for an engine that knows better than the clock around the call.
    """

    name: str
    settings: Mapping[str, Any]
    run: Callable[[dict[str, Array]], object]
    own_clock: bool = False


class Feed:
    """Fresh inputs for every call: random ones of the given shapes, or consecutive batches of given samples."""

    def __init__(self, specs: Sequence[Mapping[str, Any]], seed: int, samples: Mapping[str, Array] | None = None) -> None:
        self._specs = specs
        self._generator = np.random.default_rng(seed)
        self._samples = samples
        self._next = 0

    def __call__(self) -> dict[str, Array]:
        self._next += 1
        return {spec["name"]: self._one(spec["name"], tuple(spec["shape"]), np.dtype(spec["dtype"])) for spec in self._specs}

    def _one(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        if self._samples is not None:
            samples = self._samples[name]
            rows = np.arange(self._next * shape[0], (self._next + 1) * shape[0]) % len(samples)
            return np.ascontiguousarray(samples[rows].astype(dtype).reshape(shape))
        if dtype.kind == "f":
            return self._generator.standard_normal(shape, np.float32).astype(dtype, copy=False)
        high = 2 if dtype.kind == "b" else 100
        return self._generator.integers(0, high, shape).astype(dtype)


def arguments(description: str, model: str) -> argparse.ArgumentParser:
    """The command line that every worker has: the model, then the settings that must be the same for all engines."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(model)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--cpus", required=True, help="processors to run on: 0,1")
    parser.add_argument("--inputs", required=True, help="JSON list of {name, shape, dtype}")
    parser.add_argument("--samples", help="npz with samples by input name; random inputs without it")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def serve(options: argparse.Namespace, start: Callable[[], Engine]) -> int:
    """Pin the process, start the engine, and answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever the engine prints must not mix with the answers
    _end_with_parent()
    os.sched_setaffinity(0, {int(cpu) for cpu in options.cpus.split(",")})
    try:
        samples = None
        if options.samples:
            with open(options.samples, "rb") as file:
                samples = unpack_npz(file.read())
        feed = Feed(json.loads(options.inputs), options.seed, samples)
        engine = start()
        engine.run(feed())
        _answer(answers, {"ready": {"engine": engine.name, "threads": options.threads, "cpus": options.cpus, **engine.settings}})
        for line in sys.stdin:
            _answer(answers, {"ns": _block(engine, feed, int(json.loads(line)["block"]))})
    except EffcError as error:
        _answer(answers, {"error": {"type": type(error).__name__, "message": str(error)}})
        return error.exit_code
    return 0


def _block(engine: Engine, feed: Feed, calls: int) -> list[int]:
    begun = time.perf_counter_ns()
    for _ in range(_SETTLE):
        engine.run(feed())
        if time.perf_counter_ns() - begun > _SETTLED:
            break
    durations = []
    for _ in range(calls):
        inputs = feed()
        start = time.perf_counter_ns()
        returned = engine.run(inputs)
        taken = time.perf_counter_ns() - start
        durations.append(returned if engine.own_clock and isinstance(returned, int) else taken)
    return durations


def _end_with_parent() -> None:
    """A stopped worker cannot see that its parent is gone; the kernel can."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _answer(answers: IO[str], message: Mapping[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")


def main() -> int:
    """The worker for an artifact."""
    options = arguments("time an artifact", "artifact").parse_args()

    def start() -> Engine:
        from effc.runtime.session import load
        from effc.runtime.stream import Stream

        session = load(options.artifact, threads=options.threads)
        run = Stream(session).run if session.manifest.streams else session.run
        version = session.manifest.data["versions"].get("effc", "")
        settings = {"executor": session.manifest.executor, "passes": session.manifest.data["passes"]}
        return Engine(f"effc {version}".strip(), settings, run)

    return serve(options, start)


if __name__ == "__main__":
    sys.exit(main())
