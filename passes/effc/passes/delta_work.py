"""What the layers of a network cost, for `effc.cost.streaming`."""

from __future__ import annotations

from collections.abc import Mapping

from effc.cost import node_cost
from effc.cost.streaming import LayerWork, StreamRates, dense_time, sparse_time
from effc.ir import keyword_arguments
from effc.passes.delta_operators import CONVOLUTIONS
from effc.passes.delta_sites import Layer, Network

__all__ = ["predicted_times", "works_of"]

_WINOGRAD_CHANNELS = 16  # from as many on both sides the dense kernel is Winograd's


def works_of(network: Network) -> list[LayerWork]:
    """One entry a layer, under the names of their sites."""
    return [
        LayerWork(
            name=layer.node.name,
            macs=sum(node_cost(node).macs for node in layer.nodes),
            pixels=int(layer.node.meta["val"].shape[2]) * int(layer.node.meta["val"].shape[3]),
            elements=int(layer.node.meta["val"][0].numel()),
            depthwise=layer.kind == "depthwise",
            winograd=_is_winograd(layer),
            reads=tuple(one.name for one in layer.reads),
            sparse=layer.sparse,
        )
        for layer in network.layers
    ]


def predicted_times(network: Network, shares: Mapping[str, float], rates: StreamRates) -> dict[str, str]:
    """What every layer is predicted to cost by pixels, of which it must compute a share, and densely: in words, by its name."""
    return {
        work.name: f"{shares[work.name]:.1%} of its pixels may change: {sparse_time(work, shares[work.name], rates) / 1000:,.1f} µs "
        f"predicted, dense {dense_time(work, rates) / 1000:,.1f} µs"
        for work in works_of(network)
    }


def _is_winograd(layer: Layer) -> bool:
    node = layer.anchor
    if node.target not in CONVOLUTIONS:
        return False
    arguments = keyword_arguments(node)
    outputs, inputs, *kernel = (int(size) for size in node.args[1].meta["val"].shape)  # type: ignore[union-attr]
    plain = all(set(_listed(arguments[name])) == {1} for name in ("stride", "dilation", "groups"))
    return plain and kernel == [3, 3] and min(outputs, inputs) >= _WINOGRAD_CHANNELS


def _listed(value: int | list[int]) -> list[int]:
    return [value] if isinstance(value, int) else list(value)
