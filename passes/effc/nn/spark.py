"""The Spark Transformer's feed-forward network and attention: a part of the input predicts which neurons, or keys, matter.

With StatTopK of `effc.nn.statistical_top_k`, q[:r] the first r elements of the input and q[r:] the others,

    Spark-FFN(q)  = V [ gelu(StatTopK(K1^T q[:r])) * (K2^T q[r:]) ]
    Spark-Attn(q) = V [ softmax(StatTopK^{-inf}(K1^T q[:r])) * softplus(K2^T q[r:]) ]

(You et al., arXiv 2506.06644.) The predictor K1 costs no parameters of its own: it is the gate. gelu(0) is 0, and so is the
softmax of minus infinity, hence K2 and V are needed only where StatTopK left something.

Masks. Keys that a query must not see are no part of its row. If they stood in it as minus infinity, mean and deviation would be minus
infinity and NaN; as 0 or any other constant they would pull theta towards it, most for the early queries of a causal mask. So mean and
deviation are those of the visible keys alone, and `share` is one of the visible keys. The op knows whole rows only; it is given a row
that has exactly the statistics of the visible keys (`_visible_statistics`). Two rules keep a softmax defined where StatTopK alone
would leave nothing: a query's largest visible logit always stays (of one or two keys, none is over theta for a small share), and a
query that sees no key gets 0. How the paper treats masks was not available when this was written.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effc.errors import ConfigError, UsageError
from effc.nn.rotary import turned
from effc.nn.statistical_top_k import StatisticalTopK

__all__ = ["SparkAttention", "SparkFFN"]


class SparkFFN(nn.Module):
    """A gated feed-forward network whose gate is sparse by construction.

    Args:
        width: elements of a token.
        hidden: neurons.
        predictor_width: r, the elements of a token that predict; between 0 and `width`, about half of it in the paper.
        share: of the neurons that stay; 0.08 in the paper.
        smoothing: of the threshold in training; see `StatisticalTopK`.

    Attributes:
        predictor: K1, a linear layer r -> hidden. `fit` of `top_k` wants its outputs: `ffn.top_k.fit(ffn.predictor(x[..., :r]))`.
        gated: K2, width - r -> hidden. output: V, hidden -> width. None has a bias.
        top_k: the `StatisticalTopK`.

    Shape:
        x: (..., width). Result: the same.

    Raises:
        ConfigError: a width or the share is out of range.
    """

    def __init__(self, width: int, hidden: int, predictor_width: int, share: float, smoothing: float = 0.0) -> None:
        super().__init__()
        _check_widths("SparkFFN", "width", width, predictor_width)
        if hidden < 1:
            raise ConfigError(f"SparkFFN: hidden is {hidden}, must be at least 1")
        self.predictor_width = predictor_width
        self.predictor = nn.Linear(predictor_width, hidden, bias=False)
        self.gated = nn.Linear(width - predictor_width, hidden, bias=False)
        self.output = nn.Linear(hidden, width, bias=False)
        self.top_k = StatisticalTopK(share, smoothing)

    def forward(self, x: Tensor) -> Tensor:
        r = self.predictor_width
        active = F.gelu(self.top_k(self.predictor(x[..., :r])))
        result: Tensor = self.output(active * self.gated(x[..., r:]))
        return result


class SparkAttention(nn.Module):
    """Self-attention in which each query of each head weighs about a share of the keys it may see.

    Args:
        width: elements of a token.
        heads: their number.
        head_width: elements of a head's queries, keys and values.
        predictor_width: r, the elements of a query that choose the keys; between 0 and `head_width`, half of it in the paper.
        share: of a query's visible keys that stay.
        causal: whether a token sees itself and earlier ones only.
        rotary_base: of the rotary embedding, which turns both parts of queries and keys by themselves (`effc.nn.rotary`); None leaves it
            out. Both parts must have even widths with it.
        scale: factor of the queries; None is head_width^-0.5, as in other attentions. The formula above has the factor inside q.

    Attributes:
        query, key, value: linear layers width -> heads * head_width; output: heads * head_width -> width. None has a bias.
        top_k: the `StatisticalTopK` of the form `mask`. Its `fit` wants logits of visible keys.

    Shape:
        x: (batch, tokens, width). mask: see `forward`. Result: (batch, tokens, width).

    Raises:
        ConfigError: a width or the share is out of range.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        head_width: int,
        predictor_width: int,
        share: float,
        *,
        causal: bool = False,
        rotary_base: float | None = 10000.0,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        _check_widths("SparkAttention", "head_width", head_width, predictor_width)
        if width < 1 or heads < 1:
            raise ConfigError(f"SparkAttention: width is {width} and heads {heads}, must both be at least 1")
        if rotary_base is not None and (predictor_width % 2 or (head_width - predictor_width) % 2):
            raise ConfigError(
                f"SparkAttention: the rotary embedding turns pairs, but the parts have {predictor_width} and "
                f"{head_width - predictor_width} elements; give even widths, or rotary_base=None"
            )
        self.heads, self.head_width, self.predictor_width = heads, head_width, predictor_width
        self.causal, self.rotary_base = causal, rotary_base
        self.scale = head_width**-0.5 if scale is None else scale
        self.query = nn.Linear(width, heads * head_width, bias=False)
        self.key = nn.Linear(width, heads * head_width, bias=False)
        self.value = nn.Linear(width, heads * head_width, bias=False)
        self.output = nn.Linear(heads * head_width, width, bias=False)
        self.top_k = StatisticalTopK(share, form="mask")

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            x: (batch, tokens, width).
            mask: (tokens, tokens), or four axes that broadcast to (batch, heads, queries, keys). Boolean: True where a query may see a
                key. Floating point: added to the predicting logits; minus infinity, or the dtype's lowest number, hides a key.

        Raises:
            UsageError: the mask has another number of axes or holds integers.
        """
        queries, keys, values = (self._by_head(layer(x)) for layer in (self.query, self.key, self.value))
        r = self.predictor_width
        queries = queries * self.scale
        predicting, visible = self._masked(self._logits(queries[..., :r], keys[..., :r]), mask)
        weighing = self._logits(queries[..., r:], keys[..., r:])
        weights = _chosen(predicting, visible, self.top_k).softmax(-1) * F.softplus(weighing)
        if visible is not None:
            weights = torch.where(visible, weights, torch.zeros_like(weights))  # of queries that see no key
        result: Tensor = self.output((weights @ values).transpose(1, 2).flatten(2))
        return result

    def _by_head(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], self.heads, self.head_width).transpose(1, 2)

    def _logits(self, queries: Tensor, keys: Tensor) -> Tensor:
        if self.rotary_base is not None:
            queries, keys = turned((queries, keys), self.rotary_base)
        return queries @ keys.transpose(-1, -2)

    def _masked(self, logits: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The logits with a mask's finite numbers added, and which of them are visible: None for all."""
        visible: Tensor | None = None
        if mask is not None:
            if mask.ndim not in (2, 4) or not (mask.dtype == torch.bool or mask.dtype.is_floating_point):
                why = "must be boolean or floating point, of 2 axes (queries, keys) or 4 (batch, heads, queries, keys)"
                raise UsageError(f"SparkAttention: the mask is {mask.dtype}{list(mask.shape)}; it {why}")
            visible = mask
            if mask.dtype.is_floating_point:
                visible = mask > torch.finfo(mask.dtype).min
                logits = logits + torch.where(visible, mask, torch.zeros_like(mask)).to(logits.dtype)
        if self.causal:
            seen = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
            visible = seen if visible is None else visible & seen
        return logits, None if visible is None else visible.expand_as(logits)


