"""Single products for the tests: an operator's node without a program, and its operands."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from benchmarks.array_by_multiplier import Geometry, Ints
from effc.faultsim.accelerator.work import Convolution, Gemm, MatrixGemm, Operands


def convolution(geometry: Geometry) -> Convolution:
    graph = fx.Graph()
    tensors = [graph.placeholder(name) for name in ("x", "w", "x_zero_point", "w_zero_point")]
    lists = (list(geometry.stride), list(geometry.padding), list(geometry.dilation))
    return Convolution(graph.call_function(torch.ops.effc.conv_integer.default, (*tensors, *lists, geometry.groups)))


def matrix_product() -> MatrixGemm:
    graph = fx.Graph()
    tensors = tuple(graph.placeholder(name) for name in ("a", "b", "a_zero_point", "b_zero_point"))
    return MatrixGemm(graph.call_function(torch.ops.effc.matmul_integer.default, tensors))


def operands(product: Gemm, words: Ints, weights: Ints, zero_point: int = 0, dtype: torch.dtype = torch.int8) -> Operands:
    arguments: list[Any] = [
        torch.tensor(words, dtype=dtype),
        torch.tensor(weights, dtype=torch.int8),
        torch.tensor(zero_point, dtype=dtype),
    ]
    return product.operands(arguments)


def random_case(seed: int) -> tuple[Ints, Ints, Geometry]:
    """Words with many zeros, weights, and a geometry of one or two axes; sizes that no array fits."""
    draw = np.random.default_rng(seed)
    dims = 1 + seed % 2
    groups = int(draw.choice([1, 1, 2, 4]))
    inner, outer = int(draw.integers(1, 4)), int(draw.integers(1, 5))
    kernel = tuple(int(draw.integers(1, 4)) for _ in range(dims))
    sizes = tuple(int(draw.integers(4, 7)) for _ in range(dims))
    zero = int(draw.choice([0, -128, 5]))
    words = draw.integers(-128, 128, (2, groups * inner, *sizes))
    words[draw.random(words.shape) < 0.4] = zero
    weights = draw.integers(-128, 128, (groups * outer, inner, *kernel))
    geometry = Geometry(
        stride=tuple(int(draw.integers(1, 3)) for _ in range(dims)),
        padding=tuple(int(draw.integers(0, 2)) for _ in range(2 * dims)),
        dilation=tuple(1 + (kernel[axis] == 2) for axis in range(dims)),
        groups=groups,
        zero_point=zero,
    )
    return words, weights, geometry
