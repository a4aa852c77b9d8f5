"""`IterativePruning`: a Lightning callback that trains, prunes and rewinds in cycles.

    w0 = initial; mask = all alive
    for each cycle:
        w_start = w;  train `epochs` epochs on w * mask
        the share p of the remaining weights goes        (effc.nn.pruning_round: p - a by the base pruner, a by AP)
        w = mask * w0;  optimisers and learning-rate schedules as at the start
    train `epochs` epochs more

The loop is the iterative magnitude pruning of Frankle and Carbin (arXiv 1803.03635, section 2). After cycle k exactly
round(total * (1 - p_1) * ... * (1 - p_k)) weights remain, so rounding does not add up. Whole channels cannot meet a number exactly: a cycle
takes the fewest that reach it, and the next one so many fewer.

A cycle is pruned when the next one begins: what a checkpoint or a logger sees at the end of a cycle is the trained network.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from effc.errors import ConfigError, EffcWarning, Problem, UsageError
from effc.ir.torch_compat import import_lightning
from effc.nn.beginning import Beginning, tensors_of
from effc.nn.channel_group import ChannelGroup
from effc.nn.pruning import all_alive, gradient, magnitude, remaining
from effc.nn.pruning_plan import PruningPlan
from effc.nn.pruning_round import prune

__all__ = ["By", "Cycle", "IterativePruning"]

By = Literal["magnitude", "layer-magnitude", "gradient"]
_BY = ("magnitude", "layer-magnitude", "gradient")
_Callback = import_lightning().Callback


@dataclass(frozen=True)
class Cycle:
    """What a cycle of training came to.

    Attributes:
        remaining, total: weights that were alive while it trained, and at the start.
        removed: how many of them went after it; 0 for the last one.
        by_ap: how many of these AP chose.
        metrics: `trainer.callback_metrics` at its end, the scalars.
    """

    remaining: int
    total: int
    removed: int
    by_ap: int
    metrics: Mapping[str, float]

    @property
    def sparsity(self) -> float:
        """The share of weights that were zero while it trained."""
        return 1.0 - self.remaining / self.total


class IterativePruning(_Callback):  # type: ignore[misc, valid-type]
    """Train, prune, rewind, and again, in one `Trainer.fit` of `callback.fit_epochs` epochs.

    Masked weights are +0.0 after every optimiser step, and their gradients are 0, so that no momentum gathers for them. The callback's
    state is part of checkpoints: a fit that goes on from the end of an epoch ends with the same bits.

    Args:
        weights: names of parameters as in `named_parameters()` of the LightningModule: what is pruned, and what shares count.
        by: `magnitude` compares |w| over all of them, `layer-magnitude` inside each one; `gradient` compares |w * dL/dw|, summed over the
            steps of the cycle's last epoch.
        share: of the remaining weights, removed after a cycle; a sequence gives one a cycle (`effc.nn.pruning.for_sparsity`).
        ap_share: how much of `share` AP chooses, as a share of the remaining weights; a sequence gives one a cycle. 0 is no AP.
        cycles: how often it prunes; None for one a share that is given.
        epochs: of a cycle, and of the training after the last one.
        initial: what survivors are rewound to, by the module's names: parameters and buffers, batch norm's statistics included. None, and
            names that are left out, are rewound to their values when fit began.
        rewind: False lets survivors go on from their trained values; optimisers and schedules begin anew all the same.
        groups: the base pruner removes whole channels of these groups; slices of tensors that are no parameters are not masked.
        outputs: matrices none of whose rows may lose its last weight, and the axis that counts these rows (0 as torch stores layers).
        masks: what is alive when fit begins, by weight: bool; None for everything.

    Attributes:
        fit_epochs: (cycles + 1) * epochs, which must be the Trainer's `max_epochs`.
        masks: of the weights and, with groups, of all parameters that make or read channels.
        cycle: how often it has pruned.
        history: one `Cycle` for each that has ended. (Logged are `pruning/sparsity` and `pruning/cycle`.)

    Raises:
        ConfigError: an argument is out of range.
        UsageError: when fit begins: an unknown name, another shape, another `max_epochs`, a checkpoint of other options or without this
            callback. While pruning: scores are NaN, or too little is left to prune.
    """

    def __init__(
        self,
        weights: Sequence[str],
        *,
        by: By = "magnitude",
        share: float | Sequence[float] = 0.2,
        ap_share: float | Sequence[float] = 0.0,
        cycles: int | None = None,
        epochs: int,
        initial: Mapping[str, Tensor] | None = None,
        rewind: bool = True,
        groups: Sequence[ChannelGroup] = (),
        outputs: Mapping[str, int] | None = None,
        masks: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.weights, self.by, self.epochs, self.rewind = tuple(weights), by, epochs, rewind
        self.plan = PruningPlan.of(share, ap_share, cycles)
        self.groups, self.outputs = tuple(groups), dict(outputs or {})
        if isinstance(weights, str) or not weights or len(set(self.weights)) != len(self.weights):
            raise ConfigError(f"{type(self).__name__}: weights is {weights!r}; give a list of different parameter names, at least one")
        if by not in _BY or epochs < 1:
            raise ConfigError(f"{type(self).__name__}: by is {by!r}, epochs {epochs}; by must be one of {_BY}, epochs at least 1")
        self._given_initial, self._given_masks, self._resumed = initial, masks, False
        self._forget()

    def _forget(self) -> None:
        self.masks: dict[str, Tensor] = {}
        self.cycle, self.history = 0, list[Cycle]()
        self._total = 0
        self._metrics: dict[str, float] = {}  # of the cycle so far
        self._beginning: Beginning | None = None
        self._starts: dict[str, Tensor] = {}  # of AP
        self._sums: dict[str, Tensor] = {}  # of |w * dL/dw|

    @property
    def fit_epochs(self) -> int:
        """What the Trainer's `max_epochs` must be."""
        return (self.plan.cycles + 1) * self.epochs

    # ---- Lightning's hooks ---------------------------------------------------------------------------------------------------

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Before a checkpoint is read: forget an earlier fit."""
        if stage == "fit":
            self._resumed = False
            self._forget()

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Refuse what cannot work."""
        if trainer.max_epochs != self.fit_epochs:
            why = f"{self.plan.cycles} cycles and the training after them, {self.epochs} epochs each, need max_epochs={self.fit_epochs}"
            raise UsageError(f"{type(self).__name__}: {why}; the Trainer has {trainer.max_epochs}")
        self._check_names(tensors_of(pl_module), dict(pl_module.named_parameters(remove_duplicate=False)), type(pl_module).__name__)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Remember where everything begins, or take up a checkpoint."""
        tensors = tensors_of(pl_module)
        if not self._resumed and (trainer.global_step or trainer.current_epoch):
            why = "the checkpoint has no state of it: training has begun without it, and nothing can be rewound to its start"
            raise UsageError(f"{type(self).__name__}: {why}")
        if not self._resumed:
            self._begin(trainer, tensors)
        for held in (self.masks, self._starts, self._sums):
            held.update({name: value.to(tensors[name].device) for name, value in held.items()})
        self._zero(tensors)
        self._resumed = False

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Prune where a cycle has just ended."""
        if trainer.current_epoch == (self.cycle + 1) * self.epochs:
            self._prune(trainer, tensors_of(pl_module))

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """No gradient for what is masked; sums up scores where they need gradients."""
        is_last_epoch = self.cycle < self.plan.cycles and trainer.current_epoch == (self.cycle + 1) * self.epochs - 1
        stepping = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for name, parameter in pl_module.named_parameters(remove_duplicate=False):
            if name not in self.masks or parameter.grad is None or id(parameter) not in stepping:
                continue
            parameter.grad.masked_fill_(~self.masks[name], 0.0)
            if name in self._sums and is_last_epoch:
                found = gradient({name: parameter}, {name: parameter.grad})[name]
                # A step whose gradient overflows in mixed precision is skipped; it must not count.
                self._sums[name] = self._sums[name] + torch.where(found.isfinite().all(), found, torch.zeros_like(found))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After the optimiser's step: what is masked is zero, whatever the optimiser has done."""
        self._zero(tensors_of(pl_module))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log how far pruning is, and remember what is known before a checkpoint is written."""
        pl_module.log("pruning/sparsity", 1.0 - remaining(self.masks, self.weights) / self._total)
        pl_module.log("pruning/cycle", float(self.cycle))
        self._collect(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """The last cycle's record; a fit that was stopped early says so."""
        if trainer.current_epoch >= self.fit_epochs and len(self.history) == self.cycle:
            self._record(trainer, 0, 0)
        elif trainer.current_epoch < self.fit_epochs:
            why = (
                f"fit ended after epoch {trainer.current_epoch} of {self.fit_epochs}, with {self.cycle} of {self.plan.cycles} cycles pruned"
            )
            warnings.warn(f"{type(self).__name__}: {why}", EffcWarning, stacklevel=2)

    # ---- checkpoints ---------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything a fit needs to go on; tensors, numbers and texts only."""
        return {
            "options": self._options(),
            "cycle": self.cycle,
            "total": self._total,
            "metrics": dict(self._metrics),
            "history": [{**asdict(one), "metrics": dict(one.metrics)} for one in self.history],
            "masks": dict(self.masks),
            "beginning": None if self._beginning is None else self._beginning.state_dict(),
            "starts": dict(self._starts),
            "sums": dict(self._sums),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up such a state. Raises UsageError for one of other options."""
        if state_dict["options"] != self._options():
            raise UsageError(f"{type(self).__name__}: the checkpoint is of {state_dict['options']}, this callback has {self._options()}")
        self.cycle, self._total, self._metrics = state_dict["cycle"], state_dict["total"], dict(state_dict["metrics"])
        self.history = [Cycle(**one) for one in state_dict["history"]]
        self._beginning = None if state_dict["beginning"] is None else Beginning(**state_dict["beginning"])
        self.masks, self._starts, self._sums = (dict(state_dict[part]) for part in ("masks", "starts", "sums"))
        self._resumed = True

    def _options(self) -> dict[str, Any]:
        lists = {"weights": list(self.weights), "shares": list(self.plan.shares), "ap_shares": list(self.plan.ap_shares)}
        return {**lists, "by": self.by, "epochs": self.epochs, "rewind": self.rewind, "groups": [group.name for group in self.groups]}

    # ---- the work ------------------------------------------------------------------------------------------------------------

    def _check_names(self, tensors: Mapping[str, Tensor], parameters: Mapping[str, Tensor], module: str) -> None:
        wanted = [*self.weights, *self.outputs]
        problems = [Problem(name, "parameter", "there is none of that name") for name in wanted if name not in parameters]
        slices = {one.tensor for group in self.groups for one in (*group.makes, *group.reads)}
        problems += [Problem(name, "tensor of a channel group", "there is none of that name") for name in slices if name not in tensors]
        for what, given in (("initial", self._given_initial or {}), ("mask", self._given_masks or {})):
            for name, value in given.items():
                shape = list(tensors[name].shape) if name in tensors else None
                if shape != list(value.shape):
                    problems.append(Problem(name, f"{what} of shape {list(value.shape)}", f"the module has {shape or 'none of that name'}"))
        if problems:
            raise UsageError(f"{type(self).__name__}: names and shapes must be those of {module}", problems)

    def _begin(self, trainer: Any, tensors: Mapping[str, Tensor]) -> None:
        parameters = {name for name, _ in trainer.lightning_module.named_parameters(remove_duplicate=False)}
        slices = [one.tensor for group in self.groups for one in (*group.makes, *group.reads)]
        masked = [name for name in dict.fromkeys((*self.weights, *slices)) if name in parameters]
        self.masks = all_alive({name: tensors[name] for name in masked})
        self.masks.update({name: mask.bool().clone() for name, mask in (self._given_masks or {}).items()})
        self._total = remaining(self.masks, self.weights)
        self._beginning = Beginning.of(trainer, self._given_initial or {})
        self._zero(tensors)
        self._begin_cycle(tensors)

    def _begin_cycle(self, tensors: Mapping[str, Tensor]) -> None:
        if any(self.plan.ap_shares):
            self._starts = {name: tensors[name].detach().clone() for name in self.weights}
        if self.by == "gradient":
            self._sums = {name: torch.zeros_like(tensors[name]) for name in self.weights}

    @torch.no_grad()
    def _prune(self, trainer: Any, tensors: Mapping[str, Tensor]) -> None:
        weights = {name: tensors[name] for name in self.weights}
        alive = remaining(self.masks, self.weights)
        count, by_ap = self.plan.budget(self.cycle, self._total, alive)
        done = prune(
            weights,
            self._sums if self.by == "gradient" else magnitude(weights),
            self.masks,
            count,
            scope="layer" if self.by == "layer-magnitude" else "global",
            by_ap=by_ap,
            starts=self._starts,
            groups=self.groups,
            outputs=self.outputs,
        )
        self._record(trainer, done.removed, done.by_ap)
        self.masks, self.cycle = done.masks, self.cycle + 1
        assert self._beginning is not None
        self._beginning.rewind(trainer, tensors=self.rewind)
        self._zero(tensors)
        self._begin_cycle(tensors)

    def _record(self, trainer: Any, removed: int, by_ap: int) -> None:
        self._collect(trainer)
        self.history.append(Cycle(remaining(self.masks, self.weights), self._total, removed, by_ap, dict(self._metrics)))
        self._metrics = {}

    def _collect(self, trainer: Any) -> None:
        self._metrics.update({name: float(value) for name, value in trainer.callback_metrics.items()})

    @torch.no_grad()
    def _zero(self, tensors: Mapping[str, Tensor]) -> None:
        for name, mask in self.masks.items():
            tensors[name].masked_fill_(~mask, 0.0)
