"""From a fused relax module to steps over named buffers: the plan before anything has an address.

Relax's `main` is straight-line code of kernel calls, views and tuples. Views and tuples vanish here (two names for one memory); what is
left are kernel calls. A graph that holds anything else does not plan and runs on TVM's virtual machine.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from effc.errors import InternalError
from effc.ir import Interface
from effc.lowering.optimise import VIEWS, Fused, Part
from effc.runtime.plan import Room
from effc.runtime.tensors import dtype_named

__all__ = ["Call", "Draft", "NotPlannableError", "Slot", "draft"]


class NotPlannableError(Exception):
    """The graph holds something that only TVM's virtual machine runs; the message says what."""


@dataclass(frozen=True)
class Slot:
    """A buffer without an address."""

    name: str
    room: Room
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Bytes; one where the tensor has no elements, so that every buffer has a place."""
        return max(1, math.prod(self.shape) * dtype_named(self.dtype).itemsize)


@dataclass(frozen=True)
class Call:
    """One kernel call: a function of the module, its operands by buffer name, what it computes, and what to say of its kernel.

    In a streaming program, `direct` asks for a kernel whose sums have the order of the kernels over lists; `active` names the counters of a
    kernel over a list of `positions` (see `runtime.plan.Step`).
    """

    function: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    parts: tuple[Part, ...]
    note: str = ""
    direct: bool = False
    active: str = ""
    positions: int = 0

    @property
    def density(self) -> float | None:
        """How dense the left operand of its product was on data; None without a product, or where that is not known."""
        return next((part.origin.density for part in self.parts if part.macs and part.origin.density is not None), None)

    @property
    def mask(self) -> float | None:
        """How dense that was which its product is multiplied by; None without it, or where that is not known."""
        return next((part.origin.mask for part in self.parts if part.macs and part.origin.mask is not None), None)


@dataclass
class Draft:
    """Everything of a plan but addresses.

    Attributes:
        calls: in execution order.
        slots: buffers by name.
        functions: tirx.PrimFunc by symbol; equal functions are one.
        constants: values of the parameters that lowering made.
        ready: implementations (`kernels.Implementation`) by symbol, of functions that no rule has to be found for.
        fresh: where among the calls those begin that compute a frame whole, of a streaming program; None for another.
        clock: the name of its clock.
    """

    calls: list[Call] = field(default_factory=list)
    slots: dict[str, Slot] = field(default_factory=dict)
    functions: dict[str, Any] = field(default_factory=dict)
    constants: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    ready: dict[str, Any] = field(default_factory=dict)
    fresh: int | None = None
    clock: str = ""

    def stored_reads(self, call: Call) -> tuple[bool, ...]:
        """For each operand that a call reads, whether it is a stored tensor."""
        return tuple(self.slots[name].room == "parameter" for name in call.reads)


def draft(fused: Fused, interface: Interface, parameters: Mapping[str, str], inputs: Sequence[str]) -> Draft:
    """List the kernel calls of a fused module.

    Args:
        fused: from `optimise`.
        interface: the user's names of inputs and outputs.
        parameters: stored name of each argument of main that holds a stored tensor.
        inputs: main's other arguments, in the interface's order.

    Raises:
        NotPlannableError: shapes depend on data, or a kernel calls back into TVM's runtime.
    """
    return _Drafter(fused, interface, parameters, inputs).run()


class _Drafter:
    def __init__(self, fused: Fused, interface: Interface, parameters: Mapping[str, str], inputs: Sequence[str]) -> None:
        self._module, self._parts, self._interface = fused.module, fused.parts, interface
        self._stored = dict(parameters)
        self._inputs = dict(zip(inputs, (value.name for value in interface.inputs), strict=True))
        self._draft = Draft()
        self._symbols: dict[str, str] = {}  # function of the module -> symbol
        self._by_hash: dict[int, list[str]] = {}
        self._values: dict[Any, Any] = {}  # relax variable -> buffer name, or a list of them

    def run(self) -> Draft:
        from tvm import relax

        main = self._module["main"]
        for variable in main.params:
            name = str(variable.name)
            room: Room = "input" if name in self._inputs else "parameter"
            self._values[variable] = self._slot(self._inputs.get(name) or self._stored[name], room, variable.ty)
        for block in main.body.blocks:
            for binding in block.bindings:
                if not isinstance(binding, relax.VarBinding):
                    raise NotPlannableError("a shape is matched at run time")
                self._values[binding.var] = self._bind(binding)
        results = self._value(main.body.body)
        self._name_outputs(results if isinstance(results, list) else [results])
        return self._without_unused_parameters()

    # ---- bindings ------------------------------------------------------------------------------------------------------------

    def _bind(self, binding: Any) -> Any:
        import tvm
        from tvm import relax

        value = binding.value
        if isinstance(value, relax.TupleGetItem):
            return self._value(value.tuple_value)[int(value.index)]
        if not isinstance(value, relax.Call):
            return self._value(value)
        operator = str(value.op.name) if isinstance(value.op, tvm.ir.Op) else str(value.op)
        if operator in VIEWS:
            return self._value(value.args[0])
        if operator != "relax.call_tir":
            raise NotPlannableError(f"{operator} runs only in TVM's virtual machine")
        return self._call(value, str(binding.var.name))

    def _call(self, call: Any, name: str) -> Any:
        from tvm import relax

        if len(call.args) > 2:
            raise NotPlannableError(f"the shape of {name} is known only at run time")
        out = call.ty_args[0]
        several = isinstance(out, relax.TupleType)
        types = list(out.fields) if several else [out]
        writes = [self._slot(self._fresh(f"{name}.{index}" if several else name), "arena", type_) for index, type_ in enumerate(types)]
        function = str(call.args[0].name_hint)
        reads = self._value(call.args[1])
        flat = [one for entry in (reads if isinstance(reads, list) else [reads]) for one in (entry if isinstance(entry, list) else [entry])]
        parts = self._parts.get(function, ())
        self._draft.calls.append(Call(self._symbol(function, parts), tuple(flat), tuple(writes), parts))
        return writes if several else writes[0]

    def _value(self, expression: Any) -> Any:
        import tvm
        from tvm import relax

        if isinstance(expression, relax.Var):
            return self._values[expression]
        if isinstance(expression, relax.Tuple):
            return [self._value(entry) for entry in expression.fields]
        if isinstance(expression, tvm.ir.GenericConst):
            return self._constant(expression)
        raise NotPlannableError(f"a {type(expression).__name__} among the operands runs only in TVM's virtual machine")

    def _constant(self, expression: Any) -> str:
        array = expression.value.numpy()
        for name, known in self._draft.constants.items():
            if known.dtype == array.dtype and known.shape == array.shape and known.tobytes() == array.tobytes():
                return name
        name = self._fresh(f"constant.{len(self._draft.constants)}")
        self._draft.constants[name] = array
        self._draft.slots[name] = Slot(name, "parameter", tuple(array.shape), array.dtype.name)
        return name

    # ---- names ---------------------------------------------------------------------------------------------------------------

    def _fresh(self, name: str) -> str:
        taken = self._draft.slots.keys() | {value.name for value in self._interface.outputs}
        while name in taken:
            name += "'"
        return name

    def _slot(self, name: str, room: Room, type_: Any) -> str:
        try:
            shape = tuple(int(size) for size in type_.shape)
        except TypeError as error:
            raise NotPlannableError(f"the shape of {name} is known only at run time") from error
        if room == "parameter":
            name = self._fresh(name)
        self._draft.slots[name] = Slot(name, room, shape, str(type_.dtype))
        return name

    def _symbol(self, function: str, parts: Sequence[Part]) -> str:
        """The symbol of a function of the module; equal functions share one."""
        import tvm_ffi

        if function in self._symbols:
            return self._symbols[function]
        body = self._module[function].without_attr("global_symbol")
        _refuse_callbacks(body, parts)
        key = int(tvm_ffi.structural_hash(body))
        for symbol in self._by_hash.get(key, ()):
            if tvm_ffi.structural_equal(body, self._draft.functions[symbol]):
                self._symbols[function] = symbol
                return symbol
        words = re.sub(r"\W+", "_", "_".join(part.operator for part in parts))[:48].strip("_") or "kernel"
        symbol = f"k{len(self._draft.functions)}_{words}"
        self._draft.functions[symbol] = body
        self._by_hash.setdefault(key, []).append(symbol)
        self._symbols[function] = symbol
        return symbol

    # ---- outputs -------------------------------------------------------------------------------------------------------------

    def _name_outputs(self, results: Sequence[str]) -> None:
        """Kernels write outputs in place; an output that is also an input, a parameter or another output is copied."""
        renamed: dict[str, str] = {}
        for value, result in zip(self._interface.outputs, results, strict=True):
            slot = self._draft.slots[result]
            shape = value.at_batch(1)  # the buffer may carry another shape of the same elements: views vanish
            if math.prod(slot.shape) != math.prod(shape) or slot.dtype != value.dtype:
                raise InternalError(f"output {value.name} is lowered to {slot.dtype}{list(slot.shape)}, declared is {value}")
            if value.name in self._inputs.values():
                raise NotPlannableError(f"the name {value.name!r} is both an input and an output")
            self._draft.slots[value.name] = Slot(value.name, "output", shape, slot.dtype)
            if slot.room == "arena" and result not in renamed:
                renamed[result] = value.name
            else:
                self._copy(renamed.get(result, result), slot, value.name)
        self._draft.calls = [
            Call(
                call.function,
                tuple(renamed.get(name, name) for name in call.reads),
                tuple(renamed.get(name, name) for name in call.writes),
                call.parts,
            )
            for call in self._draft.calls
        ]
        for name in renamed:
            del self._draft.slots[name]

    def _copy(self, source: str, slot: Slot, to: str) -> None:
        from tvm import te

        elements = math.prod(slot.shape)
        if elements == 0:
            return
        read = te.placeholder((elements,), slot.dtype, name="x")
        written = te.compute((elements,), lambda i: read[i], name="copy")
        symbol = f"copy_{slot.dtype}_{elements}"
        self._draft.functions.setdefault(symbol, te.create_prim_func([read, written]))
        self._draft.calls.append(Call(symbol, (source,), (to,), ()))

    def _without_unused_parameters(self) -> Draft:
        read = {name for call in self._draft.calls for name in call.reads}
        for name, slot in list(self._draft.slots.items()):
            if slot.room == "parameter" and name not in read:
                del self._draft.slots[name]
                self._draft.constants.pop(name, None)
        return self._draft


def _refuse_callbacks(function: Any, parts: Sequence[Part]) -> None:
    """A kernel that calls a packed function of TVM's runtime (sort, top-k) needs that runtime's module around it."""
    found = re.findall(r"call_c?packed\w*\(\s*\"([^\"]+)\"", function.script(show_meta=False))
    if found:
        sources = ", ".join(dict.fromkeys(part.origin.source for part in parts if part.origin.source))
        raise NotPlannableError(f"{sources or 'a kernel'} calls {', '.join(dict.fromkeys(found))} of TVM's runtime")
