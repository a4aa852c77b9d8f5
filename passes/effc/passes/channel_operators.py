"""How channels go through operators without weights of their own: arithmetic, activations, pools, pads, reshapes, concatenations."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor, fx

from effc.ir import keyword_arguments, source_of
from effc.ir.ops.bound import BOUND
from effc.ir.ops.sparsify import SPARSIFY
from effc.passes.channel_flow import ChannelFlow, Resize, Rule, label
from effc.passes.channel_layout import Layout, NotFollowedError, Part, aligned, unknown

__all__ = ["OPERATORS"]

_aten = torch.ops.aten
_MAKERS = frozenset({_aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor})  # a stored factor or term of theirs makes channels, too
_PRODUCTS = frozenset({_aten.mul.Tensor, _aten.mul.Scalar})


# ---- index by index ------------------------------------------------------------------------------------------------------------


def _elementwise(flow: ChannelFlow, node: fx.Node) -> Layout | None:
    out, inputs = node.meta["val"], flow.inputs(node)
    if not inputs:
        return None
    if not isinstance(out, Tensor) or not out.is_floating_point():
        raise NotFollowedError(f"go into {label(node)}, which makes no real numbers of them")
    axes = {layout.axis + out.ndim - one.meta["val"].ndim for one, layout in inputs.items()}
    if len(axes) > 1:
        raise NotFollowedError(f"meet channels of another axis in {label(node)}")
    (axis,) = axes
    length = int(out.shape[axis])
    sharing = [layout for layout in inputs.values() if layout.length == length]  # a single channel meets all others: it cannot go anyway
    if not sharing:
        return None
    layout = Layout(axis, aligned(sharing, flow.groups), unknown(length))
    made = set()
    for one in node.all_input_nodes:
        at = axis - (out.ndim - _rank(one))
        if one in inputs or length == 1 or at < 0 or one.meta["val"].shape[at] != length:
            continue
        if flow.stored(one) is None:
            raise NotFollowedError(f"are combined with {source_of(one)}, whose channels have to stay, in {label(node)}")
        flow.claim("make" if node.target in _MAKERS else "carry", one, at, layout, node)
        if node.target in _MAKERS:
            made.add(one)
    return Layout(axis, layout.parts, _evaluated(flow, node, axis, length, made))


def _evaluated(flow: ChannelFlow, node: fx.Node, axis: int, length: int, made: set[fx.Node]) -> Tensor:
    """The operator on the numbers that fill the channels of its inputs; NaN where these are not known or its result is not one number."""
    operands: list[Tensor] = []

    def number(one: fx.Node) -> Any:
        layout, stored = flow.layout(one), flow.stored(one)
        if layout is not None:
            shape = [1] * _rank(one)
            shape[layout.axis] = layout.length
            value = layout.constant.to(one.meta["val"].dtype).reshape(shape)
        elif stored is not None:
            value = torch.zeros_like(stored) if one in made else stored
        else:
            value = torch.full((1,) * _rank(one), torch.nan)
        operands.append(value)
        return value if isinstance(one.meta["val"], Tensor) else math.nan  # a size that is only known at run time

    args, kwargs = fx.map_arg((node.args, node.kwargs), number)
    with torch.no_grad():
        result = node.target(*args, **kwargs)  # type: ignore[operator]
    missing = torch.zeros((), dtype=torch.bool)
    for value in operands:
        missing = missing | value.isnan()
    if node.target in _PRODUCTS:
        for value in operands:
            missing = missing & (value != 0)  # whatever the other factor is
        result = torch.where(missing, torch.nan, result.nan_to_num(0.0, math.inf, -math.inf))
    rows = torch.where(missing, torch.nan, result).movedim(axis, 0)
    rows = rows.reshape(len(rows), -1)
    same = torch.where((rows == rows[:, :1]).all(1), rows[:, 0], torch.nan)
    return same.expand(length) if len(same) == 1 else same


def _rank(node: fx.Node) -> int:
    value = node.meta["val"]
    return value.ndim if isinstance(value, Tensor) else 0


# ---- over other axes than the channels' ----------------------------------------------------------------------------------------


def _over_last(flow: ChannelFlow, node: fx.Node) -> Layout | None:
    """Pools and upsampling over as many last axes as the operator's name says."""
    given = _only(flow, node)
    if given is None:
        return None
    found = re.search(r"(\d)d", str(node.target))
    assert found
    if given.axis >= node.meta["val"].ndim - int(found[1]):
        raise NotFollowedError(f"lie along an axis that {label(node)} changes")
    return Layout(given.axis, given.parts, given.constant if "max_pool" in str(node.target) else _zeros_only(given.constant))


