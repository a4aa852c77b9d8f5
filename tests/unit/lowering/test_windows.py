"""Windows over images: their tiles cover every position once, fit into the registers, and know which taps lie inside."""

from __future__ import annotations

import ctypes
import itertools
from pathlib import Path
from typing import Any

import numpy as np
from tvm.tirx import decl_buffer

from effc.lowering.chip import tvm_target
from effc.lowering.emit import compiled_code, kernels
from effc.lowering.kernels.code import flat_function, loop, sequence, store
from effc.lowering.kernels.windows import Windows, choose_tile, runs
from effc.lowering.toolchain import link_shared
from effc.runtime.native import load_code
from effc.targets import find_target


def windows(
    width: int, taps: int, stride: int, before: int, join: bool, channels: int = 40, size: int | None = None, step: int = 1
) -> Windows:
    size = size or max(1, (width - 1) * stride + taps - 2 * before)
    code: Any = None
    larger = (lambda a, b: a) if join else None
    return Windows(1, channels, (size,), (width,), (taps,), (stride,), (step,), (before,), 0.0, code, code, code, larger, 0.5)


def test_tiles_cover_every_position_once_and_know_which_lie_inside() -> None:
    for width, taps, stride, before, rows in itertools.product((1, 2, 7, 30, 57), (1, 3, 20), (1, 2), (0, 1, 9), (1, 4, 16)):
        geometry = windows(width, taps, stride, before, True)
        covered = []
        for run in runs(geometry, rows):
            for tile in range(run.tiles):
                positions = [run.start + tile * run.rows + row for row in range(run.rows)]
                assert not run.inside or all(geometry.inside(position) for position in positions)
                covered += positions
            assert run.inside or run.tiles == 1 or run.rows == 1
        assert covered == list(range(width))


def test_taps_that_lie_inside_are_counted_right_by_compiled_code(tmp_path: Path) -> None:
    """TVM's simplifier gets some floor divisions of negative numbers wrong."""
    sizes = itertools.product((1, 2, 7, 18), (1, 2, 4, 17), (1, 2, 3), (1, 2, 3, 4, 12), (0, 1, 4, 9))
    geometries = [
        windows((size + 2 * before - (taps - 1) * step - 1) // stride + 1, taps, stride, before, False, 1, size, step)
        for size, taps, stride, step, before in sizes
        if size + 2 * before > (taps - 1) * step
    ]
    written, statements, wanted = 0, [], []
    counts = decl_buffer((4 * sum(geometry.positions[0] for geometry in geometries),), "int32", name="counts")
    for geometry in geometries:
        positions = geometry.positions[0]

        def count(line: Any, geometry: Windows = geometry, positions: int = positions, start: int = written) -> Any:
            first, number = geometry.reached(0, line % positions)
            return sequence([store(counts, first, [start + 2 * line]), store(counts, number, [start + 2 * line + 1])])

        statements.append(loop(2 * positions, count))
        written += 4 * positions
        for position in [*range(positions)] * 2:
            places = [position * geometry.strides[0] + tap * geometry.dilation[0] - geometry.before[0] for tap in range(geometry.taps[0])]
            wanted.append([tap for tap, place in enumerate(places) if 0 <= place < geometry.sizes[0]])
    function = kernels({"count": flat_function([counts], sequence(statements))})["count"].function
    target = find_target("cpu")
    library = tmp_path / "count.so"
    library.write_bytes(link_shared((compiled_code({"count": function}, tvm_target(target)),), target))
    found = np.zeros(written, np.int32)
    load_code(library).count(ctypes.c_void_p(found.ctypes.data))
    for (first, number), taps in zip(found.reshape(-1, 2), wanted, strict=True):
        assert number == len(taps)
        assert not taps or first == taps[0]


def test_folds_of_a_tile_fit_into_the_registers() -> None:
    for lanes, registers in ((16, 32), (8, 16), (4, 32)):
        for width, taps, stride, join, channels in itertools.product((1, 7, 56), (1, 3, 7), (1, 2), (False, True), (1, 16, 64, 960)):
            geometry = windows(width, taps, stride, 0, join, channels)
            for resident in (False, True):
                tile = choose_tile(geometry, lanes, registers, resident)
                folds = len(geometry.columns(tile.rows)) + 1 if geometry.by_column else tile.rows
                assert tile.rows <= width
                assert (folds + 1) * tile.vectors <= registers
