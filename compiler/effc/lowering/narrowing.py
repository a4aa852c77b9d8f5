"""Values of quantised networks cross between kernels as the bytes that they are, not as the numbers that those bytes stand for.

Fusion ends a kernel where the next one begins with a sum of products. In a graph of quantisations and dequantisations that puts the
dequantisation, a cheap function of a byte, to the end of the kernel that made the byte, and four bytes cross where one would do:

    before:   A: x -> ... -> q (int8) -> s (q - z)      float32      B: ... s (q - z) ...
    after:    A: x -> ... -> q (int8)                    int8         B: q -> s (q - z) -> ...

Every reader of such a value gets the dequantisation in front: the same operations on the same numbers, so that no result changes. It costs
each reader a few instructions for every element that it reads, and saves the arena three quarters of the buffer. A kernel that moves what
it dequantises (a transposition, a slice) moves the bytes instead.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from effc.lowering.drafts import Call, Draft, Slot
from effc.lowering.narrow_functions import WIDE, Border, border_of, cut, extended

__all__ = ["with_narrow_borders"]

_MARK = "_bytes"  # behind the symbols of functions that were changed here


def with_narrow_borders(drafted: Draft) -> Draft:
    """The draft with bytes between kernels, where a kernel ends with a function of its bytes and stored numbers that only casts,
    subtracts and multiplies, and all readers are kernels that lowering writes."""
    borders = _Borders(drafted)
    for index in range(len(drafted.calls)):
        borders.narrow(index)
    drafted.calls = [call for index, call in enumerate(drafted.calls) if index not in borders.gone]
    used = {call.function for call in drafted.calls}
    drafted.functions = {symbol: function for symbol, function in drafted.functions.items() if symbol in used}
    return drafted


class _Borders:
    def __init__(self, drafted: Draft) -> None:
        self.drafted = drafted
        self.found: dict[str, Border | None] = {}
        self.made: dict[int, list[str]] = {}  # symbols of functions that were made here, by structural hash
        self.gone: set[int] = set()  # calls that only dequantised

    def narrow(self, index: int) -> None:
        """Let the result of a call be bytes, if that is possible."""
        drafted = self.drafted
        call = drafted.calls[index]
        if len(call.writes) != 1 or not self._open(call):
            return
        (result,) = call.writes
        slot = drafted.slots[result]
        readers = [i for i, other in enumerate(drafted.calls) if result in other.reads]
        writers = [other for other in drafted.calls if result in other.writes]
        if slot.room != "arena" or slot.dtype not in WIDE or len(writers) != 1 or not readers:
            return
        if min(readers) <= index or not all(self._open(drafted.calls[i]) for i in readers):
            return
        border = self._border(call)
        if border is None or any(drafted.slots[call.reads[place]].room != "parameter" for place in border.numbers):
            return
        numbers = tuple(call.reads[place] for place in border.numbers)
        argument = border.argument(drafted.functions[call.function])
        if argument is not None and not border.moves:
            name = call.reads[argument]
            if drafted.slots[name].room not in ("arena", "input"):
                return
            self.gone.add(index)
        else:
            name = f"{result}.bytes"
            while name in drafted.slots:
                name += "'"
            drafted.slots[name] = Slot(name, "arena", slot.shape, str(border.bytes.dtype))
            function, kept = cut(drafted.functions[call.function], border)
            symbol = self._symbol(call.function, function)
            drafted.calls[index] = replace(call, function=symbol, reads=tuple(call.reads[i] for i in kept), writes=(name,))
        for i in readers:
            self._extend(i, result, name, border, numbers)
            if index in self.gone:  # the reader computes that, too
                drafted.calls[i] = replace(drafted.calls[i], parts=(*call.parts, *drafted.calls[i].parts))
        del drafted.slots[result]

    def _open(self, call: Call) -> bool:
        """Whether a call's function is one of blocks, which can be changed."""
        from tvm import s_tir

        function = self.drafted.functions.get(call.function)
        return call.function not in self.drafted.ready and function is not None and isinstance(function.body, s_tir.SBlockRealize)

    def _border(self, call: Call) -> Border | None:
        if call.function not in self.found:
            self.found[call.function] = border_of(self.drafted.functions[call.function], len(call.reads))
        return self.found[call.function]

    def _extend(self, index: int, old: str, new: str, border: Border, numbers: Sequence[str]) -> None:
        """Let a call read the bytes; an operand that it reads at two places is dequantised for each."""
        call = self.drafted.calls[index]
        function, reads = self.drafted.functions[call.function], list(call.reads)
        for place in [i for i, name in enumerate(call.reads) if name == old]:
            function = extended(function, place, len(reads), border)
            reads[place] = new
            reads += numbers
        self.drafted.calls[index] = replace(call, function=self._symbol(call.function, function), reads=tuple(reads))

    def _symbol(self, old: str, function: Any) -> str:
        """A symbol of a function: that of an equal one, else a new one."""
        import tvm_ffi

        known = self.made.setdefault(int(tvm_ffi.structural_hash(function)), [])
        for symbol in known:
            if tvm_ffi.structural_equal(self.drafted.functions[symbol], function):
                return symbol
        base = old.split(_MARK)[0] + _MARK
        names = itertools.chain([base], (f"{base}{number}" for number in itertools.count(2)))
        symbol = next(name for name in names if name not in self.drafted.functions)
        known.append(symbol)
        self.drafted.functions[symbol] = function
        return symbol
