"""Cycles of a systolic array: the three stationary dataflows, as SCALE-Sim defines them.

A product of M x K with K x N is laid on the R x C array in folds:

    dataflow            along the rows S_R    along the columns S_C    over time T
    weight-stationary   K                     N                        M
    input-stationary    K                     M                        N
    output-stationary   M                     N                        K

    folds = ceil(S_R / R) * ceil(S_C / C)
    cycles of a fold = 2 R + C + T - 2      weight- and input-stationary: R to load what stays, then T operands pass, skewed by a cycle
                                            from row to row and from column to column
                     = R + C + T - 2        output-stationary: nothing is loaded

A. Samajdar et al., "SCALE-Sim: systolic CNN accelerator simulator", arXiv 1811.02883; the table and the cycles of a fold are those of
their "A systematic methodology for characterizing scalability of DNN accelerators using SCALE-Sim", ISPASS 2020. The paper counts R more
cycles for output-stationary arrays, in which results drain through the rows; SCALE-Sim 3 lets them leave while the next fold begins, and so
does this model. A fold at the edge takes as long as a full one: what it leaves empty of the array is lost. Groups of a convolution go one
after the other.

Operands of a fold that are read from the memories beside the array, in elements:

    weight-stationary   inputs M K ceil(N / C)    weights K N                results M N ceil(K / R)
    input-stationary    inputs M K                weights K N ceil(M / C)    results M N ceil(K / R)
    output-stationary   inputs M K ceil(N / C)    weights K N ceil(M / R)    results M N

A result that is summed in several folds over K is written by each of them, and read again by all but the first.
"""

from __future__ import annotations

from dataclasses import dataclass

from effc.cost.accelerator.description import Accelerator
from effc.cost.accelerator.product import Product
from effc.errors import ConfigError

__all__ = ["Array", "systolic"]


@dataclass(frozen=True)
class Array:
    """What the array does for a product, all groups together.

    Attributes:
        cycles: of computing, with operands there in time.
        row_folds, column_folds: of one group.
        inputs, weights: elements read from the memories. writes: sums written there. reads: sums read again.
    """

    cycles: int
    row_folds: int
    column_folds: int
    inputs: int
    weights: int
    writes: int
    reads: int


def systolic(product: Product, accelerator: Accelerator) -> Array:
    """Lay a product on an array. Raises ConfigError for an event-driven one."""
    m, k, n, groups = product.rows, product.depth, product.columns, product.groups
    if accelerator.dataflow == "output-stationary":
        along_rows, along_columns, time, load = m, n, k, 0
    elif accelerator.dataflow == "weight-stationary":
        along_rows, along_columns, time, load = k, n, m, accelerator.rows
    elif accelerator.dataflow == "input-stationary":
        along_rows, along_columns, time, load = k, m, n, accelerator.rows
    else:
        raise ConfigError(f"{accelerator.name} is {accelerator.dataflow}: nothing is stationary in it")
    rows, columns = -(-along_rows // accelerator.rows), -(-along_columns // accelerator.columns)
    fold = load + accelerator.rows + accelerator.columns + time - 2
    sums = 1 if accelerator.dataflow == "output-stationary" else rows
    again = {"weight-stationary": 1, "input-stationary": columns, "output-stationary": rows}[accelerator.dataflow]  # weights are read
    return Array(
        cycles=groups * rows * columns * fold,
        row_folds=rows,
        column_folds=columns,
        inputs=groups * m * k * (1 if accelerator.dataflow == "input-stationary" else columns),
        weights=groups * k * n * again,
        writes=groups * m * n * sums,
        reads=groups * m * n * (sums - 1),
    )
