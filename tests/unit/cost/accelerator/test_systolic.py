"""Cycles and accesses of the stationary dataflows: what SCALE-Sim 3.0.0 printed, SCALE-Sim where it is installed, and a small array."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest

from benchmarks.accelerator_cycles import scalesim_cycles
from effc.cost.accelerator import Accelerator, find_accelerator
from effc.cost.accelerator.product import Product, Window
from effc.cost.accelerator.systolic import systolic
from effc.errors import ConfigError


def convolution(channels: int, filters: int, kernel: int, stride: int, output: int) -> Product:
    """Square, unpadded."""
    size, places = (output - 1) * stride + kernel, output**2
    window = Window((size, size), (output, output), (kernel, kernel), (stride, stride), ((0, 0), (0, 0)), (1, 1))
    depth = channels * kernel**2
    shape = (1, channels, size, size)
    return Product("c", "conv2d", "c", "x", shape, 1, places, depth, filters, places * filters, filters, window)


SHAPES = [convolution(5, 7, 3, 1, 7), convolution(40, 70, 3, 1, 8), convolution(513, 100, 1, 1, 1)]
# "Total Cycles", counted from 0, and SRAM reads of inputs and weights, as SCALE-Sim 3.0.0 printed them
PRINTED = {
    ("weight-stationary", 32, 32): ([285, 5687, 6459], [2205, 69120, 2052], [315, 25200, 51300]),
    ("weight-stationary", 16, 64): ([428, 7267, 6269], [2205, 46080, 1026], [315, 25200, 51300]),
    ("output-stationary", 32, 32): ([213, 2531, 2299], [2205, 69120, 2052], [630, 50400, 51300]),
    ("output-stationary", 16, 64): ([491, 3503, 1181], [2205, 46080, 1026], [1260, 100800, 51300]),
    ("input-stationary", 32, 32): ([403, 3935, 3297], [2205, 23040, 513], [630, 50400, 51300]),
    ("input-stationary", 16, 64): ([302, 3771, 6401], [2205, 23040, 513], [315, 25200, 51300]),
}


def array(dataflow: str, rows: int, columns: int) -> Accelerator:
    return find_accelerator("systolic-32x32").model_copy(update={"dataflow": dataflow, "rows": rows, "columns": columns})


@pytest.mark.parametrize("key", PRINTED, ids=str)
def test_numbers_that_scalesim_printed(key: tuple[str, int, int]) -> None:
    found = [systolic(shape, array(*key)) for shape in SHAPES]
    assert ([one.cycles - 1 for one in found], [one.inputs for one in found], [one.weights for one in found]) == PRINTED[key]


@pytest.mark.parametrize(
    "dataflow",
    ["weight-stationary", *(pytest.param(one, marks=pytest.mark.slow) for one in ("output-stationary", "input-stationary"))],
)
def test_scalesim_itself(dataflow: str) -> None:
    if importlib.util.find_spec("scalesim") is None:
        pytest.skip("scalesim is not installed")
    shapes = [*SHAPES, convolution(3, 20, 5, 2, 6)]
    small = array(dataflow, 8, 12)
    assert [systolic(shape, small).cycles - 1 for shape in shapes] == scalesim_cycles(small, shapes)


@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 1), (5, 3, 4), (4, 7, 5), (2, 6, 8)])
def test_a_weight_stationary_array_step_by_step(m: int, k: int, n: int) -> None:
    """Registers of a 3 x 4 array, folds one after the other: the product is right, and the last sum leaves in the last cycle."""
    rows, columns = 3, 4
    left = [[1 + (3 * i + 5 * j) % 7 for j in range(k)] for i in range(m)]
    right = [[1 + (2 * i + 3 * j) % 5 for j in range(n)] for i in range(k)]
    result, clock, writes = [[0] * n for _ in range(m)], 0, 0
    for first_column in range(0, n, columns):
        for first_row in range(0, k, rows):
            weights = [
                [right[i][j] if i < k and j < n else 0 for j in range(first_column, first_column + columns)]
                for i in range(first_row, first_row + rows)
            ]
            inputs, sums = [[0] * columns for _ in range(rows)], [[0] * columns for _ in range(rows)]
            clock += rows  # the weights are loaded, a row a cycle
            for step in range(m + rows + columns - 2):
                inputs = [
                    [left[step - row][first_row + row] if 0 <= step - row < m and first_row + row < k else 0, *inputs[row][:-1]]
                    for row in range(rows)
                ]
                sums = [
                    [(sums[row - 1][column] if row else 0) + inputs[row][column] * weights[row][column] for column in range(columns)]
                    for row in range(rows)
                ]
                clock += 1
                for column in range(columns):
                    place = step - (rows - 1) - column
                    if 0 <= place < m and first_column + column < n:
                        result[place][first_column + column] += sums[-1][column]
                        writes += 1
    assert result == [[sum(left[i][x] * right[x][j] for x in range(k)) for j in range(n)] for i in range(m)]
    product = replace(SHAPES[0], rows=m, depth=k, columns=n, results=m * n, channels=n)
    found = systolic(product, array("weight-stationary", rows, columns))
    assert (found.cycles, found.writes, found.writes - found.reads) == (clock, writes, m * n)


def test_groups_go_one_after_the_other() -> None:
    one = SHAPES[1]
    single, many = (systolic(replace(one, groups=groups), array("weight-stationary", 32, 32)) for groups in (1, 6))
    assert (many.cycles, many.inputs, many.weights, many.writes) == tuple(
        6 * value for value in (single.cycles, single.inputs, single.weights, single.writes)
    )


def test_an_event_driven_array_has_no_folds() -> None:
    with pytest.raises(ConfigError, match="nothing is stationary"):
        systolic(SHAPES[0], find_accelerator("event-driven"))
