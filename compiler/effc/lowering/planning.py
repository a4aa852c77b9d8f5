"""From a fused relax module to steps over named buffers: the plan before anything has an address.

Relax's `main` is straight-line code of kernel calls, views and tuples. Views and tuples vanish here (two names for one memory); what is
left are kernel calls. A graph that holds anything else does not plan and runs on TVM's virtual machine.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from effc.errors import InternalError, Problem
from effc.ir import Interface
from effc.lowering.drafts import EXTERNAL, Call, Draft, NotPlannableError, Slot
from effc.lowering.optimise import VIEWS, Fused, Part
from effc.lowering.streaming.stages import is_movement
from effc.lowering.to_relax import Origin
from effc.runtime.plan import Room

__all__ = ["draft"]


class _RefusedError(Exception):
    """Why one binding does not plan."""


def draft(fused: Fused, interface: Interface, parameters: Mapping[str, str], inputs: Sequence[str]) -> Draft:
    """List the kernel calls of a fused module.

    Args:
        fused: from `optimise`.
        interface: the user's names of inputs and outputs.
        parameters: stored name of each argument of main that holds a stored tensor.
        inputs: main's other arguments, in the interface's order.

    Raises:
        NotPlannableError: shapes depend on data, or a kernel calls back into TVM's runtime; it has all such places.
    """
    return _Drafter(fused, interface, parameters, inputs).run()


class _Drafter:
    def __init__(self, fused: Fused, interface: Interface, parameters: Mapping[str, str], inputs: Sequence[str]) -> None:
        self._module, self._parts, self._origins, self._interface = fused.module, fused.parts, fused.origins, interface
        self._stored = dict(parameters)
        self._inputs = dict(zip(inputs, (value.name for value in interface.inputs), strict=True))
        self._draft = Draft()
        self._symbols: dict[str, str] = {}  # function of the module -> symbol
        self._by_hash: dict[int, list[str]] = {}
        self._made: dict[tuple[str, tuple[str, ...]], Any] = {}  # what movements of these operands have made
        self._values: dict[Any, Any] = {}  # relax variable -> buffer name, or a list of them; None where nothing plannable gives it a shape
        self._problems: list[Problem] = []

    def run(self) -> Draft:
        main = self._module["main"]
        for variable in main.params:
            name = str(variable.name)
            room: Room = "input" if name in self._inputs else "parameter"
            own = self._inputs.get(name) or self._stored[name]
            try:
                self._values[variable] = self._slot(own, room, variable.ty)
            except _RefusedError as error:
                self._problems.append(Problem(own, "an input" if room == "input" else "a parameter", str(error)))
                self._values[variable] = None
        for block in main.body.blocks:
            for binding in block.bindings:
                try:
                    self._values[binding.var] = self._bind(binding)
                except _RefusedError as error:
                    self._problems.append(self._problem(binding, str(error)))
                    self._values[binding.var] = self._stand_in(binding.var)
        results: Any = None
        try:
            results = self._value(main.body.body)
        except _RefusedError as error:
            self._problems.append(Problem("the outputs", type(main.body.body).__name__, str(error)))
        if self._problems:
            raise NotPlannableError(self._problems, self._draft)
        self._name_outputs(results if isinstance(results, list) else [results])
        return self._without_unused_parameters()

    # ---- bindings ------------------------------------------------------------------------------------------------------------

    def _bind(self, binding: Any) -> Any:
        import tvm
        from tvm import relax

        if not isinstance(binding, relax.VarBinding):
            raise _RefusedError("a shape is matched at run time")
        value = binding.value
        if isinstance(value, relax.TupleGetItem):
            several = self._value(value.tuple_value)
            return None if several is None else several[int(value.index)]
        if not isinstance(value, relax.Call):
            return self._value(value)
        operator = str(value.op.name) if isinstance(value.op, tvm.ir.Op) else str(value.op)
        if operator in VIEWS:
            return self._value(value.args[0])
        if operator != "relax.call_tir":
            raise _RefusedError(f"{operator} runs only in TVM's virtual machine")
        return self._call(value, str(binding.var.name))

    def _call(self, call: Any, name: str) -> Any:
        from tvm import relax

        function = str(call.args[0].name_hint)
        parts = self._parts.get(function, ())
        symbol = self._symbol(function, parts)
        reads = self._value(call.args[1])
        flat = [one for entry in (reads if isinstance(reads, list) else [reads]) for one in (entry if isinstance(entry, list) else [entry])]
        if None in flat:
            return None  # the first value of unknown shape is the problem, not all that is made of it
        if len(call.args) > 2:
            raise _RefusedError("its shape is known only at run time")
        key = (symbol, tuple(flat))
        if key in self._made:  # a transposition that two readers ask for is made once
            return self._made[key]
        out = call.ty_args[0]
        several = isinstance(out, relax.TupleType)
        types = list(out.fields) if several else [out]
        writes = [self._slot(self._fresh(f"{name}.{index}" if several else name), "arena", type_) for index, type_ in enumerate(types)]
        self._draft.calls.append(Call(symbol, tuple(flat), tuple(writes), parts))
        made = writes if several else writes[0]
        if is_movement(self._draft.functions[symbol]):  # a cheap computation is cheaper than its memory until the last reader
            self._made[key] = made
        return made

    def _problem(self, binding: Any, why: str) -> Problem:
        """What to say of a binding that does not plan, by the user's names."""
        function = str(binding.value.args[0].name_hint) if _is_kernel(binding) else ""
        name = str(binding.var.name)
        origins = [part.origin for part in self._parts.get(function, ())] or [self._origins.get(name, Origin(name, "", ""))]
        sources, ops = (list(dict.fromkeys(texts)) for texts in zip(*((one.source, one.op) for one in origins), strict=True))
        return Problem(", ".join(filter(None, sources)) or name, ", ".join(filter(None, ops)) or function or "a binding", why)

    def _stand_in(self, variable: Any) -> Any:
        """Slots for what does not plan, so that the search for problems can go on; None where its shape is not known."""
        from tvm import relax

        several = isinstance(variable.ty, relax.TupleType)
        try:
            slots = [
                self._slot(self._fresh(str(variable.name)), "arena", type_) for type_ in (variable.ty.fields if several else [variable.ty])
            ]
        except (_RefusedError, AttributeError):  # no tensor, or one of unknown shape
            return None
        return slots if several else slots[0]

    def _value(self, expression: Any) -> Any:
        import tvm
        from tvm import relax

        if isinstance(expression, relax.Var):
            return self._values[expression]
        if isinstance(expression, relax.Tuple):
            return [self._value(entry) for entry in expression.fields]
        if isinstance(expression, tvm.ir.GenericConst):
            return self._constant(expression)
        raise _RefusedError(f"a {type(expression).__name__} among the operands runs only in TVM's virtual machine")

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
            raise _RefusedError("its shape is known only at run time") from error
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
        _refuse_callbacks(body)
        key = int(tvm_ffi.structural_hash(body))
        for symbol in self._by_hash.get(key, ()):
            if tvm_ffi.structural_equal(body, self._draft.functions[symbol]):
                self._symbols[function] = symbol
                return symbol
        words = re.sub(r"\W+", "_", "_".join(part.operator for part in parts))[:48].strip("_") or "kernel"
        symbol = str((body.attrs or {}).get(EXTERNAL) or f"k{len(self._draft.functions)}_{words}")
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
                problem = Problem(value.name, "an output", "an input has the same name")
                raise NotPlannableError([problem], self._draft)
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


def _refuse_callbacks(function: Any) -> None:
    """A kernel that calls a packed function of TVM's runtime (sort, top-k) needs that runtime's module around it."""
    found = re.findall(r"call_c?packed\w*\(\s*\"([^\"]+)\"", function.script(show_meta=False))
    if found:
        raise _RefusedError(f"calls {', '.join(dict.fromkeys(found))} of TVM's runtime")


def _is_kernel(binding: Any) -> bool:
    """Whether a binding calls a function of the module."""
    from tvm import relax

    value = getattr(binding, "value", None)
    return isinstance(value, relax.Call) and str(getattr(value.op, "name", "")) == "relax.call_tir"
