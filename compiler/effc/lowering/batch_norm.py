"""Batch norms that no pass folded: one multiply-add with constants that are computed at compile time.

y = x * s + (beta - mean * s) with s = gamma / sqrt(var + eps) per channel. Rounding differs from the operator's own formula in the last
bits, as any two implementations of batch norm do.
"""

from __future__ import annotations

import operator

import torch

from effc.ir import Edit, Program, keyword_arguments

__all__ = ["multiply_add"]

_aten = torch.ops.aten


def multiply_add(program: Program) -> Program:
    """Rewrite inference batch norms of a decomposed program; their scale and shift fold with the other parameters."""
    edit = Edit(program)
    for norm in edit.nodes:
        if norm.target != _aten._native_batch_norm_legit_no_training.default:
            continue
        if any(user.target is not operator.getitem or user.args[1] != 0 for user in norm.users):
            continue  # someone reads the saved statistics
        arguments = keyword_arguments(norm)
        x, mean, variance = arguments["input"], arguments["running_mean"], arguments["running_var"]
        shape = [-1, *[1] * (x.meta["val"].ndim - 2)]

        def call(target: object, *operands: object, like: torch.fx.Node = norm) -> torch.fx.Node:
            return edit.call(target, operands, like=like, before=like)  # type: ignore[arg-type]

        scale = call(_aten.rsqrt.default, call(_aten.add.Scalar, variance, arguments["eps"]))
        if arguments["weight"] is not None:
            scale = call(_aten.mul.Tensor, scale, arguments["weight"])
        shift = call(_aten.neg.default, call(_aten.mul.Tensor, mean, scale))
        if arguments["bias"] is not None:
            shift = call(_aten.add.Tensor, shift, arguments["bias"])
        scale, shift = call(_aten.view.default, scale, shape), call(_aten.view.default, shift, shape)
        result = call(_aten.add.Tensor, call(_aten.mul.Tensor, x, scale), shift)
        for user in list(norm.users):
            edit.replace(user, result)
            edit.erase(user)
        edit.erase(norm)
    return edit.done()
