"""ProAct: bounds that are learnt layer by layer, one a neuron in front of the classifier and one a layer elsewhere.

    before: relu1 -> conv -> relu2 -> pool -> linear
    after:  relu1 -> bound(None, 3.1, "zero") -> conv -> relu2 -> bound(None, upper (C, H, W), "zero") -> pool -> linear

A faulty weight shows as activations that are far too large. A bound sends what exceeds it to 0, and the smaller it is, the more it
catches. ProAct makes bounds as small as the budget allows: it trains them from the last layer to the first, one layer at a time, all others
frozen, by cross-entropy (where the data have labels), distillation from the program before the pass, and a pull on the bound. Bounds per
neuron catch more and cost more memory: they stand at the last layer only, which feeds the classifier (hybrid).

Not bounded: logits, and what `bound_sites` leaves alone, with a word in the log. A GELU or another activation with negative results gets
two bounds. Every head has its own last layer. Where the size of the last activation is not fixed, it gets one bound for the layer. Bounds
stand behind activations, so `fold-batch-norm` may come before or after.

Paper: S. Mousavi et al., "ProAct: Progressive Training for Hybrid Clipped Activation Function to Enhance Resilience of DNNs",
arXiv 2406.06313: HyReLU, hybrid bounds and progressive training. Read from its abstract and its authors' reliable-relu toolbox; epochs and
weights of the loss are ours.

Ours on purpose, where the toolbox does otherwise:
- the slope of the smooth form is 20 / bound, not 20: the same at every scale (`effc.ir.ops.bound`); the deployed form is the hard one;
- bounds start above the profiled maximum, as the smooth form halves a value at its bound; steps and pull are relative to that start;
- the pull is a term of the loss over squares, not weight decay over eleven powers of ten: it falls by 10 whenever the budget is missed;
- the budget opens stage by stage, so that the layers that train first do not spend all of it;
- the budget counts a loss of quality only, not a gain, on data that are neither trained on nor the test data; batch norm stays frozen;
- per-neuron maxima never mix channels, and every activation of the graph is seen, functional and shared ones, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from effc.passes.bound_sites import BoundSite
from effc.passes.bound_training import BoundTraining, Grain

__all__ = ["Proact"]


@dataclass(frozen=True)
class Proact(BoundTraining):
    """Learn bounds from the last activation to the first, per neuron at the last one and per layer elsewhere.

    Options are those of `BoundTraining`, whose `epochs` is for each layer, and

    Attributes:
        elsewhere: one bound a `layer` where no classifier follows, the paper's; or one a `channel`, effc's extension: it catches more, for
            as many numbers as a bias has.
    """

    elsewhere: Literal["layer", "channel"] = "layer"

    name: ClassVar[str] = "proact"

    def grain(self, site: BoundSite) -> Grain:
        return "neuron" if site.last else self.elsewhere

    def stages(self, bounds: Sequence[Sequence[str]]) -> list[list[str]]:
        return [list(of_site) for of_site in reversed(bounds)]
