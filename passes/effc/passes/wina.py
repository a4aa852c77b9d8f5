"""WINA: zero the inputs of linear layers that matter little by their size and by the weights that they meet, without training.

    before: linear(x, W, b)
    after:  linear(effc::sparsify(x, t, "magnitude"), W, b)        t_i = T / |W_:,i|_2

An input is kept where |x_i| * |W_:,i|_2 > T (with W^T W diagonal, what is dropped adds x_i^2 |W_:,i|_2^2 to the squared
error). The norm is known when compiling, so it is folded into a threshold for each input, and one kernel serves TEAL and WINA. T is the
quantile of |x_i| * |W_:,i|_2 over all inputs on the fit data. Budgets as in `teal`.

Does not fire on the head, on a layer whose input has a threshold already, and where all thresholds
would be 0. An input whose weights are all zero has threshold infinity: it is never needed. Layers with one input have thresholds of their
own, for their weights differ: the kernels of q, k and v cannot share one list of inputs.

Deviation from the paper: it keeps the K largest of each token (a sort when running); here T is fixed, and the count of a token varies
about K. Its rotation of the weights, which makes W^T W diagonal, is the pass `rotate`.

Paper: S. Chen et al., "WINA: Weight Informed Neuron Activation for Accelerating Large Language Model Inference", arXiv 2505.19427.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from effc.passes.linear_sites import LinearSite
from effc.passes.threshold_pass import ThresholdPass

__all__ = ["Wina"]


@dataclass(frozen=True)
class Wina(ThresholdPass):
    """Zero the inputs of linear layers that are small against the weights that they meet.

    Attributes: see `ThresholdPass`.
    """

    name: ClassVar[str] = "wina"

    def scales(self, sites: Sequence[LinearSite]) -> dict[str, Tensor]:
        return {site.name: site.weight.double().norm(dim=0).float() for site in sites}
