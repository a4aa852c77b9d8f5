"""The passes: the table. One file per pass."""

from __future__ import annotations

from effc.passes.base import Context, Decision, Pass, Progress
from effc.passes.eliminate_dead import EliminateDead
from effc.passes.fold_batch_norm import FoldBatchNorm
from effc.passes.fold_constants import FoldConstants
from effc.passes.pipeline import Pipeline
from effc.passes.ranger import Ranger
from effc.passes.spec import format_pass, parse_passes

__all__ = ["PASSES", "Context", "Decision", "Pass", "Pipeline", "Progress", "format_pass", "parse_passes"]

PASSES: tuple[type[Pass], ...] = (EliminateDead, FoldConstants, FoldBatchNorm, Ranger)
