"""The matrices of Winograd's convolution F(m, 3), as straight-line code over vectors and as arrays.

The algorithm multiplies polynomials by their values at points (Toom and Cook): with the points 0, p, -p, q, -q, ... and infinity,
alpha = m + 2 in number, and `M(x) = x (x^2 - p^2) (x^2 - q^2) ...`,

    B^T, row of the point a: the coefficients of M(x) / (x - a); last row (infinity): those of M(x)
    G,   row of the point a: [1, a, a^2] / M'(a);                last row: [0, 0, 1]
    A^T, column of a:        [1, a, ..., a^(m-1)];               last column: [0, ..., 0, 1]

A pair of points shares its work: the rows of B^T for p and -p are `E + p O` and `E - p O`, with E from the even places of the input and
O from the odd ones. So twelve multiply-adds and additions make a row of F(4, 3), not the 36 of a product with the matrix.

With p = 1 this is F(2, 3) of Lavin and Gray (arXiv 1509.09308, section 4.1); their F(4, 3) has p = 1, q = 2. Here p = 5/8, q = 3/2: the
constants stay exact, and the error is a quarter (measured: 2.6e-6 of the largest result against 9.5e-6, for 512 channels).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from effc.lowering.kernels.code import allocated, floats, load, local, store, vector

__all__ = [
    "F2",
    "F4",
    "Form",
    "Straight",
    "Value",
    "input_row",
    "output_row",
    "transformed_inputs",
    "transformed_results",
    "transformed_weights",
]

Array = np.ndarray[Any, Any]
Value = Callable[[Any], Any]  # an expression for a lane


@dataclass(frozen=True)
class Form:
    """F(m x m, 3 x 3).

    Attributes:
        name: as in the option.
        outputs: m, the positions that a tile gives along each axis.
        points: the positive one of each pair.
    """

    name: str
    outputs: int
    points: tuple[float, ...]

    @property
    def alpha(self) -> int:
        """Inputs that a tile takes along each axis."""
        return self.outputs + 2

    @property
    def title(self) -> str:
        return f"F({self.outputs}x{self.outputs}, 3x3)"

    def matrices(self) -> tuple[Array, Array, Array]:
        """B^T, G and A^T in float64."""
        from numpy.polynomial import polynomial

        points = [0.0, *(sign * point for point in self.points for sign in (1, -1))]
        inputs, weights, results = (np.zeros(shape) for shape in ((self.alpha, self.alpha), (self.alpha, 3), (self.outputs, self.alpha)))
        for row, point in enumerate(points):
            others = [other for other in points if other != point]
            inputs[row, : self.alpha - 1] = polynomial.polyfromroots(others)
            weights[row] = [point**power / np.prod([point - other for other in others]) for power in range(3)]
            results[:, row] = [point**power for power in range(self.outputs)]
        inputs[-1] = polynomial.polyfromroots(points)
        weights[-1, -1] = results[-1, -1] = 1.0
        return inputs, weights, results


def transformed_weights(form: Form, weight: Array) -> Array:
    """G g G^T of weights `[feature, 3, 3, channel]`: `[alpha, alpha, channel, feature]`, rounded once."""
    _, matrix, _ = form.matrices()
    return _on_both_axes(matrix, weight.astype(np.float64).transpose(1, 2, 3, 0)).astype(np.float32)


def transformed_inputs(form: Form, pieces: Array) -> Array:
    """B^T d B of pieces `[piece, alpha, alpha, channel]` in their type: `[alpha, alpha, piece, channel]`."""
    matrix, _, _ = form.matrices()
    return _on_both_axes(matrix.astype(pieces.dtype), pieces.transpose(1, 2, 0, 3))


def transformed_results(form: Form, sums: Array) -> Array:
    """A^T m A of sums `[alpha, alpha, piece, feature]` in their type: `[piece, m, m, feature]`."""
    _, _, matrix = form.matrices()
    return _on_both_axes(matrix.astype(sums.dtype), sums).transpose(2, 0, 1, 3)


def _on_both_axes(matrix: Array, array: Array) -> Array:
    """M x M^T along the first two axes."""
    return _along_first(matrix, _along_first(matrix, array).swapaxes(0, 1)).swapaxes(0, 1)


def _along_first(matrix: Array, array: Array) -> Array:
    """M x along the first axis, summed in order: a BLAS would round differently on each processor, and weights are bytes of an artifact."""
    results = []
    for row in matrix:
        total = row[0] * array[0]
        for factor, part in zip(row[1:], array[1:], strict=True):
            total = total + factor * part
        results.append(total)
    return np.stack(results)


F2 = Form("f2", 2, (1.0,))
F4 = Form("f4", 4, (5 / 8, 3 / 2))


class Straight:
    """Statements without loops over vectors of one width, each of which has a name: a register, where there are enough."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.buffers: list[Any] = []
        self.statements: list[Any] = []

    def keep(self, value: Value) -> Value:
        """Compute a vector once; what comes back reads it."""
        buffer = local(self.width, f"v{len(self.buffers)}")
        self.buffers.append(buffer)
        self.statements.append(vector(self.width, lambda lane: store(buffer, value(lane), [lane])))
        return lambda lane: load(buffer, [lane])

    def put(self, statement: Value, condition: Any = True) -> None:
        """A statement for every lane, where a condition holds for all."""
        from tvm import tirx

        whole = vector(self.width, statement)
        self.statements.append(whole if condition is True else tirx.IfThenElse(condition, whole, None))

    def code(self) -> Any:
        return allocated(self.buffers, self.statements)


