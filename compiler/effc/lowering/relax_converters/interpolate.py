"""Interpolation along each axis, with positions and weights taken from torch itself.

TVM 0.27 computes source positions of nearest and linear resizing by formulas that differ from torch's at ratios that are no integers and
at given scale factors, and does not know antialiasing. All of these are linear and work axis by axis, so torch's own operator, applied
to the unit vectors of an axis, tells which elements each result reads and with which weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

__all__ = ["CONVERTERS"]

_aten = torch.ops.aten
_UNROLLED = 4  # so many elements are added in one expression, which fuses with its neighbours; more become a reduction
Probe = Callable[[Tensor, int, bool, float | None], Tensor]


def _nearest(unit: Tensor, size: int, align: bool, scale: float | None) -> Tensor:
    result: Tensor = _aten.upsample_nearest1d.default(unit, [size], scale)
    return result


def _nearest_exact(unit: Tensor, size: int, align: bool, scale: float | None) -> Tensor:
    result: Tensor = _aten._upsample_nearest_exact1d.default(unit, [size], scale)
    return result


def _linear(unit: Tensor, size: int, align: bool, scale: float | None) -> Tensor:
    result: Tensor = _aten.upsample_linear1d.default(unit, [size], align, scale)
    return result


def _of_images(operator: Any) -> Probe:
    """An operator that exists for images only: the other axis has one pixel and keeps it.

    That axis is the height: over images of width 1 torch 2.13 repeats the first row.
    """

    def probe(unit: Tensor, size: int, align: bool, scale: float | None) -> Tensor:
        result: Tensor = operator(unit.unsqueeze(-2), [1, size], align, None, scale).squeeze(-2)
        return result

    return probe


def _converter(probe: Probe, aligns: bool) -> Callable[[fx.Node, Any], Any]:
    def convert(node: fx.Node, importer: Any) -> Any:
        source, result = node.args[0].meta["val"], node.meta["val"]  # type: ignore[union-attr]
        if not source.dtype.is_floating_point:
            raise ValueError(f"interpolation of {source.dtype} is not covered; convert to float first")
        align = bool(node.args[2]) if aligns else False
        scales = _scales(node, 3 if aligns else 2, source.ndim - 2)
        value = importer.env[node.args[0]]
        for axis in range(2, source.ndim):
            before, after = int(source.shape[axis]), int(result.shape[axis])
            rows = probe(torch.eye(before).unsqueeze(1), after, align, scales[axis - 2])[:, 0].T  # (after, before)
            if before == after and torch.equal(rows, torch.eye(before)):
                continue
            value = _along(importer.block_builder, value, axis, *_taps(rows))
        return value

    return convert


def _scales(node: fx.Node, position: int, axes: int) -> list[float | None]:
    """The scale factor of each axis, where the caller gave one: a list in the `vec` overloads, one argument an axis in the others."""
    given = node.args[position:]
    if not given or given[0] is None:
        return [None] * axes
    factors: Any = given[0] if isinstance(given[0], (list, tuple)) else given
    return [None if factor is None else float(factor) for factor in factors]


def _taps(rows: Tensor) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """For each result the elements that it reads, int32 (results, taps), and their weights, float32; short rows end in weights of 0."""
    matrix = rows.numpy()
    used = [np.flatnonzero(row) for row in matrix]
    count = max(1, *(len(places) for places in used))
    indices = np.zeros((len(matrix), count), np.int32)
    weights = np.zeros((len(matrix), count), np.float32)
    for result, places in enumerate(used):
        indices[result, : len(places)], weights[result, : len(places)] = places, matrix[result, places]
        indices[result, len(places) :] = places[0] if len(places) else 0
    return indices, weights


def _along(builder: Any, value: Any, axis: int, indices: np.ndarray[Any, Any], weights: np.ndarray[Any, Any]) -> Any:
    from tvm import relax, te, tirx

    copies = bool((weights == 1).all()) and weights.shape[1] == 1

    def resized(x: Any, places: Any, factors: Any) -> Any:
        shape = [int(size) for size in x.shape]
        shape[axis] = indices.shape[0]
        dtype = str(x.dtype)
        taps = te.reduce_axis((0, indices.shape[1]), name="tap")

        def part(i: Any, tap: Any) -> Any:
            element = x[(*i[:axis], places[i[axis], tap], *i[axis + 1 :])]
            return element if copies else tirx.Cast("float32", element) * factors[i[axis], tap]

        def element(*i: Any) -> Any:
            if indices.shape[1] > _UNROLLED:
                return te.sum(part(i, taps.var), axis=[taps])
            total = part(i, 0)
            for tap in range(1, indices.shape[1]):
                total = total + part(i, tap)
            return total if copies else tirx.Cast(dtype, total)

        result = te.compute(shape, element, name="interpolated")
        if indices.shape[1] > _UNROLLED and dtype != "float32":
            return te.compute(shape, lambda *i: tirx.Cast(dtype, result[i]), name="narrowed")
        return result

    constants = (relax.const(indices, "int32"), relax.const(weights, "float32"))
    return builder.emit_te(resized, value, *constants, primfunc_name_hint="interpolate")


_BY_NAME = {
    **dict.fromkeys((f"upsample_nearest{rank}d" for rank in (1, 2, 3)), _converter(_nearest, aligns=False)),
    **dict.fromkeys((f"_upsample_nearest_exact{rank}d" for rank in (1, 2, 3)), _converter(_nearest_exact, aligns=False)),
    **dict.fromkeys(("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d"), _converter(_linear, aligns=True)),
    "upsample_bicubic2d": _converter(_of_images(_aten.upsample_bicubic2d.default), aligns=True),
    "_upsample_bilinear2d_aa": _converter(_of_images(_aten._upsample_bilinear2d_aa.default), aligns=True),
    "_upsample_bicubic2d_aa": _converter(_of_images(_aten._upsample_bicubic2d_aa.default), aligns=True),
}
CONVERTERS: dict[str, Callable[[fx.Node, Any], Any]] = {
    f"{name}.{overload}": convert for name, convert in _BY_NAME.items() for overload in ("vec", "default")
}