def _pad(flow: ChannelFlow, node: fx.Node) -> Layout | None:
    given, arguments = _only(flow, node), keyword_arguments(node)
    if given is None:
        return None
    pad = list(arguments["pad"] if "pad" in arguments else arguments["padding"])
    from_last = node.meta["val"].ndim - 1 - given.axis
    if any(size != 0 for size in pad[2 * from_last : 2 * from_last + 2]):
        raise NotFollowedError(f"lie along an axis that {label(node)} changes")
    fills = arguments.get("mode", "constant") == "constant" and "pad" in arguments
    fill = float(arguments.get("value") or 0.0)
    constant = torch.where(given.constant == fill, given.constant, torch.nan) if fills else given.constant
    return Layout(given.axis, given.parts, constant)


def _reduction(flow: ChannelFlow, node: fx.Node) -> Layout | None:
    given, arguments = _only(flow, node), keyword_arguments(node)
    if given is None:
        return None
    rank = node.args[0].meta["val"].ndim  # type: ignore[union-attr]
    dims = {dim % rank for dim in arguments["dim"] or range(rank)}
    if given.axis in dims:
        raise NotFollowedError(f"are summed up by {label(node)}")
    axis = given.axis if arguments["keepdim"] else given.axis - sum(dim < given.axis for dim in dims)
    kept = node.target in (_aten.amax.default, _aten.amin.default)
    return Layout(axis, given.parts, given.constant if kept else _zeros_only(given.constant))


def _slice(flow: ChannelFlow, node: fx.Node) -> Layout | None:
    given = _only(flow, node)
    if given is None:
        return None
    if node.meta["val"].shape[given.axis] != given.length:
        raise NotFollowedError(f"are cut by {label(node)}")
    return given


def _size(flow: ChannelFlow, node: fx.Node) -> Layout | None:
    given = _only(flow, node)
    if given is not None and node.args[1] % node.args[0].meta["val"].ndim == given.axis:  # type: ignore[union-attr]
        raise NotFollowedError(f"are counted by {label(node)}")
    return None


def _zeros_only(constant: Tensor) -> Tensor:
    """Averages, sums and interpolation keep zeros; other numbers meet zero padding, or are rounded."""
    return torch.where(constant == 0, constant, torch.nan)


def _only(flow: ChannelFlow, node: fx.Node) -> Layout | None:
    """The channels of the operator's first input, which must be the only one with any."""
    given = flow.layout(node.args[0])
    if any(one is not node.args[0] for one in flow.inputs(node)):
        raise NotFollowedError(f"decide what {label(node)} does")
    return given


# ---- shapes --------------------------------------------------------------------------------------------------------------------


def _reshape(flow: ChannelFlow, node: fx.Node) -> Layout | None:
    """(L, C, T) to (L', C * q, T'): leading axes in any form, and some of the trailing ones merged into the channels'."""
    given = _only(flow, node)
    if given is None:
        return None
    before, after = list(node.args[0].meta["val"].shape), list(node.meta["val"].shape)  # type: ignore[union-attr]
    lead, trail = _extent(before[: given.axis]), _extent(before[given.axis + 1 :])
    for axis, size in enumerate(after):
        if not isinstance(size, int) or size % given.length or _extent(after[:axis]) != lead:
            continue
        times = size // given.length
        if times and times * _extent(after[axis + 1 :]) == trail:
            parts = tuple(Part(part.group, part.size, part.repeat * times) for part in given.parts)
            _remember_shape(flow, node, given, axis, parts)
            return Layout(axis, parts, given.constant.repeat_interleave(times))
    raise NotFollowedError(f"are taken apart by {label(node)}")


def _remember_shape(flow: ChannelFlow, node: fx.Node, given: Layout, axis: int, parts: tuple[Part, ...]) -> None:
    """Note what removal has to change: a length that stands among the arguments, and axes of length 1 that go by themselves."""
    if node.target in (_aten.view.default, _aten.reshape.default):
        size = node.args[1][axis]  # type: ignore[index]
        if isinstance(size, fx.Node):
            raise NotFollowedError(f"are counted by {source_of(size)} for {label(node)}")
        if size != -1:
            flow.resizes.append(Resize(node, axis, parts))
    elif node.target == _aten.squeeze.default:
        shape = node.args[0].meta["val"].shape  # type: ignore[union-attr]
        flow.squeezes.append((node, tuple(i for i, size in enumerate(shape) if isinstance(size, int) and size == 1)))
    elif node.target in (_aten.squeeze.dim, _aten.squeeze.dims):
        dims = [node.args[1]] if isinstance(node.args[1], int) else list(node.args[1])  # type: ignore[arg-type]
        if given.axis in {int(dim) % node.args[0].meta["val"].ndim for dim in dims}:  # type: ignore[union-attr]
            raise NotFollowedError(f"would be squeezed away by {label(node)} if there were only one")