def input_row(code: Straight, form: Form, d: Sequence[Value]) -> list[Value]:
    """B^T d for one row or column of a tile."""
    squares = [point * point for point in form.points]
    whole = _from_roots(squares)
    found = [code.keep(_combination([*zip(whole, d[::2], strict=True)]))]
    for index, point in enumerate(form.points):
        factors = _from_roots([square for other, square in enumerate(squares) if other != index])
        even = code.keep(_combination([*zip(factors, d[2::2], strict=True)]))
        odd = code.keep(_combination([*zip(factors, d[1:-1:2], strict=True)]))
        found += [code.keep(_combination([(sign * point, odd), (1.0, even)])) for sign in (1, -1)]
    return [*found, code.keep(_combination([*zip(whole, d[1::2], strict=True)]))]


def output_row(code: Straight, form: Form, m: Sequence[Value]) -> list[Value]:
    """A^T m for one row or column of a tile."""
    pairs = [(m[1 + 2 * index], m[2 + 2 * index]) for index in range(len(form.points))]
    sums = [code.keep(_combination([(1.0, plus), (1.0, minus)])) for plus, minus in pairs]
    differences = [code.keep(_combination([(1.0, plus), (-1.0, minus)])) for plus, minus in pairs]
    found = []
    for power in range(form.outputs):
        terms = [(point**power, one) for point, one in zip(form.points, differences if power % 2 else sums, strict=True)]
        ends = [(1.0, m[0])] * (power == 0) + [(1.0, m[-1])] * (power == form.outputs - 1)
        found.append(code.keep(_combination([*terms, *ends])))
    return found


def _from_roots(roots: Sequence[float]) -> list[float]:
    """Coefficients of the polynomial with these roots, lowest power first."""
    from numpy.polynomial import polynomial

    return [float(one) for one in polynomial.polyfromroots(roots)] if roots else [1.0]


def _combination(terms: Sequence[tuple[float, Value]]) -> Value:
    """A sum of multiples; terms with factor 1 come first, so that each other one is a multiply-add."""
    first, *others = sorted(terms, key=lambda term: (term[0] != 1.0, abs(term[0]) != 1.0))

    def value(lane: Any) -> Any:
        total = first[1](lane) if first[0] == 1.0 else floats(first[0]) * first[1](lane)
        for factor, one in others:
            if factor == -1.0:
                total = total - one(lane)
            else:
                total = total + (one(lane) if factor == 1.0 else floats(factor) * one(lane))
        return total

    return value
