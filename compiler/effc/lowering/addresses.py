"""A place for every buffer of a draft, and its calls as the steps of a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from effc.errors import InternalError
from effc.lowering.aliasing import distances
from effc.lowering.arena import Lifetime, align, place
from effc.lowering.arena_search import place_tightly
from effc.lowering.drafts import Call, Draft, Slot
from effc.lowering.emit import Kernel
from effc.lowering.kernels import Implementation
from effc.runtime.plan import ALIGNMENT, Buffer, Plan, Step
from effc.targets import C99, Target

__all__ = ["ENTRY", "addresses"]

ENTRY = "effc_run"
C99_ALIGNMENT = 8  # bytes, of what lies in the arena of C99 sources: what a double needs


def addresses(drafted: Draft, compiled: Mapping[str, Kernel], implementations: Mapping[str, Implementation], target: Target) -> Plan:
    """Give every buffer its place: parameters one after another, intermediates and temporaries by lifetime."""
    slots = dict(drafted.slots)
    steps: list[Step] = []
    for index, call in enumerate(drafted.calls):
        temporaries = []
        for number, (shape, dtype) in enumerate(compiled[call.function].temporaries):
            slot = Slot(f"step{index}.temporary{number}", "arena", shape, dtype)
            slots[slot.name] = slot
            temporaries.append(slot.name)
        steps.append(_step(call, temporaries, slots, implementations[call.function]))
    lifetimes = _lifetimes(steps, slots)
    if target.family == C99:
        offsets, arena = place_tightly(list(lifetimes.values()), _shared(steps, slots, lifetimes, compiled), C99_ALIGNMENT)
    else:
        offsets, arena = place(list(lifetimes.values()))
    parameters = states = 0
    buffers = []
    for name, slot in slots.items():
        first, last, offset = -1, -1, 0
        if slot.room == "parameter":
            offset, parameters = parameters, parameters + align(slot.size)
        elif slot.room == "state":
            offset, states = states, states + align(slot.size)
        elif slot.room == "arena":
            if name not in lifetimes:
                raise InternalError(f"nothing writes {name}")
            offset, first, last = offsets[name], lifetimes[name].first, lifetimes[name].last
        buffers.append(Buffer(name, slot.room, slot.shape, slot.dtype, offset, slot.size, first, last))
    order = {"input": 0, "output": 1, "parameter": 2, "state": 3, "arena": 4}
    buffers.sort(key=lambda buffer: order[buffer.room])  # stable: inputs and outputs keep their calling order
    fresh = len(steps) if drafted.fresh is None else drafted.fresh
    if states and target.lanes > 1:  # kernels over lists copy windows in whole vectors, which may end behind the last element
        states, arena = states + ALIGNMENT, arena + ALIGNMENT
    return Plan(ENTRY, tuple(buffers), tuple(steps[:fresh]), arena, parameters, states, tuple(steps[fresh:]), drafted.clock)


def _shared(
    steps: Sequence[Step], slots: Mapping[str, Slot], lifetimes: Mapping[str, Lifetime], compiled: Mapping[str, Kernel]
) -> dict[tuple[str, str], int]:
    """(read, written) -> bytes by which the written buffer must begin in front of the read one, of those that may overlap at all."""
    found: dict[tuple[str, str], int] = {}
    known: dict[tuple[str, tuple[tuple[int, int], ...]], dict[tuple[int, int], int]] = {}
    for index, step in enumerate(steps):
        names = (*step.reads, *step.writes)
        ending = [name for name in step.reads if name in lifetimes and lifetimes[name].last == index and name not in step.writes]
        starting = [name for name in step.writes if name in lifetimes and lifetimes[name].first == index and name not in step.reads]
        pairs = tuple((at, to) for at, name in enumerate(names) for to, other in enumerate(names) if name in ending and other in starting)
        key = (step.kernel, pairs)
        if key not in known:
            known[key] = distances(compiled[step.kernel].function, [slots[name].size for name in names], pairs)
        for read in dict.fromkeys(ending):
            for written in starting:
                apart = [known[key].get((at, names.index(written))) for at, name in enumerate(step.reads) if name == read]
                if None not in apart:
                    found[read, written] = max(one for one in apart if one is not None)
    return found


def _step(call: Call, temporaries: list[str], slots: Mapping[str, Slot], implementation: Implementation) -> Step:
    return Step(
        kernel=call.function,
        family=implementation.family,
        reads=call.reads,
        writes=(*call.writes, *temporaries),
        sources=call.sources,
        ops=call.ops,
        macs=sum(part.macs for part in call.parts),
        bytes=sum(slots[name].size for name in dict.fromkeys((*call.reads, *call.writes))),
        note=call.note,
        active=call.active,
        positions=call.positions,
    )


def _lifetimes(steps: list[Step], slots: Mapping[str, Slot]) -> dict[str, Lifetime]:
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for index, step in enumerate(steps):
        for name in step.writes:
            first.setdefault(name, index)
            last[name] = index
        for name in step.reads:
            last[name] = index
    return {name: Lifetime(name, slots[name].size, start, last[name]) for name, start in first.items() if slots[name].room == "arena"}
