"""The products of a program that the array does, and why it cannot do others."""

from __future__ import annotations

import torch
from torch import fx

from effc.cost.accelerator.naming import layer_of
from effc.cost.accelerator.operators import MULTIPLYING
from effc.errors import ConfigError, Problem
from effc.faultsim.accelerator.work import Convolution, Gemm, MatrixGemm
from effc.faultsim.sites import operator_name
from effc.ir import Program, source_of
from effc.ir.edit import keyword_arguments

__all__ = ["PRODUCTS", "gemms_of"]

PRODUCTS = ("qlinear_conv", "conv_integer", "qlinear_matmul", "matmul_integer")


def gemms_of(program: Program) -> list[Gemm]:
    """Every product of an integer program, in the graph's order.

    Raises:
        ConfigError: there is none, or one that the array cannot do: of floats, of two values, or with weights whose zero point is not 0.
            All at once.
    """
    found: list[Gemm] = []
    problems: list[Problem] = []
    for node in program.nodes:
        op = operator_name(node)
        if op in MULTIPLYING:
            problems.append(Problem(source_of(node), op, "is no product of int8 numbers", "quantise the program for the array"))
        if op not in PRODUCTS:
            continue
        why = _unfit(program, node)
        if why:
            problems.append(Problem(source_of(node), op, why))
        else:
            product = Convolution(node) if "conv" in op else MatrixGemm(node)
            given = keyword_arguments(node)
            product.source = layer_of(program, node, given["w"] if "w" in given else given["b"])
            found.append(product)
    if problems:
        raise ConfigError("the array cannot do all products of the program", problems)
    if not found:
        raise ConfigError("the program has no product of int8 numbers: there is nothing that an array of multipliers would do")
    return found


def _unfit(program: Program, node: fx.Node) -> str:
    given = keyword_arguments(node)
    x, weights = (given["x"], given["w"]) if "conv" in node.target._schema.name else (given["a"], given["b"])  # type: ignore[union-attr]
    zero_point = given["w_zero_point"] if "w_zero_point" in given else given["b_zero_point"]
    x_zero_point = given["x_zero_point"] if "x_zero_point" in given else given["a_zero_point"]
    stored = program.tensors.get(zero_point.name)
    if weights.meta["val"].dtype != torch.int8 or x.meta["val"].dtype not in (torch.int8, torch.uint8):
        return f"multiplies {x.meta['val'].dtype} by {weights.meta['val'].dtype}; the array takes 8-bit activations and int8 weights"
    if stored is None or bool((stored != 0).any()):
        return "its weights have a zero point other than 0: the array has symmetric weights"
    if x_zero_point.meta["val"].numel() != 1:
        return "its input has a zero point for each row"
    if "matmul" in operator_name(node) and (weights.meta["val"].dim() != 2 or x.meta["val"].dim() < 2):
        return "is no product with one matrix of weights"
    return ""
