"""Statistical top-k: Spark's feed-forward part: keep of every token what lies over its mean by a number of standard deviations.

    before: down(act(first(x)))                                    down(act(gate(x)) * up(x))
    after:  down(act(effc::statistical_top_k(first(x), q, form)))  down(act(effc::statistical_top_k(gate(x), q, form)) * up(x))

q = Q(sparsity), the quantile of the standard normal distribution: of a Gaussian row about k = (1 - sparsity) * width elements stay,
without a sort (section 3: theta = mean + std * Q(1 - k/d)). `calibrate=true` takes for q the quantile of (x - mean) / std on the fit
data, which holds the count for rows of any shape; the log gives the measured density in both cases.

`form=soft` is the paper's max(x - theta, 0), which shifts what stays: for networks that were trained with it. `form=hard` leaves what
stays as it is (and zeros the rest in front of the activation), a deviation for networks that were trained dense.

Does not fire where the activation of zero is not zero (sigmoid, softplus), where the activation is no linear layer's, where rows are
split behind it, and where there is a statistical top-k already. The paper's predictor, the first r
inputs of the gate, is a way to train a network and not part of this pass.

Paper: C. You et al., "Spark Transformer: Reactivating Sparsity in FFN and Attention", NeurIPS 2025, arXiv 2506.06644, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from effc.ir import Edit, Program
from effc.ir.ops.statistical_top_k import STATISTICAL_TOP_K
from effc.passes.base import Context
from effc.passes.mlp_patterns import Mlp, keeps_zero
from effc.passes.profiling import profile
from effc.passes.quantiles import Quantiles
from effc.passes.row_pass import RowPass

__all__ = ["StatisticalTopk"]


@dataclass(frozen=True)
class StatisticalTopk(RowPass):
    """Keep of every row in feed-forward parts what lies over its mean by a number of standard deviations.

    Attributes:
        sparsity, max_drop, layers: see `RowPass`.
        form: `soft` also subtracts the threshold from what stays, as the paper does; `hard` leaves it as it is.
        calibrate: whether the number of deviations is fitted on data; else it is the one for Gaussian rows.
    """

    form: Literal["soft", "hard"] = "soft"
    calibrate: bool = False

    name: ClassVar[str] = "statistical-topk"

    def obstacle(self, program: Program, part: Mlp) -> str:
        if any(node.target == STATISTICAL_TOP_K.overload for node in (part.pre, *part.inside)):
            return "has a statistical top-k already"
        if part.pre.meta["val"].shape[-1] != part.width:
            return "its rows are cut behind the activation's input"
        return "" if keeps_zero(program, part) else "its activation of zero is not zero: what is dropped in front of it would not be"

    def measure(self, program: Program, parts: Sequence[Mlp], context: Context) -> dict[str, Quantiles]:
        if not self.calibrate or context.fit is None:
            return {}
        watching = {part.name: _Deviations() for part in parts}
        more = {part.pre.name: [watching[other.name] for other in parts if other.pre is part.pre] for part in parts}
        profile(program, [part.pre for part in parts], context.fit, context.progress, f"{self.name}: calibrating", more=more)
        return {name: one.counts for name, one in watching.items()}

    def put(self, edit: Edit, part: Mlp, level: float, measured: Quantiles | None) -> str:
        gaussian = float(torch.special.ndtri(torch.tensor(level, dtype=torch.float64)))
        deviations = gaussian if measured is None else float(measured.quantile(level))
        pre = edit.node(part.pre.name)
        new = edit.call(STATISTICAL_TOP_K.overload, (pre, deviations, self.form), like=pre)
        for node in part.inside:
            edit.node(node.name).replace_input_with(pre, new)
        fitted = f", fitted for {level:.1%} zeros (Gaussian rows: {gaussian:.4g})" if measured is not None else f", for {level:.1%} zeros"
        return f"what is over a row's mean by {deviations:.4g} deviations stays ({self.form}{fitted})"


class _Deviations:
    """Counts (x - mean) / std of the rows of a value."""

    def __init__(self) -> None:
        self.counts = Quantiles(signed=True)

    def see(self, value: Tensor) -> None:
        rows = value.float()
        centred = rows - rows.mean(-1, keepdim=True)
        deviation = centred.square().mean(-1, keepdim=True).sqrt()
        self.counts.add(torch.where(deviation > 0, centred / deviation.clamp_min(torch.finfo(torch.float32).tiny), 0.0))
