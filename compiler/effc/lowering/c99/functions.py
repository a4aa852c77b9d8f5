"""The kernels of a plan as C functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from effc.errors import InternalError, Problem, UnsupportedModelError
from effc.lowering.c99.printer import Printed, c_function
from effc.lowering.c99.values import NoTypeError, c_type
from effc.lowering.drafts import Call, Draft, Slot
from effc.lowering.emit import Kernel

__all__ = ["c_functions"]

_HINT = "convert the model to float32"
_SHOWN = 4


def c_functions(compiled: Mapping[str, Kernel], drafted: Draft) -> tuple[Printed, ...]:
    """Those that a plan calls, in the order of their first call.

    Args:
        compiled: kernels by symbol, of `effc.lowering.emit.kernels`.
        drafted: whose calls the plan makes.

    Raises:
        UnsupportedModelError: kernels, inputs or outputs hold what C99 has no form for; all of them are listed. A type that it does not
            have is one problem of the inputs and outputs, and one of the kernels.
    """
    import tvm
    from tvm import tirx

    target = tvm.target.Target("c")
    passes = tvm.transform.Sequential([tirx.transform.BindTarget(target), tirx.transform.LowerIntrin()])
    calls = drafted.calls
    symbols = dict.fromkeys(call.function for call in calls)
    lowered = passes(tvm.IRModule({symbol: compiled[symbol].function for symbol in symbols}))
    printed: list[Printed] = []
    problems = _borders(drafted)
    untyped: dict[str, list[Call]] = {}
    for symbol in symbols:
        try:
            printed.append(c_function(lowered[symbol], symbol))
        except NoTypeError as error:
            untyped.setdefault(error.message, []).extend(call for call in calls if call.function == symbol)
        except InternalError as error:
            problems += _problems(symbol, [call for call in calls if call.function == symbol], error)
    problems += [_within(why, several) for why, several in untyped.items()]
    if problems:
        raise UnsupportedModelError("parts of the program have no form in C99", problems)
    return tuple(printed)


def _borders(drafted: Draft) -> list[Problem]:
    """Inputs and outputs of types that C99 does not have, one problem a type."""
    found: dict[str, list[Slot]] = {}
    for slot in drafted.slots.values():
        if slot.room in ("input", "output"):
            try:
                c_type(slot.dtype)
            except NoTypeError as error:
                found.setdefault(error.message, []).append(slot)
    return [
        Problem(", ".join(slot.name for slot in slots), " and ".join(dict.fromkeys(f"{slot.room}s" for slot in slots)), why, _HINT)
        for why, slots in found.items()
    ]


def _within(why: str, calls: Sequence[Call]) -> Problem:
    """A type that C99 does not have, in kernels. Most often the whole model is of it: the first few places say so."""
    names = list(dict.fromkeys(source for call in calls for source in call.sources or (call.function,)))
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return Problem(", ".join(names[:_SHOWN]) + more, "computed in that type", why, _HINT)


def _problems(symbol: str, calls: Sequence[Call], error: InternalError) -> list[Problem]:
    """What a kernel holds that has no form, for each call of it, by the names of the nodes that ask for it where they are known."""
    found = []
    for what in error.message.removeprefix(f"{symbol}: ").split("\n"):
        for call in calls:
            asking = [part.origin for part in call.parts if part.origin.op == what.split()[0] and part.origin.source]
            places = [(one.source, one.op) for one in asking] or [(", ".join(call.sources) or symbol, " + ".join(call.ops))]
            found += [Problem(source, op, what, "replace it, or compile for a CPU") for source, op in places]
    return found
