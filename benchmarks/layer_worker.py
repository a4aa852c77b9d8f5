"""Times the two programs of `dense_layers` and bursts of the peak in turn, in one process: every burst at the clock of the call before it.

A burst runs on the calling thread alone, right after a call: threads of its own would have to share the processors with those of the
kernels, which wait for the next call. The peak of several threads is that many times the burst's rate: the cores have one clock.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.dense_child import answer

__all__: list[str] = []

_ROUNDS = 100_000  # of one burst: 0.2 ms or so
_CALLS = 2  # of a program in a row, the last one counts: the burst before has driven nothing out of the caches, but has let threads sleep
_RESTED = 50  # bursts before any kernel has run


def main() -> int:
    """Answer with the durations of all rounds, in nanoseconds; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("one", type=Path)
    parser.add_argument("several", type=Path)
    parser.add_argument("library", type=Path, help="the loop of fma_peak")
    parser.add_argument("threads", type=int)
    parser.add_argument("rounds", type=int)
    options = parser.parse_args()
    return answer(lambda: _measured(options.one, options.several, options.library, options.threads, options.rounds))


def _measured(one: Path, several: Path, library: Path, threads: int, rounds: int) -> dict[str, Any]:
    from effc.runtime import load

    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:threads]))
    loop = ctypes.CDLL(str(library))
    loop.peak_run.argtypes, loop.peak_run.restype = (ctypes.c_int, ctypes.c_long, ctypes.c_long), ctypes.c_double

    def burst() -> float:
        return float(loop.peak_run(1, 1, _ROUNDS))

    rested = min(burst() for _ in range(_RESTED))
    calls = [_call(load(path, threads=threads)) for path in (one, several)]
    durations: dict[str, list[float]] = {"one": [], "several": [], "burst": []}
    for number in range(rounds + 1):
        bursts = []
        for name, call in zip(("one", "several"), calls, strict=True):
            taken = [call() for _ in range(_CALLS)][-1]
            bursts.append(burst())
            if number:  # the first round warms up
                durations[name].append(taken)
        if number:
            durations["burst"].append(min(bursts))
    return durations | {"rested": rested, "operations": threads * _ROUNDS * loop.peak_operations()}


def _call(session: Any) -> Callable[[], int]:
    import numpy as np

    generator = np.random.default_rng(0)
    inputs = {spec.name: generator.standard_normal(spec.shape, np.float32) for spec in session.manifest.inputs}

    def call() -> int:
        start = time.perf_counter_ns()
        session.run(inputs)
        return time.perf_counter_ns() - start

    return call


if __name__ == "__main__":
    sys.exit(main())
