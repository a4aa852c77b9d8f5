"""`ProgressiveBounds`: a Lightning callback that trains activation bounds, stage by stage, as small as a budget of quality allows.

    loss = training_step's loss + pull * mean((bound / its start)^2)        over the bounds of the stage under training

    after each epoch's validation, with drop = reference - metric (signed: a better metric is no drop):
        drop <= budget * stage / stages    the bounds are accepted; the accepted ones with the smallest mean are the best
        else                               back to the best, and pull = pull / 10
    after `epochs` epochs the best stay, and the next stage trains

This is ProAct's progressive training (arXiv 2406.06313): the stages are layers, the last one first. FitAct (arXiv 2112.13544) is one stage
that holds all bounds. The pull stands for their weight decay on the bounds and the division for its sweep over powers of ten; measured
against the start, the pull is the same for layers of every scale. Ours, too, is that the budget opens stage by stage: the first of ten may
spend a tenth of it. With all of it in reach from the start, the first stages spend it, and the others keep the bounds that they began with.

Everything but the bounds of the stage is frozen: parameters by `requires_grad`, batch norm and dropout by evaluation mode, so weights and
running statistics keep their bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from effc.errors import ConfigError, Problem, UsageError
from effc.ir.torch_compat import import_lightning
from effc.nn.extra_loss import attach, detach

__all__ = ["ProgressiveBounds", "Trial"]

_Callback = import_lightning().Callback
_STATE = ("stage", "epoch", "pull", "start", "best", "best_mean")


@dataclass(frozen=True)
class Trial:
    """The verdict on one epoch.

    Attributes:
        stage, epoch: from 0; the epoch counts within its stage.
        mean: of the absolute values of the stage's bounds, as they were judged.
        metric: the monitored value.
        pull: the factor that the epoch trained with.
        accepted: whether the metric was within the budget.
    """

    stage: int
    epoch: int
    mean: float
    metric: float
    pull: float
    accepted: bool


class ProgressiveBounds(_Callback):  # type: ignore[misc, valid-type]
    """Train bounds downwards, one stage at a time; see the module docstring.

    Bounds are parameters of `effc.nn.Bound`, or of a `TrainableProgram` (whose names have `__` for dots). The optimiser must hold every
    bound, also those whose turn comes later; a parameter group can have a learning rate of its own. A schedule over the whole fit starves
    later stages: use a constant rate, or one of period `epochs`. Validation must log `monitor`. The callback stops the trainer after the
    last stage; a fit that ends earlier leaves the best accepted bounds of its stage.

    Where bounds go back, what the optimiser remembers of them (momentum) is dropped. A bound that starts at 0 is not pulled.
    `requires_grad` and the modules' modes are what they were before, once the fit is over, also after an exception. A fit that resumes from
    one of Lightning's checkpoints goes on in its stage.

    Args:
        stages: names of parameters as in `named_parameters()` of the LightningModule, in the order of training.
        epochs: of each stage, at least 1.
        monitor: name of the quality metric among `trainer.callback_metrics`.
        reference: the metric that a drop is measured from, usually that of the network without bounds.
        budget: the largest drop that is accepted in the last stage, in the metric's own units.
        pull: factor of the pull, over 0, at the start of each stage.
        larger_is_better: False for a metric that grows as quality falls.

    Attributes:
        history: one `Trial` per epoch.

    Raises:
        ConfigError: an argument is out of range.
        UsageError: when training begins: names that fit no parameter, a bound that is not finite or that no optimiser holds, manual
            optimisation, another number of epochs or validations than the stages take. Later: nothing is logged as `monitor`.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[str]],
        *,
        epochs: int,
        monitor: str,
        reference: float,
        budget: float,
        pull: float,
        larger_is_better: bool = True,
    ) -> None:
        super().__init__()
        self.stages = _checked(stages)
        if epochs < 1:
            raise ConfigError(f"ProgressiveBounds: epochs is {epochs}, must be at least 1")
        if not (math.isfinite(reference) and math.isfinite(budget)):
            raise ConfigError(f"ProgressiveBounds: reference is {reference!r} and budget {budget!r}; both must be finite")
        if not (math.isfinite(pull) and pull > 0.0):
            raise ConfigError(f"ProgressiveBounds: pull is {pull!r}, must be finite and over 0")
        self.epochs, self.monitor, self.reference, self.budget, self.pull = epochs, monitor, reference, budget, pull
        self.larger_is_better = larger_is_better
        self._module: Any = None
        self._parameters: dict[str, nn.Parameter] = {}
        self._before: list[tuple[Any, str, bool]] = []
        self._loaded = False
        self._restart()

    def _restart(self) -> None:
        self.history: list[Trial] = []
        self._stage, self._epoch, self._pull = 0, 0, self.pull
        self._start: dict[str, Tensor] = {}  # of the stage, when it began
        self._best: dict[str, Tensor] = {}  # the accepted ones with the smallest mean; empty before the first
        self._best_mean = math.inf

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Freeze, and begin the first stage or go on in the one of the checkpoint."""
        _check(self.stages, self.epochs, trainer, pl_module)
        self._release()
        if not self._loaded:
            self._restart()
        self._loaded = False
        if self._stage == len(self.stages):
            trainer.should_stop = True
            return
        parameters = dict(pl_module.named_parameters())
        self._module, self._parameters = pl_module, {name: parameters[name] for stage in self.stages for name in stage}
        self._before = [(parameter, "requires_grad", parameter.requires_grad) for parameter in parameters.values()]
        self._before += [(module, "training", module.training) for module in pl_module.modules()]
        attach(pl_module, self)
        self._begin_stage()

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Training mode for the modules that hold bounds, evaluation mode for all others."""
        bounds = {id(parameter) for parameter in self._parameters.values()}
        pl_module.eval()
        for module in pl_module.modules():
            module.training = any(id(parameter) in bounds for parameter in module.parameters(recurse=False))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Judge the epoch. Validation runs in inference mode, whose tensors could not be trained on afterwards."""
        if trainer.sanity_checking or not self._is_under_way():
            return
        with torch.inference_mode(mode=False), torch.no_grad():
            self._judge(trainer)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Leave accepted bounds also where the fit ends in the middle of a stage; a checkpoint of its last epoch is written by now."""
        if self._is_under_way():
            with torch.no_grad():
                self._go_back(trainer)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Thaw."""
        self._release()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Thaw: after an exception Lightning calls no teardown."""
        self._release()

    def state_dict(self) -> dict[str, Any]:
        """The stage, the epoch in it, its bounds and the history: tensors and plain values."""
        state = {name: getattr(self, f"_{name}") for name in _STATE}
        return {**state, "stages": [list(stage) for stage in self.stages], "history": [asdict(trial) for trial in self.history]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a checkpoint. Raises UsageError where it was written with other stages."""
        if state_dict["stages"] != [list(stage) for stage in self.stages]:
            raise UsageError("ProgressiveBounds: the checkpoint was written with other stages; start without it, or give the same stages")
        for name in _STATE:
            setattr(self, f"_{name}", state_dict[name])
        self.history = [Trial(**trial) for trial in state_dict["history"]]
        self._loaded = True

    def begin(self) -> None:
        """A training step begins."""

    def end(self) -> None:
        """The step is over."""

    def value(self) -> Tensor:
        """The pull on the stage's bounds."""
        squares = []
        for name in self.stages[self._stage]:
            bound = self._parameters[name]
            start = self._start[name].to(bound)
            ratio = torch.where(start == 0, torch.zeros_like(bound), bound / torch.where(start == 0, torch.ones_like(start), start))
            squares.append(ratio.square().flatten())
        return self._pull * torch.cat(squares).mean()

    def note(self) -> str:
        """The last verdict in a few words, to show beside progress; empty before the first."""
        if not self.history:
            return ""
        last = self.history[-1]
        names = self.stages[last.stage]
        what = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        return f"stage {last.stage + 1}/{len(self.stages)} {what}, bound {last.mean:.4g}{'' if last.accepted else ' taken back'}"

    def _begin_stage(self) -> None:
        """Let the stage's bounds train, and nothing else. A gradient left over would move a frozen parameter by an optimiser's momentum."""
        for parameter in self._module.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None
        for name in self.stages[self._stage]:
            self._parameters[name].requires_grad_(True)
        if not self._start:
            self._start = self._present()

    def _judge(self, trainer: Any) -> None:
        if self.monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(trainer.callback_metrics)) or "none"
            raise UsageError(f"ProgressiveBounds: validation logged nothing as {self.monitor!r}; known metrics: {known}")
        metric = float(trainer.callback_metrics[self.monitor])
        drop = self.reference - metric if self.larger_is_better else metric - self.reference
        rounding = torch.finfo(torch.float32).eps * max(abs(metric), abs(self.reference))  # Lightning keeps metrics in float32
        present = self._present()
        mean = float(torch.cat([bound.flatten() for bound in present.values()]).abs().mean())
        allowed = self.budget * (self._stage + 1) / len(self.stages)
        accepted = drop <= allowed + rounding and math.isfinite(mean)  # False for a NaN metric, too
        self.history.append(Trial(self._stage, self._epoch, mean, metric, self._pull, accepted))
        if accepted and mean < self._best_mean:
            self._best, self._best_mean = present, mean
        if not accepted:
            self._go_back(trainer)
            self._pull /= 10
        self._epoch += 1
        if self._epoch == self.epochs:
            self._end_stage(trainer)

    def _end_stage(self, trainer: Any) -> None:
        self._go_back(trainer)
        self._stage, self._epoch, self._pull = self._stage + 1, 0, self.pull
        self._start, self._best, self._best_mean = {}, {}, math.inf
        if self._is_under_way():
            self._begin_stage()
        else:
            trainer.should_stop = True

    def _go_back(self, trainer: Any) -> None:
        """To the best accepted bounds, or where the stage began."""
        for name, value in (self._best or self._start).items():
            bound = self._parameters[name]
            bound.copy_(value)
            for optimiser in trainer.optimizers:
                optimiser.state.pop(bound, None)

    def _is_under_way(self) -> bool:
        return self._module is not None and self._stage < len(self.stages)

    def _present(self) -> dict[str, Tensor]:
        return {name: self._parameters[name].detach().clone() for name in self.stages[self._stage]}

    def _release(self) -> None:
        for owner, attribute, value in self._before:
            setattr(owner, attribute, value)
        if self._module is not None:
            detach(self._module, self)
        self._module, self._parameters, self._before = None, {}, []


