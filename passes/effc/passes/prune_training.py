"""What of `prune` trains: cycles under Lightning, and scores from gradients. Imported only when it is needed, for it imports Lightning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from effc.errors import DataError, Problem, counted
from effc.faultsim.sites import find_sites
from effc.ir import Program, source_of
from effc.ir.torch_compat import import_lightning
from effc.ir.training import TrainableProgram
from effc.nn.channel_group import ChannelGroup
from effc.nn.iterative_pruning import Cycle, IterativePruning
from effc.nn.pruning import gradient, remaining
from effc.passes.base import Context, silent
from effc.passes.dead_relus import DeadRelu, measure
from effc.passes.objective import Objective
from effc.passes.pruning_task import PruningTask, initial_for
from effc.passes.training import MONITOR, Course, judge_for, train

if TYPE_CHECKING:
    from effc.passes.prune import Prune

__all__ = ["gradient_scores", "train_and_prune"]

_MOMENTUM, _DECAY = 0.9, 5e-4
_BATCH = 64
_OWN = "student."  # what `effc.passes.training` calls the module that trains
_Callback = import_lightning().Callback


def train_and_prune(by: Prune, task: PruningTask, relus: Sequence[DeadRelu], context: Context) -> tuple[Program, Mapping[str, Tensor]]:
    """The program after all cycles, with the same tensors, and its masks by the source's names."""
    judge = judge_for(task.program, context)
    _refuse_one_sample(task.program, context)
    module = task.program.trainable(batch_norm="train").train()

    def own(name: str) -> str:
        return _OWN + module.own_names[name]

    trained = [module.get_parameter(module.own_names[name]) for name in sorted(_trained_names(task.program)) if _trains(module, name)]
    shares = by.shares_for(task.count / remaining(task.masks, task.weights))
    callback = IterativePruning(
        [own(name) for name in task.weights],
        by=by.by,
        share=shares,
        ap_share=[by.ap_share * share if by.ap else 0.0 for share in shares],
        epochs=by.epochs,
        initial={own(name): value for name, value in _initial(by, task, context).items()},
        groups=[_renamed(group, own) for group in task.groups],
        outputs={own(name): axis for name, axis in task.outputs.items()},
        masks={own(name): task.masks[name] for name in task.weights},
    )
    labels = context.fit is not None and context.fit.labels is not None and judge.metric != "max-error"
    course = Course(
        epochs=callback.fit_epochs,
        batch=_BATCH,
        optimiser=lambda _: torch.optim.SGD(trained, lr=by.learning_rate, momentum=_MOMENTUM, weight_decay=_DECAY),
        scheduler=lambda optimiser, steps: _cosine(optimiser, steps // (callback.plan.cycles + 1)),
        cross_entropy=1.0 if labels else 0.0,
        distil=0.0 if labels else 1.0,
    )
    dead = _Dead(task.program, module, relus, by.epochs, context)
    train(by, task.program, module, context, course, judge, callbacks=[dead, callback], note=lambda: _progress(callback))
    for cycle, one in enumerate(callback.history[: callback.plan.cycles], 1):
        context.log(by, f"cycle {cycle}", True, _said(one, judge.metric))
    # Statistics of batch norm are no parameters and have no masks: what they hold does not keep a channel alive.
    masks = {name: callback.masks[own(name)] for name in task.masks if own(name) in callback.masks}
    return task.program.with_parameters(module.source_state()), masks


def gradient_scores(task: PruningTask, context: Context) -> dict[str, Tensor]:
    """|w * dL/dw| of the program as it is, summed over batches of the fit data. Raises DataError without data or labels."""
    if context.fit is None:
        raise DataError("pass prune needs data for by=gradient: give --data train.npz")
    module = task.program.trainable(dropout=False)
    objective = Objective(task.program, context.fit, context.metric or "top1", 1.0, 0.0)
    named = {name: module.get_parameter(module.own_names[name]) for name in task.weights}
    sums = {name: torch.zeros_like(weight) for name, weight in named.items()}
    size = context.fit.unit or _BATCH
    with context.progress("prune: gradients", objective.samples) as advance:
        for rows in torch.split(torch.arange(objective.samples), size):
            found = torch.autograd.grad(objective.loss(module, rows), list(named.values()), materialize_grads=True)
            for name, score in gradient(named, dict(zip(named, found, strict=True))).items():
                sums[name] += score
            advance(len(rows))
    return sums


class _Dead(_Callback):  # type: ignore[misc, valid-type]
    """Counts dead neurons on the selection data at the end of each cycle, before it is recorded."""

    def __init__(self, program: Program, module: TrainableProgram, relus: Sequence[DeadRelu], epochs: int, context: Context) -> None:
        self._program, self._module, self._relus, self._epochs, self._context = program, module, relus, epochs, context

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Of a cycle's last epoch."""
        data = self._context.selection
        if data is None or (trainer.current_epoch + 1) % self._epochs:
            return
        rates = measure(self._program.with_parameters(self._module.source_state()), self._relus, data, silent, "")
        if rates is not None:
            pl_module.log_dict({"dead/dynamic": rates.dynamic, "dead/static": rates.static})


def _initial(by: Prune, task: PruningTask, context: Context) -> Mapping[str, Tensor]:
    """What survivors return to, by the source's names."""
    source = task.program.provenance.source
    if context.initial is None:
        why = "survivors return to the imported, trained weights: a deviation from the paper, where they return to their initialisation"
        context.log(by, source, False, f"no --init: {why}")
        return {}
    used = initial_for(task.program, list(task.weights), context.initial)
    left = len(task.program.tensor_names) - len(used)
    others = f"; {counted(left, 'other tensor')} to the imported values" if left else ""
    context.log(by, source, True, f"survivors return to --init, {counted(len(used), 'tensor')}{others}")
    return used


def _renamed(group: ChannelGroup, own: Callable[[str], str]) -> ChannelGroup:
    makes, reads = (tuple(replace(one, tensor=own(one.tensor)) for one in part) for part in (group.makes, group.reads))
    return replace(group, makes=makes, reads=reads)


def _trains(module: TrainableProgram, name: str) -> bool:
    return module.own_names[name] in dict(module.named_parameters())


def _trained_names(program: Program) -> set[str]:
    """What trains: weights, biases and norms. An import may hold constants of preprocessing as parameters, too; those keep their values."""
    return {site.name for site in find_sites(program) if site.kind in ("weight", "bias", "norm")}


def _refuse_one_sample(program: Program, context: Context) -> None:
    """Batch norm has no variance over one sample."""
    if context.fit is None or min(context.fit.unit or _BATCH, len(context.fit)) > 1:
        return
    norms = [node for node in program.nodes if node.target == torch.ops.aten.batch_norm.default]
    if norms:
        hint = "import the model with a symbolic batch, or put fold-batch-norm and prune{epochs=0} to use"
        problems = [Problem(source_of(node), "batch norm", "cannot train on one sample at a time", hint) for node in norms]
        raise DataError("pass prune cannot train on batches of one sample", problems)


def _cosine(optimiser: Optimizer, steps: int) -> Any:
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, steps))


def _progress(callback: IterativePruning) -> str:
    share = remaining(callback.masks, callback.weights) / sum(callback.masks[name].numel() for name in callback.weights)
    return f"cycle {callback.cycle + 1} of {callback.plan.cycles + 1}, {share:.1%} of the weights"


def _said(one: Cycle, metric: str) -> str:
    parts = [f"trained {counted(one.remaining, 'weight')}", f"then {one.removed:,} went, {one.by_ap:,} of them by AP"]
    if MONITOR in one.metrics:
        parts.insert(1, f"{metric} {one.metrics[MONITOR]:.4g} on the selection data")
    if "dead/dynamic" in one.metrics:
        parts.insert(2, f"neurons dead dynamically {one.metrics['dead/dynamic']:.1%}, statically {one.metrics['dead/static']:.1%}")
    return ", ".join(parts)
