"""Activations: the operators that are one, and those that exporters write as several.

    SiLU          x * sigmoid(c * x)                            c = 1; 1.702 is the quick GELU
    GELU          0.5 * x * (1 + erf(x / sqrt(2)))              or with tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)) for erf
    hard-swish    x * clamp(x + 3, 0, 6) / 6                    or x * hardsigmoid(x)
    Mish          x * tanh(softplus(x))

The products may stand in any order and the constants at any place; a bound around a piece (`effc.ir.ops.bound`) is looked through.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, ops

from effc.ir import Program
from effc.ir.ops.bound import BOUND

__all__ = ["ACTIVATIONS", "composed_activations"]

_aten = ops.aten

ACTIVATIONS = frozenset(
    {
        _aten.relu.default,
        _aten.relu_.default,
        _aten.relu6.default,
        _aten.hardtanh.default,
        _aten.hardtanh_.default,
        _aten.clamp.default,
        _aten.clamp_min.default,
        _aten.leaky_relu.default,
        _aten.leaky_relu_.default,
        _aten.prelu.default,
        _aten.elu.default,
        _aten.celu.default,
        _aten.selu.default,
        _aten.gelu.default,
        _aten.silu.default,
        _aten.silu_.default,
        _aten.mish.default,
        _aten.softplus.default,
        _aten.sigmoid.default,
        _aten.hardsigmoid.default,
        _aten.hardswish.default,
        _aten.hardswish_.default,
        _aten.tanh.default,
    }
)
_PRODUCTS = (_aten.mul.Tensor, _aten.mul.Scalar)
_QUOTIENTS = (_aten.div.Tensor, _aten.div.Scalar)
_SUMS = (_aten.add.Tensor, _aten.add.Scalar)
_DIFFERENCES = (_aten.sub.Tensor, _aten.sub.Scalar)
_QUICK = 1.702
_DEPTH = 4  # products of products that are looked into


def composed_activations(program: Program) -> dict[str, str]:
    """The nodes that hold the results of composed activations, by node name: what they are."""
    reader = _Reader(program)
    found = {node.name: reader.activation(node) for node in program.nodes if node.target in (*_PRODUCTS, *_QUOTIENTS)}
    return {name: kind for name, kind in found.items() if kind}


@dataclass(frozen=True)
class _Affine:
    """scale * node + offset."""

    node: fx.Node
    scale: float = 1.0
    offset: float = 0.0

    def is_(self, node: fx.Node, scale: float, offset: float = 0.0) -> bool:
        return self.node is node and _near(self.scale, scale) and _near(self.offset, offset)


class _Reader:
    def __init__(self, program: Program) -> None:
        self._stored = program.tensors

    def activation(self, node: fx.Node) -> str:
        """What a product is; empty where it is no activation."""
        for factors, constant in self._factorings(node, _DEPTH)[1:]:
            if len(factors) == 2:
                left, right = factors
                found = self._gated(left, right, constant) or self._gated(right, left, constant)
                if found:
                    return found
        return ""

    def _gated(self, x: fx.Node, gate: fx.Node, constant: float) -> str:
        """Of constant * x * gate(x)."""
        alone = _near(constant, 1)
        if gate.target is _aten.sigmoid.default and alone:
            inside = self._affine(gate.args[0], x)
            return "SiLU" if inside.is_(x, 1) else "quick GELU" if inside.is_(x, _QUICK) else ""
        if gate.target is _aten.hardsigmoid.default and alone and _peeled(gate.args[0]) is x:
            return "hard-swish"
        if gate.target is _aten.tanh.default and alone:
            inner = _peeled(gate.args[0])
            return "Mish" if inner is not None and inner.target is _aten.softplus.default and _peeled(inner.args[0]) is x else ""
        return self._one_plus(x, gate, constant) or self._clamped(x, gate, constant)

    def _one_plus(self, x: fx.Node, gate: fx.Node, constant: float) -> str:
        """GELU: half of x * (1 + erf or tanh); the half may stand inside of the gate."""
        outer = self._affine(gate, x)
        if outer.node.target not in (_aten.erf.default, _aten.tanh.default):
            return ""
        if not (_near(outer.scale * constant, 0.5) and _near(outer.offset * constant, 0.5)):
            return ""
        inside = self._affine(outer.node.args[0], x)
        if outer.node.target is _aten.erf.default:
            return "GELU" if inside.is_(x, math.sqrt(0.5)) else ""
        return "tanh GELU" if self._cubic(x, inside) else ""

    def _cubic(self, x: fx.Node, inside: _Affine) -> bool:
        """Whether it is sqrt(2 / pi) times a sum of x and something; that this is 0.044715 * x^3 is taken for granted."""
        is_sum = inside.node.target in _SUMS and _near(inside.scale, math.sqrt(2 / math.pi)) and inside.offset == 0
        return is_sum and x in [_peeled(part) for part in inside.node.args[:2]]

    def _clamped(self, x: fx.Node, gate: fx.Node, constant: float) -> str:
        """Hard-swish: x times clamp(x + 3, 0, 6) / 6, its scale spread in any way."""
        outer = self._affine(gate, x)
        limits, share = _limits(outer.node), outer.scale * constant
        if limits is None or outer.offset != 0 or share == 0:
            return ""
        bounds = _near(limits[0] * share, 0) and _near(limits[1] * share, 1)
        return "hard-swish" if bounds and self._affine(outer.node.args[0], x).is_(x, 1 / (6 * share), 1 / (2 * share)) else ""

    def _factorings(self, value: Any, depth: int) -> list[tuple[list[fx.Node], float]]:
        """The ways to see a value as a product of at most two nodes and a number; the first is the value itself."""
        number = self._number(value)
        if number is not None:
            return [([], number)]
        node = _peeled(value)
        if node is None:
            return []
        found: list[tuple[list[fx.Node], float]] = [([node], 1.0)]
        if depth and node.target in _QUOTIENTS:
            divisor = self._number(node.args[1])
            if divisor:
                found += [(factors, constant / divisor) for factors, constant in self._factorings(node.args[0], depth - 1)]
        if depth and node.target in _PRODUCTS:
            sides = [self._factorings(argument, depth - 1) for argument in node.args[:2]]
            pairs = itertools.product(*sides)
            found += [(a + b, left * right) for (a, left), (b, right) in pairs if len(a) + len(b) <= 2]
        return found

    def _affine(self, value: Any, x: fx.Node) -> _Affine:
        """A value as a multiple of a node plus a number, looking no further than `x`."""
        node = _peeled(value)
        if node is None:
            return _Affine(x, math.nan)
        if node is x or node.kwargs or node.target not in (*_PRODUCTS, *_QUOTIENTS, *_SUMS, *_DIFFERENCES):
            return _Affine(node)
        first, second = node.args[:2]
        if self._number(second) is None and node.target in (*_PRODUCTS, *_SUMS):  # these two commute
            first, second = second, first
        number = self._number(second)
        if number is None or not isinstance(first, fx.Node):
            return _Affine(node)
        inner = self._affine(first, x)
        if node.target in _SUMS:
            return _Affine(inner.node, inner.scale, inner.offset + number)
        if node.target in _DIFFERENCES:
            return _Affine(inner.node, inner.scale, inner.offset - number)
        share = number if node.target in _PRODUCTS else 1 / number if number else math.nan
        return _Affine(inner.node, inner.scale * share, inner.offset * share)

    def _number(self, value: Any) -> float | None:
        """A number of the graph, or a stored tensor of one element."""
        if isinstance(value, int | float):
            return float(value)
        stored = self._stored.get(value.name) if isinstance(value, fx.Node) else None
        return float(stored) if isinstance(stored, Tensor) and stored.numel() == 1 and stored.dtype.is_floating_point else None


def _peeled(value: Any) -> fx.Node | None:
    """A node without the bound around it."""
    while isinstance(value, fx.Node) and value.target == BOUND.overload:
        value = value.args[0]
    return value if isinstance(value, fx.Node) else None


def _limits(node: fx.Node) -> tuple[float, float] | None:
    if node.target is _aten.relu6.default:
        return 0.0, 6.0
    if node.target in (_aten.clamp.default, _aten.hardtanh.default) and len(node.args) == 3:
        low, high = node.args[1:]
        if isinstance(low, int | float) and isinstance(high, int | float):
            return float(low), float(high)
    return None


def _near(value: float, wanted: float) -> bool:
    return math.isclose(value, wanted, rel_tol=1e-3, abs_tol=1e-6)
