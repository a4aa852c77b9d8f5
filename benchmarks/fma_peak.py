"""The processor's peak as an engine: bursts of float32 multiply-adds from registers, timed in turn with the networks.

A share of the peak is only honest against the clock of the moment, and clocks move: by temperature, by what neighbours do, by how wide the
vectors are. So the peak is no number measured once but a contender, whose blocks alternate with those of the networks.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from effc.errors import InternalError, MissingDependencyError
from effc.runtime.bench import Contender, Timing
from effc.runtime.bench_worker import Engine, arguments, serve

__all__ = ["LABEL", "build", "contender", "operations"]

LABEL = "FMA peak"
_SOURCE = Path(__file__).with_name("fma_peak.c")
_RUNS, _ROUNDS = 10, 100_000  # of one burst: ten runs of 0.2 ms or so, which fit between two interruptions
_FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-pthread", "-shared", "-fPIC")


def build(folder: Path) -> Path:
    """Compile the loop for this processor. Raises MissingDependencyError without a C compiler, or one that cannot do it."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise MissingDependencyError("no C compiler (cc): the processor's peak is not measured, and shares of it are left out")
    library = folder / "fma_peak.so"
    done = subprocess.run([compiler, *_FLAGS, str(_SOURCE), "-o", str(library)], capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise MissingDependencyError(f"{compiler} cannot compile {_SOURCE.name}: {said[0] if said else done.returncode}")
    return library


def contender(library: Path, options: Sequence[str]) -> Contender:
    """The loop as a contender, with the options of `contender_arguments`."""
    return Contender(LABEL, (sys.executable, "-m", "benchmarks.fma_peak", str(library), *options))


def operations(timing: Timing) -> int:
    """float32 operations of one call of the contender."""
    return int(timing.settings["operations"])


def main() -> int:
    """Answer `effc.runtime.bench.compare_engines`."""
    options = arguments("time multiply-adds", "library").parse_args()
    return serve(options, lambda: _start(options.library, options.threads))


def _start(path: str, threads: int) -> Engine:
    library = ctypes.CDLL(path)
    library.peak_run.argtypes, library.peak_run.restype = (ctypes.c_int, ctypes.c_long, ctypes.c_long), ctypes.c_double

    def run(inputs: object) -> int:
        nanoseconds = round(library.peak_run(threads, _RUNS, _ROUNDS))
        if nanoseconds < 0:
            raise InternalError(f"no {threads} threads for the peak")
        return nanoseconds

    vectors = f"{library.peak_lanes()} lanes, {'fused' if library.peak_fused() else 'separate'} multiply-add"
    settings = {"operations": threads * _RUNS * _ROUNDS * library.peak_operations(), "vectors": vectors, "best of": _RUNS}
    return Engine("multiply-adds from registers", settings, run, own_clock=True)


if __name__ == "__main__":
    sys.exit(main())