def _chosen(logits: Tensor, visible: Tensor | None, top_k: StatisticalTopK) -> Tensor:
    """The logits over theta and each row's largest, up to a shift of each row, which a softmax does not see; else minus infinity.

    A row without a visible key comes back without minus infinities, so that its softmax, and the gradient of it, are finite.
    """
    nothing = torch.full((), -torch.inf, dtype=logits.dtype, device=logits.device)
    if visible is None:
        return torch.where(logits >= logits.amax(-1, keepdim=True), logits, top_k(logits))
    centred, spread, empty = _visible_statistics(logits, visible)
    kept = top_k(torch.cat([centred, spread, -spread], -1))[..., : logits.shape[-1]]
    largest = torch.where(visible, centred, nothing).amax(-1, keepdim=True)
    kept = torch.where(centred >= largest, centred, kept)
    return torch.where(visible | empty, kept, nothing)


def _visible_statistics(logits: Tensor, visible: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What makes a row of n visible among t keys have the mean and deviation of the visible ones alone.

    Let s be the deviation of the visible logits. The hidden ones become the mean, here 0, which leaves the mean and takes
    (t - n) s^2 from the sum of squares that t elements with the deviation s would have. Two further elements, +b and -b with
    b = s * sqrt((t - n + 2) / 2), leave the mean and bring the sum of squares to (t + 2) s^2.

    Returns:
        The centred logits with 0 for hidden ones; b, one a row; whether a row has no visible key. Mean and b carry no gradient: the form
        `mask` gives theta none, and a softmax does not see the mean.
    """
    zero = torch.zeros((), dtype=logits.dtype, device=logits.device)
    wide = torch.promote_types(logits.dtype, torch.float32)  # float16 cannot count over 2048, nor bfloat16 over 256
    seen = visible.sum(-1, keepdim=True).to(wide)
    count = seen.clamp_min(1)
    mean = torch.where(visible, logits.detach(), zero).sum(-1, keepdim=True, dtype=wide) / count
    centred = torch.where(visible, logits - mean.to(logits.dtype), zero)
    squares = centred.detach().to(wide).square()
    deviation = (squares.sum(-1, keepdim=True) / count).sqrt()
    spread = deviation * ((logits.shape[-1] - seen + 2) / 2).sqrt()
    return centred, spread.to(logits.dtype), seen == 0


def _check_widths(layer: str, name: str, width: int, predictor_width: int) -> None:
    if not 0 < predictor_width < width:
        raise ConfigError(f"{layer}: predictor_width is {predictor_width}, must lie between 0 and {name}, {width}, without both")
