"""Which inputs of a program are states: declared by name, checked against its interface, every problem at once.

A functional step `(inputs..., states...) -> (outputs..., new states...)` becomes a streaming program: `{"keys": "keys_next"}` says that the
input `keys` of a call is what the output `keys_next` of the call before it was. The graph stays as it is; states have no other form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from effc.errors import ConfigError, Problem
from effc.ir import Program, State, Value

__all__ = ["with_states"]


def with_states(program: Program, states: Mapping[str, str]) -> Program:
    """The program with states.

    Args:
        program: without states, or with exactly these.
        states: name of the input that holds the old value -> name of the output that holds the new one. Both have one shape and dtype, and
            they are the last inputs and the last outputs (in any order among themselves).

    Raises:
        ConfigError: lists everything that does not fit.
    """
    declared = {state.input: state.output for state in program.interface.states}
    if declared and declared != dict(states):
        raise ConfigError(f"the program has the states {declared} already: leave states out, or give these")
    problems = list(_problems(program.interface.inputs, program.interface.outputs, states))
    if problems:
        raise ConfigError("the states do not fit the model: states map an input's name to that of the output with its new value", problems)
    order = [value.name for value in program.interface.inputs if value.name in states]
    return replace(program, interface=replace(program.interface, states=tuple(State(name, states[name]) for name in order)))


def _problems(inputs: Sequence[Value], outputs: Sequence[Value], states: Mapping[str, str]) -> Iterator[Problem]:
    old, new = {value.name: value for value in inputs}, {value.name: value for value in outputs}
    writers = list(states.values())
    for name, writer in states.items():
        if name not in old:
            yield Problem(f"state {name!r}", "the name", "is no input", f"inputs: {', '.join(old)}")
        if writer not in new:
            yield Problem(f"state {name!r}", f"its new value {writer!r}", "is no output", f"outputs: {', '.join(new)}")
        if name in old and writer in new and (old[name].shape, old[name].dtype) != (new[writer].shape, new[writer].dtype):
            yield Problem(f"state {name!r}", str(old[name]), f"its new value is {new[writer]}", "a state keeps its shape and dtype")
        if writers.index(writer) < list(states).index(name):
            first = list(states)[writers.index(writer)]
            yield Problem(f"state {name!r}", f"its new value {writer!r}", f"is that of {first!r} already", "each state has its own")
    yield from _out_of_place(inputs, states, "input", "forward takes states after all other inputs")
    yield from _out_of_place(outputs, set(writers), "output", "forward returns new states after all other outputs")


def _out_of_place(values: Sequence[Value], states: Mapping[str, str] | set[str], kind: str, hint: str) -> Iterator[Problem]:
    """What stands behind a state and is none."""
    first = next((place for place, value in enumerate(values) if value.name in states), len(values))
    for value in values[first:]:
        if value.name not in states:
            yield Problem(f"{kind} {value.name!r}", "no state", f"comes after the state {values[first].name!r}", hint)
