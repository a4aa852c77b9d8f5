"""The worst case: progressive bit search, which finds the few bits of the weights whose flips hurt most.

A. S. Rakin, Z. He and D. Fan, "Bit-Flip Attack: Crushing Neural Network with Progressive Bit Search", ICCV 2019, arXiv 1903.12269. Each
iteration computes the gradient once, with the weights as they stand, and then

1. searches within each layer: of the bits that raise the loss to first order (`effc.faultsim.bit_gradient`, eq. 5-8), the n_b best ones are
   flipped, the loss is measured, and they are flipped back;
2. searches across layers: the flips of the layer with the largest loss are made for good.

n_b is 1. Where no layer's loss is larger than before, it is raised by one for this iteration, until a layer's is, or until more flips would
be made than are left; then the search stops and says so. The measured loss decides across layers, the first-order estimate only within one.
How losses that are NaN or infinite compare: `effc.faultsim.labelled`. How such weights rank: `effc.faultsim.bit_gradient`.

A bit that was flipped may be flipped back where that raises the loss again. It is another flip, and makes the distance smaller.

"Layer" is one stored weight here. Results depend on the last bit of sums, so on the number of threads; given that, on the arguments alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from effc.data import Dataset
from effc.errors import ConfigError, Problem
from effc.faultsim.bit_gradient import Offer, offers
from effc.faultsim.labelled import Labelled, Loss
from effc.faultsim.weights_in_view import Place, WeightsInView
from effc.ir import Program

__all__ = ["SearchResult", "SearchSpec", "SearchStep", "search"]


@dataclass(frozen=True)
class SearchSpec:
    """What is searched.

    Attributes:
        view: number view of the weights: `int8` (symmetric, one scale a tensor), `f32`, or any other.
        flips: how many bits are flipped at most.
        candidates: elements of each tensor whose bits are looked at: those of largest |dL/dw|.
        bits: the positions that may be flipped, 0 the least significant; None for all.
        layers: shell patterns (`layer1.*`); a weight is taken when one fits its layer or its name. None given takes all.

    Raises:
        ConfigError: `flips` or `candidates` is not positive.
    """

    view: str = "int8"
    flips: int = 20
    candidates: int = 10
    bits: tuple[int, ...] | None = None
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        given = {"flips": self.flips, "candidates": self.candidates}
        problems = [Problem(name, str(value), "must be at least 1") for name, value in given.items() if value < 1]
        if problems:
            raise ConfigError("the bit search cannot be set up", problems)


@dataclass(frozen=True)
class SearchStep:
    """One flip that was made.

    Attributes:
        flip: its number, from 1.
        tensor: the stored weight, by the source's name. `layer`: the module or node that it belongs to.
        index: the element's position in the tensor. `bit`: 0 is the least significant one.
        before, after: the weight's value.
        loss: mean loss on the attack's samples after this flip, in nats; infinite where one sample's is.
        accuracy: on the evaluation's samples, after this flip.
        distance: bits that differ from the golden weights after this flip (Hamming distance).
        together: how many bits were chosen together (n_b).
    """

    flip: int
    tensor: str
    layer: str
    index: tuple[int, ...]
    bit: int
    before: float
    after: float
    loss: float
    accuracy: float
    distance: int
    together: int


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        clean_accuracy: of the program as it is, on the evaluation's samples; 1 where it made the labels itself.
        quantised_accuracy: with its weights in the view, before any flip.
        quantised_loss: the same on the attack's samples, in nats.
        steps: the flips in their order.
        stopped: why there are fewer than asked for; empty where there are not.
        tensors: names of the weights that were searched. `population`: how many bits they have that may be flipped.
    """

    clean_accuracy: float
    quantised_accuracy: float
    quantised_loss: float
    steps: tuple[SearchStep, ...]
    stopped: str
    tensors: tuple[str, ...]
    population: int

    @property
    def distance(self) -> int:
        """Bits that differ from the golden weights in the end."""
        return self.steps[-1].distance if self.steps else 0


