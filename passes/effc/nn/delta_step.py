"""The two forms in which a `DeltaNetwork` leaves training: with states that add up deltas, and each frame from itself.

    delta_step         (frame, Z.., O..) -> (outputs.., Z'.., O'..)      Z' = Z + W * d,  d = O' - O
    quantised_module   frame -> outputs                                  O = q * round(act(W * O_before + b) / q)

They agree because the deltas of quantised values telescope (arXiv 2107.07305). In exact arithmetic they agree to the bit; in float32 the
sums of the step round off, by parts in a million after ten thousand frames, and NaN or infinity once in a state stays there until it is
reset. The second form has neither worry, and a streaming compiler that keeps what did not change skips the same work in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from effc.errors import UsageError
from effc.nn.delta_activation import DeltaActivation
from effc.nn.delta_tracing import SiteRunner

__all__ = ["DeltaStep", "QuantisedNetwork"]


class QuantisedNetwork(nn.Module):
    """`frame -> outputs`: dense, with quantised activations; made by `DeltaNetwork.quantised_module()`.

    Shape:
        frame: (N, ...). Result: what the network gives, (N, ...).
    """

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__()
        self.network = network

    def forward(self, frame: Tensor) -> Any:
        return SiteRunner(self.network, lambda name, value: _layer(self.network, name).dense(value)).run(frame)


class DeltaStep(nn.Module):
    """`(frame, states...) -> outputs and new states`; made by `DeltaNetwork.delta_step()`.

        step = network.delta_step()
        compile_model(step, "out", example_inputs=step.examples(frame), states=step.states)

    Shape:
        frame: (N, ...). states: as `zeros(frame)` has them, which is where they start and go back to on a reset. Result: a dictionary,
        first the outputs (`output`, `output_1`, ... or the keys under which the network returns them), then the new states.
    """

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__()
        self.network = network

    @property
    def state_names(self) -> tuple[str, ...]:
        """`LAYER.sum`, `LAYER.previous`, `LAYER.started`, in the order of the arguments."""
        return tuple(f"{name}.{state}" for name, layer in _layers(self.network) for state in layer.state_names)

    @property
    def states(self) -> dict[str, str]:
        """Name of the argument that holds each state -> name of the result with its new value, as `compile_model` takes it."""
        return {f"states_{index}": f"{name}.next" for index, name in enumerate(self.state_names)}

    def forward(self, frame: Tensor, *states: Tensor) -> dict[str, Tensor]:
        if len(states) != len(self.state_names):
            raise UsageError(f"DeltaStep: {len(states)} states were given, and there are {len(self.state_names)}")
        old, new = dict(zip(self.state_names, states, strict=True)), {}

        def site(name: str, value: Tensor) -> Tensor:
            layer = _layer(self.network, name)
            passed, after = layer.advance(value, [old[f"{name}.{state}"] for state in layer.state_names])
            new.update({f"{name}.{state}.next": value for state, value in zip(layer.state_names, after, strict=True)})
            return passed

        outputs = _named(SiteRunner(self.network, site).run(frame))
        return {**outputs, **{f"{name}.next": new[f"{name}.next"] for name in self.state_names}}

    def zeros(self, frame: Tensor) -> tuple[Tensor, ...]:
        """The states before the first frame, for the batch of `frame` (N, ...)."""
        made: dict[str, Tensor] = {}

        def site(name: str, value: Tensor) -> Tensor:
            layer = _layer(self.network, name)
            out = layer.dense(value)
            kinds = {"sum": value, "previous": out, "started": value.new_zeros(len(value), dtype=torch.int32)}
            made.update({f"{name}.{state}": torch.zeros_like(kinds[state]) for state in layer.state_names})
            return out

        with torch.no_grad():
            SiteRunner(self.network, site).run(frame)
        return tuple(made[name] for name in self.state_names)

    def examples(self, frame: Tensor) -> tuple[Tensor, ...]:
        """The arguments of a first call."""
        return (frame, *self.zeros(frame))


def _layers(network: fx.GraphModule) -> Iterator[tuple[str, DeltaActivation]]:
    for name, layer in network.get_submodule("sites").named_children():
        if isinstance(layer, DeltaActivation):
            yield name, layer


def _layer(network: fx.GraphModule, name: str) -> DeltaActivation:
    layer = network.get_submodule(f"sites.{name}")
    assert isinstance(layer, DeltaActivation)
    return layer


def _named(result: Any) -> dict[str, Tensor]:
    if isinstance(result, dict):
        return dict(result)
    return {"output" if index == 0 else f"output_{index}": value for index, value in enumerate(pytree.tree_leaves(result))}
