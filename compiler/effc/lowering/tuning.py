"""Measured tiles: for each distinct layer a handful of candidates runs on this machine, and the fastest is remembered.

The analytic model (`kernels.tiles`) ranks the candidates; measuring decides among the best of them. Results are kept in the user's cache,
by processor, threads, effc's version and the layer's sizes, so that a second compile measures nothing. What was chosen is an input of the
artifact: it is written beside the code (`tuning.json`), and the same file gives the same bytes again. A file names the processor that it
was measured for, and is refused for another. (A named target such as x86-64-v3 stands for every processor of its kind.)
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import os
import re
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from effc.errors import ConfigError
from effc.lowering.chip import processor
from effc.lowering.emit import compiled_code, kernels
from effc.lowering.kernels import Implementation, Options, implement, tunable
from effc.lowering.kernels.tiles import Tile
from effc.lowering.toolchain import link_shared
from effc.targets import Target

__all__ = ["Layer", "dump_tiles", "load_tiles", "tune"]

_CANDIDATES = 6  # per layer, the best by the model
_RUNS = 7  # of each candidate; the fastest counts
_COLD = 16 << 20  # bytes that are written before each run: in a network, other layers have used the caches in between


@dataclass(frozen=True)
class Layer:
    """A fused function that is needed, which of its arguments are stored, what they hold, and its multiply-accumulates over all calls."""

    function: Any
    fixed: tuple[bool, ...]
    values: Mapping[int, np.ndarray[Any, Any]]
    macs: int


def tune(layers: Iterable[Layer], target: Target, chip: Any, options: Options, seconds: float, threads: int) -> tuple[dict[str, Tile], str]:
    """The tiles of `options`, and the fastest tile of each further layer by its key, the largest layers first, until the time is up.

    Args:
        layers: of one program.
        target: this machine.
        chip: the tvm.target.Target.
        options: what else is chosen.
        seconds: how long to measure (a layer that was begun is finished); layers that were measured before take none.
        threads: that each kernel runs on.

    Returns:
        the tiles, and a sentence on how many layers were measured.
    """
    remembered = _Remembered(target, threads)
    found = dict(options.tiles)
    measured, cached, left = 0, 0, set()
    started = time.monotonic()
    try:
        for layer in sorted(layers, key=lambda layer: -layer.macs):
            site = tunable(layer.function, layer.fixed, target, options, layer.values)
            if site is None or site.key in found:
                continue
            known = remembered.get(site.key)
            known = known if known in site.candidates else None  # a cache of other rules for candidates
            cached += known is not None
            if known is None and time.monotonic() < started + seconds:
                known = _fastest(layer, site.key, site.candidates[:_CANDIDATES], target, chip, options, threads)
                remembered.add(site.key, known)
                measured += 1
            if known is None:
                left.add(site.key)
            else:
                found[site.key] = known
    finally:  # what was measured is not lost when the compile is interrupted
        remembered.save()
    said = f"tuning measured {measured} layers in {time.monotonic() - started:.1f} s and knew {cached} from its cache"
    return found, said + (f"; the time was too short for {len(left)} more, which have the model's tiles" if left else "")


def _fastest(layer: Layer, key: str, candidates: Sequence[Tile], target: Target, chip: Any, options: Options, threads: int) -> Tile:
    best: tuple[float, Tile] | None = None
    for tile in candidates:
        chosen = replace(options, winograd="off", tiles={key: tile})
        taken = _measure(implement(layer.function, layer.fixed, target, chosen), target, chip, threads)
        if best is None or taken < best[0]:
            best = (taken, tile)
    assert best is not None
    return best[1]


def _measure(implementation: Implementation, target: Target, chip: Any, threads: int) -> float:
    """Seconds of the fastest of a few runs on random numbers."""
    from effc.runtime.executor import address, aligned_empty
    from effc.runtime.native import load_code
    from effc.runtime.threads import use_threads

    kernel = kernels({"kernel": implementation.function})["kernel"]
    generator = np.random.default_rng(0)
    shapes = [([int(size) for size in buffer.shape], str(buffer.dtype)) for buffer in implementation.function.params]
    arrays = []
    for shape, dtype in (*shapes, *((list(shape), dtype) for shape, dtype in kernel.temporaries)):
        array = aligned_empty(shape, dtype)
        array[...] = generator.standard_normal(shape, np.float32).astype(array.dtype)
        arrays.append(array)
    cold = np.zeros(_COLD, np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.so")
        path.write_bytes(link_shared([compiled_code({"kernel": kernel.function}, chip)], target))
        library = load_code(path)
        use_threads(threads)
        pointers = [ctypes.c_void_p(address(array)) for array in arrays]
        library.kernel(*pointers)
        fastest = float("inf")
        for _ in range(_RUNS):
            cold += 1
            start = time.perf_counter()
            library.kernel(*pointers)
            fastest = min(fastest, time.perf_counter() - start)
    return fastest


class _Remembered:
    """The user's cache of measured tiles, one file for each processor, number of threads and version."""

    def __init__(self, target: Target, threads: int) -> None:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "effc" / "tuning"
        versions = "-".join(importlib.metadata.version(package) for package in ("effc", "apache-tvm"))
        self._processor = processor(target)
        self._path = folder / f"{re.sub('[^a-z0-9]+', '-', self._processor.lower())}-{threads}t-{versions}.json"
        self._tiles = self._read()
        self._new: dict[str, Tile] = {}

    def _read(self) -> dict[str, Tile]:
        try:
            return _parsed(self._path.read_text(encoding="utf-8"))[1]
        except (OSError, ValueError):  # there is none yet, or it cannot be read: then layers are measured anew
            return {}

    def get(self, key: str) -> Tile | None:
        return self._tiles.get(key)

    def add(self, key: str, tile: Tile) -> None:
        self._tiles[key] = self._new[key] = tile

    def save(self) -> None:
        """Written beside and moved into place: another compile may be reading it. A cache that cannot be written is done without."""
        if not self._new:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self._path.parent, delete=False, encoding="utf-8") as beside:
                beside.write(_dumped(self._processor, self._read() | self._new))  # another compile may have added some meanwhile
            Path(beside.name).replace(self._path)
        except OSError:
            return