def _extent(sizes: list[Any]) -> Any:
    """The product of sizes, symbolic ones as expressions: comparing those makes no new assumption about the batch."""
    return math.prod(size if isinstance(size, int) else size.node.expr for size in sizes)


def _permute(flow: ChannelFlow, node: fx.Node) -> Layout | None:
    given = _only(flow, node)
    if given is None:
        return None
    rank = node.meta["val"].ndim
    order = list(range(rank))
    if node.target == _aten.permute.default:
        order = [dim % rank for dim in node.args[1]]  # type: ignore[union-attr]
    else:
        one, other = (node.args[1] % rank, node.args[2] % rank) if len(node.args) == 3 else (0, rank - 1)
        order[one], order[other] = order[other], order[one]
    return Layout(order.index(given.axis), given.parts, given.constant)


def _concatenation(flow: ChannelFlow, node: fx.Node) -> Layout | None:
    values: list[fx.Node] = list(node.args[0])  # type: ignore[arg-type]
    rank = node.meta["val"].ndim
    dim = keyword_arguments(node)["dim"] % rank
    inputs = flow.inputs(node)
    if not inputs:
        return None
    (axis, *others) = {layout.axis for layout in inputs.values()}
    if others:
        raise NotFollowedError(f"meet channels of another axis in {label(node)}")
    if dim == axis:
        sizes = [int(one.meta["val"].shape[axis]) for one in values]
        found = [inputs.get(one) or Layout(axis, (Part(None, size),), unknown(size)) for one, size in zip(values, sizes, strict=True)]
        return Layout(axis, tuple(part for one in found for part in one.parts), torch.cat([one.constant for one in found]))
    if len(inputs) < len(set(values)):
        raise NotFollowedError(f"are joined with channels that have to stay in {label(node)}")
    first, *rest = inputs.values()
    same = torch.stack([one.constant == first.constant for one in (first, *rest)]).all(0)
    return Layout(axis, aligned([first, *rest], flow.groups), torch.where(same, first.constant, torch.nan))


def _overloads(*names: str) -> list[object]:
    return [getattr(getattr(_aten, packet), overload) for packet, _, overload in (name.partition(".") for name in names)]


_ALL = "default"
_UNARY = (
    *("abs", "celu", "clamp", "clamp_max", "clamp_min", "dropout", "elu", "erf", "exp", "gelu", "hardshrink", "hardsigmoid", "hardswish"),
    *(
        "hardtanh",
        "leaky_relu",
        "log_sigmoid",
        "mish",
        "neg",
        "reciprocal",
        "relu",
        "relu6",
        "rsqrt",
        "selu",
        "sigmoid",
        "silu",
        "softplus",
    ),
    *("softshrink", "sqrt", "square", "tanh", "threshold", "alias", "clone", "contiguous", "detach", "_to_copy", "maximum", "minimum"),
)
_FORMS = (
    "to.dtype",
    "pow.Tensor_Scalar",
    "rsub.Scalar",
    *(f"{op}.{kind}" for op in ("add", "sub", "mul", "div") for kind in ("Tensor", "Scalar")),
)
_POOLS = (
    *(f"{kind}_pool{d}d" for kind in ("max", "avg") for d in (1, 2, 3)),
    *(f"adaptive_avg_pool{d}d" for d in (1, 2, 3)),
)
_UPSAMPLES = ("upsample_nearest1d.vec", "upsample_nearest2d.vec", "upsample_nearest3d.vec", "upsample_bilinear2d.vec")
_PADS = ("pad", "constant_pad_nd", *(f"{kind}_pad{d}d" for kind in ("reflection", "replication") for d in (1, 2, 3)))

OPERATORS: dict[object, Rule] = {
    **dict.fromkeys(_overloads(*(f"{name}.{_ALL}" for name in _UNARY), *_FORMS), _elementwise),
    **dict.fromkeys((BOUND.overload, SPARSIFY.overload), _elementwise),
    **dict.fromkeys(_overloads(*(f"{name}.{_ALL}" for name in _POOLS), *_UPSAMPLES), _over_last),
    **dict.fromkeys(_overloads(*(f"{name}.{_ALL}" for name in _PADS)), _pad),
    **dict.fromkeys(_overloads("mean.dim", "sum.dim_IntList", "amax.default", "amin.default"), _reduction),
    **dict.fromkeys(_overloads("view.default", "reshape.default", "flatten.using_ints", "squeeze.default", "squeeze.dim"), _reshape),
    **dict.fromkeys(_overloads("squeeze.dims", "unsqueeze.default"), _reshape),
    **dict.fromkeys(_overloads("permute.default", "transpose.int", "t.default", "numpy_T.default"), _permute),
    **dict.fromkeys(_overloads("sym_size.int"), _size),
    _aten.slice.Tensor: _slice,
    _aten.cat.default: _concatenation,
}