def search(
    program: Program,
    attack: Dataset,
    evaluate: Dataset,
    spec: SearchSpec,
    *,
    seed: int,
    progress: Callable[[SearchStep], None] | None = None,
) -> SearchResult:
    """Search the worst flips.

    Args:
        program: the network; it is not changed.
        attack: the samples whose loss is raised, 128 in the paper. Its labels, or the program's own predictions where it has none.
        evaluate: the samples that accuracy is counted on; labels likewise.
        spec: what is searched.
        seed: of the order in which weights are preferred whose losses are exactly equal. Nothing else is random.
        progress: called after each flip.

    Raises:
        ConfigError: the spec does not fit the program.
        DataError: data does not fit the program.
    """
    weights = WeightsInView(program, spec.view, spec.layers, spec.bits)
    attacked, judged = Labelled(program, attack), Labelled(program, evaluate)
    preference = [int(one) for one in np.random.default_rng(seed).permutation(len(weights.sites))]
    golden_accuracy, golden_loss = judged.accuracy(weights), attacked.loss(weights)
    steps: list[SearchStep] = []
    flipped: set[Place] = set()
    loss, stopped = golden_loss, ""
    while len(steps) < spec.flips:
        if loss.infinite == len(attacked):
            stopped = "the loss of every sample is infinite: there is nothing left to raise"
            break
        attacked.backward(weights)
        gradients = weights.gradients()
        tensors = zip(weights.sites, weights.words, gradients, strict=True)
        offered = [offers(site.view, words, gradient, weights.bits, spec.candidates) for site, words, gradient in tensors]
        places, stopped = _worst(weights, attacked, loss, offered, preference, spec.flips - len(steps))
        if stopped:
            break
        for place in places:
            before = weights.value(place)
            weights.flip(place)
            flipped ^= {place}
            loss = attacked.loss(weights)
            step = _step(weights, place, before, len(steps) + 1, loss, judged.accuracy(weights), len(flipped), len(places))
            steps.append(step)
            if progress is not None:
                progress(step)
    for place in flipped:
        weights.flip(place)
    weights.check_restored()
    names = tuple(site.name for site in weights.sites)
    return SearchResult(
        judged.accuracy_of_program, golden_accuracy, golden_loss.value, tuple(steps), stopped, names, weights.population.size
    )


def _worst(
    weights: WeightsInView, attacked: Labelled, loss: Loss, offered: Sequence[Sequence[Offer]], preference: Sequence[int], left: int
) -> tuple[list[Place], str]:
    """The flips of one iteration, which are flipped back here; or none, and why there are none."""
    if not any(offered):
        return [], "no flip of a candidate raises the loss to first order"
    for together in range(1, left + 1):
        worst, best = loss, -1
        for tensor in preference:
            if len(offered[tensor]) < together:
                continue  # the same flips were tried when one less was asked for
            trial = _trial(weights, attacked, _places(tensor, offered[tensor], together))
            if trial > worst:
                worst, best = trial, tensor
        if best >= 0:
            return _places(best, offered[best], together), ""
    return [], f"no weight's best flips raise the loss, from one of them to all {left} that were left"


def _places(tensor: int, offered: Sequence[Offer], together: int) -> list[Place]:
    return [Place(tensor, offer.element, offer.bit) for offer in offered[:together]]


def _trial(weights: WeightsInView, attacked: Labelled, places: Sequence[Place]) -> Loss:
    """The loss with some bits flipped; they are flipped back."""
    for place in places:
        weights.flip(place)
    try:
        return attacked.loss(weights)
    finally:
        for place in places:
            weights.flip(place)


def _step(
    weights: WeightsInView, place: Place, before: float, flip: int, loss: Loss, accuracy: float, distance: int, together: int
) -> SearchStep:
    site = weights.sites[place.tensor]
    after = weights.value(place)
    return SearchStep(flip, site.name, site.layer, weights.index(place), place.bit, before, after, loss.value, accuracy, distance, together)
