"""FitAct: a learnt bound for every neuron, all trained together.

    before: relu1 -> conv -> relu2
    after:  relu1 -> bound(None, upper (C, H, W), "zero") -> conv -> relu2 -> bound(None, upper (D, H, W), "zero")

What exceeds its neuron's bound is most likely a fault and becomes 0. The bounds cost as much memory as all activations of one sample;
`proact` has them in one layer only.

Not bounded: logits, and what `bound_sites` leaves alone, with a word in the log. An activation with negative results gets two bounds.
Where the size of an activation is not fixed, it gets one bound for the layer. Bounds stand behind activations, so `fold-batch-norm` may
come before or after.

Paper: B. Ghavami et al., "FitAct: Error Resilient Deep Neural Networks via Fine-Grained Post-Trainable Activation Functions", DATE 2022,
arXiv 2112.13544: FitReLU, a smooth roll-off of slope 20 around a trained bound per neuron, after the weights were trained.

Ours on purpose: the slope is 20 / bound, the same at every scale, and the deployed form is the hard one; bounds start above the profiled
maximum, with a floor for neurons that never fire; distillation is part of the loss, so labels are optional; the pull falls until the
budget is met, where the paper's authors and the reliable-relu toolbox (Adam 1e-3, 100 epochs, 4e-11 * mean(bound^2)) have a fixed one;
batch norm stays frozen. The toolbox mixes maxima over channels, so that its bounds start as the layer's; here they are the neurons'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from effc.passes.bound_sites import BoundSite
from effc.passes.bound_training import BoundTraining, Grain

__all__ = ["Fitact"]


@dataclass(frozen=True)
class Fitact(BoundTraining):
    """Learn a bound for every neuron, all at once.

    Options are those of `BoundTraining`; `epochs` is for all.
    """

    epochs: int = 20

    name: ClassVar[str] = "fitact"

    def grain(self, site: BoundSite) -> Grain:
        return "neuron"

    def stages(self, bounds: Sequence[Sequence[str]]) -> list[list[str]]:
        return [[name for of_site in bounds for name in of_site]] if bounds else []
