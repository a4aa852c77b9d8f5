"""`Beginning`: where a Lightning fit began, to go back to: tensors, optimisers, learning-rate schedules."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["Beginning", "tensors_of"]


def tensors_of(module: Any) -> dict[str, Tensor]:
    """Parameters and buffers of a module by name, those with several names under each."""
    return {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers(remove_duplicate=False))}


class Beginning:
    """Copies of everything that a training step changes.

    Args:
        tensors: parameters and buffers by name.
        optimisers, schedulers: their state dicts.
    """

    def __init__(self, tensors: Mapping[str, Tensor], optimisers: list[dict[str, Any]], schedulers: list[dict[str, Any]]) -> None:
        self.tensors, self.optimisers, self.schedulers = dict(tensors), copy.deepcopy(optimisers), copy.deepcopy(schedulers)

    @classmethod
    def of(cls, trainer: Any, initial: Mapping[str, Tensor]) -> Beginning:
        """Of a fit that has made no step yet. `initial` stands in for the module's tensors of the same names, shapes given."""
        held = {
            name: initial.get(name, value).detach().to(value.device, value.dtype, copy=True)
            for name, value in tensors_of(trainer.lightning_module).items()
        }
        optimisers = [one.state_dict() for one in trainer.optimizers]
        return cls(held, optimisers, [one.scheduler.state_dict() for one in trainer.lr_scheduler_configs])

    @torch.no_grad()
    def rewind(self, trainer: Any, *, tensors: bool) -> None:
        """Give optimisers and schedules their first states, and, where `tensors` says so, the module its first values."""
        if tensors:
            for name, value in tensors_of(trainer.lightning_module).items():
                value.copy_(self.tensors[name])
        for optimiser, state in zip(trainer.optimizers, self.optimisers, strict=True):
            optimiser.load_state_dict(copy.deepcopy(state))
        for config, state in zip(trainer.lr_scheduler_configs, self.schedulers, strict=True):
            config.scheduler.load_state_dict(copy.deepcopy(state))

    def state_dict(self) -> dict[str, Any]:
        """All of it, as `Beginning(**state)` takes it."""
        parts = {"tensors": self.tensors, "optimisers": self.optimisers, "schedulers": self.schedulers}
        return {name: copy.copy(part) for name, part in parts.items()}
