"""Prune: weights of convolutions and linear layers become zero, or whole channels leave the program.

    per=weight     before: conv(x, W) -> relu        after: conv(x, W * mask) -> relu        as many zeros as `sparsity` says, exactly
    per=channel    before: conv1 (16, 3, 3, 3) -> relu -> conv2 (8, 16, 3, 3)
                   after:  conv1 (12, 3, 3, 3) -> relu -> conv2 (8, 12, 3, 3)                (`channels`, `channel_removal`)

Once, without training (`epochs=0`): the weights with the lowest scores go. In cycles (`epochs=N`): train N epochs, remove a share of the
remaining weights, set the survivors back, and again; after the last cycle the network trains N epochs more. Survivors go back to `--init`,
the parameters from before training; without it to the imported, trained weights. That is a deviation from the paper, which the log reports:
there survivors return to their random initialisation. (`effc.nn.ActivatingWhilePruning` is the paper's own form, for one's own training.)

With `ap=true` the share `ap-share` of what a cycle removes is chosen by Activating-while-Pruning: negative weights that moved least while
the cycle trained. Without training they are those that moved least from `--init` to the imported weights. It counts inside of the budget.

The loss is the cross-entropy with the labels of the data, without labels distillation from the program before the pass; SGD with
momentum 0.9 and weight decay 5e-4 (the paper's), a cosine from `learning-rate` to 0 in every cycle. Weights, biases and norms of layers
train, batch norms' statistics with them; other stored numbers (constants of a preprocessing, embeddings) stay as they are.

Does not fire on layers that `layers` leaves out and on weights that are not stored as floating-point tensors. Each output of a layer that
feeds no other keeps a weight: a class without any could not be told. What is zero already counts as pruned, so that a
program which is as sparse as wanted stays as it is. Channels go only where their removal is exact (see `channels`); that a group stays, and
why, is logged.

Magnitudes of different layers compare badly where batch norms were folded into them: `by=magnitude` may then empty a layer, which is warned
of. `by=layer-magnitude` cannot be misled so.

Order: batch norm must still be there to train, so this comes before `fold-batch-norm`.

Papers: Han et al., arXiv 1506.02626 (magnitude); Frankle and Carbin, arXiv 1803.03635 (cycles with rewinding); Liu et al., arXiv
2212.06145 (AP; dead neurons); Molchanov et al., arXiv 1611.06440, and Lee et al., arXiv 1810.02340 (`by=gradient`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from effc.errors import ConfigError, DataError, EffcWarning, Problem, UsageError, counted
from effc.ir import Program
from effc.nn.channel_pruning import alive_channels
from effc.nn.dead_rates import DeadRates
from effc.nn.pruning import Scope, for_sparsity, magnitude, remaining
from effc.nn.pruning_round import Pruned, prune
from effc.passes.base import Context, Pass
from effc.passes.channel_removal import remove_channels
from effc.passes.dead_relus import dead_relus, measure
from effc.passes.linear_sites import check_layers
from effc.passes.profiling import remeasured
from effc.passes.pruning_task import PruningTask, initial_for, task_for

__all__ = ["Prune"]

_STEP = 0.2  # of the remaining weights a cycle, where the number of cycles is not given


@dataclass(frozen=True)
class Prune(Pass):
    """Zero the least important weights, or remove the least important channels, once or in cycles of training.

    Attributes:
        sparsity: the share of the weights of convolutions and linear layers that are zero, or removed, at the end, in (0, 1). Of these that
            `layers` names where it is given. Whole channels reach it as closely as they can, from above.
        by: `magnitude` compares |w| over all layers, `layer-magnitude` removes the same share of each; `gradient` compares |w * dL/dw|,
            which needs labels.
        per: `weight` or `channel`.
        ap: whether Activating-while-Pruning chooses a part.
        ap_share: of what each cycle removes; 0.1 is the paper's 2 of 20 %.
        cycles: how often to prune while training, each time the same share of what remains; None for as many steps of 20 % as it needs.
        epochs: of each cycle and of the training after the last one; 0 prunes once and trains nothing.
        learning_rate: where each cycle's schedule begins.
        layers: a regular expression that is searched in the user's names of the layers; empty for all.
    """

    sparsity: float = 0.8
    by: Literal["magnitude", "layer-magnitude", "gradient"] = "magnitude"
    per: Literal["weight", "channel"] = "weight"
    ap: bool = False
    ap_share: float = 0.1
    cycles: int | None = None
    epochs: int = 0
    learning_rate: float = 0.01
    layers: str = ""

    name: ClassVar[str] = "prune"
    exact: ClassVar[bool] = False
    idempotent: ClassVar[bool] = False  # with per=channel what is left is pruned again

    def __post_init__(self) -> None:
        if not 0 < self.sparsity < 1:
            raise ValueError("sparsity must be between 0 and 1")
        if not 0 <= self.ap_share <= 1:
            raise ValueError("ap-share must be in [0, 1]")
        if self.epochs < 0 or (self.cycles is not None and self.cycles < 1):
            raise ValueError("epochs must not be negative, and cycles at least 1")
        if self.ap_share != type(self).ap_share and not self.ap:
            raise ValueError("ap-share is a part of what AP chooses: give ap=true, too")
        if self.cycles not in (None, 1) and not self.epochs:
            raise ValueError("several cycles need training between them: give epochs, too")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError("learning-rate must be positive")
        check_layers(self.layers)

    @property
    def needs_selection(self) -> bool:
        """Training is judged on data that it does not see."""
        return self.epochs > 0

    @property
    def trains(self) -> bool:
        return self.epochs > 0

    @property
    def uses_initial(self) -> bool:
        return self.epochs > 0 or self.ap

    @property
    def scope(self) -> Scope:
        """What scores are compared with."""
        return "layer" if self.by == "layer-magnitude" else "global"

    def shares_for(self, sparsity: float) -> list[float]:
        """What each cycle removes of what remains, so that `sparsity` of it is gone at the end."""
        return for_sparsity(sparsity, _STEP) if self.cycles is None else [1 - (1 - sparsity) ** (1 / self.cycles)] * self.cycles

    def requires(self, program: Program, context: Context) -> None:
        """Data for what needs them, and something that AP can measure movement by."""
        super().requires(program, context)
        if context.fit is None and (self.epochs or self.by == "gradient"):
            raise DataError(f"pass prune needs data for {'epochs' if self.epochs else 'by=gradient'}: give --data train.npz")
        if self.by == "gradient" and context.fit is not None and context.fit.labels is None:
            raise DataError("pass prune{by=gradient} needs labels (y in --data): by its own outputs a program has nothing to learn")
        if self.ap and not self.epochs and context.initial is None:
            why = "chooses weights that moved least, but nothing is trained here, and from where the program came is not known"
            raise ConfigError("pass prune cannot run", [Problem("prune", "ap=true", why, "give epochs=N, or --init weights.safetensors")])

    def run(self, program: Program, context: Context) -> Program:
        options: dict[str, Any] = {"sparsity": self.sparsity, "layers": self.layers, "channels": self.per == "channel"}
        task = task_for(self, program, context, **options, trained=self.epochs > 0 or self.by == "gradient")
        if task is None:
            return program
        relus, data = dead_relus(program), context.selection or context.fit
        before = None if data is None else measure(program, relus, data, context.progress, "prune: counting dead neurons")
        if self.epochs:
            from effc.passes.prune_training import train_and_prune

            self._pruned(task, magnitude(task.weights), task.weights)  # what cannot be reached is said before training, not after
            result, masks = train_and_prune(self, task, relus, context)
        else:
            result, masks = self._once(task, context)
        after = None if data is None else measure(result, relus, data, context.progress, "prune: counting dead neurons")
        self._explain(task, masks, before, after, context)
        if task.groups:
            result = remove_channels(result, alive_channels(masks, task.groups))
        if context.fit is not None and result.facts.values:
            return remeasured(result, (), context.fit, context.progress, "prune: measuring")
        return result.with_facts(result.facts.only(set()))

    def _once(self, task: PruningTask, context: Context) -> tuple[Program, Mapping[str, Tensor]]:
        scores = magnitude(task.weights)
        if self.by == "gradient":
            from effc.passes.prune_training import gradient_scores

            scores = gradient_scores(task, context)
        starts = initial_for(task.program, list(task.weights), context.initial or {}) if self.ap else {}
        done = self._pruned(task, scores, starts)
        if self.ap:
            context.log(self, task.program.provenance.source, True, f"AP chose {done.by_ap:,} of the {done.removed:,} weights that went")
        zeroed = {name: torch.where(done.masks[name], weight, torch.zeros_like(weight)) for name, weight in task.weights.items()}
        return task.program.with_parameters(zeroed), done.masks

    def _pruned(self, task: PruningTask, scores: Mapping[str, Tensor], starts: Mapping[str, Tensor]) -> Pruned:
        by_ap = round(self.ap_share * task.count) if self.ap else 0
        options: dict[str, Any] = {"scope": self.scope, "groups": task.groups, "outputs": task.outputs}
        try:
            return prune(task.weights, scores, task.masks, task.count, by_ap=by_ap, starts=starts, **options)
        except UsageError as error:
            problem = Problem("prune", f"sparsity={self.sparsity}", error.message, "ask for less")
            raise ConfigError("pass prune cannot run", [problem, *error.problems]) from error

    def _explain(
        self, task: PruningTask, masks: Mapping[str, Tensor], before: DeadRates | None, after: DeadRates | None, context: Context
    ) -> None:
        for one in task.layers:
            total, alive = masks[one.name].numel(), remaining(masks, [one.name])
            context.log(self, one.node, alive < total, f"{one.name}: {1 - alive / total:.1%} of {counted(total, 'weight')} pruned")
        empty = [one.label for one in task.layers if not remaining(masks, [one.name])]
        if empty:
            hint = "by=layer-magnitude removes the same share of each layer" if self.scope == "global" else "ask for less"
            warnings.warn(
                f"prune: nothing is left of {', '.join(empty)}: its inputs reach nothing any more; {hint}", EffcWarning, stacklevel=2
            )
        left = alive_channels(masks, task.groups)
        for group in task.groups:
            stay = int(left[group.name].sum())
            context.log(self, group.name, stay < group.size, f"{stay} of {counted(group.size, 'channel')} stay")
        whole, alive = sum(weight.numel() for weight in task.weights.values()), remaining(masks, task.weights)
        why = f"{1 - alive / whole:.2%} of {counted(whole, 'weight')} pruned"
        if before is not None and after is not None:
            dynamic, static = (f"{one:.1%} -> {other:.1%}" for one, other in zip(before, after, strict=True))
            why += f"; neurons dead dynamically {dynamic}, statically {static}"
        context.log(self, task.program.provenance.source, True, why)
