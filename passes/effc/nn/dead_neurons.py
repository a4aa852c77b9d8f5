"""`DeadNeurons`: a Lightning callback that logs how many neurons are dead, dynamically and statically; see `effc.nn.dead_rates`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from effc.errors import ConfigError, Problem, UsageError
from effc.ir.torch_compat import import_lightning
from effc.nn.dead_rates import DeadCount, DeadRates, alive_rows, dead_rates, total

__all__ = ["DeadNeurons", "DeadRates", "dead_rates"]

_Callback = import_lightning().Callback


class DeadNeurons(_Callback):  # type: ignore[misc, valid-type]
    """Log the rates of dead neurons of each epoch: `dead/dynamic` and `dead/static` over all activations, `dead/NAME/...` of each.

    They are those of the validation batches where there are any, else of the training batches, whose weights change between batches.

    Args:
        neurons: activation modules (that give 0 for dead neurons) by name, as in `named_modules()` of the LightningModule, and the module,
            or modules, whose weights make what arrives there: `{"relu1": "conv1", "relu2": ["conv2", "shortcut"]}`. Of several, whose
            results are summed, all must be pruned for a neuron to be dead statically. Each activation may run once in a forward pass.
        axes: the axis of an activation's outputs that counts rows, where it is not 1.

    Attributes:
        history: for each epoch the rates by activation, and those of all under "".

    Raises:
        ConfigError: no activation is named.
        UsageError: when fit begins: there is no module of a name, or a layer without a weight. While it runs: an activation runs twice in a
            forward pass or gives another number of rows than its layer makes.
    """

    def __init__(self, neurons: Mapping[str, str | Sequence[str]], axes: Mapping[str, int] | None = None) -> None:
        super().__init__()
        if not neurons:
            raise ConfigError("DeadNeurons: neurons is empty; give activations and the layers in front of them")
        self.neurons = {name: (layers,) if isinstance(layers, str) else tuple(layers) for name, layers in neurons.items()}
        self.axes = dict(axes or {})
        self.history: list[dict[str, DeadRates]] = []
        self._handles: list[RemovableHandle] = []
        self._counts: dict[str, DeadCount] = {}
        self._seen: set[str] | None = None  # in this batch; None outside of one that counts

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Put the hooks on."""
        modules = dict(pl_module.named_modules())
        problems = [Problem(name, "activation", "there is no module of that name") for name in self.neurons if name not in modules]
        for name in dict.fromkeys(layer for layers in self.neurons.values() for layer in layers):
            if not isinstance(getattr(modules.get(name), "weight", None), Tensor):
                problems.append(Problem(name, "layer", "there is no module of that name that has a weight"))
        if problems:
            raise UsageError(f"DeadNeurons: modules are named as in named_modules() of {type(pl_module).__name__}", problems)
        self._release()
        for name, layers in self.neurons.items():
            self._handles.append(modules[name].register_forward_hook(self._hook(name, [modules[layer] for layer in layers])))

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Take the hooks off."""
        self._release()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Take the hooks off: after an exception Lightning calls no teardown."""
        self._release()

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Count anew."""
        self._counts = {}

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Watch this batch."""
        self._seen = None if trainer.sanity_checking else set()

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """The batch is over."""
        self._seen = None

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the epoch."""
        if not trainer.sanity_checking:
            self._log(pl_module)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Count anew where validation does not."""
        if not trainer.enable_validation:
            self._counts = {}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Watch this batch where there is no validation."""
        self._seen = None if trainer.enable_validation else set()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """The batch is over."""
        self._seen = None

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the epoch where there is no validation."""
        if not trainer.enable_validation:
            self._log(pl_module)

    def _release(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._counts, self._seen = [], {}, None

    def _hook(self, name: str, layers: Sequence[nn.Module]) -> Any:
        def count(module: nn.Module, inputs: Any, output: Any) -> None:
            if self._seen is None:
                return
            if name in self._seen or not isinstance(output, Tensor):
                raise UsageError(f"DeadNeurons: {name} runs twice in a batch or gives no tensor; each activation needs its own module")
            self._seen.add(name)
            alive = torch.stack([alive_rows(layer.weight) for layer in layers]).any(0)  # type: ignore[arg-type]
            self._counts.setdefault(name, DeadCount()).see(output, alive, self.axes.get(name, 1))

        return count

    def _log(self, pl_module: Any) -> None:
        if not self._counts:
            return
        rates = {name: count.rates for name, count in self._counts.items()}
        self.history.append({**rates, "": total(list(self._counts.values()))})
        for name, (dynamic, static) in self.history[-1].items():
            prefix = f"dead/{name}/" if name else "dead/"
            pl_module.log_dict({f"{prefix}dynamic": dynamic, f"{prefix}static": static})
        self._counts = {}
