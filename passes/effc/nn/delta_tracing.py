"""Reads a per-frame network for `DeltaNetwork`: where activations stand, and that everything between them is affine.

    conv -> batch_norm -> relu -> max_pool -> conv -> add -> relu ...        any module that torch.fx can trace
    conv ---------------> [site: act, pool] -> conv -> add -> [site: act] ...

A *site* is an activation with the max pool that follows it, a max pool that stands alone, or an end of the network. Between sites only
affine operators are left: deltas need their linear part alone, and the constant part of all of them together, the value where every site
gives 0, is the bias inside the next site. What is neither activation nor affine is refused, everything at once.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from effc.errors import Problem, UnsupportedModelError, UsageError
from effc.nn.synaptic_operations import WEIGHTED

__all__ = ["Site", "SiteRunner", "constants", "read_network"]

_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.Tanh)
_RELUS = (F.relu, torch.relu, "relu", "relu_")
_MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)
_LINEAR = (
    *WEIGHTED,
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.Flatten, nn.Identity, nn.Upsample, nn.ZeroPad2d, nn.PixelShuffle),
)
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_LINEAR_CALLS = (
    *(operator.add, operator.iadd, torch.add, "add", "add_", torch.cat, torch.flatten, "flatten", torch.mean, "mean"),
    *(F.avg_pool1d, F.avg_pool2d, F.avg_pool3d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d, F.interpolate),
)
_ADDS = (operator.add, operator.iadd, torch.add, "add", "add_")


@dataclass(frozen=True)
class Site:
    """An activation, or an input or output of the network.

    Attributes:
        node: its name in the graph; "input" (`input_1`, ...) and "output" (`output_1`, ...) at the ends.
        act, pool: modules or None.
        kind: `input`, `inner` or `output`.
    """

    name: str
    act: nn.Module | None
    pool: nn.Module | None
    kind: str


class SiteRunner(fx.Interpreter):
    """Runs the graph of `read_network` with `site(name, value)` at the sites and modules as they are."""

    def __init__(self, graph: fx.GraphModule, site: Callable[[str, Tensor], Tensor]) -> None:
        super().__init__(graph)
        self._site = site

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if str(target).startswith("sites."):
            return self._site(str(target).removeprefix("sites."), args[0])
        return super().call_module(target, args, kwargs)


def read_network(module: nn.Module) -> tuple[fx.GraphModule, dict[str, Site]]:
    """A private copy of the module in evaluation form as a graph whose sites are calls of `sites.NAME`, in order.

    Batch norms are folded into the layer before them, dropout is left out.

    Raises:
        UsageError: torch.fx cannot trace the module, or it takes more than the frame.
        UnsupportedModelError: what stands between the activations is not affine; lists all of it.
    """
    module = copy.deepcopy(module).eval()
    try:
        traced = fx.symbolic_trace(module)
    except Exception as error:  # the tracer raises whatever the module raises on a symbolic value
        raise UsageError(f"DeltaNetwork: torch.fx cannot trace {type(module).__name__}: {error}") from error
    frames = [node for node in traced.graph.nodes if node.op == "placeholder"]
    if len(frames) != 1:
        raise UsageError(f"DeltaNetwork: {type(module).__name__} takes {[node.name for node in frames]}; it must take the frame alone")
    _fold_batch_norms(traced)
    sites = _put_sites(traced)
    problems = [problem for node in traced.graph.nodes for problem in _problems(traced, node)]
    if problems:
        raise UnsupportedModelError("DeltaNetwork: between activations only affine operators may stand", problems)
    traced.recompile()
    return traced, sites


def _module(graph: fx.GraphModule, node: Any) -> nn.Module | None:
    return graph.get_submodule(str(node.target)) if isinstance(node, fx.Node) and node.op == "call_module" else None


def _fold_batch_norms(traced: fx.GraphModule) -> None:
    calls: dict[str, int] = {}
    for node in traced.graph.nodes:
        if node.op == "call_module":
            calls[str(node.target)] = calls.get(str(node.target), 0) + 1
    for node in list(traced.graph.nodes):
        norm = _module(traced, node)
        if isinstance(norm, _DROPOUTS):
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)
            continue
        if not isinstance(norm, _NORMS):
            continue
        before = node.args[0]
        layer = _module(traced, before)
        if not isinstance(layer, WEIGHTED) or len(before.users) > 1 or calls[str(before.target)] > 1:
            continue
        fused = fuse_linear_bn_eval(layer, norm) if isinstance(layer, nn.Linear) else fuse_conv_bn_eval(layer, norm)
        traced.set_submodule(str(before.target), fused)
        node.replace_all_uses_with(before)
        traced.graph.erase_node(node)


def _put_sites(traced: fx.GraphModule) -> dict[str, Site]:
    """Replace activations, max pools and the two ends by calls of sites."""
    sites: dict[str, Site] = {}
    traced.add_module("sites", nn.Module())

    def put(name: str, kind: str, value: fx.Node, act: nn.Module | None = None, pool: nn.Module | None = None) -> fx.Node:
        while name in sites:  # a module of the network is called like one of its ends
            name += "_"
        sites[name] = Site(name, act, pool, kind)
        traced.get_submodule("sites").add_module(name, nn.Identity())
        return traced.graph.call_module(f"sites.{name}", (value,))

    merged: set[fx.Node] = set()  # max pools that went into the site before them
    for node in list(traced.graph.nodes):
        if node in merged:
            continue
        if node.op == "placeholder":
            with traced.graph.inserting_after(node):
                site = put("input", "input", node)
            node.replace_all_uses_with(site, delete_user_cb=lambda user, site=site: user is not site)
            continue
        if node.op == "output":
            with traced.graph.inserting_before(node):
                count = 0

                def end(value: fx.Node) -> fx.Node:
                    nonlocal count
                    count += 1
                    return put("output" if count == 1 else f"output_{count - 1}", "output", value)

                node.args = fx.node.map_arg(node.args, end)
            continue
        act, pool, last = _activation(traced, node), None, node
        if act is not None and len(node.users) == 1:
            (after,) = node.users
            if isinstance(_module(traced, after), _MAX_POOLS):
                pool, last = _module(traced, after), after
                merged.add(after)
        if act is None and isinstance(_module(traced, node), _MAX_POOLS):
            pool = _module(traced, node)
        if act is None and pool is None:
            continue
        with traced.graph.inserting_after(last):
            site = put(node.name, "inner", node.args[0], act, pool)
        last.replace_all_uses_with(site)
        for gone in dict.fromkeys((last, node)):
            traced.graph.erase_node(gone)
    return sites


def _activation(traced: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The activation that a node is, as a module that leaves its input alone."""
    module = _module(traced, node)
    if isinstance(module, _ACTIVATIONS):
        act = copy.deepcopy(module)
        if hasattr(act, "inplace"):
            act.inplace = False
        return act
    return nn.ReLU() if node.op in ("call_function", "call_method") and node.target in _RELUS else None


