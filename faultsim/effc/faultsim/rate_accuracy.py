"""Accuracy at bit error rates, in memory: what a search asks of many candidates, without a campaign's folder and reports.

The draws are those of a campaign with the same seed, rates and view on the same program, and so are the accuracies, where the batch is the
campaign's. Candidates that have a tensor in common have its faults in common, too (`effc.faultsim.drawing`), so their accuracies are paired
and differ less by chance than those of different seeds would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from effc.data import Dataset
from effc.errors import DataError
from effc.faultsim.design import Design
from effc.faultsim.spec import spec_of
from effc.faultsim.subject import ProgramSubject
from effc.ir import Program

__all__ = ["rate_accuracy"]


def rate_accuracy(
    program: Program,
    data: Dataset,
    rates: Sequence[float],
    draws: int,
    *,
    where: Sequence[str] = ("parameters",),
    view: str = "stored",
    seed: int = 0,
    batch: int = 256,
    advance: Callable[[int], None] | None = None,
) -> NDArray[np.float64]:
    """The share of samples that are predicted as their label says, for every draw at every rate.

    Args:
        program: it is not changed. Its first output holds scores of classes, (N, C) or (N, T, C).
        data: all of it is used; it needs labels.
        rates: bit error rates in [0, 1), each once. At 0 nothing is faulty but the view still rounds: it is the clean accuracy in the view.
        draws: how many at each rate.
        where: kinds of sites (`effc.faultsim.sites.KINDS`), or `parameters` for all that is stored.
        view: number view of floating-point tensors.
        seed: the root of all randomness.
        batch: samples of one pass, at most 65536; a program with a fixed batch takes its own.
        advance: told of each draw that is done.

    Returns:
        (len(rates), draws) float64 in [0, 1], in the order of `rates`.

    Raises:
        ConfigError: an option is out of range, there is no such site, or the program streams.
        DataError: there are no labels, they do not fit the outputs, or a fault-free output is NaN.
    """
    if data.labels is None:
        raise DataError(
            "the data has no labels, so there is no accuracy: give labels, or the program's own fault-free predictions as labels"
        )
    size = data.unit or batch
    spec = spec_of({"where": tuple(where), "view": view, "seed": seed, "rates": tuple(rates), "draws": draws, "batch": size})
    if not spec.rates:
        return np.empty((0, draws))
    subject = ProgramSubject(program, "")
    sites = subject.sites(spec)
    images = subject.images(data, spec, size)
    design = Design.of(spec, sites, len(images))
    engine = subject.engine(spec, sites, images)
    found: dict[float | None, list[float]] = {}
    for index, group in enumerate(design.groups):
        records = engine.run([design.draw(index, number) for number in range(spec.draws)], advance or (lambda count: None))
        found[group.rate] = [record.correct / record.inferences for record in records]
    return np.array([found[rate] for rate in spec.rates], np.float64)
