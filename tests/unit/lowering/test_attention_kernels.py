"""Attention in one kernel: the numbers of eager torch over shapes, masks and the ways in which models arrange heads."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effc.errors import UnsupportedModelError
from effc.targets import Target, find_target
from tests.unit.lowering.functions_of_torch import TARGETS, Case, check, families, normal

NAN, INF = float("nan"), float("inf")
HOST = find_target("cpu")
SHAPES = [  # batch, heads, queries, keys, channels, channels of values
    (1, 1, 1, 1, 8, 8),
    (1, 2, 1, 197, 64, 64),
    (2, 3, 7, 7, 20, 20),
    (1, 2, 197, 197, 64, 64),
    (2, 2, 5, 33, 8, 24),
    (1, 3, 33, 5, 64, 20),
    (1, 1, 130, 70, 7, 3),
    (1, 2, 16, 256, 16, 130),
    (1, 9, 50, 50, 16, 16),
    (2, 4, 3, 70, 16, 16),
]


def operands(batch: int, heads: int, queries: int, keys: int, channels: int, out: int) -> list[Tensor]:
    sizes = ((queries, channels), (keys, channels), (keys, out))
    return [normal(batch, heads, *size, seed=seed) for seed, size in enumerate(sizes)]


def by_target(target: Target) -> str:
    return target.name


@pytest.mark.parametrize("target", TARGETS, ids=by_target)
def test_any_shape(target: Target) -> None:
    cases: dict[str, Case] = {str(shape): (F.scaled_dot_product_attention, operands(*shape)) for shape in SHAPES}
    assert families(check(cases, target)) == ["attention"] * len(SHAPES)


def test_four_lanes() -> None:
    """As on processors whose vectors are that short."""
    short = replace(HOST, lanes=4, registers=16)
    cases: dict[str, Case] = {str(shape): (F.scaled_dot_product_attention, operands(*shape)) for shape in SHAPES[:6]}
    assert families(check(cases, short)) == ["attention"] * 6


@pytest.mark.parametrize("target", TARGETS, ids=by_target)
def test_causal(target: Target) -> None:
    cases: dict[str, Case] = {
        str(shape): (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), operands(*shape)) for shape in SHAPES
    }
    assert families(check(cases, target)) == ["attention"] * len(SHAPES)


@pytest.mark.parametrize("target", TARGETS, ids=by_target)
def test_masks(target: Target) -> None:
    batch, heads, queries, keys = 2, 3, 9, 37
    given = operands(batch, heads, queries, keys, 16, 16)
    cases: dict[str, Case] = {}
    for shape in ((queries, keys), (1, keys), (queries, 1), (heads, queries, keys), (batch, 1, 1, keys), (batch, heads, queries, keys)):
        mask = normal(*shape, seed=7)
        cases[f"added {shape}"] = (lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m), [*given, mask])
        cases[f"true {shape}"] = (lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m), [*given, mask > 0])
    check(cases, target)


def test_a_query_that_may_look_at_nothing_gives_zeros() -> None:
    q, k, v = operands(1, 2, 5, 19, 8, 8)
    allowed = torch.ones(5, 19, dtype=torch.bool)
    allowed[2] = False
    added = torch.zeros(5, 19)
    added[3] = -INF
    cases: dict[str, Case] = {
        "true": (lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m), [q, k, v, allowed]),
        "added": (lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m), [q, k, v, added]),
        "scores": (F.scaled_dot_product_attention, [q.abs(), torch.full_like(k, -INF), v]),
    }
    check(cases, HOST)


def test_infinities_and_nan_go_where_torch_lets_them_go() -> None:
    q, k, v = operands(1, 2, 5, 19, 8, 8)
    cases: dict[str, Case] = {}
    for name, bad in (("nan", NAN), ("inf", INF)):
        for number, which in enumerate(("query", "key", "value")):
            given = [x.clone() for x in (q, k, v)]
            given[number][0, 0, 3, 2] = bad
            cases[f"{name} in a {which}"] = (F.scaled_dot_product_attention, given)
    large = [q * 1e3, k * 1e3, v]  # exp of a score that is not shifted would be infinite
    cases["large scores"] = (F.scaled_dot_product_attention, large)
    check(cases, HOST)


def test_scale_and_shared_heads() -> None:
    q, k, v = operands(2, 6, 7, 11, 8, 8)
    cases: dict[str, Case] = {
        "scale": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=-0.7), [q, k, v]),
        "two queries a key": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True), [q, k[:, :3], v[:, :3]]),
        "all queries a key": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True), [q, k[:, :1], v[:, :1]]),
        "other heads of values": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True), [q, k[:, :3], v[:, :2]]),
        "one sample of keys": (F.scaled_dot_product_attention, [q, k[:1], v[:1]]),
        "three axes": (F.scaled_dot_product_attention, [q[0], k[0], v[0]]),
        "two axes": (F.scaled_dot_product_attention, [q[0, 0], k[0, 0], v[0, 0]]),
        "five axes": (lambda q, k, v: F.scaled_dot_product_attention(q[None], k[None], v[None]), [q, k, v]),
        "no keys": (F.scaled_dot_product_attention, [q, k[:, :, :0], v[:, :, :0]]),
    }
    check(cases, HOST)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_types(dtype: torch.dtype) -> None:
    given = [x.to(dtype) for x in operands(1, 4, 6, 9, 8, 8)]
    mask = normal(6, 9) > 0
    mask[1] = False
    cases: dict[str, Case] = {
        "plain": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v).float(), given),
        "causal": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True).float(), given),
        "mask": (lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m).float(), [*given, mask]),
        "shared": (
            lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True).float(),
            [given[0], *(x[:, :2] for x in given[1:])],
        ),
    }
    check(cases, HOST, tolerance={torch.float64: 1e-6, torch.float16: 2e-3}[dtype])


def test_on_tvms_virtual_machine() -> None:
    """Where something else does not plan (a sort), attention is written out, with the same meaning."""
    q, k, v = operands(1, 4, 6, 9, 8, 8)
    mask = normal(6, 9) > 0
    mask[1] = False
    cases: dict[str, Case] = {
        "sorted": (lambda q, k, v: torch.sort(F.scaled_dot_product_attention(q, k, v), -1)[0], [q, k, v]),
        "causal": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), [q, k, v]),
        "mask": (lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m), [q, k, v, mask]),
        "shared": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True), [q, k[:, :2], v[:, :2]]),
    }
    assert check(cases, HOST).plan is None


def test_dropout_is_refused() -> None:
    cases: dict[str, Case] = {
        "dropout": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, dropout_p=0.5), operands(1, 1, 2, 2, 4, 4)),
    }
    with pytest.raises(UnsupportedModelError, match="scaled_dot_product_attention"):
        check(cases, HOST)


class Fused(nn.Module):
    """Queries, keys and values of one projection, as image models have them."""

    def __init__(self, width: int, heads: int, last: bool = False) -> None:
        super().__init__()
        self.heads, self.last = heads, last
        self.qkv, self.joined = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        if self.last:  # a head's queries, keys and values side by side
            q, k, v = self.qkv(x).reshape(batch, tokens, self.heads, -1).permute(0, 2, 1, 3).chunk(3, -1)
        else:
            q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        joined: Tensor = self.joined(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width))
        return x + joined


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_projections_are_read_and_results_stored_without_copies(last: bool, batch: int) -> None:
    cases: dict[str, Case] = {"fused": (Fused(24, 3, last), [normal(batch, 10, 24)])}
    assert families(check(cases, HOST)) == ["matmul", "attention", "matmul"]


def test_encoder_layer_is_seven_kernels() -> None:
    """The copies that `nn.MultiheadAttention` writes are none for one sample, nor are views between products and what follows them."""
    layer = nn.TransformerEncoderLayer(32, 4, 48, batch_first=True, activation="gelu", norm_first=True)
    cases: dict[str, Case] = {"layer": (layer, [normal(1, 13, 32)])}
    assert families(check(cases, HOST)) == ["rows", "matmul", "attention", "matmul", "rows", "matmul", "matmul"]


def test_multihead_attention_with_masks_and_other_keys() -> None:
    layer = nn.MultiheadAttention(16, 2, batch_first=True)
    padding = torch.zeros(2, 6)
    padding[1, 4:] = -INF
    cases: dict[str, Case] = {
        "other": (lambda q, k: layer(q, k, k, need_weights=False)[0], [normal(2, 5, 16), normal(2, 6, 16, seed=1)]),
        "masked": (
            lambda q, k, m, p: layer(q, k, k, attn_mask=m, key_padding_mask=p, need_weights=False)[0],
            [normal(2, 5, 16), normal(2, 6, 16, seed=1), normal(5, 6, seed=2), padding],
        ),
        "weights": (lambda q, k: layer(q, k, k)[1], [normal(2, 5, 16), normal(2, 6, 16, seed=1)]),
    }
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    check(cases, HOST)


def test_buffers_are_planned_however_many_heads() -> None:
    """What tasks lay out is in the plan's arena, and so in the peak memory that the report tells."""
    for heads, slots in ((2, 2), (12, 12), (40, 32)):
        shape = (1, heads, 133, 133, 32, 32)
        lowered = check({str(shape): (F.scaled_dot_product_attention, operands(*shape))}, HOST)
        assert lowered.plan is not None
        assert lowered.plan.arena_bytes >= slots * 2 * 4 * 133 * 32
        assert b"AllocWorkspace" not in lowered.code


def test_what_is_fused_behind() -> None:
    def twice(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y = F.scaled_dot_product_attention(q, k, v)
        return y.sum(1) + y.transpose(1, 2)[:, :, 0]

    cases: dict[str, Case] = {
        "relu": (lambda q, k, v: F.relu(F.scaled_dot_product_attention(q, k, v) + 0.1), operands(1, 2, 9, 9, 8, 12)),
        "transposed and scaled": (
            lambda q, k, v: F.scaled_dot_product_attention(q, k, v).transpose(1, 2) * 2.0,
            operands(1, 2, 9, 9, 8, 12),
        ),
        "read twice": (twice, operands(1, 2, 9, 9, 8, 12)),
    }
    check(cases, HOST)
