"""What the two top-k passes share: they make the rows of a feed-forward part's activation sparse, at a level or under `max_drop`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from effc.errors import DataError, counted
from effc.ir import Edit, Program
from effc.ir.ops.keep_top_k import KEEP_TOP_K
from effc.ir.ops.statistical_top_k import STATISTICAL_TOP_K
from effc.passes.base import Context, Pass
from effc.passes.eliminate_dead import EliminateDead
from effc.passes.fold_batch_norm import FoldBatchNorm
from effc.passes.fold_constants import FoldConstants
from effc.passes.level_search import within_budget
from effc.passes.linear_sites import chosen
from effc.passes.mlp_patterns import Mlp, mlps
from effc.passes.profiling import remeasured
from effc.passes.quantiles import Quantiles
from effc.passes.threshold_pass import check_levels
from effc.passes.thresholds import Sparsified

__all__ = ["RowPass"]

_STEP = 0.05


@dataclass(frozen=True)
class RowPass(Pass):
    """Sparse rows in feed-forward parts.

    Attributes:
        sparsity: the share of a row that becomes zero, in [0, 0.95]. Without effect beside `max_drop`.
        max_drop: where given, sparsity is searched for: the most that costs no more of the metric than this on the selection data.
        layers: a regular expression that is searched in the user's names of the activations; empty for all.
    """

    sparsity: float = 0.5
    max_drop: float | None = None
    layers: str = ""

    exact: ClassVar[bool] = False
    after: ClassVar[tuple[type[Pass], ...]] = (EliminateDead, FoldConstants, FoldBatchNorm)
    needs_data: ClassVar[bool] = True
    idempotent: ClassVar[bool] = False  # what a search has left alone is searched again

    def __post_init__(self) -> None:
        check_levels(self.sparsity, self.max_drop, self.layers)

    @property
    def needs_selection(self) -> bool:
        return self.max_drop is not None

    @abstractmethod
    def obstacle(self, program: Program, part: Mlp) -> str:
        """Why a part cannot be made sparse; empty where it can."""

    @abstractmethod
    def put(self, edit: Edit, part: Mlp, level: float, measured: Quantiles | None) -> str:
        """Make a part sparse, with what was measured of it; returns in words what was done."""

    def measure(self, program: Program, parts: Sequence[Mlp], context: Context) -> dict[str, Quantiles]:
        """What `put` needs of the fit data, by part name."""
        return {}

    def run(self, program: Program, context: Context) -> Program:
        if context.fit is None:
            raise DataError(f"pass {self.name} needs calibration data: give --data calib.npz")
        found = mlps(program)
        if not found:
            context.log(self, program.provenance.source, False, "has no activation of one linear layer that another one reads")
        parts = [part for part in chosen(found, self, context, self.layers) if self._can(program, part, context)]
        if not parts:
            return program
        measured = self.measure(program, parts, context)

        def build(levels: Mapping[str, float]) -> Sparsified:
            return self._build(program, parts, levels, measured)[0]

        levels: Mapping[str, float] = {part.name: self.sparsity for part in parts}
        if self.max_drop is not None:
            weights = {part.name: float(part.skips) for part in parts}
            levels = within_budget(
                self,
                program,
                context,
                build=build,
                spread=lambda level: {part.name: level for part in parts},
                weights=weights,
                step=_STEP,
                max_drop=self.max_drop,
            )
        made, said = self._build(program, parts, levels, measured)
        own = {node.name for node in made.program.nodes if node.target in (KEEP_TOP_K.overload, STATISTICAL_TOP_K.overload)}
        result = remeasured(made.program, own | set(made.values.values()), context.fit, context.progress, f"{self.name}: measuring")
        for part in parts:
            if part.name not in made.inserted:
                context.log(
                    self, part.node, False, "no sparsity holds the metric" if self.max_drop is not None else "sparsity 0: nothing to do"
                )
                continue
            density = result.facts.values[made.values[part.name]].density
            readers = part.down.label if part.up is None else f"{part.up.label} and {part.down.label}"
            seen = f"density {density:.1%} on {counted(len(context.fit), 'sample')}"
            spared = f"{(1 - density) * part.skips / 1000:,.1f} of {part.skips / 1000:,.1f} kB of weights of {readers} need not be read"
            context.log(self, part.node, True, f"{said[part.name]}: {seen}; {spared}")
        return result

    def _can(self, program: Program, part: Mlp, context: Context) -> bool:
        why = self.obstacle(program, part)
        if why:
            context.log(self, part.node, False, why)
        return not why

    def _build(
        self, program: Program, parts: Sequence[Mlp], levels: Mapping[str, float], measured: Mapping[str, Quantiles]
    ) -> tuple[Sparsified, dict[str, str]]:
        edit = Edit(program)
        said = {part.name: self.put(edit, part, levels[part.name], measured.get(part.name)) for part in parts if levels[part.name] > 0}
        values = {part.name: _read_by(edit.node(part.down.name), part.down.position).name for part in parts}
        return Sparsified(edit.done(), values, frozenset(said)), said


def _read_by(node: fx.Node, position: int) -> fx.Node:
    found = node.args[position]
    assert isinstance(found, fx.Node)
    return found
