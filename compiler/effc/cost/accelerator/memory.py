"""Bytes that a layer moves between the array, the memories beside it, and DRAM.

The memories are double buffered: half of each holds what is worked on, the other half is filled meanwhile. So time is the larger of what
computing and what DRAM takes, and "fits" means fits into a half. What stays for good needs no second half.

Both kinds of arrays:
- Weights stay from call to call where those of all layers fit into the memory for weights together. Else a layer's come from DRAM in each
  call: once where they fit, or where the array reads each of them once anyway.
- A layer's inputs come from DRAM where they are the network's, or do not fit; its results go there where they are the network's, or do not
  fit. Else they lie in the memory for activations from one layer to the next. Results count before pooling.
- What comes from DRAM is written to a memory first, what goes there is read from one.

Stationary arrays: inputs that do not fit are read again for each fold over the output channels (not for input-stationary ones); weights for
each fold over the places of the result. Sums that wait for the next fold over K lie in the memory for outputs (all places of one fold of
output channels; input-stationary: all output channels of one fold of places), or where they do not fit in DRAM.

Event-driven arrays: every multiply-accumulate reads a weight; every update of a sum reads and writes it. The list of events is read once,
or once for each slice of the results, where the sums or the weights of a layer do not fit and it is computed in slices. A layer's results
are tested for zeros, or compared with those of the frame before, where they are made; the network's inputs where they arrive. In the mode
`delta` a neuron has a state, its sum and its last output. All of them together stay in the memory for outputs, or none does: then those
that an event reached come from DRAM and go back. That is what temporal sparsity costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from effc.cost.accelerator.description import Accelerator
from effc.cost.accelerator.event_driven import Events
from effc.cost.accelerator.product import Product
from effc.cost.accelerator.systolic import Array

__all__ = ["Residence", "Traffic", "event_traffic", "residence", "state_bytes", "stationary_traffic"]


@dataclass(frozen=True)
class Residence:
    """What stays on the chip from call to call: the weights of all layers, the states of all neurons."""

    weights: bool
    states: bool


@dataclass(frozen=True)
class Traffic:
    """Bytes of one layer: read from and written to the memories beside the array, and moved to and from DRAM."""

    sram_read: float
    sram_written: float
    dram: float


def state_bytes(products: Sequence[Product], accelerator: Accelerator) -> int:
    """What a stream keeps on an event-driven array: sum and last output of each neuron, and the last frame."""
    size = accelerator.bytes
    frames = {one.input: one.inputs for one in products if one.first}
    return sum(one.results for one in products) * (size.accumulator + size.activation) + sum(frames.values()) * size.activation


def residence(products: Sequence[Product], accelerator: Accelerator) -> Residence:
    weights = sum(one.weights for one in products if one.stored) * accelerator.bytes.weight
    return Residence(weights <= accelerator.sram.weights, state_bytes(products, accelerator) <= accelerator.sram.outputs)


def stationary_traffic(product: Product, array: Array, accelerator: Accelerator, stays: Residence) -> Traffic:
    """Of a dense array."""
    size, sram = accelerator.bytes, accelerator.sram
    weights, inputs, results = product.weights * size.weight, product.inputs * size.activation, product.results * size.activation
    fit = weights <= sram.weights // 2
    arriving = 0.0
    if not (stays.weights and product.stored):
        arriving += weights * (1 if fit else array.weights / product.weights)
    fits = inputs <= sram.activations // 2
    if product.first or not fits:
        arriving += inputs * (1 if fits or accelerator.dataflow == "input-stationary" else array.column_folds)
    leaving = results if product.last or results > sram.activations // 2 else 0.0
    beside = product.columns if accelerator.dataflow == "input-stationary" else product.rows
    width = product.rows if accelerator.dataflow == "input-stationary" else product.columns
    waiting = beside * min(width, accelerator.columns) * size.accumulator
    if array.reads and waiting > sram.outputs // 2:
        spilt = array.reads * size.accumulator
        arriving, leaving = arriving + spilt, leaving + spilt
    read = array.inputs * size.activation + array.weights * size.weight + (array.reads + product.results) * size.accumulator
    written = array.writes * size.accumulator + results
    return Traffic(read + leaving, written + arriving, arriving + leaving)


def event_traffic(product: Product, events: Events, accelerator: Accelerator, stays: Residence, *, listed: bool, delta: bool) -> Traffic:
    """Of an event-driven array.

    Args:
        product, events, accelerator: the layer, and what it does.
        stays: on the chip.
        listed: whether events are told by a list; else all inputs are taken in order.
        delta: whether events are changes, and sums states.
    """
    size, sram = accelerator.bytes, accelerator.sram
    weights, sums = product.weights * size.weight, product.results * size.accumulator
    slices = max(1, math.ceil(weights / (sram.weights // 2 or 1)), math.ceil(sums / (sram.outputs // 2 or 1)))
    entry = size.activation + (size.index if listed else 0)
    lists = events.entries * entry
    inputs, results = product.inputs * size.activation, product.results * size.activation
    made = events.touched if delta else product.results
    arriving = 0.0 if stays.weights and product.stored else float(weights)
    if product.first:
        arriving += inputs * (1 if inputs <= sram.activations // 2 or listed else slices)
    waiting = lists if delta else inputs
    if not product.first and waiting > sram.activations // 2:
        arriving += waiting * slices
    leaving = 0.0
    if delta:
        leaves = min(float(results), made * (size.activation + size.index))
        leaving += leaves if product.last or leaves > sram.activations // 2 else 0.0
        if not stays.states:
            arriving += made * (size.accumulator + size.activation) + (inputs if product.first else 0)
            leaving += made * (size.accumulator + size.activation) + (events.entries * size.activation if product.first else 0)
    elif product.last or results > sram.activations // 2:
        leaving += results
    compared = inputs * (2 if delta else 1) if product.first and listed else 0  # where the frame arrives
    old = made * size.activation if delta else 0  # outputs of the frame before
    read = events.macs * size.weight + events.updates * size.accumulator + lists * slices + made * size.accumulator + compared + old
    written = events.updates * size.accumulator + made * size.activation + (lists if listed else 0)
    return Traffic(read + leaving, written + arriving, arriving + leaving)
