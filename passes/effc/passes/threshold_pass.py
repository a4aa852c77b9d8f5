"""What TEAL and WINA share: options, the allocation of sparsity, and what they tell. Their scores differ; see `teal` and `wina`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from effc.errors import DataError, counted
from effc.ir import Program
from effc.ir.ops.sparsify import SPARSIFY
from effc.passes.allocation import Allocation, greedy
from effc.passes.base import Context, Pass
from effc.passes.eliminate_dead import EliminateDead
from effc.passes.fold_batch_norm import FoldBatchNorm
from effc.passes.fold_constants import FoldConstants
from effc.passes.level_search import MOST, grid, within_budget
from effc.passes.linear_sites import LinearSite, check_layers, inner_sites
from effc.passes.profiling import remeasured
from effc.passes.rotate import Rotate
from effc.passes.thresholds import Calibrated, Sparsified, calibrate, insert

__all__ = ["ThresholdPass", "check_levels"]

Levels = Mapping[str, float]


def check_levels(sparsity: float, max_drop: float | None, layers: str, step: float = MOST) -> None:
    """Raise ValueError for options that make no sense."""
    if not 0 <= sparsity <= MOST:
        raise ValueError(f"sparsity must be between 0 and {MOST}")
    if max_drop is not None and not max_drop >= 0:
        raise ValueError("max-drop must not be negative")
    if not 0.001 <= step <= MOST:
        raise ValueError(f"step must be between 0.001 and {MOST}")
    check_layers(layers)


@dataclass(frozen=True)
class ThresholdPass(Pass):
    """A threshold in front of every linear layer but the head.

    Attributes:
        sparsity: the share of weight bytes that need not be read, of every block; in [0, 0.95]. Without effect beside `max_drop`.
        allocation: `greedy` shares it among a block's layers by the block's error, `uniform` gives it to each.
        max_drop: where given, sparsity is searched for: the most that costs no more of the metric than this on the selection data.
        step: between two levels of the search and of the greedy allocation.
        layers: a regular expression that is searched in the user's names of the layers; empty for all.
    """

    sparsity: float = 0.5
    allocation: Literal["greedy", "uniform"] = "greedy"
    max_drop: float | None = None
    step: float = 0.05
    layers: str = ""

    exact: ClassVar[bool] = False
    needs_data: ClassVar[bool] = True
    idempotent: ClassVar[bool] = False  # what was left alone may get a threshold: behind sparser layers its input has other zeros
    after: ClassVar[tuple[type[Pass], ...]] = (EliminateDead, FoldConstants, FoldBatchNorm, Rotate)

    def __post_init__(self) -> None:
        check_levels(self.sparsity, self.max_drop, self.layers, self.step)

    @property
    def needs_selection(self) -> bool:
        """Both choose by an error on data that the thresholds were not fitted on."""
        return self.max_drop is not None or self.allocation == "greedy"

    @abstractmethod
    def scales(self, sites: Sequence[LinearSite]) -> dict[str, Tensor]:
        """What the magnitudes of a site's inputs are multiplied with, by site name; nothing for 1."""

    def run(self, program: Program, context: Context) -> Program:
        if context.fit is None:
            raise DataError(f"pass {self.name} needs calibration data: give --data calib.npz")
        sites = self._open(inner_sites(program, self, context, self.layers), context)
        if not sites:
            return program
        fitted = calibrate(program, sites, self.scales(sites), context.fit, context.progress, f"{self.name}: calibrating")
        spread, shares = self._spread(program, fitted, context)

        def build(levels: Levels) -> Sparsified:
            return insert(program, fitted, levels, self.name)

        levels: Levels = spread(self.sparsity) if self.max_drop is None else {}
        if self.max_drop is not None:
            weights = {one.site.name: float(one.site.bytes) for one in fitted}
            levels = within_budget(
                self, program, context, build=build, spread=spread, weights=weights, step=self.step, max_drop=self.max_drop
            )
        made = build(levels)
        values = {*made.values.values(), *(one.site.input.name for one in fitted)}
        result = remeasured(made.program, values, context.fit, context.progress, f"{self.name}: measuring")
        for one in fitted:
            self._explain(one, levels[one.site.name], made, result.facts.values[made.values[one.site.name]].density, shares, context)
        return result

    def _open(self, sites: Sequence[LinearSite], context: Context) -> list[LinearSite]:
        """The sites whose input is not sparsified already."""
        for site in sites:
            if site.input.target == SPARSIFY.overload:
                context.log(self, site.node, False, f"{site.prefix}has a threshold already")
        return [site for site in sites if site.input.target != SPARSIFY.overload]

    def _spread(
        self, program: Program, fitted: Sequence[Calibrated], context: Context
    ) -> tuple[Callable[[float], dict[str, float]], dict[str, Allocation]]:
        """Levels by site from one level for every block, and for a given sparsity what each block does."""
        if self.allocation == "uniform" or context.selection is None:
            return lambda level: {one.site.name: level for one in fitted}, {}
        levels = grid(self.step) if self.max_drop is not None else grid(self.step, self.sparsity) if self.sparsity else []
        found = greedy(program, fitted, levels, self.step, context.selection, context.progress, f"{self.name}: sharing among layers")

        def spread(level: float) -> dict[str, float]:
            if level == 0:
                return {one.site.name: 0.0 for one in fitted}
            index = min(range(len(levels)), key=lambda place: abs(levels[place] - level))
            return {site: share for path in found.values() for site, share in path[index].levels.items()}

        return spread, {} if self.max_drop is not None or not levels else {name: path[-1] for name, path in found.items()}

    def _explain(
        self, one: Calibrated, level: float, made: Sparsified, density: float, shares: Mapping[str, Allocation], context: Context
    ) -> None:
        site, threshold = one.site, one.threshold(level)
        if site.name not in made.inserted:
            natural = f"{1 - density:.1%} of its input are zeros by themselves"
            why = "no threshold holds the metric" if level == 0 and self.max_drop is not None else f"a threshold for {level:.1%} would be 0"
            context.log(self, site.node, False, f"{site.prefix}{why}; {natural}")
            return
        finite = threshold[threshold.isfinite()]
        if threshold.ndim == 0:
            shown = f"{float(threshold):.4g}"
        else:
            shown = f"{float(finite.min()):.4g} to {float(finite.max()):.4g} by input" if finite.numel() else "none"
        never = threshold.numel() - finite.numel()
        shown += f" ({counted(never, 'input')} never needed)" if never else ""
        block = shares.get(site.block)
        shared = block is not None and len(block.levels) > 1
        error = f"; error of {site.block} {block.error:.3g}, {block.uniform_error:.3g} uniformly" if block is not None and shared else ""
        skipped = (1 - density) * site.bytes
        context.log(
            self,
            site.node,
            True,
            f"{site.prefix}threshold {shown} for {level:.1%} zeros: density {density:.1%} on {counted(one.facts.samples, 'sample')} "
            f"(before: {one.facts.density:.1%}); {skipped / 1000:,.1f} of {site.bytes / 1000:,.1f} kB of weights need not be read{error}",
        )
