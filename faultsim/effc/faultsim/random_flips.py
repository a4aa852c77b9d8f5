"""The average case beside the worst one: accuracy after k flips drawn evenly from the bits that a bit search may flip.

Rakin et al. (ICCV 2019, arXiv 1903.12269, section 5) set both side by side: a network that withstands a hundred random flips may fall to a
dozen chosen ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effc.data import Dataset
from effc.errors import ConfigError
from effc.faultsim.bit_search import SearchSpec
from effc.faultsim.labelled import Labelled
from effc.faultsim.weights_in_view import Place, WeightsInView
from effc.ir import Program

__all__ = ["QUANTILES", "RandomFlips", "RandomLevel", "random_flips"]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class RandomLevel:
    """Accuracy after `flips` flips, over the draws. `quantiles`: linearly interpolated, at QUANTILES."""

    flips: int
    mean: float
    minimum: float
    quantiles: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class RandomFlips:
    """What random flips did.

    Attributes:
        clean_accuracy, quantised_accuracy, population: as in `SearchResult`.
        accuracies: after 1, 2, ... flips of each draw: (draws, flips) float64.
    """

    clean_accuracy: float
    quantised_accuracy: float
    population: int
    accuracies: NDArray[np.float64]

    @property
    def levels(self) -> tuple[RandomLevel, ...]:
        """One for each number of flips, from 1."""
        found = []
        for column in range(self.accuracies.shape[1]):
            values = self.accuracies[:, column]
            quantiles = tuple(float(one) for one in np.quantile(values, QUANTILES))
            found.append(RandomLevel(column + 1, float(values.mean()), float(values.min()), quantiles))
        return tuple(found)


def random_flips(
    program: Program,
    evaluate: Dataset,
    spec: SearchSpec,
    draws: int,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> RandomFlips:
    """Accuracy after random flips, in the population and the number view of a search.

    A draw is `spec.flips` different bits in random order; its first k are its k flips. Draws are independent of each other, the levels of
    one draw are not. Bits are drawn evenly over all bits of all weights, so larger weights get more.

    Args:
        program: the network; it is not changed.
        evaluate: the samples that accuracy is counted on; the program's own predictions where it has no labels.
        spec: view, flips, bits and layers; `candidates` has no meaning here.
        draws: how many. Each one runs the samples `spec.flips` times.
        seed: with a draw's number, names its random stream: more draws do not change the first ones.
        progress: called with 1 after each draw.

    Raises:
        ConfigError: the spec does not fit the program, it has fewer bits than flips, or `draws` is not positive.
        DataError: data does not fit the program.
    """
    if draws < 1:
        raise ConfigError(f"draws is {draws}; at least one is needed")
    weights = WeightsInView(program, spec.view, spec.layers, spec.bits)
    size = weights.population.size
    if spec.flips > size:
        raise ConfigError(f"{spec.flips} flips are asked for, and the chosen weights have {size} bits")
    judged = Labelled(program, evaluate)
    golden = judged.accuracy(weights)
    accuracies = np.empty((draws, spec.flips))
    for draw in range(draws):
        numbers = _generator(seed, draw).choice(size, spec.flips, replace=False)
        places = [Place(*(int(one) for one in row)) for row in zip(*weights.population.locate(numbers.astype(np.int64)), strict=True)]
        accuracies[draw] = _one(weights, judged, places)
        if progress is not None:
            progress(1)
    weights.check_restored()
    return RandomFlips(judged.accuracy_of_program, golden, size, accuracies)


def _one(weights: WeightsInView, judged: Labelled, places: Sequence[Place]) -> list[float]:
    found = []
    for place in places:
        weights.flip(place)
        found.append(judged.accuracy(weights))
    for place in places:
        weights.flip(place)
    return found


def _generator(seed: int, draw: int) -> np.random.Generator:
    sequence: Any = np.random.SeedSequence(entropy=seed, spawn_key=(draw,))
    return np.random.Generator(np.random.Philox(sequence))
