"""TEAL: zero the small inputs of every linear layer, by one threshold a layer, without training.

    before: linear(x, W, b)
    after:  linear(effc::sparsify(x, t, "magnitude"), W, b)        s_t(x) = x * 1[|x| > t]

t is the quantile of |x| on the fit data at the layer's sparsity p_m (section 4); the p_m of a block's layers share a budget of weight
bytes, greedily by the block's error on the selection data (section 4.1; see `effc.passes.allocation`) or uniformly. Layers
with one input and one threshold (q, k and v under a uniform allocation) share the sparsify node; with different thresholds each has its
own.

Does not fire on the head, on a layer whose input has a threshold already, and where the threshold would
be 0: as many zeros as wanted are there by themselves. Convolutions are `fatrelu`'s.

Deviations from the paper. Its code takes ICDF(0.5 + p/2) of a histogram of x, which assumes that x is symmetric about zero; the quantile
of |x| itself needs no such thing, and inputs behind a ReLU are not symmetric. Calibration and evaluation use every position, where the
paper's evaluation leaves the first half of a prompt dense.

Paper: J. Liu, P. Ponnusamy, T. Cai, H. Guo, Y. Kim, B. Athiwaratkun, "Training-Free Activation Sparsity in Large Language Models", ICLR
2025, arXiv 2408.14690.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from effc.passes.linear_sites import LinearSite
from effc.passes.threshold_pass import ThresholdPass

__all__ = ["Teal"]


@dataclass(frozen=True)
class Teal(ThresholdPass):
    """Zero the small inputs of linear layers, by one threshold a layer.

    Attributes: see `ThresholdPass`.
    """

    name: ClassVar[str] = "teal"

    def scales(self, sites: Sequence[LinearSite]) -> dict[str, Tensor]:
        return {}
