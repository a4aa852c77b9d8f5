"""Images with their channels last: convolutions and pools in the layout in which a vector holds the channels of one pixel.

Every convolution and pool is rewritten to that layout between two transpositions. Then transpositions sink: an operator that works element
by element, reduces, joins or pads does so on the transposed tensor, and its result is transposed instead. Two that meet cancel, one that
moves no element is a view, a stored tensor is transposed once, now. What is left stands where the network itself begins, ends or reshapes.
(Relax's own pass for this, ConvertLayout, runs out of memory on operators of three axes.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from effc.lowering.parameters import ParameterSource
from effc.lowering.relax_edit import Main, operator_name, rewritten, rewritten_with_builder, with_parameters

__all__ = ["Stored", "channels_last"]

Array = np.ndarray[Any, Any]
Stored = dict[str, tuple[Array, ParameterSource]]
Rewrite = Callable[[Any, Main], Any]
Emit = Callable[[Any], Any]

# Data and kernel layout by number of spatial axes.
_LAYOUTS = {1: ("NWC", "OWI"), 2: ("NHWC", "OHWI"), 3: ("NDHWC", "ODHWI")}

# fmt: off
_UNARY = frozenset(f"relax.{name}" for name in (
    "abs", "astype", "ceil", "clip", "cos", "erf", "exp", "floor", "isfinite", "isinf", "isnan", "log", "logical_not", "negative", "round",
    "rsqrt", "sigmoid", "sign", "sin", "sqrt", "square", "tan", "tanh", "trunc", "nn.relu", "nn.leakyrelu", "nn.gelu", "nn.gelu_tanh",
    "nn.silu", "nn.softplus", "nn.selu", "nn.relu6",
))
_BROADCASTING = frozenset(f"relax.{name}" for name in (
    "add", "subtract", "multiply", "divide", "maximum", "minimum", "power", "floor_divide", "mod", "floor_mod", "less", "less_equal",
    "greater", "greater_equal", "equal", "not_equal", "logical_and", "logical_or", "logical_xor", "where",
))
_POOLS = ("relax.nn.max_pool", "relax.nn.avg_pool")
_REDUCING = frozenset(f"relax.{name}" for name in ("mean", "sum", "max", "min", "prod"))
# fmt: on


def channels_last(module: Any, tensors: Mapping[str, tuple[Array, ParameterSource]]) -> tuple[Any, Stored]:
    """The module with convolutions and pools in channels-last layout, and the stored tensors that its `main` then takes besides.

    Args:
        module: one function `main` of high-level operators, before legalisation.
        tensors: value and source of each stored tensor, by the name of main's argument.
    """
    from tvm import relax

    clean = relax.transform.DeadCodeElimination()
    module = rewritten(module, _merged_padding)
    module = clean(rewritten_with_builder(module, lambda builder: _transposed(builder.emit)))
    module = clean(rewritten_with_builder(module, lambda builder: _sunk(builder.emit, builder.lookup_binding, tensors)))
    return _transposed_now(module, tensors)


def _merged_padding(call: Any, main: Main) -> Any:
    """`conv(pad(x))` with zeros: the convolution pads."""
    pad = main.bound.get(call.args[0]) if _is_convolution(call) else None
    if pad is None or operator_name(pad) != "relax.nn.pad" or str(pad.attrs.pad_mode) != "constant" or float(pad.attrs.pad_value) != 0.0:
        return None
    width = _integers(pad.attrs.pad_width)
    if any(width[:4]) or any(size < 0 for size in width):
        return None
    padding = [a + b for a, b in zip(_integers(call.attrs.padding), [*width[4::2], *width[5::2]], strict=True)]
    layouts = (str(call.attrs.data_layout), str(call.attrs.kernel_layout))
    return _convolution(call, pad.args[0], call.args[1], padding, layouts)


def _transposed(emit: Emit) -> Rewrite:
    """Convolutions and pools in channels-last layout, between transpositions."""
    from tvm import relax

    def rewrite(call: Any, main: Main) -> Any:
        if _is_convolution(call) and str(call.attrs.data_layout) in ("NCW", "NCHW", "NCDHW"):
            x, w = (emit(relax.op.permute_dims(operand, _last(operand.ty.ndim))) for operand in call.args[:2])
            result = _convolution(call, x, w, _integers(call.attrs.padding), _LAYOUTS[x.ty.ndim - 2])
        elif operator_name(call).startswith(_POOLS) and str(call.attrs.layout) in ("NCW", "NCHW", "NCDHW"):
            x = emit(relax.op.permute_dims(call.args[0], _last(call.args[0].ty.ndim)))
            result = _pool(call, x)
        else:
            return None
        return relax.op.permute_dims(emit(result), _first(call.ty.ndim))

    return rewrite


def _sunk(emit: Emit, bound: Callable[[Any], Any], stored: Mapping[str, Any]) -> Rewrite:
    """Transpositions move behind the operators that read them, and vanish where they can."""
    from tvm import relax

    def transposition(operand: Any) -> tuple[Any, list[int]] | None:
        """What a variable is the transposition of, and its axes."""
        value = _definition(operand, bound)
        return (value.args[0], _axes(value)) if value is not None and operator_name(value) == "relax.permute_dims" else None

    def rewrite(call: Any, main: Main) -> Any:
        name = operator_name(call)
        if name == "relax.permute_dims":
            return _simpler(call, transposition(call.args[0]))
        if name in _UNARY:
            return unary(call)
        if name in _BROADCASTING:
            return broadcasting(call)
        if name in _REDUCING:
            return reducing(call)
        if name == "relax.nn.softmax":
            return softmax(call)
        if name == "relax.nn.pad":
            return pad(call)
        if name == "relax.concat":
            return concat(call)
        if name == "relax.strided_slice":
            return strided_slice(call)
        return None

    def unary(call: Any) -> Any:
        moved = transposition(call.args[0])
        if moved is None:
            return None
        source, axes = moved
        return relax.op.permute_dims(emit(relax.Call(call.op, [source, *list(call.args)[1:]], call.attrs, call.ty_args)), axes)

    def broadcasting(call: Any) -> Any:
        shape = _shape(call)
        if shape is None:
            return None
        large = [moved for operand in call.args if _shape(operand) == shape and (moved := transposition(operand)) is not None]
        if not large:
            return None
        axes = large[0][1]

        def operand_of(operand: Any) -> Any:
            moved, own = transposition(operand), _shape(operand)
            if moved is not None and moved[1] == axes and own is not None and len(own) == len(shape):
                return moved[0]
            if own is None or (math.prod(own) == 1 and len(own) < len(shape)):
                return operand
            if own == shape and moved is None and str(operand.name) not in stored:
                raise _StaysError
            back = [axes.index(axis) for axis in range(len(axes))]
            missing = len(shape) - len(own)
            if str(operand.name) in stored and back[:missing] == list(range(missing)):  # its own axes move, now: one value a neuron
                return emit(_moved(operand, [axis - missing for axis in back[missing:]]))
            full = [1] * missing + own
            aligned = operand if full == own else emit(relax.op.reshape(operand, full))
            return emit(_moved(aligned, back))

        try:
            operands = [operand_of(operand) for operand in call.args]
        except _StaysError:  # an operand of full size that no transposition made: it would have to be transposed instead
            return None
        return relax.op.permute_dims(emit(relax.Call(call.op, operands, call.attrs, call.ty_args)), axes)

    def reducing(call: Any) -> Any:
        moved = transposition(call.args[0])
        if moved is None or call.attrs.axis is None:
            return None
        source, axes = moved
        reduced = [int(axis) % len(axes) for axis in call.attrs.axis]
        operator = getattr(relax.op, operator_name(call).removeprefix("relax."))
        if bool(call.attrs.keepdims):
            result = emit(operator(source, axis=[axes[axis] for axis in reduced], keepdims=True))
            return _moved(result, axes)
        kept = [axes[axis] for axis in range(len(axes)) if axis not in reduced]
        result = emit(operator(source, axis=[axes[axis] for axis in reduced], keepdims=False))
        return relax.op.permute_dims(result, [sorted(kept).index(axis) for axis in kept])

    def softmax(call: Any) -> Any:
        moved = transposition(call.args[0])
        if moved is None:
            return None
        source, axes = moved
        result = emit(relax.op.nn.softmax(source, axis=axes[int(call.attrs.axis) % len(axes)]))
        return relax.op.permute_dims(result, axes)

    def pad(call: Any) -> Any:
        moved = transposition(call.args[0])
        if moved is None:
            return None
        source, axes = moved
        width = _integers(call.attrs.pad_width)
        own = [size for axis in range(len(axes)) for size in width[2 * axes.index(axis) : 2 * axes.index(axis) + 2]]
        return relax.op.permute_dims(emit(relax.op.nn.pad(source, own, str(call.attrs.pad_mode), float(call.attrs.pad_value))), axes)

    def strided_slice(call: Any) -> Any:
        moved = transposition(call.args[0])
        if moved is None:
            return None
        source, axes = moved
        own, *places = (_numbers(part) for part in call.args[1:])
        if own is None or len(places) != 3 or any(part is None for part in places):
            return None
        begin, end, strides = places
        mapped = [axes[axis % len(axes)] for axis in own]
        sliced = relax.op.strided_slice(source, mapped, begin, end, strides, assume_inbound=bool(call.attrs.assume_inbound))
        return relax.op.permute_dims(emit(sliced), axes)

    def concat(call: Any) -> Any:
        parts = _definition(call.args[0], bound)
        moved = [transposition(part) for part in getattr(parts, "fields", ())]
        if not moved or any(one is None or one[1] != moved[0][1] for one in moved):  # type: ignore[index]
            return None
        axes = moved[0][1]  # type: ignore[index]
        axis = axes[int(call.attrs.axis) % len(axes)]
        result = emit(relax.op.concat([one[0] for one in moved if one is not None], axis=axis))
        return relax.op.permute_dims(result, axes)

    return rewrite


def _definition(operand: Any, bound: Callable[[Any], Any]) -> Any:
    """What a variable stands for, through other names and tuples; None for an argument of the function."""
    from tvm import relax

    while isinstance(operand, relax.Var):
        operand = bound(operand)
        if isinstance(operand, relax.TupleGetItem):
            source = _definition(operand.tuple_value, bound)
            operand = source.fields[operand.index] if isinstance(source, relax.Tuple) else None
    return operand


class _StaysError(Exception):
    """A transposition cannot move behind an operator."""


def _simpler(call: Any, inner: tuple[Any, list[int]] | None) -> Any:
    """Two transpositions are one; one that moves no element is a view, or nothing."""
    from tvm import relax

    source, axes = call.args[0], _axes(call)
    if inner is not None:
        source, axes = inner[0], [inner[1][axis] for axis in axes]
    if axes == list(range(len(axes))):
        return source
    kept = _order_kept(source, axes)
    if kept is not None:
        return kept
    return relax.op.permute_dims(source, axes) if inner is not None else None


def _moved(source: Any, axes: Sequence[int]) -> Any:
    """A transposition, as a view where it moves no element."""
    from tvm import relax

    view = _order_kept(source, axes)
    return relax.op.permute_dims(source, list(axes)) if view is None else view


def _order_kept(source: Any, axes: Sequence[int]) -> Any:
    """A transposition that moves only axes of one element, as a view; None for another."""
    from tvm import relax

    shape = _shape(source)
    if shape is None:
        return None
    moving = [axis for axis in axes if shape[axis] != 1]
    return relax.op.reshape(source, [shape[axis] for axis in axes]) if moving == sorted(moving) else None


def _transposed_now(module: Any, tensors: Mapping[str, tuple[Array, ParameterSource]]) -> tuple[Any, Stored]:
    """Stored tensors that are transposed become other stored tensors."""
    from tvm import relax

    made: Stored = {}
    variables: dict[tuple[str, tuple[int, ...]], Any] = {}

    def transposed(call: Any, main: Main) -> Any:
        if operator_name(call) != "relax.permute_dims" or call.args[0] in main.bound or str(call.args[0].name) not in tensors:
            return None
        name, axes = str(call.args[0].name), tuple(_axes(call))
        if (name, axes) not in variables:
            array, source = tensors[name]
            array = np.ascontiguousarray(array.transpose(axes))
            fresh = f"{name}__{'_'.join(map(str, axes))}"
            made[fresh] = (array, _permuted(source, axes))
            variables[name, axes] = relax.Var(fresh, relax.TensorType(array.shape, array.dtype.name))
        return variables[name, axes]

    module = rewritten(module, transposed)
    return relax.transform.DeadCodeElimination()(with_parameters(module, list(variables.values()))), made


def _permuted(source: ParameterSource, axes: tuple[int, ...]) -> ParameterSource:
    if source.kind not in ("same", "permutation"):
        return source
    before = source.permutation or tuple(range(len(axes)))
    return ParameterSource(source.name, "permutation", tuple(before[axis] for axis in axes))


def _convolution(call: Any, x: Any, w: Any, padding: list[int], layouts: tuple[str, str]) -> Any:
    """The same convolution of other operands."""
    from tvm import relax

    operator = {3: relax.op.nn.conv1d, 4: relax.op.nn.conv2d, 5: relax.op.nn.conv3d}[x.ty.ndim]
    return operator(
        x,
        w,
        strides=_integers(call.attrs.strides),
        padding=padding,
        dilation=_integers(call.attrs.dilation),
        groups=int(call.attrs.groups),
        data_layout=layouts[0],
        kernel_layout=layouts[1],
        out_dtype=str(call.ty.dtype),
    )


def _pool(call: Any, x: Any) -> Any:
    """The same pool in channels-last layout."""
    from tvm import relax

    attrs = call.attrs
    return getattr(relax.op.nn, operator_name(call).removeprefix("relax.nn."))(
        x,
        pool_size=_integers(attrs.pool_size),
        strides=_integers(attrs.strides),
        padding=_integers(attrs.padding),
        dilation=_integers(attrs.dilation),
        ceil_mode=bool(attrs.ceil_mode),
        count_include_pad=bool(attrs.count_include_pad),
        layout=_LAYOUTS[x.ty.ndim - 2][0],
    )


def _is_convolution(call: Any) -> bool:
    return operator_name(call) in ("relax.nn.conv1d", "relax.nn.conv2d", "relax.nn.conv3d")


def _last(rank: int) -> list[int]:
    """The axes that move channels to the end."""
    return [0, *range(2, rank), 1]


def _first(rank: int) -> list[int]:
    """The axes that move them back."""
    return [0, rank - 1, *range(1, rank - 1)]


def _integers(values: Any) -> list[int]:
    return [int(value) for value in values]


def _shape(expression: Any) -> list[int] | None:
    """The sizes of a tensor; None where they are not all known, or it is none."""
    shape = getattr(expression.ty, "shape", None)
    try:
        return None if shape is None else _integers(shape)
    except TypeError:
        return None


def _numbers(value: Any) -> list[int] | None:
    """The numbers of a tuple of constants; None where one is known at run time only."""
    from tvm import tirx

    fields = [getattr(field, "value", field) for field in getattr(value, "fields", ())]
    if not fields or not all(isinstance(field, (int, tirx.IntImm)) for field in fields):
        return None
    return [int(field) for field in fields]


def _axes(call: Any) -> list[int]:
    rank = call.args[0].ty.ndim
    if call.attrs.axes is None:
        return list(reversed(range(rank)))
    return [int(axis) % rank for axis in call.attrs.axes]
