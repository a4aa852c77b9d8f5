"""Recurrent networks for tests: ONNX layers, torch modules, slow signals, and a DeltaGRU and a DeltaLSTM written as in the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from effc.frontends import load_program
from effc.ir import Edit, Program
from effc.passes.delta_recurrent import RecurrentDelta, Thresholds, rewrite_recurrent
from effc.passes.recurrent_sites import recurrent_sites

__all__ = ["HIDDEN", "INPUTS", "delta", "fed", "layer", "paper_gru", "paper_lstm", "slow"]

INPUTS, HIDDEN = 8, 16
_GATES = {"GRU": 3, "LSTM": 4, "RNN": 1}


def slow(steps: int, inputs: int = INPUTS, speed: float = 0.02) -> Tensor:
    """Sines of different periods: (steps, inputs)."""
    return torch.sin(torch.arange(steps)[:, None] * speed * torch.linspace(0.5, 2.0, inputs) + torch.arange(inputs))


def layer(folder: Path, kind: str = "GRU", steps: int = 1, seed: int = 0, **attributes: int) -> Program:
    """An ONNX model of one recurrent layer with random weights whose states are declared."""
    generator, scale = np.random.default_rng(seed), 1.5 / np.sqrt(HIDDEN)

    def stored(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(generator.uniform(-scale, scale, shape).astype(np.float32), name)

    rows, states = _GATES[kind] * HIDDEN, ["h", "c"] if kind == "LSTM" else ["h"]
    weights = [stored("w", 1, rows, INPUTS), stored("r", 1, rows, HIDDEN), stored("b", 1, 2 * rows)]
    node = helper.make_node(
        kind, ["x", "w", "r", "b", "", *states], ["y", *(f"{s}_next" for s in states)], name="cell", hidden_size=HIDDEN, **attributes
    )

    def value(name: str, *shape: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [node],
        kind,
        [value("x", steps, 1, INPUTS), *(value(s, 1, 1, HIDDEN) for s in states)],
        [value("y", steps, 1, 1, HIDDEN), *(value(f"{s}_next", 1, 1, HIDDEN) for s in states)],
        weights,
    )
    path = folder / "layer.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return load_program(path, states={s: f"{s}_next" for s in states})


def delta(program: Program, threshold: float, *, hidden: float | None = None, refresh: int = 0) -> tuple[Program, list[RecurrentDelta]]:
    """The program with all its recurrent layers on differences."""
    edit, sites = Edit(program), recurrent_sites(program)
    limits = Thresholds(threshold, threshold if hidden is None else hidden)
    done = rewrite_recurrent(edit, sites, {site.name: limits for site in sites}, refresh=refresh)
    return edit.done(), done


def fed(program: Program, calls: Tensor, name: str = "x", states: dict[str, Tensor] | None = None) -> list[dict[str, Tensor]]:
    """All outputs of one call after the other, every state from zeros (or from `states`, which then holds the last ones)."""
    interface = program.interface
    shapes = {value.name: value for value in interface.inputs}
    held: dict[str, Tensor] = {} if states is None else states
    for state in interface.states:
        held.setdefault(state.input, torch.zeros(shapes[state.input].at_batch(1), dtype=getattr(torch, shapes[state.input].dtype)))
    found = []
    for x in calls:
        given: Mapping[str, Tensor] = {**held, name: x}
        with torch.no_grad():
            results = program.call(*(given[value.name] for value in interface.inputs))
        outputs = {value.name: result for value, result in zip(interface.outputs, results, strict=True)}
        held.update({state.input: outputs[state.output] for state in interface.states})
        found.append(outputs)
    return found


def paper_gru(x: Tensor, weights: Sequence[Tensor], threshold: float) -> Tensor:
    """DeltaGRU by the paper's formulas in float64: x (steps, inputs), torch's [w, r, b, c] -> h (steps, hidden)."""
    w, r, b, c = (one.double() for one in weights)
    n = r.shape[1]
    seen_x, seen_h, h = torch.zeros(x.shape[1]).double(), torch.zeros(n).double(), torch.zeros(n).double()
    both, new_x, new_h = b[: 2 * n] + c[: 2 * n], b[2 * n :].clone(), c[2 * n :].clone()
    found = []
    for value in x.double():
        dx, seen_x = _fire(value, seen_x, threshold)
        dh, seen_h = _fire(h, seen_h, threshold)
        both = both + w[: 2 * n] @ dx + r[: 2 * n] @ dh
        new_x, new_h = new_x + w[2 * n :] @ dx, new_h + r[2 * n :] @ dh
        reset, update = torch.sigmoid(both).chunk(2)
        h = (1 - update) * torch.tanh(new_x + reset * new_h) + update * h
        found.append(h)
    return torch.stack(found)


def paper_lstm(x: Tensor, weights: Sequence[Tensor], threshold: float) -> Tensor:
    """DeltaLSTM in the same form."""
    w, r, b, c = (one.double() for one in weights)
    n = r.shape[1]
    seen_x, seen_h, h, cell = (torch.zeros(size).double() for size in (x.shape[1], n, n, n))
    total, found = b + c, []
    for value in x.double():
        dx, seen_x = _fire(value, seen_x, threshold)
        dh, seen_h = _fire(h, seen_h, threshold)
        total = total + w @ dx + r @ dh
        i, f, g, o = total.chunk(4)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(cell)
        found.append(h)
    return torch.stack(found)


def _fire(value: Tensor, seen: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    fires = (value - seen).abs() > threshold
    return torch.where(fires, value - seen, torch.zeros_like(value)), torch.where(fires, value, seen)
