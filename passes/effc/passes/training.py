"""Training inside a pass: one Lightning fit of a program's parameters, with progress, checkpoints and a judge.

    loss = cross_entropy * CE(student, labels) + distil * KD(student, teacher)        + what callbacks add

The teacher is the program before the pass; its outputs on the fit data are computed once. Without labels the loss is distillation alone.
Distillation covers every output (`effc.passes.objective`).

After every epoch the student, in the form that is deployed, is judged on the selection part of `--data` by the pass's metric. Callbacks
read the value as `trainer.callback_metrics[MONITOR]`.

Everything is a function of the data, the options and the seed: the batches of an epoch are drawn from (seed, epoch), so a run that was
interrupted and goes on from its checkpoint ends with the same bits. A checkpoint is named by a hash of all of that; one of another run is
never taken up. It is read without unpickling (`weights_only`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset, Sampler

from effc.errors import DataError
from effc.ir import Program
from effc.ir.storage import save_program
from effc.ir.torch_compat import import_lightning
from effc.ir.training import TrainableProgram
from effc.passes.base import Advance, Context, Pass
from effc.passes.objective import Objective
from effc.passes.quality import Judge

__all__ = ["MONITOR", "Course", "judge_for", "train"]

MONITOR = "selection"
"""The name of the metric on the selection data among `trainer.callback_metrics`."""

_LAST = "last"
_lightning = import_lightning()


@dataclass(frozen=True)
class Course:
    """How a pass trains.

    Attributes:
        epochs: how many; a callback may stop earlier (`trainer.should_stop`).
        batch: samples of one step; a program of a fixed batch takes its own.
        samples: of one epoch, drawn anew each time; None for all of the fit data.
        optimiser: makes it from the module.
        scheduler: makes a learning-rate schedule from the optimiser and the number of steps of the whole fit; stepped after each step.
        cross_entropy, distil: weights of the two parts of the loss. Without labels the first is 0.
    """

    epochs: int
    optimiser: Callable[[TrainableProgram], Optimizer]
    batch: int = 64
    samples: int | None = None
    scheduler: Callable[[Optimizer, int], Any] | None = None
    cross_entropy: float = 1.0
    distil: float = 1.0


def judge_for(program: Program, context: Context) -> Judge:
    """The judge of a training pass: the metric on the selection data, and its value before the pass.

    Training can spoil one output to the good of another. So with several outputs, and without a wish of the user, it is max-error, the
    only metric that covers all of them. Raises DataError without data.
    """
    if context.selection is None:
        raise DataError("a pass that trains needs data to choose by: give --data train.npz")
    several = len(program.interface.outputs) - len(program.interface.states) > 1
    return Judge(program, context.selection, context.metric or ("max-error" if several else None))


def train(
    by: Pass,
    program: Program,
    module: TrainableProgram,
    context: Context,
    course: Course,
    judge: Judge,
    *,
    callbacks: Sequence[Any] = (),
    note: Callable[[], str] = str,
) -> None:
    """Train a module in place; it ends in eval mode.

    Args:
        by: the pass; its spec is part of the checkpoint's name, its name of the progress.
        program: before the pass: the teacher.
        module: what trains, from `Program.trainable`. Its mode (dropout, batch norm) is its own business.
        context: fit data, seed, progress, checkpoints.
        course: how.
        judge: of the selection data.
        callbacks: Lightning callbacks, in their order; those with a state are kept in checkpoints.
        note: what to show beside the progress after each epoch, besides the metric.

    Raises:
        DataError: there are no fit data, or labels do not fit the outputs.
        KeyboardInterrupt: interrupted; checkpoints of whole epochs are kept.
    """
    if context.fit is None:
        raise DataError(f"pass {by.name} needs training data: give --data train.npz")
    objective = Objective(program, context.fit, judge.metric, course.cross_entropy, course.distil)
    batches = _Batches(len(context.fit), context.fit.unit or course.batch, course.samples, context.seed)
    task = _Task(module, objective, judge, course, len(batches) * course.epochs, context.seed)
    kept = None if context.checkpoints is None else context.checkpoints / f"{by.name}-{_identity(by, program, module, context)}"
    with context.progress(f"{by.name}: training", course.epochs) as advance, tempfile.TemporaryDirectory() as scratch, _quiet():
        keepers = [] if kept is None else [_keeper(kept)]
        trainer = _lightning.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=course.epochs,
            callbacks=[*callbacks, _Shown(advance, note, judge), *keepers],
            logger=False,
            enable_checkpointing=kept is not None,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=scratch,
        )
        last = None if kept is None or not (kept / f"{_LAST}.ckpt").exists() else kept / f"{_LAST}.ckpt"
        loader: Any = DataLoader(_Indexed(objective), sampler=batches, batch_size=None)
        with torch.random.fork_rng(devices=[]), _interruptible(kept):
            trainer.fit(task, loader, val_dataloaders=[[0]], ckpt_path=last, weights_only=True)
    module.eval()


class _Task(_lightning.LightningModule):  # type: ignore[misc, name-defined]
    """What Lightning trains. The one validation "batch" stands for a run over all of the selection data."""

    def __init__(self, student: TrainableProgram, objective: Objective, judge: Judge, course: Course, steps: int, seed: int) -> None:
        super().__init__()
        self.student, self._steps, self._seed = student, steps, seed
        self._objective, self._judge, self._course = objective, judge, course

    def training_step(self, rows: Tensor, index: int) -> Tensor:
        """The loss on the samples of the fit data at `rows`. Dropout draws from (seed, step), so that a resumed run draws the same."""
        torch.manual_seed(_seed_of(self._seed, "dropout", self.global_step))
        return self._objective.loss(self.student, rows)

    def validation_step(self, batch: int, index: int) -> None:
        """Judge the form that is deployed."""
        if not all(bool(torch.isfinite(one).all()) for one in self.student.parameters() if one.is_floating_point()):
            raise DataError(f"training has diverged in epoch {self.current_epoch + 1}: parameters are not finite; lower the learning-rate")
        self.log(MONITOR, self._judge.value(self.student), on_epoch=True, batch_size=1)

    def configure_optimizers(self) -> Any:
        """As the course says."""
        optimiser = self._course.optimiser(self.student)
        if self._course.scheduler is None:
            return optimiser
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": self._course.scheduler(optimiser, self._steps), "interval": "step"}}


class _Indexed(Dataset[Tensor]):
    """Hands on the rows of a batch: the objective holds the samples."""

    def __init__(self, objective: Objective) -> None:
        self._count = objective.samples

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, rows: list[int]) -> Tensor:
        return torch.tensor(rows)


class _Batches(Sampler[list[int]]):
    """The batches of an epoch, drawn from (seed, epoch) without replacement, all of the same size.

    A remainder that fills no batch is left out of the epoch: batch norm has no statistics for a batch of one. With a fixed size (`unit`)
    and always, a batch is never larger than the data.
    """

    def __init__(self, count: int, size: int, most: int | None, seed: int) -> None:
        self._count, self._size, self._seed, self._epoch = count, min(size, count), seed, 0
        self._used = count if most is None else min(most, count)

    def __len__(self) -> int:
        return max(1, self._used // self._size)

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls it at the start of each epoch, a resumed one too."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(_seed_of(self._seed, "batches", self._epoch))
        order = torch.randperm(self._count, generator=generator).tolist()
        for start in range(0, len(self) * self._size, self._size):
            yield order[start : start + self._size]


class _Shown(_lightning.Callback):  # type: ignore[misc, name-defined]
    """Moves the progress bar."""

    def __init__(self, advance: Advance, note: Callable[[], str], judge: Judge) -> None:
        self._advance, self._note, self._judge = advance, note, judge

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """After the other callbacks: one epoch more."""
        value = float(trainer.callback_metrics[MONITOR])
        self._advance(1, ", ".join(part for part in (self._note(), f"{self._judge.metric} {value:.4g}") if part))


def _keeper(folder: Path) -> Any:
    """Keeps the last whole epoch, judged."""
    return _lightning.callbacks.ModelCheckpoint(
        dirpath=folder, filename=_LAST, save_top_k=1, enable_version_counter=False, save_on_train_epoch_end=True
    )


def _identity(by: Pass, program: Program, module: TrainableProgram, context: Context) -> str:
    """Of everything that decides what the training does."""
    digest = hashlib.sha256(save_program(program))
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    data = [None if one is None else one.sha256 for one in (context.fit, context.selection)]
    versions = [torch.__version__, _lightning.__version__, torch.get_num_threads()]
    initial = None if context.initial is None else sorted(context.initial)
    for name in initial or ():
        assert context.initial is not None
        digest.update(context.initial[name].detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    digest.update(json.dumps([by.spec, data, context.seed, context.metric, versions, initial]).encode())
    return digest.hexdigest()[:16]


def _seed_of(seed: int, purpose: str, number: int) -> int:
    digest = hashlib.blake2b(f"{seed}\0{purpose}\0{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's advice about loggers, workers and hardware: none of it is the user's business here."""
    logs = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric", "pytorch_lightning.utilities.rank_zero")]
    levels = [log.level for log in logs]
    try:
        for log in logs:
            log.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric|torchmetrics")
            warnings.filterwarnings("ignore", message=r".*(isinstance\(treespec|LeafSpec).*")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


@contextmanager
def _interruptible(kept: Path | None) -> Iterator[None]:
    """Lightning turns Ctrl-C into an exit with status 1 and leaves the signal ignored; here it stays what it is."""
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if main else None
    try:
        yield
    except SystemExit:
        if isinstance(sys.exc_info()[1], SystemExit) and isinstance(sys.exc_info()[1].__context__, KeyboardInterrupt):  # type: ignore[union-attr]
            there = kept is not None and (kept / f"{_LAST}.ckpt").exists()
            raise KeyboardInterrupt(f"the same command goes on after the last whole epoch, from {kept}" if there else "") from None
        raise
    finally:
        if main and handler is not None:
            signal.signal(signal.SIGINT, handler)
