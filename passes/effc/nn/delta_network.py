"""`DeltaNetwork`: a per-frame network over sequences, with a `DeltaActivation` at each activation and linear operators between them.

    conv + b -> relu -> conv + b -> relu -> linear + b
    delta(input) -> conv -> delta(sigma, + b, relu) -> conv -> delta(sigma, + b, relu) -> linear -> sigma, + b

This is how the Delta Activation Layer (arXiv 2107.07305) is trained: the trained network's weights go to a network that runs over
sequences, its linear operators have no bias, as they see deltas, and each bias stands behind the next sigma. Operators are applied to N * T
frames at once. Quantised and dense it is the same function: `delta_step()` exports the form that adds up deltas in states,
`quantised_module()` the form that computes each frame from itself, in which a streaming compiler finds what did not change.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from effc.errors import ConfigError, Problem, UnsupportedModelError, UsageError
from effc.nn.delta_activation import DeltaActivation
from effc.nn.delta_step import DeltaStep, QuantisedNetwork
from effc.nn.delta_tracing import Site, SiteRunner, constants, read_network
from effc.nn.synaptic_operations import WEIGHTED, fan_out

__all__ = ["DeltaNetwork"]

_TOLERANCE = 1e-4  # of the largest magnitude: the same sums in another order


class DeltaNetwork(nn.Module):
    """A per-frame network made ready to train with deltas.

    Args:
        module: takes one batch of frames (N, ...) and gives tensors (N, ...); trained, without state from frame to frame. It is copied.
        frames: example frames (M, ...), to set the steps and to prove the conversion on.
        step: where every step starts, as a share of the root mean square of the activation's values other than 0 on `frames`.
        steps: steps of their own by name of the layer, in the unit of the activation.
        granularity: whether a layer has one step, one for each channel, or one for each neuron; the input always has one.
        levels: levels of their own by name of the layer (see `DeltaActivation`); the others have 1. With `{"input": 0}` the first
            operator sees the (quantised) frames and not their differences.

    Attributes:
        layers: name -> DeltaActivation, in order: `input`, the activations under their names in torch.fx's graph of the module, `output`
            (a sum and a bias alone; `output_1`, ... where there are more).

    Shape:
        x: (N, T, ...), T frames in order. Result: what the module gives, with (N, T, ...) for (N, ...).

    Raises:
        ConfigError: an argument is out of range or names no layer.
        UsageError: the module cannot be traced, or a network of deltas does not compute what it does on the example frames.
        UnsupportedModelError: it holds what is neither an activation nor affine, or adds deltas to frames.
    """

    def __init__(
        self,
        module: nn.Module,
        frames: Tensor,
        *,
        step: float = 0.25,
        steps: Mapping[str, float] | None = None,
        granularity: Literal["layer", "channel", "neuron"] = "channel",
        levels: Mapping[str, Literal[0, 1, 2]] | None = None,
    ) -> None:
        super().__init__()
        if granularity not in ("layer", "channel", "neuron"):
            raise ConfigError(f"DeltaNetwork: granularity is {granularity!r}, must be 'layer', 'channel' or 'neuron'")
        if not step > 0.0:
            raise ConfigError(f"DeltaNetwork: step is {step!r}, must be over 0")
        graph, sites = read_network(module)
        steps, levels = dict(steps or {}), dict(levels or {})
        inner = [name for name, site in sites.items() if site.kind != "output"]
        unknown = sorted({*steps, *levels} - set(inner))
        if unknown:
            raise ConfigError(f"DeltaNetwork: there are no layers {unknown}; there are {inner}")
        seen = _values(graph, sites, frames)
        _prove(module, graph, sites, frames)
        offsets = constants(graph, frames[:1], sites)
        weights = _fan_outs(graph, sites, frames[:1])
        sigma = _which_see_deltas(graph, {name: levels.get(name, 1) for name in inner})
        self.network = _without_biases(graph)
        for name, site in sites.items():
            layer = DeltaActivation(
                site.act,
                None
                if site.kind == "output"
                else _steps(seen[name], steps.get(name), step, "layer" if site.kind == "input" else granularity),
                bias=None if site.kind == "input" else _bias(offsets[name]),
                pool=site.pool,
                sigma=sigma[name],
                level=0 if site.kind == "output" else levels.get(name, 1),
                fan_out=weights[name],
            )
            self.network.get_submodule("sites").add_module(name, layer)

    @property
    def layers(self) -> dict[str, DeltaActivation]:
        """Name -> layer, in order."""
        return {name: layer for name, layer in self.network.get_submodule("sites").named_children() if isinstance(layer, DeltaActivation)}

    def forward(self, x: Tensor) -> Any:
        if x.ndim < 2 or x.shape[1] == 0:
            raise UsageError(f"DeltaNetwork: x has the shape {list(x.shape)}; it is a sequence (N, T, ...) of at least one frame")
        shape, layers = x.shape[:2], self.layers

        def site(name: str, value: Tensor) -> Tensor:
            passed: Tensor = layers[name](value.reshape(*shape, *value.shape[1:]))
            return passed.flatten(0, 1)

        result = SiteRunner(self.network, site).run(x.flatten(0, 1))
        return pytree.tree_map(lambda value: value.reshape(*shape, *value.shape[1:]), result)

    def delta_step(self) -> DeltaStep:
        """One frame of the network as a function of its states, a copy in evaluation mode: the accumulating form."""
        return DeltaStep(_frozen(self.network))

    def quantised_module(self) -> QuantisedNetwork:
        """The per-frame network with quantised activations, a copy in evaluation mode: the form that computes each frame from itself.

        Raises:
            UsageError: a layer of level 2 passes its first frame on to no one, which no frame by itself can know.
        """
        dropping = [name for name, layer in self.layers.items() if layer.level == 2]
        if dropping:
            why = "what they passed on is no function of one frame; export delta_step()"
            raise UsageError(f"DeltaNetwork: the layers {dropping} have level 2 and drop their first frame, so {why}")
        return QuantisedNetwork(_frozen(self.network))


def _frozen(network: fx.GraphModule) -> fx.GraphModule:
    """A copy in evaluation form."""
    frozen: fx.GraphModule = copy.deepcopy(network).eval().requires_grad_(False)
    for layer in frozen.modules():
        if isinstance(layer, DeltaActivation):
            layer.freeze()
    return frozen


def _values(graph: fx.GraphModule, sites: Mapping[str, Site], frames: Tensor) -> dict[str, Tensor]:
    """What the activation of each site gives, before its pool."""
    seen: dict[str, Tensor] = {}

    def site(name: str, value: Tensor) -> Tensor:
        act, pool = sites[name].act, sites[name].pool
        seen[name] = value if act is None else act(value)
        result: Tensor = seen[name] if pool is None else pool(seen[name])
        return result

    with torch.no_grad():
        SiteRunner(graph, site).run(frames)
    return seen


def _prove(module: nn.Module, graph: fx.GraphModule, sites: Mapping[str, Site], frames: Tensor) -> None:
    """Frame by frame and without quantisation the graph must be the module, and each frame on its own."""
    modes = {part: part.training for part in module.modules()}
    try:
        with torch.no_grad():
            wanted = pytree.tree_leaves(module.eval()(frames))
    finally:
        for part, mode in modes.items():
            part.training = mode
    outputs = [name for name, site in sites.items() if site.kind == "output"]
    together, alone = _values(graph, sites, frames), _values(graph, sites, frames[:1])
    problems = []
    for name, value in zip(outputs, wanted, strict=True):
        room = _TOLERANCE * float(value.abs().max())
        for got, expected, why in (
            (together[name], value, "the graph without batch norms gives other values than the module"),
            (alone[name], together[name][:1], "depends on the other frames of the batch"),
        ):
            if got.shape != expected.shape or not torch.allclose(got, expected, rtol=0.0, atol=room):
                problems.append(Problem(name, f"shape {list(value.shape)}", why))
    if problems:
        raise UsageError("DeltaNetwork: the module is no function of one frame at a time", problems)


def _which_see_deltas(graph: fx.GraphModule, levels: Mapping[str, int]) -> dict[str, bool]:
    """For each site whether deltas reach it, by the levels of the sites before it."""
    deltas: dict[fx.Node, bool] = {}
    reached, problems = {}, []
    for node in graph.graph.nodes:
        read = {deltas[one] for one in node.all_input_nodes}
        if len(read) > 1 and node.op != "output":
            hint = "give the layers in front of it level 0, or none of them"
            problems.append(Problem(node.name, "operator", "combines deltas with values that are none", hint))
        name = str(node.target).removeprefix("sites.")
        deltas[node] = True in read
        if node.op == "call_module" and str(node.target).startswith("sites."):
            reached[name], deltas[node] = deltas[node], levels.get(name, 0) > 0
    if problems:
        raise UnsupportedModelError("DeltaNetwork: levels do not go together", problems)
    return reached


def _fan_outs(graph: fx.GraphModule, sites: Mapping[str, Site], frame: Tensor) -> dict[str, float]:
    """For each site the mean fan-out of what it passes on, over the first weighted operators that read it."""
    totals = dict.fromkeys(sites, 0.0)
    sources: dict[fx.Node, frozenset[str]] = {}
    inputs: dict[str, torch.Size] = {}
    handles = [
        layer.register_forward_pre_hook(lambda _, args, name=name: inputs.__setitem__(name, args[0].shape))
        for name, layer in graph.named_modules()
        if isinstance(layer, WEIGHTED)
    ]
    try:
        _values(graph, sites, frame)
    finally:
        for handle in handles:
            handle.remove()
    for node in graph.graph.nodes:
        read = frozenset(name for one in node.all_input_nodes for name in sources[one])
        target = str(node.target)
        if node.op == "call_module" and target in inputs:
            mean = float(fan_out(graph.get_submodule(target), inputs[target]).mean())
            for name in read:
                totals[name] += mean
            read = frozenset()
        is_site = node.op == "call_module" and target.startswith("sites.")
        sources[node] = frozenset({target.removeprefix("sites.")}) if is_site else read
    return totals


def _without_biases(graph: fx.GraphModule) -> fx.GraphModule:
    for layer in graph.modules():
        if isinstance(layer, WEIGHTED):
            layer.register_parameter("bias", None)
    return graph


def _bias(offset: Tensor) -> Tensor:
    """The constant as a parameter: one for each channel where it is the same all over it."""
    shared = offset.flatten(1).unbind(1)[0].reshape(-1, *(1,) * (offset.ndim - 1)) if offset.ndim > 1 else offset
    return shared if torch.equal(shared.expand_as(offset), offset) else offset


def _steps(values: Tensor, own: float | None, share: float, granularity: str) -> Tensor:
    """Where steps start; a channel or neuron that gave only 0 has that of its layer."""
    shape = values.shape[1:]
    kept = {"layer": (), "channel": (shape[0], *(1,) * (len(shape) - 1)), "neuron": tuple(shape)}[granularity] if shape else ()
    if own is not None:
        return torch.full(kept, own)
    whole = _root_mean_square(values, ())
    each = _root_mean_square(values, kept)
    start = share * torch.where(each > 0, each, whole)
    return torch.where(start > 0, start, torch.full_like(start, share))  # nothing was ever active: any step will do


def _root_mean_square(values: Tensor, kept: tuple[int, ...]) -> Tensor:
    """Of the values other than 0; 0 where there are none."""
    if kept:
        squares, count = values.square().sum(0).sum_to_size(kept), (values != 0).to(values.dtype).sum(0).sum_to_size(kept)
    else:
        squares, count = values.square().sum(), (values != 0).to(values.dtype).sum()
    return (squares / count.clamp_min(1)).sqrt()
