"""Thresholds in front of linear layers: measured on data, and put into a program. TEAL and WINA differ only in the score.

A score is |x_i| * scale_i with one scale an input (TEAL: 1; WINA: the norm of the weights that x_i meets). The smallest `level` share of
all scores that the fit data give at a site is dropped: with T their quantile, x_i is kept where |x_i| > T / scale_i.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from effc.data import Dataset
from effc.ir import Edit, Program, ValueFacts
from effc.ir.ops.sparsify import SPARSIFY
from effc.passes.base import Progress
from effc.passes.linear_sites import LinearSite
from effc.passes.profiling import profile
from effc.passes.quantiles import Quantiles

__all__ = ["Calibrated", "Sparsified", "calibrate", "insert"]


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A site with the scores that its input has on the fit data.

    Attributes:
        site: the linear layer.
        scores: their counts.
        scale: float32 (inputs,), not negative; None for 1.
        facts: of the site's input.
    """

    site: LinearSite
    scores: Quantiles
    scale: Tensor | None
    facts: ValueFacts

    def threshold(self, level: float) -> Tensor:
        """The threshold that drops this share of the scores, in [0, 1]: shape (), or (inputs,) with scales, in the input's dtype.

        Infinity for an input of scale 0, whose weights are all zero: it is never needed.
        """
        limit = self.scores.quantile(level)[0]
        if self.scale is not None:
            limit = torch.where(self.scale > 0, limit / self.scale.double(), torch.inf)
        return limit.to(self.site.input.meta["val"].dtype)


class _Scores:
    """Counts the scores of a value's elements."""

    def __init__(self, scale: Tensor | None) -> None:
        self.scale, self.counts = scale, Quantiles()

    def see(self, value: Tensor) -> None:
        self.counts.add(value if self.scale is None else value.float() * self.scale)


def calibrate(
    program: Program, sites: Sequence[LinearSite], scales: Mapping[str, Tensor], data: Dataset, progress: Progress, label: str
) -> list[Calibrated]:
    """Run the program on data and count the scores of every site's input.

    Args:
        program: what to run.
        sites: where to look.
        scales: by site name, (inputs,); empty for scores that are plain magnitudes, which sites with one input then share.
        data: every sample is used once.
        progress: shows the samples that are done, under `label`.

    Raises:
        DataError: an input is NaN or infinite on this data.
    """
    counting: dict[str, _Scores] = {}
    watching: dict[str, dict[str, _Scores]] = {}
    for site in sites:
        scale = scales.get(site.name)
        key = site.input.name if scale is None else site.name
        counting[site.name] = watching.setdefault(site.input.name, {}).setdefault(key, _Scores(scale))
    inputs = list({site.input: None for site in sites})
    more = {name: list(scores.values()) for name, scores in watching.items()}
    facts = profile(program, inputs, data, progress, label, histograms=True, more=more)
    return [Calibrated(site, counting[site.name].counts, counting[site.name].scale, facts[site.input.name]) for site in sites]


@dataclass(frozen=True)
class Sparsified:
    """A program with sparser values in it.

    Attributes:
        program: the rewritten program.
        values: by site name, the value in it whose density decides what the site can skip.
        inserted: the names of the sites that were rewritten.
    """

    program: Program
    values: Mapping[str, str]
    inserted: frozenset[str]


def insert(program: Program, sites: Sequence[Calibrated], levels: Mapping[str, float], name: str) -> Sparsified:
    """Put `effc::sparsify` in front of sites; sites with one input and one threshold share it.

    Args:
        program: what to rewrite.
        sites: calibrated on it.
        levels: by site name, the share of scores to drop. A site whose threshold is 0 is left as it is.
        name: of the thresholds: `<site>.<name>_threshold`.
    """
    edit = Edit(program)
    values: dict[str, str] = {}
    inserted = set()
    made: dict[tuple[str, bytes], str] = {}
    for one in sites:
        site = one.site
        threshold = one.threshold(levels.get(site.name, 0.0))
        values[site.name] = site.input.name
        if not bool((threshold > 0).any()):
            continue
        inserted.add(site.name)
        node = edit.node(site.name)
        key = (site.input.name, threshold.double().numpy().tobytes())
        if key not in made:
            stored = edit.add_tensor(f"{site.label}.{name}_threshold", threshold)
            made[key] = edit.call(SPARSIFY.overload, (edit.node(site.input.name), stored, "magnitude"), like=node, before=node).name
        node.update_arg(site.position, edit.node(made[key]))
        values[site.name] = made[key]
    return Sparsified(edit.done(), values, frozenset(inserted))
