"""Where a network keeps results from frame to frame: the frame, and the layers behind it.

    frame                     the one image input, (N, C, H, W) float32; behind its permutation where it is fed as (N, H, W, C)
    layer = spatial operator -> elementwise operators        conv -> batch_norm -> add -> relu

A layer ends where TVM ends a fused kernel: behind all elementwise operators through which everything that reads the spatial operator's
result goes (the immediate post-dominators of its graph). Its end is the site of a truncate. Spatial operators are 2-D convolutions
(depthwise and grouped ones, too), max and average pools, concatenations of channels and resizes. An add of two convolutions ends the layer
of the later one; the earlier one ends in front of it. An elementwise operator that no layer has taken is a layer of its own. A pad by
zeros in front of a convolution belongs to the convolution. Movements (a split of channels, a slice, a view; `delta_movements`) compute
nothing and are no layers: who reads one reads what it is a part of, as long as pixels stay in their places.

What a layer reads are sites, constants, or something else. Where it reads something else (a gate that is computed from the whole image, the
result of a transposed convolution), all its pixels may change with every frame: it is computed densely. Its result may still be compared
with that of the frame before, so that what follows is sparse again.

No sites: values that are no images (reshapes, softmax over boxes, linear layers), images of one pixel (behind global pooling), and results
of other operators that no layer reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx

from effc.errors import Problem, UnsupportedModelError
from effc.ir import Program, source_of
from effc.ir.interface import BATCH
from effc.passes.delta_frame import Frame, behind, find_frame
from effc.passes.delta_movements import movement_of
from effc.passes.delta_operators import Kind, is_image, is_pad, is_spatial, kind_of

__all__ = ["Layer", "Network", "find_network"]

_aten = torch.ops.aten
_ORDER: Mapping[str, int] = {"convolution": 0, "depthwise": 0, "pool": 1, "resize": 1, "concat": 1, "other": 2}


@dataclass(frozen=True, eq=False)
class Layer:
    """A spatial operator with the elementwise operators behind it.

    Attributes:
        node: its end, the site.
        nodes: all of it, in execution order.
        kind: of the spatial operator; `elementwise` without one, `other` for an operator that cannot be computed by pixels.
        reads: the sites (and the frame) that it reads.
        moved_from: of the movements that it reads, the sites that these are parts of; those are among `reads`.
        sparse: whether it can be computed by pixels: it reads nothing else that depends on the frame, and has a kind for it.
        why_dense: why not; empty where `sparse`.
        feeds: whether a layer that can be computed by pixels reads it: only then a truncate with a threshold saves anything.
        rounds: whether it holds a rounding: a delta activation that was trained.
        label: the user's name; no two layers have the same.
    """

    node: fx.Node
    nodes: tuple[fx.Node, ...]
    kind: Kind
    reads: tuple[fx.Node, ...] = ()
    sparse: bool = False
    why_dense: str = ""
    feeds: bool = False
    rounds: bool = False
    label: str = ""
    moved_from: Mapping[fx.Node, fx.Node] = field(default_factory=dict)

    @property
    def anchor(self) -> fx.Node:
        """The spatial operator; the first operator where there is none."""
        return next((node for node in self.nodes if not is_pad(node)), self.nodes[0])


@dataclass(frozen=True, eq=False)
class Network:
    """A program as a stream sees it.

    Attributes:
        frame: its input.
        layers: in the order in which their ends are computed.
        left: spatial operators that are in none of them, and why.
    """

    frame: Frame
    layers: tuple[Layer, ...]
    left: tuple[tuple[fx.Node, str], ...] = ()

    @property
    def by_name(self) -> dict[str, Layer]:
        """The layers by the names of their ends."""
        return {layer.node.name: layer for layer in self.layers}


def find_network(program: Program) -> Network:
    """The frame and the layers.

    Raises:
        UnsupportedModelError: there is no single frame, the program has states of the user's, or its batch is fixed at another number than
            one, or an output counts no frames; everything that stands in the way at once.
    """
    frame = find_frame(program)
    dependents = behind(frame.node)
    _refuse_outputs(program, dependents)
    kinds = {node: kind_of(node, dependents) for node in program.nodes if node in dependents and is_image(node, frame.node.meta["val"])}
    layers = _labelled(_useful(_layers(program, frame, kinds, dependents)), frame)
    inside = {node for layer in layers for node in layer.nodes}
    outside = [node for node in program.nodes if node in dependents and node not in inside and is_spatial(node)]
    return Network(frame, layers, tuple((node, _why_left(node, frame)) for node in outside))


def _refuse_outputs(program: Program, dependents: set[fx.Node]) -> None:
    """Raises UnsupportedModelError for outputs that change from frame to frame and have no axis in front that counts frames."""
    first = BATCH if program.interface.batch.symbolic else 1
    given: Any = program.graph.output_node().args[0]
    problems = [
        Problem(
            value.name,
            f"output {value}",
            "has no axis of frames in front",
            "reduce within each sample, so that (N, ...) stays, or leave the output out",
        )
        for value, node in zip(program.interface.outputs, given, strict=True)
        if node in dependents and (not value.shape or value.shape[0] != first)
    ]
    if problems:
        raise UnsupportedModelError("pass delta needs outputs (N, ...): one result a frame", problems)


def _why_left(node: fx.Node, frame: Frame) -> str:
    """Why a spatial operator is in no layer."""
    value = node.meta.get("val")
    if isinstance(value, Tensor) and value.ndim == 4 and all(size == 1 for size in value.shape[2:]):
        return "stays dense: its result is one pixel"
    if not is_image(node, frame.node.meta["val"]):
        return "stays dense: its result is no image like the frame"
    return "stays dense: it is not computed by pixels, and nothing that is reads it"


def _layers(program: Program, frame: Frame, kinds: Mapping[fx.Node, str], dependents: set[fx.Node]) -> list[Layer]:
    order = {node: place for place, node in enumerate(program.graph.nodes)}
    above = _post_dominators(program)
    taken: set[fx.Node] = set()
    grown: list[tuple[Kind, list[fx.Node]]] = []
    anchors = [node for node, kind in kinds.items() if kind not in ("pad", "by element", "movement")]
    for node in sorted(anchors, key=lambda one: (_ORDER[kinds[one]], -order[one])):
        grown.append((kinds[node], _grown(node, kinds, above, taken)))  # type: ignore[arg-type]
    for node in [node for node, kind in kinds.items() if kind == "by element"]:
        if node not in taken:
            grown.append(("elementwise", _grown(node, kinds, above, taken)))
    ends = {max(nodes, key=order.__getitem__) for _, nodes in grown} | {frame.node}
    layers = []
    for kind, nodes in grown:
        ordered = sorted({*nodes, *_pads(nodes[0], kinds)}, key=order.__getitem__)
        layers.append(_layer(kind, tuple(ordered), ends, dependents, frame))
    return sorted(layers, key=lambda layer: order[layer.node])


def _post_dominators(program: Program) -> dict[fx.Node, fx.Node | None]:
    """The first node through which all ways from a node to the outputs go; None where there is no single one."""
    above: dict[fx.Node, fx.Node | None] = {}
    depth: dict[fx.Node | None, int] = {None: 0}

    def meet(a: fx.Node | None, b: fx.Node | None) -> fx.Node | None:
        while a is not b:
            if depth[a] >= depth[b]:
                a = above[a] if a is not None else None
            else:
                b = above[b] if b is not None else None
        return a

    for node in reversed(list(program.graph.nodes)):
        users = list(node.users)
        found: fx.Node | None = None
        if users and not any(user.op == "output" for user in users):
            found = users[0]
            for user in users[1:]:
                found = meet(found, user)
        above[node] = found
        depth[node] = depth[found] + 1
    return above


def _grown(start: fx.Node, kinds: Mapping[fx.Node, str], above: Mapping[fx.Node, fx.Node | None], taken: set[fx.Node]) -> list[fx.Node]:
    """A node and the elementwise operators that fuse into it, the last one at the end; they are `taken` then."""
    nodes, end = [start], start
    taken.add(start)
    size = tuple(start.meta["val"].shape[2:])
    while (following := above[end]) is not None:
        between = _between(end, following)
        fits = all(kinds.get(node) == "by element" and node not in taken and tuple(node.meta["val"].shape[2:]) == size for node in between)
        if not fits:
            break
        nodes += [node for node in between if node is not following] + [following]
        taken.update(between)
        end = following
    return nodes


def _between(start: fx.Node, end: fx.Node) -> list[fx.Node]:
    """The nodes on the ways from one to its post-dominator, that one included."""
    found: list[fx.Node] = []
    waiting = list(start.users)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.append(node)
            if node is not end:
                waiting += node.users
    return found


def _pads(anchor: fx.Node, kinds: Mapping[fx.Node, str]) -> list[fx.Node]:
    source = anchor.args[0] if anchor.args else None
    found = []
    while isinstance(source, fx.Node) and kinds.get(source) == "pad":
        found.append(source)
        source = source.args[0]
    return found


def _layer(kind: Kind, nodes: tuple[fx.Node, ...], ends: set[fx.Node], dependents: set[fx.Node], frame: Frame) -> Layer:
    inside = set(nodes)
    outside = [one for node in nodes for one in node.all_input_nodes if one not in inside and (one in dependents or one is frame.node)]
    movements = {one: movement for one in outside if one not in ends and (movement := movement_of(one)) is not None and movement.in_place}
    moved_from = {one: movement.source for one, movement in movements.items() if movement.source in ends}
    reads = tuple(dict.fromkeys(moved_from.get(one, one) for one in outside if one in ends or one in moved_from))
    others = [one for one in outside if one not in ends and one not in moved_from]
    why = ""
    if kind == "other":
        why = f"{str(nodes[0].target).removesuffix('.default')} is not computed by pixels"
    elif others:
        why = f"reads {source_of(others[0])}, which is no image with pixels of its own"
    rounds = any(node.target == _aten.round.default for node in nodes)
    return Layer(nodes[-1], nodes, kind, reads, not why, why, rounds=rounds, moved_from=moved_from)


def _useful(layers: Sequence[Layer]) -> list[Layer]:
    """The layers that can be sparse, and those others whose results such a layer reads."""
    read = {one for layer in layers if layer.sparse for one in layer.reads}
    return [replace(layer, feeds=layer.node in read) for layer in layers if layer.sparse or layer.node in read]


def _labelled(layers: Iterable[Layer], frame: Frame) -> tuple[Layer, ...]:
    """Layers with labels: the name of the spatial operator, with the node's where that is taken."""
    listed = list(layers)
    names: list[str] = [source_of(layer.anchor) for layer in listed]
    uses: Counter[Any] = Counter([frame.label, "clock", *names])
    taken: set[str] = {frame.label, "clock"}
    labelled = []
    for layer, name in zip(listed, names, strict=True):
        label = name if uses[name] == 1 else f"{name}.{layer.node.name}"
        while label in taken:
            label += "_"
        taken.add(label)
        labelled.append(replace(layer, label=label))
    return tuple(labelled)
