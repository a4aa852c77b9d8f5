"""A kernel for every call of a draft, and the stored tensors in the layouts that the kernels want."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np

from effc.lowering.drafts import Call, Draft, Slot
from effc.lowering.kernels import Implementation, Known, Options, implement
from effc.lowering.kernels.packing import Packing
from effc.lowering.parameters import ParameterSource
from effc.targets import Target

__all__ = ["implemented"]

Array = np.ndarray[Any, Any]


def implemented(
    drafted: Draft, target: Target, options: Options, tensors: dict[str, Array], origin: dict[str, ParameterSource]
) -> dict[str, Implementation]:
    """The implementation of each kernel by its symbol.

    Args:
        drafted: its calls are changed to those symbols and to tensors that are laid out anew; what nothing reads any more is dropped.
        target: the processor.
        options: what is chosen among kernels.
        tensors, origin: stored tensors and their sources by name; those that are laid out anew are added.
    """
    made: dict[tuple[Any, ...], str] = {}
    notes: dict[tuple[Any, ...], str] = {}
    measured: set[tuple[Any, ...]] = set()
    result: dict[str, Implementation] = {}
    stored = sum(array.nbytes for array in tensors.values())
    for index, call in enumerate(drafted.calls):
        shapes = [tuple(int(size) for size in buffer.shape) for buffer in drafted.functions[call.function].params]
        fixed = drafted.stored_reads(call)
        # Views vanish, so a tensor may be stored in another shape than the kernel knows.
        values = {i: tensors[name].reshape(shapes[i]) for i, name in enumerate(call.reads) if fixed[i]}
        known = Known(stored, call.density, call.mask)
        key: tuple[Any, ...] = (call.function, fixed, known.density, known.mask, call.direct)
        if key in made and key in measured:  # other values may lead to another kernel, or to another measured error
            key = (*key, *(call.reads[i] for i in values))
        if key not in made:
            implementation = drafted.ready.get(call.function)
            if implementation is None:
                own = replace(options, winograd="off") if call.direct else options
                implementation = implement(drafted.functions[call.function], fixed, target, own, values, known)
            made[key] = _symbol(call, implementation, result)
            notes[key] = implementation.note
            if implementation.depends_on_values:
                measured.add(key)
        symbol = made[key]
        packings = result[symbol].packings
        reads = tuple(
            _packed(name, values[i], packings[i], drafted, tensors, origin) if i in packings else name for i, name in enumerate(call.reads)
        )
        drafted.calls[index] = replace(call, function=symbol, reads=reads, note=notes[key])
    read = {name for call in drafted.calls for name in call.reads}
    for name in [name for name, slot in drafted.slots.items() if slot.room == "parameter" and name not in read]:
        del drafted.slots[name]
    return result


def _symbol(call: Call, implementation: Implementation, result: dict[str, Implementation]) -> str:
    """A symbol for an implementation: that of an equal one, else a new one."""
    import tvm_ffi

    for symbol, known in result.items():
        if known.packings == implementation.packings and tvm_ffi.structural_equal(known.function, implementation.function):
            return symbol
    names = itertools.chain([call.function], (f"{call.function}_{number}" for number in itertools.count(1)))
    symbol = next(name for name in names if name not in result)
    result[symbol] = implementation
    return symbol


def _packed(
    name: str, value: Array, packing: Packing, drafted: Draft, tensors: dict[str, Array], origin: dict[str, ParameterSource]
) -> str:
    """The name of a stored tensor in the layout that a kernel wants; `value` is the tensor in the shape that the kernel knows."""
    array = packing(value)
    reshaped = tensors[name].shape != value.shape
    source = packing.source(ParameterSource(origin[name].name, "transformed") if reshaped else origin[name])
    for number in itertools.count():
        fresh = f"{name}.packed{number or ''}"
        known = tensors.get(fresh)
        if known is None and fresh not in drafted.slots:
            tensors[fresh], origin[fresh] = array, source
            break
        if known is not None and known.shape == array.shape and known.tobytes() == array.tobytes():
            break
    drafted.slots.setdefault(fresh, Slot(fresh, "parameter", array.shape, array.dtype.name))
    return fresh
