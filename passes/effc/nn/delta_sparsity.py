"""`DeltaSparsity`: a Lightning callback that trains a network of delta activations in stages of sparsity and length.

    loss = training_step's loss + rate * sum over the layers of fan_out * mean |d(t)|, t >= 1

The published recipe (Delta Activation Layer, arXiv 2107.07305) has two stages: in the first the rate is high and sequences are long, so
that steps grow; in the second the rate is low and sequences are short, and accuracy comes back. The sum is added by the mechanism of
`effc.nn.extra_loss`, so that its gradient is exact also with gradient accumulation and mixed precision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from effc.errors import ConfigError, UsageError
from effc.ir.torch_compat import import_lightning
from effc.nn.delta_activation import DeltaActivation
from effc.nn.extra_loss import attach, detach

__all__ = ["DeltaSparsity", "DeltaStage"]

_Callback = import_lightning().Callback


@dataclass(frozen=True)
class DeltaStage:
    """A part of the training.

    Attributes:
        epochs: how many, at least 1.
        rate: of the sparsity loss, at least 0.
        frames: the network trains on this many frames in a row of each sequence, at least 2, starting anywhere; None is all of them.
    """

    epochs: int
    rate: float
    frames: int | None = None


class DeltaSparsity(_Callback):  # type: ignore[misc, valid-type]
    """Add the sparsity loss of delta activations to the training loss, and shorten sequences, stage by stage.

    Hooks and loss live from the start of fit to its end, whether it ends well or by an exception; validation is left alone and sees whole
    sequences. The last stage goes on until the fit ends. For each layer three numbers are logged, as means over an epoch:
    `delta/NAME/density` (the share of deltas that are not 0, without the first frame), `delta/NAME/step` (the mean of its steps) and
    `delta/NAME/loss` (its part of the loss, the rate included).

    Args:
        network: name, as in `named_modules()` of the LightningModule, of the module that takes sequences (N, T, ...) as its first argument
            and holds the `DeltaActivation`s. Where sequences are shortened its results have fewer frames, too.
        stages: in order, at least one.
        seed: of where shortened sequences begin: one number of frames for a batch, by (seed, epoch, batch).

    Raises:
        ConfigError: an argument is out of range.
        UsageError: when fit begins: no such module, no delta activation in it, too few epochs for the stages, or manual optimisation, where
            the loss is formed out of reach. In a training step: the network did not run, or a sequence is shorter than the stage's.
    """

    def __init__(self, network: str, stages: Sequence[DeltaStage], seed: int = 0) -> None:
        super().__init__()
        self.network, self.stages, self.seed = network, tuple(stages), int(seed)
        wrong = [stage for stage in self.stages if not _is_in_range(stage)]
        if wrong or not self.stages:
            why = "at least one stage, epochs at least 1, rate finite and at least 0, frames None or at least 2"
            raise ConfigError(f"DeltaSparsity: stages is {list(self.stages)}; give {why}")
        self._module: Any = None
        self._layers: dict[str, DeltaActivation] = {}
        self._handles: list[RemovableHandle] = []
        self._passed: list[tuple[str, Tensor]] | None = None  # None outside of a training step
        self._stage, self._place = self.stages[0], (0, 0)

    # ---- Lightning's hooks ---------------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Put the hooks on."""
        modules = dict(pl_module.named_modules())
        network = modules.get(self.network)
        if network is None:
            raise UsageError(f"DeltaSparsity: {type(pl_module).__name__} has no module {self.network!r}")
        layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, DeltaActivation) and layer.fan_out > 0.0}
        if not layers:
            raise UsageError(f"DeltaSparsity: {self.network!r} holds no DeltaActivation with a fan-out")
        if not pl_module.automatic_optimization:
            why = "the module optimises by hand, so its loss is formed where no callback can add to it"
            raise UsageError(f"DeltaSparsity: {why}; add DeltaActivation.sparsity to it in training_step")
        needed, most = sum(stage.epochs for stage in self.stages), trainer.max_epochs
        if most is not None and 0 <= most < needed:
            raise UsageError(f"DeltaSparsity: the stages take {needed} epochs, and the trainer has max_epochs={most}")
        self._release()
        self._module, self._layers = pl_module, layers
        self._handles = [layer.register_forward_hook(self._hook(name)) for name, layer in layers.items()]
        self._handles.append(network.register_forward_pre_hook(self._shorten))
        attach(pl_module, self)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """The stage that the epoch is in, also after a resume."""
        self._stage = stage_at(self.stages, trainer.current_epoch)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Where this batch's sequences begin."""
        self._place = (trainer.current_epoch, batch_idx)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Take the hooks off."""
        self._release()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Take the hooks off: after an exception Lightning calls no teardown."""
        self._release()

    def _release(self) -> None:
        for handle in self._handles:
            handle.remove()
        if self._module is not None:
            detach(self._module, self)
        self._module, self._layers, self._handles, self._passed = None, {}, [], None

    def _hook(self, name: str) -> Any:
        def remember(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if self._passed is not None and torch.is_grad_enabled():
                self._passed.append((name, output))

        return remember

    def _shorten(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        frames = self._stage.frames
        if self._passed is None or frames is None:
            return inputs
        length = inputs[0].shape[1]
        if length < frames:
            raise UsageError(f"DeltaSparsity: the stage trains on {frames} frames, and a sequence has {length}")
        first = int(np.random.default_rng((self.seed, *self._place)).integers(length - frames + 1))
        return (inputs[0][:, first : first + frames], *inputs[1:])

    # ---- the term of the loss (effc.nn.extra_loss.Term) ----------------------------------------------------------------------

    def begin(self) -> None:
        """A training step begins: watch."""
        self._passed = []

    def end(self) -> None:
        """The step is over: let go of its graph."""
        self._passed = None

    def value(self) -> Tensor:
        """The weighted sum over the layers; logs its parts."""
        if not self._passed:
            raise UsageError(f"DeltaSparsity: {self.network!r} did not run in training_step with gradients")
        terms = []
        for name, passed in self._passed:
            layer = self._layers[name]
            terms.append(self._stage.rate * layer.sparsity(passed))
            step = layer.step
            numbers = {"density": layer.density(passed), "loss": terms[-1].detach()}
            numbers |= {} if step is None else {"step": step.detach().mean()}
            for what, number in numbers.items():
                self._module.log(f"delta/{name}/{what}", number, on_step=False, on_epoch=True, batch_size=passed.shape[0])
        return torch.stack(terms).sum()


def stage_at(stages: Sequence[DeltaStage], epoch: int) -> DeltaStage:
    """The stage of an epoch, counted from 0; the last one after all."""
    for stage in stages:
        if epoch < stage.epochs:
            return stage
        epoch -= stage.epochs
    return stages[-1]


def _is_in_range(stage: DeltaStage) -> bool:
    frames = stage.frames is None or stage.frames >= 2
    return stage.epochs >= 1 and math.isfinite(stage.rate) and stage.rate >= 0.0 and frames
