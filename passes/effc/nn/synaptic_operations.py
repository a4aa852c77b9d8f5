"""`SynapticOperations`: counts the multiply-accumulates that hardware which skips zeros would make, whatever makes the zeros.

    operations of a layer = sum over its inputs that are not 0 of their fan-out

The fan-out of an input is the number of products it takes part in: out_channels / groups * kernel for a convolution inside the image, less
at its edges and with strides; out_features for a linear layer. Counting at the inputs of the weighted layers treats a network with ReLUs
and one with deltas alike. It is the measure of "operations" of sigma-delta networks (O'Connor and Welling, ICLR 2017) and of the Delta
Activation Layer (arXiv 2107.07305).
"""

from __future__ import annotations

import copy
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

__all__ = ["WEIGHTED", "SynapticOperations", "fan_out"]

WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""The layers that are counted."""


def fan_out(layer: nn.Module, shape: torch.Size) -> Tensor:
    """The number of products that each input of a weighted layer takes part in.

    Args:
        layer: one of WEIGHTED.
        shape: of its input, (N, ...).

    Returns:
        (...) float32, the shape without N. Its sum is the multiply-accumulates of a dense frame.
    """
    ones = copy.deepcopy(layer).float().cpu()
    for name, parameter in ones.named_parameters():
        parameter.requires_grad_(False).fill_(0.0 if name == "bias" else 1.0)
    with torch.enable_grad():
        frame = torch.ones(1, *shape[1:], requires_grad=True)
        (gradient,) = torch.autograd.grad(ones.forward(frame).sum(), frame)  # forward: a copy has the hooks, too
    return gradient[0]


class SynapticOperations:
    """Counts while it is entered: `with SynapticOperations(module) as count: module(x)`.

    Args:
        module: its convolutions and linear layers are counted, at each call, by hooks.

    Attributes:
        performed: name of a layer -> operations of each row of its inputs, (rows,) float64, calls one after another. Layers of a
            `DeltaNetwork` see N * T rows, so that `total().reshape(N, T)` is by frame.
        dense: name of a layer -> multiply-accumulates of one row without skipping.
    """

    def __init__(self, module: nn.Module) -> None:
        self.performed: dict[str, Tensor] = {}
        self.dense: dict[str, float] = {}
        self._layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, WEIGHTED)}
        self._fan_out: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> SynapticOperations:
        self._handles = [layer.register_forward_pre_hook(self._hook(name)) for name, layer in self._layers.items()]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def total(self) -> Tensor:
        """Operations of each row, (rows,) float64, over the layers; every layer must have seen the same number of rows."""
        return torch.stack(list(self.performed.values())).sum(0)

    def total_dense(self) -> float:
        """Multiply-accumulates of one row without skipping, over the layers that were called."""
        return sum(self.dense.values())

    def _hook(self, name: str) -> Any:
        def count(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach()
            products = self._fan_out.get(name)
            if products is None or products.shape != x.shape[1:]:
                products = self._fan_out[name] = fan_out(layer, x.shape).to(x.device, torch.float64)
                self.dense[name] = float(products.sum())
            here = (x != 0).flatten(1).double() @ products.flatten()
            before = self.performed.get(name)
            self.performed[name] = here if before is None else torch.cat([before, here])

        return count
