"""`SparkFFN` and `SparkAttention` against the formulas written out token by token; masks; export."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from effc.errors import ConfigError, UsageError
from effc.frontends.torch import load_module
from effc.nn import SparkAttention, SparkFFN
from effc.nn.rotary import turned

TOKENS, WIDTH, HEADS, HEAD, R = 7, 12, 3, 6, 2


def tokens(batch: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- the feed-forward network --------------------------------------------------------------------------------------------------


def test_the_ffn_is_the_formula() -> None:
    torch.manual_seed(0)
    ffn = SparkFFN(12, 40, 5, 0.25).double()
    x = tokens(2)
    logits = x[..., :5] @ ffn.predictor.weight.T
    theta = logits.mean(-1, keepdim=True) + NormalDist().inv_cdf(0.75) * logits.std(-1, correction=0, keepdim=True)
    active = F.gelu((logits - theta).clamp_min(0))
    expected = (active * (x[..., 5:] @ ffn.gated.weight.T)) @ ffn.output.weight.T
    assert torch.allclose(ffn(x), expected, atol=1e-12)
    assert 0 < active.count_nonzero() < 0.4 * active.numel()
    assert sum(p.numel() for p in ffn.parameters()) == 2 * 12 * 40  # as an ungated network: the predictor costs nothing


def test_the_ffn_trains() -> None:
    torch.manual_seed(0)
    ffn = SparkFFN(12, 32, 6, 0.3, smoothing=0.5).double()
    x = tokens(4)
    target = torch.tanh(x.flip(-1))
    optimiser = torch.optim.Adam(ffn.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = F.mse_loss(ffn(x), target)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


# ---- attention -----------------------------------------------------------------------------------------------------------------


def attention(layer: SparkAttention, x: Tensor, visible: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Spark attention query by query, over lists of visible keys: nothing hidden can have an influence. And the weights."""
    batch, length, _ = x.shape
    queries, keys, values = (
        linear(x).reshape(batch, length, HEADS, HEAD).permute(0, 2, 1, 3) for linear in (layer.query, layer.key, layer.value)
    )
    queries = queries * layer.scale
    parts = [(queries[..., :R], keys[..., :R]), (queries[..., R:], keys[..., R:])]
    if layer.rotary_base is not None:
        parts = [turned(pair, layer.rotary_base) for pair in parts]
    weights = torch.zeros(batch, HEADS, length, length, dtype=x.dtype)
    visible = visible.expand(batch, HEADS, length, length)
    for b in range(batch):
        for h in range(HEADS):
            for q in range(length):
                seen = visible[b, h, q].nonzero().flatten()
                if not len(seen):
                    continue
                logits = parts[0][1][b, h, seen] @ parts[0][0][b, h, q]
                if bias is not None:
                    logits = logits + bias.expand(batch, HEADS, length, length)[b, h, q, seen]
                theta = logits.mean() + layer.top_k.deviations * logits.std(correction=0)
                stays = (logits > theta) | (logits == logits.max())
                chosen = seen[stays]
                gate = F.softplus(parts[1][1][b, h, chosen] @ parts[1][0][b, h, q])
                weights[b, h, q, chosen] = logits[stays].softmax(-1) * gate
    return layer.output((weights @ values).permute(0, 2, 1, 3).reshape(batch, length, HEADS * HEAD)), weights


def masks(batch: int) -> dict[str, Tensor | None]:
    generator = torch.Generator().manual_seed(3)
    random = torch.rand(batch, HEADS, TOKENS, TOKENS, generator=generator) < 0.6
    random[0, 0, 2] = False  # a query that sees nothing
    random[1, 1, 3] = torch.arange(TOKENS) == 5  # one that sees one key
    padding = torch.ones(batch, 1, 1, TOKENS, dtype=torch.bool)
    padding[1, ..., 4:] = False
    return {"none": None, "random": random, "padding": padding, "window": torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(-2)}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ["none", "random", "padding", "window"])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_attention_is_the_formula_over_visible_keys_alone(causal: bool, name: str, share: float) -> None:
    """A share over one half puts theta under the mean, where what stands for hidden keys lies over it."""
    torch.manual_seed(0)
    layer = SparkAttention(WIDTH, HEADS, HEAD, R, share, causal=causal).double()
    x, mask = tokens(2), masks(2)[name]
    visible = torch.ones(TOKENS, TOKENS, dtype=torch.bool) if mask is None else mask
    if causal:
        visible = visible & torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()
    expected, weights = attention(layer, x, visible)
    assert torch.allclose(layer(x, mask), expected, atol=1e-12)
    assert (weights != 0).sum() < 0.9 * visible.expand_as(weights).sum()


