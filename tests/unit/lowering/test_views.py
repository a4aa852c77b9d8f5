"""What moves no element, or elements that nothing reads: views are no kernels, slices go first, chains of moves are index arithmetic."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from tvm import relax, tirx

from effc.lowering.moves import sources
from effc.lowering.relax_edit import Main
from effc.targets import find_target
from tests.unit.lowering.functions_of_torch import Case, check, families, normal

HOST = find_target("cpu")


@st.composite
def chains(draw: st.DrawFn) -> tuple[list[int], list[tuple[str, Any]]]:
    """A shape and moves that begin with a tensor of that shape."""
    shape = draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4))
    start, moves = list(shape), []
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["permute", "reshape", "slice", "broadcast", "insert", "split"]))
        axis = draw(st.integers(0, len(shape) - 1))
        if kind == "permute":
            axes = draw(st.permutations(range(len(shape))))
            moves.append((kind, axes))
            shape = [shape[one] for one in axes]
        elif kind == "reshape":
            factors = [factor for size in shape for factor in ([2, 3] if size == 6 else [2, 2] if size == 4 else [size]) if factor != 1]
            cuts = draw(st.lists(st.booleans(), min_size=len(factors), max_size=len(factors)))
            shape = [1] if draw(st.booleans()) or not factors else []
            for factor, cut in zip(factors, cuts, strict=True):
                shape = [*shape, factor] if cut or not shape else [*shape[:-1], shape[-1] * factor]
            moves.append((kind, list(shape)))
        elif kind == "slice":
            first = draw(st.integers(0, shape[axis] - 1))
            step = draw(st.integers(1, 2))
            moves.append((kind, (axis, first, step)))
            shape[axis] = len(range(first, shape[axis], step))
        elif kind == "broadcast":
            shape = [draw(st.sampled_from([1, 2])), *(3 if size == 1 and draw(st.booleans()) else size for size in shape)]
            moves.append((kind, list(shape)))
        elif kind == "insert":
            moves.append((kind, axis))
            shape.insert(axis, 1)
        elif shape[axis] % 2 == 0:
            number = draw(st.integers(0, 1))
            moves.append((kind, (axis, number)))
            shape[axis] //= 2
    return start, moves


def both(shape: list[int], moves: list[tuple[str, Any]]) -> tuple[Any, Any, np.ndarray]:
    """The moves in relax, a function with its last variable, and in numpy, applied to 0, 1, 2, ..."""
    array = np.arange(math.prod(shape)).reshape(shape)
    x = relax.Var("x", relax.TensorType(shape, "int64"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        y: Any = x
        for kind, what in moves:
            if kind == "permute":
                y, array = builder.emit(relax.op.permute_dims(y, list(what))), array.transpose(what)
            elif kind == "reshape":
                y, array = builder.emit(relax.op.reshape(y, what)), array.reshape(what)
            elif kind == "slice":
                axis, first, step = what
                y = builder.emit(relax.op.strided_slice(y, [axis], [first], [array.shape[axis]], [step]))
                array = array[(*[slice(None)] * axis, slice(first, None, step))]
            elif kind == "broadcast":
                y, array = builder.emit(relax.op.broadcast_to(y, what)), np.broadcast_to(array, what)
            elif kind == "insert":
                y, array = builder.emit(relax.op.expand_dims(y, what)), np.expand_dims(array, what)
            else:
                axis, number = what
                y = builder.emit(builder.emit(relax.op.split(y, 2, axis))[number])
                array = np.split(array, 2, axis)[number]
        last = builder.emit(y)
        builder.emit_func_output(last)
    return builder.get()["main"], last, array


@settings(max_examples=60, deadline=None)
@given(chains())
def test_chains_of_moves_are_index_arithmetic(chain: tuple[list[int], list[tuple[str, Any]]]) -> None:
    start, moves = chain
    function, last, array = both(start, moves)
    found = sources(last, Main(function))
    assert found[-1].variable.same_as(function.params[0])
    variables = [tirx.Var(f"i{axis}", "int32") for axis in range(array.ndim)]
    found[-1].place(variables, array.shape)  # can be simplified for variables, too
    for index in np.ndindex(array.shape):
        place = found[-1].place([tirx.IntImm("int32", one) for one in index], array.shape)
        flat = np.ravel_multi_index([int(one) for one in place], start)
        assert flat == array[index]


def macs(lowered: Any) -> int:
    return sum(step.macs for step in lowered.plan.steps)


class Token(nn.Module):
    """A transformer whose classifier reads one token."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        head: Tensor = self.head(self.norm(self.layer(x))[:, 1])
        return head