def dump_tiles(tiles: Mapping[str, Tile], target: Target) -> str:
    """Tiles as a JSON file: the processor that they were measured on, and layer -> [rows, vectors]."""
    return _dumped(processor(target), tiles)


def load_tiles(path: Path, target: Target) -> dict[str, Tile]:
    """The tiles of a file that `dump_tiles` wrote. Raises ConfigError where it is missing, another, or of another processor."""
    try:
        measured_on, tiles = _parsed(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"tuning {path}: {error.strerror}") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise ConfigError(f"tuning {path} is no file of measured tiles: {error}") from error
    if measured_on != processor(target):
        raise ConfigError(f"tuning {path} was measured on another processor ({measured_on}); {target.name} is {processor(target)}")
    return tiles


def _dumped(measured_on: str, tiles: Mapping[str, Tile]) -> str:
    table = {key: [tile.rows, tile.vectors] for key, tile in sorted(tiles.items())}
    return json.dumps({"processor": measured_on, "tiles": table}, indent=1) + "\n"


def _parsed(text: str) -> tuple[str, dict[str, Tile]]:
    """The processor and the tiles of a file. Raises ValueError."""
    values = json.loads(text)
    if not (isinstance(values, dict) and isinstance(values.get("processor"), str) and isinstance(values.get("tiles"), dict)):
        raise ValueError("not a processor and a table of tiles")
    tiles = {}
    for key, value in values["tiles"].items():
        if not (isinstance(value, list) and len(value) == 2 and all(type(one) is int and 0 < one < 65 for one in value)):
            raise ValueError(f"{key!r} is not [rows, vectors]")
        tiles[key] = Tile(*value)
    return values["processor"], tiles
