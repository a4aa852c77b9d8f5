"""A float program for an array of int8 multipliers: quantised after training, on data.

before  y = conv2d(x, w, b)
after   q = quantize_linear(x, s_x, 0)             int8: round(x / s_x), ties to even, saturated
        a = conv_integer(q, w_q, 0, 0)             int32: what the array computes
        y = dequantize_linear(a, s_x s_w, 0) + b   float32: what the vector unit behind it does

The same for linear layers, with `matmul_integer`. The scheme is the plain one (B. Jacob et al., CVPR 2018, arXiv 1712.05877, with zero
points of 0): weights symmetric, one scale an output channel, s_w = max|w| / 127; activations symmetric, one scale a tensor,
s_x = max|x| / 127 over the calibration data. Everything between two products (batch norms, activations, sums, bounds) stays in float32:
batch norms are not folded, so the program's other parts, protections included, are what they were. A scale of zeros alone is 1.

An imported int8 model needs none of this: it runs with its own integers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from effc.cost.accelerator.naming import WORDS
from effc.cost.accelerator.operators import MULTIPLYING
from effc.data import Dataset
from effc.errors import ConfigError, DataError, Problem
from effc.faultsim.accelerator.gemms import PRODUCTS
from effc.faultsim.sites import operator_name
from effc.ir import Edit, Program, source_of
from effc.ir.arrays import to_torch
from effc.ir.edit import keyword_arguments

__all__ = ["PASS", "for_array", "has_integer_products"]

PASS = "quantised-for-array"  # as provenance names it
_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
_OTHERS = MULTIPLYING - {*_CONVOLUTIONS, "linear"}  # products that would stay in float, outside of the array and of all its faults
_BATCH = 64
_effc: Any = torch.ops.effc


def has_integer_products(program: Program) -> bool:
    """Whether a program brings integers of its own."""
    return any(operator_name(node) in PRODUCTS for node in program.nodes)


def for_array(program: Program, calibration: Dataset) -> Program:
    """The program with every convolution and linear layer in int8.

    Args:
        program: of floats.
        calibration: samples that give the ranges of activations; never those that faults are judged on.

    Raises:
        ConfigError: products that the scheme does not cover (of two values, transposed, recurrent, of float64); all of them at once.
        DataError: the calibration data are empty, or make an input of a product NaN or infinite.
    """
    chosen = _chosen(program)
    largest = _largest(program, [_argument(node, 0).name for node in chosen], calibration)
    edit = Edit(program)
    for node in chosen:
        copy, x, weight = edit.node(node.name), _argument(node, 0), _argument(node, 1)
        edit.replace(copy, _rewritten(edit, copy, program.tensor_names[weight.name], largest[x.name]))
    return edit.done().with_pass(PASS)


def _chosen(program: Program) -> list[fx.Node]:
    found, problems = [], []
    for node in program.nodes:
        op = operator_name(node)
        if op in _CONVOLUTIONS or op == "linear":
            weight = program.tensors.get(getattr(node.args[1], "name", ""))
            why = hint = ""
            if weight is None:
                why = "its weights are computed, not stored"
            elif weight.dtype != torch.float32:
                why = f"its weights are {weight.dtype}"
            elif isinstance(keyword_arguments(node).get("padding"), str):
                why = "its padding is given by a word"
            elif _argument(node, 0).meta["val"].dim() < (2 if op == "linear" else weight.dim()):
                why, hint = "its input has no axis for a batch", "give it one: unsqueeze(0), and take it off behind"
            if not why:
                found.append(node)
                continue
            problems.append(Problem(source_of(node), op, why, hint))
        elif op in _OTHERS:
            problems.append(Problem(source_of(node), op, "has no int8 form here: convolutions and linear layers with stored weights have"))
    if problems:
        raise ConfigError("the program cannot be quantised for the array", problems)
    if not found:
        raise ConfigError("the program has no convolution and no linear layer: there is nothing that an array of multipliers would do")
    return found


def _largest(program: Program, names: list[str], data: Dataset) -> dict[str, float]:
    """max|x| over the data of each named value."""
    if not len(data):
        raise DataError("there are no calibration data: ranges of activations are measured on them")
    seen = dict.fromkeys(names, 0.0)

    class Watching(fx.Interpreter):
        def run_node(self, node: fx.Node) -> Any:
            value = super().run_node(node)
            if node.name in seen:
                seen[node.name] = max(seen[node.name], float(value.abs().max()))
                if not value.isfinite().all():  # also NaN, of which no maximum tells
                    seen[node.name] = float("inf")
            return value

    watching = Watching(program.exported.graph_module)
    tensors = [program.tensors[name] for name in program.tensor_names]
    inputs = [value.name for value in program.interface.inputs]
    with torch.no_grad():
        for batch in data.batches(data.unit or _BATCH):
            watching.run(*tensors, *(to_torch(batch.inputs[name]) for name in inputs))
    why = "is NaN or infinite on the calibration data"
    wild = [Problem(name, "an input of a product", why) for name, top in seen.items() if top == float("inf")]
    if wild:
        raise DataError("there is no range to quantise to", wild)
    return seen


def _rewritten(edit: Edit, node: fx.Node, name: str, largest: float) -> fx.Node:
    """The integer form of a product, put before it; what takes its place. `name`: of its weights."""
    given = keyword_arguments(node)
    x, weight = given["input"], edit.tensor(given["weight"])
    assert weight is not None
    conv, weight = operator_name(node) in _CONVOLUTIONS, weight.detach()
    magnitudes = weight.reshape(len(weight), -1).abs().amax(1)
    w_scale = torch.where(magnitudes > 0, magnitudes / 127, torch.ones_like(magnitudes))
    x_scale = torch.tensor(largest / 127 if largest else 1.0, dtype=torch.float32)
    words = (weight / w_scale.reshape(-1, *[1] * (weight.dim() - 1))).round().clamp(-127, 127).to(torch.int8)
    zero = edit.add_tensor(f"{name}_zero_point", torch.zeros((), dtype=torch.int8), kind="buffer")
    scale = edit.add_tensor(f"{name}_input_scale", x_scale, kind="buffer")
    stored = edit.add_tensor(f"{name}{WORDS}", words if conv else words.t().contiguous(), kind="buffer")

    def call(target: Any, *arguments: Any) -> fx.Node:
        return edit.call(target, arguments, like=node, before=node)

    q = call(_effc.quantize_linear.default, x, scale, zero, 0)
    if conv:
        stride, padding, dilation = (_each_axis(given[one], weight.dim() - 2) for one in ("stride", "padding", "dilation"))
        acc = call(_effc.conv_integer.default, q, stored, zero, zero, stride, [*padding, *padding], dilation, given["groups"])
    else:
        acc = call(_effc.matmul_integer.default, q, stored, zero, zero)
    axis = 1 if conv else len(acc.meta["val"].shape) - 1
    steps = edit.add_tensor(f"{name}_sum_scale", x_scale * w_scale, kind="buffer")
    none = edit.add_tensor(f"{name}_sum_zero_point", torch.zeros(len(w_scale), dtype=torch.int32), kind="buffer")
    y = call(_effc.dequantize_linear.default, acc, steps, none, axis)
    if given["bias"] is None:
        return y
    shaped = call(torch.ops.aten.reshape.default, given["bias"], [-1, *[1] * (len(acc.meta["val"].shape) - 1 - axis)])
    return call(torch.ops.aten.add.Tensor, y, shaped)


def _argument(node: fx.Node, position: int) -> fx.Node:
    found = node.args[position]
    assert isinstance(found, fx.Node)
    return found


def _each_axis(numbers: list[int], axes: int) -> list[int]:
    """torch takes one number for all axes, too."""
    return list(numbers) * axes if len(numbers) == 1 else list(numbers)