def test_no_rotation_and_the_bare_formula_s_scale() -> None:
    torch.manual_seed(0)
    layer = SparkAttention(WIDTH, HEADS, HEAD, R, 0.3, rotary_base=None, scale=1.0).double()
    x = tokens(2)
    expected, _ = attention(layer, x, torch.ones(TOKENS, TOKENS, dtype=torch.bool))
    assert torch.allclose(layer(x), expected, atol=1e-12)
    order = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(layer(x[:, order]), layer(x)[:, order], atol=1e-12)  # no token has a position


def test_float_masks_hide_with_minus_infinity_or_the_lowest_number_and_add_the_rest() -> None:
    torch.manual_seed(0)
    layer = SparkAttention(WIDTH, HEADS, HEAD, R, 0.4).double()
    x, visible = tokens(2), masks(2)["random"]
    assert visible is not None
    bias = torch.randn(TOKENS, TOKENS, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected, _ = attention(layer, x, visible, bias)
    for hidden in (-math.inf, torch.finfo(torch.float64).min):
        assert torch.allclose(layer(x, torch.where(visible, bias, hidden)), expected, atol=1e-12)
    for bad in (torch.ones(2, TOKENS, TOKENS), torch.ones(TOKENS, TOKENS, dtype=torch.int64)):
        with pytest.raises(UsageError, match="the mask is"):
            layer(x, bad)


def test_hidden_tokens_have_no_influence_and_get_no_gradient() -> None:
    """Not even huge ones: they would drown mean and deviation."""
    torch.manual_seed(0)
    layer = SparkAttention(WIDTH, HEADS, HEAD, R, 0.3, causal=True).double()
    x = tokens(1)
    later = x.clone()
    later[:, 4:] = 1e6 * tokens(1, seed=5)[:, 4:]
    assert torch.equal(layer(later)[:, :4], layer(x)[:, :4])
    x.requires_grad_()
    layer(x)[:, :4].sum().backward()
    assert torch.equal(x.grad[:, 4:], torch.zeros_like(x.grad[:, 4:]))
    assert (x.grad[:, :4] != 0).any(-1).all()


def test_a_query_that_sees_nothing_gives_zero_and_finite_gradients() -> None:
    torch.manual_seed(0)
    layer = SparkAttention(WIDTH, HEADS, HEAD, R, 0.3).double()
    x, mask = tokens(1).requires_grad_(), torch.ones(TOKENS, TOKENS, dtype=torch.bool)
    mask[3] = False
    result = layer(x, mask)
    result.square().sum().backward()
    assert torch.equal(result[:, 3], torch.zeros_like(result[:, 3]))
    assert all(tensor.grad.isfinite().all() for tensor in (x, *layer.parameters()))


def test_turned_products_depend_on_distances_only() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 8, generator=generator, dtype=torch.float64).expand(2, 6, 8)
    q, k = turned((query, key), 100.0)
    products = q @ k.T
    for distance in range(-5, 6):
        along = products.diagonal(distance)
        assert torch.allclose(along, along[:1].expand_as(along), atol=1e-6)  # angles are float32
    assert torch.allclose(q[0], query[0])
    assert q[1, 0].item() == pytest.approx(query[0, 0].item() * math.cos(1) - query[0, 4].item() * math.sin(1), abs=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SparkFFN(8, 16, 8, 0.1),
        lambda: SparkFFN(8, 0, 4, 0.1),
        lambda: SparkFFN(8, 16, 4, 1.0),
        lambda: SparkAttention(8, 2, 4, 0, 0.1),
        lambda: SparkAttention(8, 0, 4, 2, 0.1),
        lambda: SparkAttention(8, 2, 6, 3, 0.1),  # odd parts with a rotation
    ],
)
def test_arguments_out_of_range_are_refused(make: object) -> None:
    with pytest.raises(ConfigError):
        make()


# ---- export --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ffn", "attention", "causal", "causal and masked"])
def test_programs_have_a_symbolic_batch_and_one_statistical_top_k(kind: str) -> None:
    torch.manual_seed(0)
    layer = SparkFFN(WIDTH, 32, 6, 0.2, 0.5) if kind == "ffn" else SparkAttention(WIDTH, HEADS, HEAD, R, 0.4, causal="causal" in kind)

    def inputs(batch: int) -> tuple[Tensor, ...]:
        mask = masks(batch)["random"]
        return (tokens(batch).float(), mask) if "masked" in kind and mask is not None else (tokens(batch).float(),)

    program = load_module(layer.train(), inputs(2))
    assert program.interface.batch.symbolic, program.interface.batch.reason
    ops = [node for node in program.nodes if node.target == torch.ops.effc.statistical_top_k.default]
    assert [node.args[1:] for node in ops] == [(layer.top_k.deviations, "soft" if kind == "ffn" else "mask")]
    given = inputs(5)
    result = program.run(dict(zip([value.name for value in program.interface.inputs], given, strict=True)))["output"]
    assert torch.allclose(result, layer.eval()(*given), atol=1e-6)
