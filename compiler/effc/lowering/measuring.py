"""`effc targets measure`: how fast this machine computes products of one row, dense and skipping, fitted to the cost model's rates.

Both kernels run as a network would run them: on as many threads as there are, with inputs that are new in every call, and, for weights
from memory, on one of many copies after the other, so that no cache holds what is read next. (The same mask over the same weights again
and again leaves the rows that it reads in a cache, and makes skipping look twice as fast as it is.)
"""

from __future__ import annotations

import ctypes
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from effc.errors import EffcWarning
from effc.lowering.chip import processor, tvm_target
from effc.lowering.emit import compiled_code, kernels
from effc.lowering.kernels import Implementation, Known, implement
from effc.lowering.optimise import optimise
from effc.lowering.to_relax import RelaxModule
from effc.lowering.toolchain import link_shared
from effc.runtime.threads import available_threads
from effc.targets import Target
from effc.targets.rates import Level, Rates, dump_rates, load_rates, measured_rates, rates_path

__all__ = ["fitted", "measure", "remember", "with_rates"]

_MEMORY = ((2048, 8192), (8192, 256))  # sizes (depth, columns): long rows and short ones tell what a row costs from what a byte costs
_CACHE = ((128, 2048), (1024, 256))
_DENSITIES = (0.0, 0.25, 0.5, 0.75, 1.0)
_COPIES = 1 << 30  # bytes of weights that are gone through before any is read again
_RUNS, _WARM = 44, 4
_SCATTER = 0.25
_ALWAYS = Rates(Level(1e-9, 1e9, 0.0), Level(1e-9, 1e9, 0.0), 0.0)  # under these skipping pays everywhere

Array = np.ndarray[Any, Any]