def test_rows_that_nothing_reads_are_not_computed() -> None:
    """Of 16 tokens all have keys and values; one has a query, a network and a normalisation."""
    lowered = check({"token": (Token(), [normal(1, 16, 32)])}, HOST)
    assert macs(lowered) == 16 * 32 * 96 + 2 * 16 * 32 + 32 * 32 + 2 * 32 * 64 + 32 * 5
    assert families(lowered).count("attention") == 1


def test_slices_behind_products_store_nothing_else() -> None:
    """A slice from the beginning looks like an elementwise operator: fused behind a product, it would make it write over its neighbours."""
    conv, line, linear = nn.Conv2d(3, 16, 3, padding=1), nn.Conv1d(4, 8, 3, padding=2), nn.Linear(12, 20)
    cases: dict[str, Case] = {
        "rows of an image": (lambda x: F.relu(conv(x))[:, :, :5], [normal(1, 3, 9, 9)]),
        "causal convolution": (lambda x: line(x)[..., :-2], [normal(1, 4, 11)]),
        "columns": (lambda x: linear(x)[:, :7], [normal(6, 12)]),
        "first row": (lambda x: linear(x)[0], [normal(6, 12)]),
        "attention": (lambda q: F.scaled_dot_product_attention(q, q, q)[:, :, :3], [normal(1, 2, 9, 8)]),
        "first head": (lambda q: F.scaled_dot_product_attention(q, q, q).transpose(1, 2)[:, :, 0], [normal(1, 2, 9, 8)]),
        "causal": (lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True)[:, :, 2:4], [normal(1, 2, 9, 8)]),
        "masked": (lambda q, m: F.scaled_dot_product_attention(q, q, q, attn_mask=m)[:, :, 2:4], [normal(1, 2, 9, 8), normal(9, 9)]),
        "layer norm": (lambda x: F.layer_norm(x, (33,))[:, :2], [normal(3, 9, 33)]),
        "normalised axis": (lambda x: F.layer_norm(x, (33,))[..., :2], [normal(3, 9, 33)]),
        "softmax": (lambda x: torch.softmax(x, 1)[:, :2], [normal(3, 9, 33)]),
        "broadcast": (lambda x, y: (x * y + 1.0)[::2], [normal(7, 3), normal(3)]),
        "two readers": (lambda x: (linear(x)[:2] + linear(x)[2:4]).relu(), [normal(6, 12)]),
    }
    for layer in (conv, line, linear):
        for parameter in layer.parameters():
            parameter.requires_grad_(False)
    check(cases, HOST)


def test_views_are_no_kernels() -> None:
    linear = nn.Linear(12, 20)
    for parameter in linear.parameters():
        parameter.requires_grad_(False)
    cases: dict[str, Case] = {
        "activation": (lambda x: F.relu(linear(x).reshape(3, 2, 20).unsqueeze(0)), [normal(6, 12)]),
        "residual": (lambda x, y: linear(x).reshape(1, 6, 20) + y, [normal(6, 12), normal(1, 6, 20)]),
        "bias of a view": (lambda x, y: linear(x).reshape(6, 4, 5) * y, [normal(6, 12), normal(4, 5)]),
        "order kept": (lambda x: linear(x).reshape(1, 6, 1, 20).permute(2, 1, 0, 3).squeeze(0).squeeze(-2).tanh(), [normal(6, 12)]),
        "both views": (lambda x, y: linear(x).reshape(2, 60) + linear(y).reshape(2, 60), [normal(6, 12), normal(6, 12)]),
    }
    assert families(check(cases, HOST)) == ["matmul"] * 6


def test_products_with_one_matrix_for_a_batch() -> None:
    cases: dict[str, Case] = {
        "expanded": (lambda x, w: torch.bmm(x, w[None].expand(3, 12, 20)), [normal(3, 4, 12), normal(12, 20)]),
        "plain": (lambda x, w: x @ w, [normal(2, 3, 4, 12), normal(12, 20)]),
        "of each sample": (lambda x, w: x @ w, [normal(2, 3, 4, 12), normal(3, 12, 20)]),
        "one sample": (lambda x, w: x @ w, [normal(1, 4, 12), normal(3, 12, 20)]),
    }
    check(cases, HOST)