def _checked(stages: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    flat = [name for stage in stages for name in stage]
    lists = not isinstance(stages, str) and not any(isinstance(stage, str) for stage in stages)
    if not lists or not stages or not all(stages) or len(set(flat)) != len(flat):
        raise ConfigError(f"ProgressiveBounds: stages is {stages!r}; give a list of lists of different parameter names, none of them empty")
    return tuple(tuple(stage) for stage in stages)


def _check(stages: Sequence[Sequence[str]], epochs: int, trainer: Any, module: Any) -> None:
    """Raise UsageError unless each stage would be trained and judged."""
    if not module.automatic_optimization:
        why = "the module optimises by hand, so its loss is formed where no callback can add to it"
        raise UsageError(f"ProgressiveBounds: {why}; use automatic optimisation")
    if trainer.val_check_interval != 1.0 or trainer.check_val_every_n_epoch != 1 or not trainer.enable_validation:
        hint = "give validation data, and leave val_check_interval and check_val_every_n_epoch at 1"
        raise UsageError(f"ProgressiveBounds: each epoch is judged by its validation; {hint}")
    needed, most = len(stages) * epochs, trainer.max_epochs
    if (trainer.min_epochs or 0) > needed or (most is not None and 0 <= most < needed):
        why = f"{len(stages)} stages take {needed} epochs, and the trainer has min_epochs={trainer.min_epochs} and max_epochs={most}"
        raise UsageError(f"ProgressiveBounds: {why}; give max_epochs={needed} alone")
    parameters = dict(module.named_parameters())
    held = {id(parameter) for optimiser in trainer.optimizers for group in optimiser.param_groups for parameter in group["params"]}
    problems = []
    for name in (name for stage in stages for name in stage):
        if name not in parameters:
            problems.append(Problem(name, "bound", "there is no parameter of that name"))
        elif not bool(torch.isfinite(parameters[name]).all()):
            problems.append(Problem(name, "bound", "is not finite", "start from the largest activation that was seen"))
        elif id(parameters[name]) not in held:
            problems.append(Problem(name, "bound", "no optimiser holds it, so it would never move", "hand it over in configure_optimizers"))
    if problems:
        raise UsageError(f"ProgressiveBounds: bounds are named as in named_parameters() of {type(module).__name__}", problems)