def measure(target: Target, threads: int, advance: Callable[[int], None] = lambda count: None) -> Rates:
    """The rates of this machine.

    Args:
        target: this machine.
        threads: that kernels run on.
        advance: is told of each of the four pairs of kernels that is done.
    """
    levels, scans, scatters = [], [], []
    for shapes, copies in ((_MEMORY, _COPIES), (_CACHE, 0)):
        terms, times, dense = [], [], 0.0
        for depth, columns in shapes:
            pair = _Pair(target, threads, depth, columns, max(1, copies // (4 * depth * columns)))
            dense = dense or 4 * depth * columns / pair.dense()
            for density in _DENSITIES:
                read = round(density * depth)
                terms.append((depth, read, read * 4 * columns))
                times.append(pair.skipping(density))
            scatters.append(pair.scatter)
            advance(1)
        scan, start, byte = fitted(terms, times)
        # Whatever the fit says: leaving rows out is not faster for each byte than reading all.
        levels.append(Level(round(dense, 3), round(min(dense, 1 / max(byte, 1e-6)), 3), round(start, 3)))
        scans.append(scan)
    if max(scatters) > _SCATTER:
        warnings.warn(
            f"half of the times of one product differed by more than {max(scatters):.0%}: other work ran meanwhile, and the rates may be "
            "far off; measure again when the machine is idle",
            EffcWarning,
            stacklevel=2,
        )
    return Rates(levels[0], levels[1], round(max(scans), 4), threads)


def fitted(terms: Sequence[Sequence[float]], times: Sequence[float]) -> tuple[float, ...]:
    """Non-negative factors of the terms whose sums are nearest to the times; relative errors count, so that short products are fitted as
    well as long ones.

    Args:
        terms: for each time what it is made of: inputs looked at, rows read, bytes read.
        times: nanoseconds.
    """
    scaled = np.asarray(terms, np.float64) / np.asarray(times)[:, None]
    return tuple(float(one) for one in nnls(scaled, np.ones(len(times)))[0])


def with_rates(target: Target, path: Path | None) -> Target:
    """The target with the rates of a file, of this machine's last measurement where there is no file, or else with standard ones.

    Raises:
        ConfigError: the file is missing, none, or of another processor.
    """
    if path is not None:
        return replace(target, rates=load_rates(path, processor(target)))
    found = measured_rates(processor(target), available_threads()) if not target.triple else None
    return target if found is None else replace(target, rates=found)


def remember(rates: Rates, target: Target) -> Path:
    """Write the rates into the user's cache, where compiles for this machine look; returns the file."""
    path = rates_path(processor(target), rates.threads)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as beside:
        beside.write(dump_rates(rates, processor(target)))
    Path(beside.name).replace(path)
    return path


class _Pair:
    """Both kernels of one product, with weights of which there are some copies."""

    def __init__(self, target: Target, threads: int, depth: int, columns: int, copies: int) -> None:
        function = _product(target, depth, columns)
        fixed = (False, True, False)
        eager = replace(target, rates=_ALWAYS)
        self._generator = np.random.default_rng(0)
        self._depth, self._copies = depth, copies
        self.scatter = 0.0  # the widest middle half of the times of one series, relative to its median
        made = (
            implement(function, fixed, target, known=Known(4 * depth * columns * copies)),
            implement(function, fixed, eager, known=Known(1 << 40, 0.5)),
        )
        self._kernels = [_Kernel(one, target, threads, self._generator, copies) for one in made]

    def dense(self) -> float:
        """Nanoseconds of a call."""
        return self._median(self._kernels[0], 1.0)

    def skipping(self, density: float) -> float:
        """Nanoseconds of a call with a new mask each time."""
        return self._median(self._kernels[1], density)

    def _median(self, kernel: _Kernel, density: float) -> float:
        taken = []
        for number in range(_RUNS):
            x = self._generator.standard_normal((1, self._depth), np.float32)
            x[0, self._generator.permutation(self._depth)[round(density * self._depth) :]] = 0.0
            taken.append(kernel(x, number % self._copies))
        low, middle, high = (float(one) for one in np.quantile(taken[_WARM:], (0.25, 0.5, 0.75)))
        self.scatter = max(self.scatter, (high - low) / middle if density == 1.0 else 0.0)
        return middle


@dataclass
class _Kernel:
    implementation: Implementation
    target: Target
    threads: int
    generator: np.random.Generator
    copies: int

    def __post_init__(self) -> None:
        from effc.runtime.executor import address, aligned_empty
        from effc.runtime.native import load_code

        kernel = kernels({"kernel": self.implementation.function})["kernel"]
        chip = tvm_target(self.target)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "kernel.so")
            path.write_bytes(link_shared([compiled_code({"kernel": kernel.function}, chip)], self.target))
            self._library = load_code(path)
        x, w, y = self.implementation.function.params
        self._weights = []
        size = [int(one) for one in w.shape]
        block = self.generator.standard_normal(size, np.float32)
        for _ in range(self.copies):
            array = aligned_empty(size, "float32")
            array[...] = block
            self._weights.append(array)
        self._address = address
        self._x = aligned_empty([int(one) for one in x.shape], "float32")
        others = [([int(one) for one in y.shape], "float32"), *((list(shape), dtype) for shape, dtype in kernel.temporaries)]
        self._others = [aligned_empty(shape, dtype) for shape, dtype in others]

    def __call__(self, x: Array, copy: int) -> float:
        """Nanoseconds of a call with these inputs and one copy of the weights."""
        from effc.runtime.threads import use_threads

        use_threads(self.threads)
        self._x[...] = x
        pointers = [ctypes.c_void_p(self._address(array)) for array in (self._x, self._weights[copy], *self._others)]
        start = time.perf_counter_ns()
        self._library.kernel(*pointers)
        return float(time.perf_counter_ns() - start)


def _product(target: Target, depth: int, columns: int) -> Any:
    """The fused function of x (1, depth) times weights (depth, columns)."""
    import tvm
    from tvm import relax

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([1, depth], "float32"))
    w = relax.Var("w", relax.TensorType([depth, columns], "float32"))
    with builder.function("main", [w, x]):
        with builder.dataflow():
            result = builder.emit_output(relax.op.matmul(x, w))
        builder.emit_func_output(result)
    module = RelaxModule(builder.get(), {}, ("w",), ("x",))
    functions = optimise(module, tvm_target(target)).module.functions
    return next(one for one in functions.values() if isinstance(one, tvm.tirx.PrimFunc))
