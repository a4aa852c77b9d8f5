"""Counted events against small convolutions that are computed product by product, with every operand in hand."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from benchmarks.harness import Claim, Outcome
from effc.compiler.accelerating import model_program
from effc.cost.accelerator import find_accelerator
from effc.data import Dataset
from effc.frontends import load_program

__all__ = ["counts_part"]

TABLE = "Multiply-accumulates of small convolutions, counted by the model and one by one"
LAYERS = 12


def counts_part(quick: bool) -> Outcome:
    """Convolutions of sizes, strides, padding, dilation and groups drawn at random, on sparse inputs."""
    outcome, differ = Outcome(), 0
    generator = np.random.default_rng(11)
    for _ in range(3 if quick else LAYERS):
        groups, kernel, stride, padding, dilation = (
            int(generator.integers(low, high)) for low, high in ((1, 4), (1, 4), (1, 3), (0, 3), (1, 3))
        )
        channels, filters = groups * int(generator.integers(1, 4)), groups * int(generator.integers(1, 20))
        height, width = (int(generator.integers(7, 11)) for _ in range(2))
        layer = torch.nn.Conv2d(channels, filters, kernel, stride, padding, dilation, groups, bias=False).eval()
        frames = generator.standard_normal((3, channels, height, width)).astype(np.float32)
        frames[generator.random(frames.shape) < 0.6] = 0
        still = generator.random(frames.shape[1:]) < 0.5
        frames[1:, still] = frames[0, still]
        program = load_program(layer, example_inputs=[torch.zeros(2, channels, height, width)])
        data = Dataset({program.interface.inputs[0].name: frames})
        report = model_program(program, find_accelerator("event-driven"), data)
        changed = frames[1:] != frames[:-1]
        by_hand = {"zeros": _products(frames != 0, layer) / 3, "delta": _products(changed, layer) / 2}
        found = {mode: report.total(mode).macs for mode in by_hand}
        differ += sum(abs(found[mode] - by_hand[mode]) > 1e-6 for mode in by_hand)
        size = f"{channels} x {height} x {width} to {filters}, {kernel} x {kernel}, stride {stride}, padding {padding}, dilation {dilation}"
        row = {"table": TABLE, "layer": f"{size}, {groups} groups", "dense": report.macs}
        outcome.rows.append(
            {**row, **{f"{mode}, {who}": round(one[mode], 2) for mode in by_hand for who, one in (("model", found), ("by hand", by_hand))}}
        )
    outcome.claims.append(Claim("counts of multiply-accumulates that differ from those done one by one", differ, 0, "at most"))
    return outcome


def _products(active: np.ndarray, layer: torch.nn.Conv2d) -> int:
    """Products that a loop over all outputs and weights does where the input is active."""
    (kernel, _), (stride, _), (padding, _), (dilation, _) = layer.kernel_size, layer.stride, layer.padding, layer.dilation
    padded = np.pad(active, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    inner, outer = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    rows, columns = ((size - dilation * (kernel - 1) - 1) // stride + 1 for size in padded.shape[2:])
    done = 0
    for n, y, x in itertools.product(range(layer.out_channels), range(rows), range(columns)):
        first = n // outer * inner
        for c, dy, dx in itertools.product(range(first, first + inner), range(kernel), range(kernel)):
            done += int(padded[:, c, y * stride + dy * dilation, x * stride + dx * dilation].sum())
    return done
