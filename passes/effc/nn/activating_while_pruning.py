"""`ActivatingWhilePruning`, AP: a share of each cycle's pruning goes to negative weights that training has moved least.

    of the remaining weights the share p goes:  p - a by the base pruner, a by AP        p = 20 %, a = 2 %

Dropping a negative weight raises what arrives at a ReLU, so that neurons which were dead may fire again: the share of dynamically dead
neurons falls as pruning goes on, and AP lets it fall further. It is an addition to a pruner, any of `IterativePruning`'s, and counts inside
of the budget: with and without AP a cycle removes the same number of weights. Where fewer weights are negative than AP shall take, the base
pruner takes the rest; `history` tells how many AP took.

Paper: S. Liu et al., "AP: Selective Activation for De-sparsifying Pruned Neural Networks", arXiv 2212.06145 (TMLR 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from effc.nn.iterative_pruning import IterativePruning

__all__ = ["ActivatingWhilePruning"]


class ActivatingWhilePruning(IterativePruning):
    """`IterativePruning` where AP chooses 2 % of the remaining weights in each cycle, of the 20 % that go: the paper's setting.

        callback = ActivatingWhilePruning(["conv1.weight", "fc.weight"], cycles=10, epochs=50)
        Trainer(max_epochs=callback.fit_epochs, callbacks=[callback]).fit(module, data)

    Args:
        weights: names of parameters, see `IterativePruning`.
        ap_share: of the remaining weights, at most `share`; a sequence gives one a cycle.
        options: all other arguments of `IterativePruning`.
    """

    def __init__(self, weights: Sequence[str], *, ap_share: float | Sequence[float] = 0.02, **options: Any) -> None:
        super().__init__(weights, ap_share=ap_share, **options)
