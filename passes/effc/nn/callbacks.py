"""`ActivationSparsity`: a Lightning callback that trains named modules towards sparse outputs.

    loss = training_step's loss + weight * sum over the modules of regulariser(output)

The regularisers are those of `effc.nn.regularisers` (Kurtz et al., ICML 2020). Forward hooks see the outputs; the sum is
added to the loss that `training_step` returns, by the mechanism of `effc.nn.extra_loss`, so that the gradient is that of the sum
exactly, also with gradient accumulation and mixed precision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from effc.errors import ConfigError, Problem, UsageError
from effc.ir.torch_compat import import_lightning
from effc.nn.extra_loss import attach, detach
from effc.nn.regularisers import REGULARISERS

__all__ = ["ActivationSparsity"]

_Callback = import_lightning().Callback


class ActivationSparsity(_Callback):  # type: ignore[misc, valid-type]
    """Add a sparsity penalty on the outputs of some modules to the training loss.

    Hooks and penalty live from the start of fit to its end, whether it ends well or by an exception; validation is left alone. For each of
    the modules two numbers are logged, as means over an epoch: `activations/NAME/density` (the share of elements that are not 0) and
    `activations/NAME/REGULARISER` (its part of the loss, the weight included). A module that a step calls several times counts once
    per call. Several callbacks, for layers with different weights, work side by side.

    Args:
        layers: names of modules as in `named_modules()` of the LightningModule, for example `["model.relu1", "model.relu2"]`.
        weight: factor of the penalty, at least 0 (0 only logs); 1e-5 is a usual start for `hoyer-square`.
        regulariser: `hoyer-square` or `l1`.

    Raises:
        ConfigError: an argument is out of range.
        UsageError: when fit begins: no module of a name, or manual optimisation, where the loss is formed out of reach. In a training
            step: a module did not run with gradients, gave no tensor, or its output was overwritten in place before the step's end.
    """

    def __init__(self, layers: Sequence[str], weight: float, regulariser: Literal["hoyer-square", "l1"] = "hoyer-square") -> None:
        super().__init__()
        if isinstance(layers, str) or not layers or len(set(layers)) != len(layers):
            raise ConfigError(f"ActivationSparsity: layers is {layers!r}; give a list of different module names, at least one")
        if not (math.isfinite(weight) and weight >= 0.0):
            raise ConfigError(f"ActivationSparsity: weight is {weight!r}, must be finite and at least 0")
        if regulariser not in REGULARISERS:
            raise ConfigError(f"ActivationSparsity: regulariser is {regulariser!r}, must be one of {tuple(REGULARISERS)}")
        self.layers, self.weight, self.regulariser = tuple(layers), float(weight), regulariser
        self._module: Any = None
        self._handles: list[RemovableHandle] = []
        self._seen: list[tuple[str, Tensor, int]] | None = None  # name, output, its version; None outside of a training step

    # ---- Lightning's hooks ---------------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Put the hooks on."""
        if not pl_module.automatic_optimization:
            why = "the module optimises by hand, so its loss is formed where no callback can add to it"
            raise UsageError(f"ActivationSparsity: {why}; add effc.nn.{self.regulariser.replace('-', '_')} to it in training_step")
        modules = dict(pl_module.named_modules())
        missing = [Problem(name, "module", "there is none of that name") for name in self.layers if name not in modules]
        if missing:
            raise UsageError(f"ActivationSparsity: modules are named as in named_modules() of {type(pl_module).__name__}", missing)
        self._release()
        self._module = pl_module
        self._handles = [modules[name].register_forward_hook(self._hook(name)) for name in self.layers]
        attach(pl_module, self)

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
        self._module, self._handles, self._seen = None, [], None

    def _hook(self, name: str) -> Any:
        def remember(module: nn.Module, inputs: Any, output: Any) -> None:
            if self._seen is None or not torch.is_grad_enabled():  # validation, or a call that is no part of the loss
                return
            if not isinstance(output, Tensor):
                raise UsageError(
                    f"ActivationSparsity: the output of {name} is a {type(output).__name__}; name a module that gives one tensor"
                )
            if output.requires_grad:
                self._seen.append((name, output, output._version))

        return remember

    # ---- the term of the loss (effc.nn.extra_loss.Term) ----------------------------------------------------------------------

    def begin(self) -> None:
        """A training step begins: watch."""
        self._seen = []

    def end(self) -> None:
        """The step is over: let go of its graph."""
        self._seen = None

    def value(self) -> Tensor:
        """The weighted penalty of the step's outputs; logs it."""
        outputs: dict[str, list[Tensor]] = {name: [] for name in self.layers}
        overwritten = []
        for name, output, version in self._seen or ():
            outputs[name].append(output)
            if output._version != version:
                why, hint = "is overwritten in place later in the step", "name the module that overwrites it, or turn inplace off there"
                overwritten.append(Problem(name, "output", why, hint))
        idle = [
            Problem(name, "module", "did not run in training_step with gradients", "name a module that is called, and whose input trains")
            for name, calls in outputs.items()
            if not calls
        ]
        if idle or overwritten:
            raise UsageError("ActivationSparsity: there is nothing to penalise", [*idle, *overwritten])
        penalties = [self._penalty(name, calls) for name, calls in outputs.items()]
        return torch.stack(penalties).sum()

    def _penalty(self, name: str, calls: Sequence[Tensor]) -> Tensor:
        penalty = self.weight * torch.stack([REGULARISERS[self.regulariser](output) for output in calls]).sum()
        nonzero = torch.stack([output.detach().count_nonzero() for output in calls]).sum()
        density = nonzero.to(penalty.dtype) / sum(output.numel() for output in calls)
        for what, number in (("density", density), (self.regulariser, penalty.detach())):
            self._module.log(f"activations/{name}/{what}", number, on_step=False, on_epoch=True, batch_size=calls[0].shape[0])
        return penalty
