"""Write truncates into a graph: states, the clock, and what reads a site reads what was kept."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx

from effc.ir import Edit, Program, set_source
from effc.ir.ops.stream_clock import STREAM_CLOCK
from effc.ir.ops.truncate import TRUNCATE
from effc.passes.delta_keeping import Rule
from effc.passes.delta_sites import Network

__all__ = ["CLOCK", "state_name", "streaming_program"]

_aten = torch.ops.aten
CLOCK = "stream.clock"
"""The state that counts frames."""


def state_name(label: str) -> str:
    """What the state of a site is called."""
    return f"stream.{label}"


def streaming_program(
    program: Program, network: Network, kept: Mapping[str, bool], rules: Mapping[str, Rule], scene_cut: float, refresh: int
) -> tuple[Program, dict[str, str]]:
    """Put truncates behind the frame and behind layers.

    Args:
        program: per frame.
        network: its frame and layers.
        kept: which layers get a truncate, by the names of their sites.
        rules: threshold and step, by the names of sites; the frame's, too.
        scene_cut, refresh: of the clock.

    Returns:
        The streaming program, and the names of the truncates by the names of their sites.
    """
    edit = Edit(program)
    frame = edit.node(network.frame.node.name)
    first = [node for node in edit.graph.nodes if node.op == "placeholder"][-1].next  # casts of weights may stand before
    place = first if frame.op == "placeholder" else frame.next
    image = frame.meta["val"]
    one_a_sample = image.new_empty((image.shape[0],), dtype=torch.int32)
    clock = edit.add_state(CLOCK, one_a_sample, resident=True)
    value = _rounded(edit, frame, network.frame.label, rules[frame.name], place)
    previous = edit.add_state(state_name(network.frame.label), value, resident=True)
    threshold = rules[frame.name].threshold
    now = edit.call(STREAM_CLOCK.overload, (value, previous, clock, threshold, scene_cut, refresh), like=frame, before=place)
    set_source(now, CLOCK)
    written = [(CLOCK, now), (state_name(network.frame.label), _truncated(edit, frame, value, previous, now, threshold, place))]
    names = {frame.name: written[1][1].name}
    set_source(written[1][1], network.frame.label)
    for layer in network.layers:
        if not kept[layer.node.name]:
            continue
        node, rule, name = edit.node(layer.node.name), rules[layer.node.name], state_name(layer.label)
        place = node.next
        value = _rounded(edit, node, layer.label, rule, place)
        previous = edit.add_state(name, value, resident=True)
        written.append((name, _truncated(edit, node, value, previous, now, rule.threshold, place)))
        names[node.name] = written[-1][1].name
    for name, value in written:
        edit.write_state(name, value)
    return edit.done(), names


def _truncated(edit: Edit, node: fx.Node, value: fx.Node, previous: fx.Node, clock: fx.Node, threshold: float, place: fx.Node) -> fx.Node:
    """Let all that reads a node read what was kept of `value`, which is the node itself or its rounding."""
    kept = edit.call(TRUNCATE.overload, (value, previous, clock, threshold), like=node, before=place)
    spared = {kept, clock, *(user for user in node.users if user.target == _aten.sym_size.int)}
    while value is not node:
        spared.add(value)
        value = value.args[0]  # type: ignore[assignment]
    edit.replace(node, kept, but_not=spared)
    return kept


def _rounded(edit: Edit, node: fx.Node, label: str, rule: Rule, place: fx.Node) -> fx.Node:
    """step * round(x / step); the node itself without a step."""
    if rule.step is None:
        return node
    stored = edit.add_tensor(f"{label}.delta_step", rule.step.to(node.meta["val"].dtype), kind="buffer")
    value = edit.call(_aten.div.Tensor, (node, stored), like=node, before=place)
    value = edit.call(_aten.round.default, (value,), like=node, before=place)
    return edit.call(_aten.mul.Tensor, (value, stored), like=node, before=place)
