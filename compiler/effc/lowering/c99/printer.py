"""A lowered TIR function as a C99 function.

TVM's own C generator is not used: it prints numbers with six digits, infinity as `inff`, and narrow arithmetic without the casts that
-Wconversion wants, and includes TVM's headers. Here

- numbers read back exactly (the shortest decimal that does);
- arithmetic of types narrower than int is cast back to its type, as TIR means it;
- pointers that a function does not write through are pointers to const;
- a binding or an element of a local buffer of one element is a plain variable.

Loops over threads are loops, and so is what is done with vectors. What has no form in C99 raises InternalError: kernels for these targets
must not use it. Here are the statements; what has a value is in `expressions`, types and numbers in `values`, functions in `helpers`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from effc.errors import InternalError
from effc.lowering.c99.expressions import Expressions, bare, call_of, intrinsic_of, memory_of, plain
from effc.lowering.c99.helpers import HELPERS
from effc.lowering.c99.values import c_number, c_type, lanes_of, scalar_of

__all__ = ["HELPERS", "Printed", "c_function", "c_number", "c_type"]


@dataclass(frozen=True)
class Printed:
    """A C function.

    Attributes:
        name: of the function.
        text: its definition.
        helpers: names of the `HELPERS` that it calls.
        constant: for each argument, whether nothing is written through it.
        types: for each argument, the C type of what it points to.
    """

    name: str
    text: str
    helpers: frozenset[str]
    constant: tuple[bool, ...]
    types: tuple[str, ...]


def c_function(function: Any, name: str) -> Printed:
    """Print a function of flat buffers with pointer arguments, as `effc.lowering.emit.kernels` makes it."""
    return _Printer(function, name).run()


class _Printer(Expressions):
    def run(self) -> Printed:
        pointers = list(self.function.params)
        for pointer in pointers:
            self.typed[pointer] = scalar_of(pointer.ty.element_type.dtype)
            self._named(pointer, plain(pointer.name))
        self._find_writes(self.function.body)
        self.statement(self.function.body)
        if self.formless:
            raise InternalError(f"{self.name}: " + "\n".join(self.formless))
        constant = tuple(pointer not in self.written for pointer in pointers)
        body = self._without_unused()
        used = "\n".join(body)
        parameters = ", ".join(f"{self._pointer(pointer)}{self.names[pointer]}" for pointer in pointers)
        unused = [f"  (void){self.names[one]};" for one in pointers if not re.search(rf"\b{self.names[one]}\b", used)]
        text = "\n".join([f"static void {self.name}({parameters}) {{", *unused, *body, "}"]) + "\n"
        return Printed(self.name, text, frozenset(self.helpers), constant, tuple(c_type(self.typed[pointer]) for pointer in pointers))

    def _without_unused(self) -> list[str]:
        """The lines without bindings that only hints to a cache read: hints are not printed, and compilers warn of what nothing reads."""
        words = re.compile(r"[A-Za-z_]\w*")
        uses = Counter(word for line in self.lines for word in words.findall(line))
        kept = []
        for line in reversed(self.lines):
            if uses[self.bound.get(line, "")] == 1:
                uses.subtract(words.findall(line))
            else:
                kept.append(line)
        return kept[::-1]

    def _find_writes(self, body: Any) -> None:
        """Through which arguments something is written, also by pointers into them."""
        import tvm_ffi
        from tvm import tirx

        stores: list[Any] = []

        def bound(statement: Any) -> None:
            address = call_of(statement.value, "address_of")
            if address is not None:
                self.roots[statement.var] = address.args[0].source
                self.typed[statement.var] = scalar_of(address.args[0].source.dtype)

        def declared(statement: Any) -> None:
            self.roots[statement.buffer] = memory_of(statement.data)

        acts = ((tirx.Bind, bound), (tirx.DeclBuffer, declared), (tirx.BufferStore, lambda one: stores.append(one.buffer)))
        tvm_ffi.structural_walk(body, acts)
        self.written = {self._root(buffer) for buffer in stores}

    def statement(self, node: Any) -> None:
        from tvm import tirx

        table: list[tuple[Any, Callable[[Any], None]]] = [
            (tirx.SeqStmt, self._sequence),
            (tirx.For, self._loop),
            (tirx.While, self._while),
            (tirx.BufferStore, self._store),
            (tirx.IfThenElse, self._branch),
            (tirx.AllocBuffer, lambda one: self._allocate(one.buffer)),
            (tirx.DeclBuffer, self._declare),
            (tirx.Bind, self._bind),
            (tirx.AttrStmt, lambda one: self.statement(one.body)),
            (tirx.stmt.Return, lambda one: None),
            (tirx.Evaluate, self._evaluate),
        ]
        for kind, act in table:
            if isinstance(node, kind):
                act(node)
                return
        raise InternalError(f"{self.name}: a {type(node).__name__} has no form in C99")

    def _sequence(self, node: Any) -> None:
        for part in node.seq:
            self.statement(part)

    def _loop(self, node: Any) -> None:
        if int(getattr(node.extent, "value", 2)) == 0:
            return
        variable, kind = self._named(node.loop_var, plain(node.loop_var.name)), c_type(scalar_of(node.loop_var.ty.dtype))
        start, extent = self.expression(node.min), self.expression(node.extent)
        end = extent if start == "0" else f"{start} + {extent}"
        with self.block(f"for ({kind} {variable} = {start}; {variable} < {end}; ++{variable})"):
            self.statement(node.body)

    def _while(self, node: Any) -> None:
        before, self.lines = self.lines, []
        test = self.expression(node.condition)
        within, self.lines = self.lines, before
        if within:
            raise InternalError(f"{self.name}: the condition of a loop that needs statements has no form here")
        with self.block(f"while ({bare(test)})"):
            self.statement(node.body)

    def _store(self, node: Any) -> None:
        lanes = lanes_of(node.value.ty.dtype)
        if lanes > 1:
            self._store_lanes(node, lanes)
            return
        value = bare(self.expression(node.value))
        target = self._element(node.buffer, node.indices)
        if value != target:
            self.line(f"{target} = {value};")
        if self._from_data(node.value):
            self.data.add(node.buffer)

    def _store_lanes(self, node: Any, lanes: int) -> None:
        """A vector is stored lane by lane; all of it is read before, where it may hold what it is stored over."""
        if not self._reads_elsewhere(node):
            with self._each_lane(lanes):
                value = self.expression(node.value)
                self.line(f"{self._element(node.buffer, node.indices)} = {bare(value)};")
            return
        kept = self._fresh("lanes")
        self.line(f"{c_type(scalar_of(node.value.ty.dtype))} {kept}[{lanes}];")
        with self._each_lane(lanes):
            self.line(f"{kept}[{self.lane}] = {bare(self.expression(node.value))};")
        with self._each_lane(lanes):
            self.line(f"{self._element(node.buffer, node.indices)} = {kept}[{self.lane}];")

    def _reads_elsewhere(self, node: Any) -> bool:
        """Whether the value of a store holds other elements of its memory."""
        import tvm_ffi
        from tvm.ir import TensorLoad

        found: list[bool] = []

        def loaded(one: Any) -> None:
            if self._root(one.source) == self._root(node.buffer):
                found.append(not all(tvm_ffi.structural_equal(a, b) for a, b in zip(one.indices, node.indices, strict=True)))

        tvm_ffi.structural_walk(node.value, ((TensorLoad, loaded),))
        return any(found)

    def _branch(self, node: Any) -> None:
        with self.block(f"if ({bare(self.expression(node.condition))})"):
            self.statement(node.then_case)
        if node.else_case is not None:
            self.lines[-1] += " else {"
            self.depth += 1
            self.statement(node.else_case)
            self.depth -= 1
            self.line("}")

    def _allocate(self, buffer: Any) -> None:
        size = lanes_of(buffer.dtype)
        for extent in buffer.shape:
            size *= int(extent)
        dtype = scalar_of(buffer.dtype)
        self.typed[buffer] = dtype
        name = self._named(buffer, plain(buffer.name))
        if size == 1:
            self.scalars.add(buffer)
        self.line(f"{c_type(dtype)} {name};" if size == 1 else f"{c_type(dtype)} {name}[{size}];")
        self.bound[self.lines[-1]] = name

    def _declare(self, node: Any) -> None:
        """Another name of memory: the pointer's own."""
        if self.home(memory_of(node.data)) not in self.names:
            raise InternalError(f"{self.name}: {node.buffer.name} is declared over nothing that is known")

    def _bind(self, node: Any) -> None:
        lanes = lanes_of(node.var.ty.dtype) if hasattr(node.var.ty, "dtype") else 1
        if lanes > 1:
            name = self._named(node.var, plain(node.var.name))
            self.line(f"{c_type(scalar_of(node.var.ty.dtype))} {name}[{lanes}];")
            with self._each_lane(lanes):
                self.line(f"{name}[{self.lane}] = {bare(self.expression(node.value))};")
            return
        value = self.expression(node.value)
        name = self._named(node.var, plain(node.var.name))
        kind = self._pointer(node.var) if node.var in self.roots else f"const {c_type(scalar_of(node.var.ty.dtype))} "
        if self._from_data(node.value):
            self.data.add(node.var)
        self.line(f"{kind}{name} = {bare(value)};")
        self.bound[self.lines[-1]] = name

    def _evaluate(self, node: Any) -> None:
        from tvm import tirx

        if isinstance(node.value, tirx.IntImm):
            return
        if call_of(node.value, "call_llvm_intrin") is not None and intrinsic_of(node.value).startswith("llvm.prefetch"):
            return
        raise InternalError(f"{self.name}: {str(node.value)[:80]} has no form in C99")