def _problems(traced: fx.GraphModule, node: fx.Node) -> list[Problem]:
    if node.op in ("placeholder", "output") or (node.op == "call_module" and str(node.target).startswith("sites.")):
        return []
    module = _module(traced, node)
    if module is not None:
        if isinstance(module, _NORMS):
            return [Problem(node.name, type(module).__name__, "does not follow a convolution or linear layer of its own to be folded into")]
        if isinstance(module, _LINEAR):
            return []
        return [Problem(node.name, type(module).__name__, "is neither a known activation nor affine")]
    if node.op in ("call_function", "call_method") and node.target in _LINEAR_CALLS:
        if node.target not in _ADDS or all(isinstance(arg, fx.Node) for arg in node.args):
            return []
        return [Problem(node.name, "an addition", "of a constant has no place in the graph of deltas", "put it into a layer's bias")]
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return [Problem(node.name, f"{node.op} {name}", "is neither a known activation nor affine", "use the module of torch.nn for it")]


def constants(graph: fx.GraphModule, frame: Tensor, sites: Mapping[str, Site]) -> dict[str, Tensor]:
    """What reaches every site where all sites give 0, without the batch axis. `frame`: (1, ...)."""
    reached: dict[str, Tensor] = {}

    def site(name: str, value: Tensor) -> Tensor:
        reached[name] = value
        pool = sites[name].pool
        zeros = torch.zeros_like(value)
        result: Tensor = zeros if pool is None else pool(zeros)
        return result

    with torch.no_grad():
        SiteRunner(graph, site).run(frame)
    return {name: value[0] for name, value in reached.items()}
