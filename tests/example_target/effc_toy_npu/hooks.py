"""What effc asks while it compiles for `toy-npu`: which parts the library computes, and the C that calls it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from effc.lowering.extensions import Composite, ExternalCode, Hooks, is_stored
from effc.targets import Target

_CONVOLUTION, _ADD, _RELU = "relax.nn.conv2d", "relax.add", "relax.nn.relu"


def patterns(target: Target) -> list[Any]:
    """conv2d, with or without a bias and ReLU behind it; the larger first, as the first that matches is taken."""
    from tvm.relax.dpl import is_op, wildcard

    convolution, bias = is_op(_CONVOLUTION)(wildcard(), wildcard()), wildcard()
    biased = is_op(_ADD)(convolution, bias)
    parts = {"convolution": convolution}
    return [
        ("toy.conv2d_bias_relu", is_op(_RELU)(biased), parts | {"bias": bias}, _supported),
        ("toy.conv2d_bias", biased, parts | {"bias": bias}, _supported),
        ("toy.conv2d", convolution, parts, _supported),
    ]


def _supported(context: Any) -> bool:
    """Whether the library can: float32, no groups, no dilation, a bias that is stored, and nobody else who reads what is inside."""
    from tvm.relax.backend.utils import has_leaking_intermediate_variables

    call = context.annotated_expr["convolution"]
    bias = context.annotated_expr.get("bias")
    channels = int(call.ty.shape[-1])
    return (
        str(call.ty.dtype) == "float32"
        and str(call.attrs.data_layout) == "NHWC"
        and int(call.attrs.groups) == 1
        and all(int(step) == 1 for step in call.attrs.dilation)
        and (bias is None or (is_stored(bias) and [int(size) for size in bias.ty.shape] == [1, 1, 1, channels]))
        and not has_leaking_intermediate_variables(context)
    )


def codegen(composites: Sequence[Composite], target: Target) -> ExternalCode:
    """The library, and a function for each composite that calls it with the composite's numbers."""
    library = {name: files(__package__).joinpath(name).read_text(encoding="utf-8") for name in ("toy_npu.c", "toy_npu.h")}
    functions, notes = ['#include "toy_npu.h"\n'], {}
    for one in composites:
        functions.append(_function(one))
        (_, height, width, _), kernel = one.inputs[0].shape, one.inputs[1].shape
        notes[one.symbol] = f"toy_conv2d, {kernel[1]}x{kernel[2]} on {height}x{width}" + (", relu" if _has(one, _RELU) else "")
    return ExternalCode(sources={**library, "composites.c": "\n".join(functions)}, notes=notes)


def _function(one: Composite) -> str:
    call = one.call(_CONVOLUTION)
    image, weights, bias = (f"in{place}" if place >= 0 else "0" for place in _places(one))
    stride, padding = call.attrs.strides, call.attrs.padding
    numbers = [
        *one.inputs[one.place(call.args[0])].shape,  # N, H, W, C
        *one.inputs[one.place(call.args[1])].shape[:3],  # O, kernel height and width
        *one.outputs[0].shape[1:3],
        int(stride[0]),
        int(stride[1]),
        int(padding[0]),
        int(padding[1]),
        int(_has(one, _RELU)),
    ]
    arguments = ", ".join([*(f"const float *in{index}" for index in range(len(one.inputs))), "float *out"])
    shape = ", ".join(map(str, numbers))
    return (
        f"int32_t {one.symbol}({arguments}) {{\n"
        f"  static const struct toy_conv2d shape = {{{shape}}};\n"
        f"  return toy_conv2d(&shape, {image}, {weights}, {bias}, out);\n"
        "}\n"
    )


def _places(one: Composite) -> tuple[int, int, int]:
    """Which arguments are the image, the weights and the bias; -1 for no bias."""
    call, add = one.call(_CONVOLUTION), one.call(_ADD)
    biases = [] if add is None else [place for operand in add.args if (place := one.place(operand)) >= 0]
    return one.place(call.args[0]), one.place(call.args[1]), biases[0] if biases else -1


def _has(one: Composite, operator: str) -> bool:
    return one.call(operator) is not None


HOOKS = Hooks(patterns=patterns, codegen=codegen)
