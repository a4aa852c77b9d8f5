"""Bytes that a layer moves between the array, the memories beside it, and DRAM.

The memories are double buffered: half of each holds what is worked on, the other half is filled meanwhile. So time is the larger of what
computing and what DRAM takes, and "fits" means fits into a half. What stays for good needs no second half.

Both kinds of arrays:
- Weights stay from call to call where those of all layers fit into the memory for weights together; what several layers share is there
  once. Else a layer's come from DRAM in each call, whoever else reads them: once where they fit, or where the array reads each of them once
  anyway.
- A layer's inputs come from DRAM where they are the network's, or do not fit; its results go there where they are the network's, or do not
  fit. Else they lie in the memory for activations from one layer to the next. Results count before pooling.
- What comes from DRAM is written to a memory first, what goes there is read from one.

Stationary arrays: inputs that do not fit are read again for each fold over the output channels (not for input-stationary ones); weights for
each fold over the places of the result. Sums that wait for the next fold over K lie in the memory for outputs (all places of one fold of
output channels; input-stationary: all output channels of one fold of places), or where they do not fit in DRAM.

Event-driven arrays: every multiply-accumulate reads a weight; every update of a sum reads and writes it. Where the sums of a layer do not
fit, or weights that do not stay, it is computed in slices, each of which takes all inputs. Between layers inputs have one form: all values
where the array takes all, else a list of the events, an index and a value each, or all values where that is shorter. Results are tested for
zeros, or compared with those of the frame before, where they are made, and written in that form; what does not fit goes to DRAM and comes
back for each slice. A list that two layers read counts for each. The network's inputs arrive as they are, and are tested or compared in
each slice; the network's results leave as they are, or in the mode `delta` as a list where that is shorter. There a neuron has a state, its
sum and its last output. All of them together stay in the memory for outputs, or none does: then those that an event reached come from DRAM
and go back. That is what temporal sparsity costs.

Since neighbouring places of a result belong to different cores (`event_driven`), every core needs every weight of a layer, and every event
reaches all cores. The model lets them: a memory for weights that gives each core `columns` weights a cycle, or a copy for each core, and
events that wait for nothing but the busiest core. Bytes are counted as read from one memory, its capacity once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from effc.cost.accelerator.description import Accelerator
from effc.cost.accelerator.event_driven import Events
from effc.cost.accelerator.layout import weights_stay
from effc.cost.accelerator.product import Product
from effc.cost.accelerator.systolic import Array

__all__ = ["Residence", "Traffic", "event_traffic", "residence", "slices", "state_bytes", "stationary_traffic", "stored_weights"]


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


def stored_weights(products: Sequence[Product]) -> int:
    """Elements of all stored weights: those that several products read count once."""
    shared = {one.tensor: one.weights for one in products if one.stored and one.tensor is not None}
    return sum(shared.values()) + sum(one.weights for one in products if one.stored and one.tensor is None)


def residence(products: Sequence[Product], accelerator: Accelerator) -> Residence:
    return Residence(weights_stay(stored_weights(products), accelerator), state_bytes(products, accelerator) <= accelerator.sram.outputs)


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


def slices(product: Product, accelerator: Accelerator, stays: Residence, *, delta: bool) -> int:
    """How often an event-driven array goes over the inputs of a layer: once, unless its weights or sums have to come in parts."""
    size, sram = accelerator.bytes, accelerator.sram
    weights = 0 if stays.weights and product.stored else product.weights * size.weight
    sums = 0 if delta and stays.states else product.results * size.accumulator
    return max(1, math.ceil(weights / (sram.weights // 2 or 1)), math.ceil(sums / (sram.outputs // 2 or 1)))


def event_traffic(
    product: Product, events: Events, accelerator: Accelerator, stays: Residence, *, listed: bool, delta: bool, width: int = 1
) -> Traffic:
    """Of an event-driven array.

    Args:
        product, events, accelerator: the layer, and what it does.
        stays: on the chip.
        listed: whether events are told by a list; else all inputs are taken in order.
        delta: whether events are changes, and sums states.
        width: values of an entry of a list.
    """
    size, half = accelerator.bytes, accelerator.sram.activations // 2
    times = slices(product, accelerator, stays, delta=delta)
    inputs, results = product.inputs * size.activation, product.results * size.activation
    values = min(events.entries * width, product.inputs) * size.activation
    made = events.touched if delta else product.results
    arriving = 0.0 if stays.weights and product.stored else float(product.weights * size.weight)
    leaving = written = 0.0
    if product.first:
        arriving += inputs * (1 if inputs <= half else times)
        taken = float(inputs * times * (2 if delta else 1))  # beside the frame before
    elif listed:
        lists = min(values + events.entries * size.index, float(inputs))
        taken, written = lists * times, lists
        if lists > half:
            arriving, leaving = arriving + lists * times, leaving + lists
    else:
        taken = inputs * times
        arriving += inputs * times if inputs > half else 0
    if delta:
        outputs = made * size.activation  # of the frame before, and these
        written += outputs
        leaving += min(float(results), made * (size.activation + size.index)) if product.last else 0.0
        if not stays.states:
            arriving += made * size.accumulator + outputs + (inputs if product.first else 0)
            leaving += made * size.accumulator + outputs + (values if product.first else 0)
    else:
        outputs = 0.0
        written += results if product.last or not listed else 0
        leaving += results if product.last or (not listed and results > half) else 0
    read = events.macs * size.weight + events.updates * size.accumulator + taken + made * size.accumulator + outputs
    written += events.updates * size.accumulator
    return Traffic(read + leaving, written + arriving, arriving + leaving)
