"""The passes: the table. One file per pass."""

from __future__ import annotations

from effc.passes.base import Context, Decision, Pass, Progress
from effc.passes.curve import Curve, CurvePoint
from effc.passes.delta import Delta
from effc.passes.eliminate_dead import EliminateDead
from effc.passes.fatrelu import Fatrelu
from effc.passes.fitact import Fitact
from effc.passes.fold_batch_norm import FoldBatchNorm
from effc.passes.fold_constants import FoldConstants
from effc.passes.ft_clipact import FtClipact
from effc.passes.half_weights import HalfWeights
from effc.passes.pipeline import Pipeline
from effc.passes.proact import Proact
from effc.passes.profile import Profile
from effc.passes.prune import Prune
from effc.passes.ranger import Ranger
from effc.passes.rotate import Rotate
from effc.passes.spec import format_pass, parse_passes
from effc.passes.statistical_topk import StatisticalTopk
from effc.passes.teal import Teal
from effc.passes.topk import Topk
from effc.passes.wina import Wina

__all__ = ["PASSES", "Context", "Curve", "CurvePoint", "Decision", "Pass", "Pipeline", "Progress", "format_pass", "parse_passes"]

PASSES: tuple[type[Pass], ...] = (
    EliminateDead,
    FoldConstants,
    Prune,
    FoldBatchNorm,
    Profile,
    Rotate,
    Teal,
    Wina,
    Topk,
    StatisticalTopk,
    Fatrelu,
    HalfWeights,
    Ranger,
    FtClipact,
    Fitact,
    Proact,
    Delta,
)
