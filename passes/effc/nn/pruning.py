"""What a pruner decides: which weights go. Pure functions on tensors by name.

    scores = magnitude(weights)                       # or gradient(weights, gradients)
    masks = kept(scores, masks, 0.18)                 # of the remaining weights the 18 % with the lowest scores go
    masks = moved_least(weights, starts, masks, 50)   # and 50 negative ones that training has moved least

A mask is bool, True where a weight is alive, in the shape of the weight. What is masked already is neither counted nor chosen. Counts are
exact: equal scores go in the order of the mapping, then of the elements.

Scores. `magnitude` is |w|. `gradient` is |w * dL/dw|, the first-order estimate of how much the loss changes when w becomes 0: the Taylor
criterion of Molchanov et al. (arXiv 1611.06440, section 2.2), and the connection sensitivity of SNIP (Lee et al., arXiv 1810.02340,
section 4.1) without its normalisation, which changes no order.

`moved_least` is Activating-while-Pruning, "AP" (Liu et al., arXiv 2212.06145): a negative weight that goes raises what arrives at a ReLU,
so neurons that were dead may fire again; the ones that moved least have learnt least. It complements a pruner and replaces none.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Literal

import torch
from torch import Tensor

from effc.errors import ConfigError, Problem, UsageError, counted

__all__ = [
    "Scope",
    "all_alive",
    "best_of_rows",
    "for_sparsity",
    "gradient",
    "kept",
    "magnitude",
    "moved_least",
    "remaining",
    "without_lowest",
]

Scope = Literal["global", "layer"]
Tensors = Mapping[str, Tensor]


def magnitude(weights: Tensors) -> dict[str, Tensor]:
    """|w|."""
    return {name: weight.detach().abs() for name, weight in weights.items()}


def gradient(weights: Tensors, gradients: Tensors) -> dict[str, Tensor]:
    """|w * dL/dw|; `gradients` has the names and shapes of `weights`."""
    return {name: (weight.detach() * gradients[name].detach()).abs() for name, weight in weights.items()}


def all_alive(weights: Tensors) -> dict[str, Tensor]:
    """Masks of a network that nothing was pruned from."""
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}


def remaining(masks: Tensors, names: Collection[str] | None = None) -> int:
    """How many weights are alive; of the named tensors where `names` are given."""
    return sum(int(mask.sum()) for name, mask in masks.items() if names is None or name in names)


def for_sparsity(sparsity: float, share: float) -> list[float]:
    """The shares of the remaining weights that cycles remove, so that together they remove `sparsity` of all.

    As many cycles as are needed: each takes `share`, the last one what is left to do, at most `share`. For 0.8 and 0.2 these are eight,
    seven of 0.2 and one of 0.0463.

    Raises:
        ConfigError: `sparsity` is not in [0, 1) or `share` not in (0, 1).
    """
    if not (0.0 <= sparsity < 1.0 and 0.0 < share < 1.0):
        raise ConfigError(f"for_sparsity: sparsity {sparsity!r} must be in [0, 1), share {share!r} between 0 and 1")
    shares, left = [], 1.0
    while not math.isclose(left, 1.0 - sparsity, rel_tol=1e-12):
        step = min(share, 1.0 - (1.0 - sparsity) / left)
        shares.append(step)
        left *= 1.0 - step
    return shares


def kept(scores: Tensors, masks: Tensors, share: float, scope: Scope = "global", stay: Tensors | None = None) -> dict[str, Tensor]:
    """The masks after round(share * remaining) weights with the lowest scores are gone; see `without_lowest`.

    Raises:
        ConfigError: `share` is not in [0, 1].
    """
    if not 0.0 <= share <= 1.0:
        raise ConfigError(f"kept: share is {share!r}, must be in [0, 1]")
    return without_lowest(scores, masks, round(share * remaining(masks, scores)), scope, stay)


def without_lowest(scores: Tensors, masks: Tensors, count: int, scope: Scope = "global", stay: Tensors | None = None) -> dict[str, Tensor]:
    """The masks after exactly `count` weights with the lowest scores are gone.

    Args:
        scores: of the weights, by name, in the weights' shapes; larger is better.
        masks: of at least these tensors; those without scores are handed on.
        count: how many go.
        scope: `global` compares all scores with each other; `layer` takes of each tensor in proportion to what remains of it (the largest
            remainders get what rounding leaves over), and compares inside of it.
        stay: True where a weight must not go, by name; nothing must stay in tensors that it leaves out.

    Raises:
        ConfigError: `scope` is unknown.
        UsageError: a score that counts is NaN (training has diverged), or fewer than `count` weights may go.
    """
    if scope not in ("global", "layer"):
        raise ConfigError(f"pruning: scope is {scope!r}, must be global or layer")
    candidates = {name: _free(name, masks[name], stay) for name in scores}
    most = remaining(candidates)
    if count > most:
        raise UsageError(f"pruning: {counted(count, 'weight')} shall go, but only {most:,} of {remaining(masks, scores):,} may")
    if scope == "global":
        gone = _lowest(scores, candidates, count)
    else:
        sizes = [remaining(masks, [name]) for name in scores]
        parts = _apportioned(count, sizes, [remaining(candidates, [name]) for name in scores])
        gone = {name: _lowest({name: scores[name]}, {name: candidates[name]}, part)[name] for name, part in zip(scores, parts, strict=True)}
    return {name: mask & ~gone[name] if name in gone else mask for name, mask in masks.items()}


def moved_least(weights: Tensors, starts: Tensors, masks: Tensors, count: int, stay: Tensors | None = None) -> dict[str, Tensor]:
    """AP: the masks after the `count` negative weights that moved least are gone.

    Args:
        weights: as training has left them.
        starts: as they were when this cycle of training began; names and shapes of `weights`.
        masks: of at least these tensors; only what is alive can go.
        count: how many go. Where fewer weights are negative, all these go and no more: the difference of `remaining` before and after
            tells how many, and the base pruner owes the rest.
        stay: see `without_lowest`.

    Raises:
        UsageError: a weight is NaN.
    """
    moved = {name: (weight.detach() - starts[name].detach()).abs() for name, weight in weights.items()}
    candidates = {name: _free(name, masks[name], stay) & ~(weight.detach() >= 0) for name, weight in weights.items()}
    gone = _lowest(moved, candidates, min(count, remaining(candidates)))
    return {name: mask & ~gone[name] if name in gone else mask for name, mask in masks.items()}


def best_of_rows(scores: Tensors, masks: Tensors, rows: Mapping[str, int]) -> dict[str, Tensor]:
    """For `stay`: in each row of some tensors the alive weight with the highest score, the first of equals.

    Without it a pruner may cut an output off from all its inputs, and the network can never give that class for a reason again.

    Args:
        scores, masks: by name.
        rows: which tensors, and the axis that counts their rows (their outputs): 0 as torch stores layers.
    """
    found = {}
    for name, axis in rows.items():
        lowest = torch.full((), -1.0, dtype=torch.float64, device=scores[name].device)
        alive = masks[name].movedim(axis, 0)
        flat = torch.where(alive, scores[name].detach().double().movedim(axis, 0), lowest).reshape(alive.shape[0], -1)
        best = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, flat.argmax(1, keepdim=True), True)
        found[name] = (best.reshape(alive.shape) & alive).movedim(0, axis)
    return found


def _free(name: str, mask: Tensor, stay: Tensors | None) -> Tensor:
    return mask if stay is None or name not in stay else mask & ~stay[name]


def _lowest(scores: Tensors, candidates: Tensors, count: int) -> dict[str, Tensor]:
    """True at the `count` lowest scores among the candidates."""
    names = list(candidates)
    flat = torch.cat([scores[name].detach().reshape(-1).double() for name in names])
    chosen = torch.cat([candidates[name].reshape(-1) for name in names])
    positions = chosen.nonzero().squeeze(1)
    values = flat[positions]
    if bool(values.isnan().any()):
        bad = [name for name in names if bool((scores[name].isnan() & candidates[name]).any())]
        problems = [Problem(name, "score", "is NaN", "training has diverged: lower the learning rate") for name in bad]
        raise UsageError("pruning: weights cannot be compared", problems)
    gone = torch.zeros_like(chosen)
    gone[positions[torch.argsort(values, stable=True)[:count]]] = True
    parts = torch.split(gone, [candidates[name].numel() for name in names])
    return {name: part.reshape(candidates[name].shape) for name, part in zip(names, parts, strict=True)}


def _apportioned(count: int, sizes: list[int], most: list[int]) -> list[int]:
    """`count` divided in proportion to sizes by largest remainders, no part over its limit; what a limit cuts goes to the others."""
    given = [0] * len(sizes)
    while count:
        open_ = [index for index, (part, limit) in enumerate(zip(given, most, strict=True)) if part < limit]
        whole = sum(sizes[index] for index in open_)
        parts = {index: divmod(count * sizes[index], whole) for index in open_}
        over = count - sum(quotient for quotient, _ in parts.values())
        extra = set(sorted(open_, key=lambda index: -parts[index][1])[:over])
        for index in open_:
            step = min(parts[index][0] + (index in extra), most[index] - given[index])
            given[index] += step
            count -= step
    return given
