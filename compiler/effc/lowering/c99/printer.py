"""A lowered TIR function as a C99 function.

TVM's own C generator is not used: it prints numbers with six digits, infinity as `inff`, and narrow arithmetic without the casts that
-Wconversion wants, and includes TVM's headers. Here

- numbers read back exactly (the shortest decimal that does);
- arithmetic of types narrower than int is cast back to its type, as TIR means it;
- pointers that a function does not write through are pointers to const;
- a binding or an element of a local buffer of one element is a plain variable.

Loops over threads and vectors are loops. What has no form in C99 raises InternalError: kernels for these targets must not use it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from effc.errors import InternalError
from effc.lowering.c99.names import C_WORDS, identifier

__all__ = ["HELPERS", "Printed", "c_function", "c_number", "c_type"]

_TYPES = {"bool": "bool", "float32": "float", "float64": "double", "int32": "int32_t", "uint32": "uint32_t"} | {
    f"{sign}int{bits}": f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 64)
}
_NARROW = ("int8", "uint8", "int16", "uint16")
_BINARY = {
    "Add": "+", "Sub": "-", "Mul": "*", "Div": "/", "Mod": "%", "EQ": "==", "NE": "!=", "LT": "<", "LE": "<=", "GT": ">", "GE": ">=",
    "And": "&&", "Or": "||",
}  # fmt: skip
_BIT_NODES = {"LShift": "shift_left", "RShift": "shift_right", "BitwiseAnd": "bitwise_and", "BitwiseOr": "bitwise_or", "BitwiseXor": "bitwise_xor"}
_BITS = {"shift_left": "<<", "shift_right": ">>", "bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^"}

# Helpers by name: the C of each. A file holds those that its functions call.
HELPERS: dict[str, str] = {
    "effc_nearest": """\
/* To the nearest integer, halves to the even one. The sum with 1.5 * 2^23 is rounded so by the processor. */
static int32_t effc_nearest(float x) {
  const float large = 12582912.0f;
  if (x > -4194304.0f && x < 4194304.0f) {
    volatile float sum = x + large;
    return (int32_t)(sum - large);
  }
  return x >= 2147483648.0f || x < -2147483648.0f || x != x ? INT32_MIN : (int32_t)x;
}
""",
    "effc_nearest_float": """\
/* To the nearest integer, halves to the even one. The sum with 2^23 of its sign is rounded so by the processor. */
static float effc_nearest_float(float x) {
  if (x >= 0.0f && x < 8388608.0f) {
    volatile float sum = x + 8388608.0f;
    return sum - 8388608.0f;
  }
  if (x < 0.0f && x > -8388608.0f) {
    volatile float sum = x - 8388608.0f;
    return sum == -8388608.0f ? -0.0f : sum + 8388608.0f;
  }
  return x;
}
""",
    "effc_bits": """\
static int32_t effc_bits(float x) {
  int32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
""",
    "effc_float": """\
static float effc_float(int32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
""",
    "effc_sqrt": """\
/* The correctly rounded square root: an estimate from the exponent, Newton's steps in double precision. */
static float effc_sqrt(float x) {
  uint32_t bits;
  float estimate;
  double root;
  int step;
  if (!(x > 0.0f) || x > 3.402823466e+38f) {
    return x == 0.0f || x > 0.0f ? x : (x - x) / (x - x);
  }
  memcpy(&bits, &x, sizeof bits);
  bits = bits < 0x00800000u ? 0x1f800000u : 0x1fbd1df5u + (bits >> 1);
  memcpy(&estimate, &bits, sizeof estimate);
  root = (double)estimate;
  for (step = 0; step < 40; ++step) {
    double next = 0.5 * (root + (double)x / root);
    double apart = next > root ? next - root : root - next;
    root = next;
    if (apart <= root * 1e-15) {
      break;
    }
  }
  return (float)root;
}
""",
}
for _kind, _short in (("int32_t", "i32"), ("float", "f32"), ("uint32_t", "u32"), ("int64_t", "i64")):
    for _name, _sign in (("min", "<"), ("max", ">")):
        HELPERS[f"effc_{_name}_{_short}"] = (
            f"static {_kind} effc_{_name}_{_short}({_kind} a, {_kind} b) {{\n  return a {_sign} b ? a : b;\n}}\n"
        )
_SHORT = {"int32": "i32", "float32": "f32", "uint32": "u32", "int64": "i64"}
_CALLS = {"tirx.sqrt": "effc_sqrt", "tirx.nearbyint": "effc_nearest_float", "tirx.round": "effc_nearest_float"}
_INTRINSICS = {"llvm.lrint": "effc_nearest", "llvm.nearbyint": "effc_nearest_float", "llvm.rint": "effc_nearest_float"}


@dataclass(frozen=True)
class Printed:
    """A C function.

    Attributes:
        name: of the function.
        text: its definition.
        helpers: names of the `HELPERS` that it calls.
        constant: for each argument, whether nothing is written through it.
    """

    name: str
    text: str
    helpers: frozenset[str]
    constant: tuple[bool, ...]


def c_type(dtype: str) -> str:
    """The C type of a TIR type. Raises InternalError for one that C99 does not have (half precision, vectors)."""
    if dtype not in _TYPES:
        raise InternalError(f"{dtype} has no type in C99")
    return _TYPES[dtype]


def c_number(value: float | int, dtype: str) -> str:
    """A number that reads back exactly."""
    if dtype == "bool":
        return "true" if value else "false"
    if not dtype.startswith("float"):
        return _integer(int(value), dtype)
    single = dtype == "float32"
    number: Any = np.float32(value) if single else np.float64(value)
    if np.isnan(number):
        return "NAN" if single else "(double)NAN"
    if np.isinf(number):
        return ("-" if number < 0 else "") + ("INFINITY" if single else "(double)INFINITY")
    text = np.format_float_scientific(number, unique=True, trim="0") if number != 0 else ("-0.0" if np.signbit(number) else "0.0")
    text = re.sub(r"e[+-]00$", "", text)
    return text + ("f" if single else "")


def _integer(value: int, dtype: str) -> str:
    if dtype == "int32" and value == -(1 << 31):
        return "INT32_MIN"
    if dtype == "int64":
        return "INT64_MIN" if value == -(1 << 63) else f"INT64_C({value})"
    if dtype == "uint64":
        return f"UINT64_C({value})"
    return f"{value}u" if dtype == "uint32" else str(value)


def c_function(function: Any, name: str) -> Printed:
    """Print a function of flat buffers with pointer arguments, as `effc.lowering.emit.kernels` makes it."""
    return _Printer(function, name).run()


@dataclass
class _Block:
    """Lines at one depth."""

    lines: list[str] = field(default_factory=list)


class _Printer:
    def __init__(self, function: Any, name: str) -> None:
        self.function, self.name = function, name
        self.names: dict[Any, str] = {}  # of variables
        self.taken: set[str] = {*C_WORDS, name, *HELPERS}
        self.scalars: set[Any] = set()  # local buffers of one element
        self.roots: dict[Any, Any] = {}  # a buffer that was declared -> its pointer; a pointer that was bound -> the buffer it points into
        self.typed: dict[Any, str] = {}  # element type of a pointer, or of a local buffer
        self.written: set[Any] = set()  # pointers and local buffers
        self.helpers: set[str] = set()
        self.lines: list[str] = []
        self.depth = 1

    # ---- the function ----------------------------------------------------------------------------------------------------------

    def run(self) -> Printed:
        pointers = list(self.function.params)
        for pointer in pointers:
            self.typed[pointer] = str(pointer.ty.element_type.dtype)
            self._named(pointer, _plain(pointer.name))
        self._find_writes(self.function.body)
        self.statement(self.function.body)
        constant = tuple(pointer not in self.written for pointer in pointers)
        body, used = self.lines, "\n".join(self.lines)
        parameters = ", ".join(f"{self._pointer(pointer)}{self.names[pointer]}" for pointer in pointers)
        unused = [f"  (void){self.names[one]};" for one in pointers if not re.search(rf"\b{self.names[one]}\b", used)]
        text = "\n".join([f"static void {self.name}({parameters}) {{", *unused, *body, "}"]) + "\n"
        return Printed(self.name, text, frozenset(self.helpers), constant)

    def _pointer(self, pointer: Any) -> str:
        root = self._root(pointer)
        const = "" if root in self.written else "const "
        return f"{const}{c_type(self.typed[pointer])} *"

    def _root(self, pointer: Any) -> Any:
        while pointer in self.roots:
            pointer = self.roots[pointer]
        return pointer

    def _find_writes(self, body: Any) -> None:
        """Through which arguments something is written, also by pointers into them."""
        import tvm_ffi
        from tvm import tirx

        stores: list[Any] = []

        def bound(statement: Any) -> None:
            address = _call(statement.value, "address_of")
            if address is not None:
                self.roots[statement.var] = address.args[0].source
                self.typed[statement.var] = str(address.args[0].source.dtype)

        def declared(statement: Any) -> None:
            self.roots[statement.buffer] = _memory(statement.data)

        acts = ((tirx.Bind, bound), (tirx.DeclBuffer, declared), (tirx.BufferStore, lambda one: stores.append(one.buffer)))
        tvm_ffi.structural_walk(body, acts)
        self.written = {self._root(buffer) for buffer in stores}

    # ---- statements ------------------------------------------------------------------------------------------------------------

    def line(self, text: str) -> None:
        self.lines.append("  " * self.depth + text)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        self.line(f"{head} {{")
        self.depth += 1
        yield
        self.depth -= 1
        self.line("}")

    def statement(self, node: Any) -> None:
        from tvm import tirx

        table: list[tuple[Any, Callable[[Any], None]]] = [
            (tirx.SeqStmt, lambda one: [self.statement(part) for part in one.seq] and None),
            (tirx.For, self._loop),
            (tirx.BufferStore, self._store),
            (tirx.IfThenElse, self._branch),
            (tirx.AllocBuffer, lambda one: self._allocate(one.buffer)),
            (tirx.DeclBuffer, lambda one: self._declare(one)),
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

    def _loop(self, node: Any) -> None:
        if int(getattr(node.extent, "value", 2)) == 0:
            return
        variable, kind = self._named(node.loop_var, _plain(node.loop_var.name)), c_type(str(node.loop_var.ty.dtype))
        start, extent = self.expression(node.min), self.expression(node.extent)
        end = extent if start == "0" else f"{start} + {extent}"
        with self.block(f"for ({kind} {variable} = {start}; {variable} < {end}; ++{variable})"):
            self.statement(node.body)

    def _store(self, node: Any) -> None:
        value = self.expression(node.value)
        self.line(f"{self._element(node.buffer, node.indices)} = {_bare(value)};")

    def _branch(self, node: Any) -> None:
        with self.block(f"if ({_bare(self.expression(node.condition))})"):
            self.statement(node.then_case)
        if node.else_case is not None:
            self.lines[-1] += " else {"
            self.depth += 1
            self.statement(node.else_case)
            self.depth -= 1
            self.line("}")

    def _allocate(self, buffer: Any) -> None:
        size = 1
        for extent in buffer.shape:
            size *= int(extent)
        dtype = str(buffer.dtype)
        self.typed[buffer] = dtype
        name = self._named(buffer, _plain(buffer.name))
        if size == 1:
            self.scalars.add(buffer)
        self.line(f"{c_type(dtype)} {name};" if size == 1 else f"{c_type(dtype)} {name}[{size}];")

    def _declare(self, node: Any) -> None:
        """Another name of memory: the pointer's own."""
        if _memory(node.data) not in self.names:
            raise InternalError(f"{self.name}: {node.buffer.name} is declared over nothing that is known")

    def _bind(self, node: Any) -> None:
        value = self.expression(node.value)
        name = self._named(node.var, _plain(node.var.name))
        if node.var in self.roots:
            self.line(f"{self._pointer(node.var)}{name} = {_bare(value)};")
        else:
            self.line(f"const {c_type(str(node.var.ty.dtype))} {name} = {_bare(value)};")

    def _evaluate(self, node: Any) -> None:
        from tvm import tirx

        if isinstance(node.value, tirx.IntImm):
            return
        if _call(node.value, "call_llvm_intrin") is not None and _intrinsic(node.value).startswith("llvm.prefetch"):
            return
        raise InternalError(f"{self.name}: {str(node.value)[:80]} has no form in C99")

    # ---- expressions -----------------------------------------------------------------------------------------------------------

    def expression(self, node: Any) -> str:
        """A C expression in parentheses, where it needs some; statements that it needs are written in front."""
        from tvm import tirx
        from tvm.ir import Call, TensorLoad

        kind = type(node).__name__
        if isinstance(node, (tirx.IntImm, tirx.FloatImm)):
            text = c_number(node.value, str(node.ty.dtype))
            return f"({text})" if text.startswith("-") else text
        if isinstance(node, tirx.Var):
            if node not in self.names:
                raise InternalError(f"{self.name}: {node.name} is bound nowhere")
            return self.names[node]
        if isinstance(node, TensorLoad):
            return self._element(node.source, node.indices)
        if isinstance(node, tirx.Let):
            variable = self._fresh(_plain(node.var.name))
            value = self.expression(node.value)
            self.line(f"const {c_type(str(node.var.ty.dtype))} {variable} = {_bare(value)};")
            self.names[node.var] = variable
            return self.expression(node.body)
        if isinstance(node, tirx.Cast):
            return self._cast(node)
        if isinstance(node, tirx.Select):
            return self._choice(node.condition, node.true_value, node.false_value, str(node.ty.dtype))
        if kind in ("Min", "Max"):
            return self._extreme(kind.lower(), node)
        if kind == "Not":
            return f"(!{self.expression(node.a)})"
        if kind in _BINARY:
            return self._binary(_BINARY[kind], node.a, node.b, str(node.ty.dtype))
        if kind in _BIT_NODES:
            return self._bitwise(_BIT_NODES[kind], [node.a, node.b], str(node.ty.dtype))
        if kind == "BitwiseNot":
            return f"(({c_type(str(node.ty.dtype))})~{self.expression(node.a)})"
        if isinstance(node, Call):
            return self._called(node)
        raise InternalError(f"{self.name}: a {kind} has no form in C99")

    def _binary(self, sign: str, a: Any, b: Any, dtype: str) -> str:
        text = f"({self.expression(a)} {sign} {self.expression(b)})"
        return f"(({c_type(dtype)}){text})" if dtype in _NARROW else text

    def _cast(self, node: Any) -> str:
        to, source = str(node.ty.dtype), str(node.value.ty.dtype)
        value = self.expression(node.value)
        if to == source:
            return value
        return f"({value} != 0)" if to == "bool" else f"(({c_type(to)}){value})"

    def _extreme(self, which: str, node: Any) -> str:
        dtype = str(node.ty.dtype)
        if dtype in _NARROW:
            return f"(({c_type(dtype)}){self._helper(f'effc_{which}_i32')}({self.expression(node.a)}, {self.expression(node.b)}))"
        if dtype not in _SHORT:
            raise InternalError(f"{self.name}: the {which} of two {dtype} has no form here")
        return f"{self._helper(f'effc_{which}_{_SHORT[dtype]}')}({_bare(self.expression(node.a))}, {_bare(self.expression(node.b))})"

    def _choice(self, condition: Any, then: Any, otherwise: Any, dtype: str) -> str:
        """A conditional expression; a branch where one side needs statements, which may read what only that side may."""
        test = self.expression(condition)
        before, self.lines = self.lines, []
        depth = self.depth
        self.depth += 1
        first = self.expression(then)
        mine, self.lines = self.lines, []
        second = self.expression(otherwise)
        other, self.lines = self.lines, before
        self.depth = depth
        if not mine and not other:
            text = f"({test} ? {first} : {second})"
            return f"(({c_type(dtype)}){text})" if dtype in _NARROW else text
        name = self._fresh("chosen")
        self.line(f"{c_type(dtype)} {name};")
        self.line(f"if ({_bare(test)}) {{")
        self.lines += [*mine, "  " * (depth + 1) + f"{name} = {_bare(first)};"]
        self.line("} else {")
        self.lines += [*other, "  " * (depth + 1) + f"{name} = {_bare(second)};"]
        self.line("}")
        return name

    def _called(self, node: Any) -> str:
        name, arguments, dtype = str(node.op.name), list(node.args), str(node.ty.dtype) if hasattr(node.ty, "dtype") else ""
        short = name.rsplit(".", 1)[-1]
        if short == "if_then_else":
            return self._choice(*arguments, dtype)
        if short in ("likely", "unlikely"):
            return self.expression(arguments[0])
        if short in _BITS:
            return self._bitwise(short, arguments, dtype)
        if short == "bitwise_not":
            return f"(({c_type(dtype)})~{self.expression(arguments[0])})"
        if short == "reinterpret":
            return self._reinterpreted(arguments[0], dtype)
        if short == "address_of":
            return f"(&{self._element(arguments[0].source, arguments[0].indices)})"
        if short in ("call_llvm_pure_intrin", "call_llvm_intrin"):
            intrinsic = _intrinsic(node)
            wanted = next((helper for key, helper in _INTRINSICS.items() if intrinsic.startswith(key)), None)
            if wanted is not None:
                return f"{self._helper(wanted)}({_bare(self.expression(arguments[-1]))})"
            raise InternalError(f"{self.name}: {intrinsic} has no form in C99")
        if short == "fabs" and dtype == "float32":
            value = self.expression(arguments[0])
            return f"{self._helper('effc_float')}({self._helper('effc_bits')}({_bare(value)}) & INT32_MAX)"
        if name in _CALLS and dtype == "float32":
            return f"{self._helper(_CALLS[name])}({_bare(self.expression(arguments[0]))})"
        raise InternalError(f"{self.name}: {name} of {dtype} has no form in C99")

    def _bitwise(self, short: str, arguments: list[Any], dtype: str) -> str:
        a, b = (self.expression(argument) for argument in arguments)
        if dtype == "bool":
            return f"(({a} {_BITS[short]} {b}) != 0)"
        if short == "shift_left" and dtype.startswith("int"):  # of a negative number it has no meaning in C99
            return f"(({c_type(dtype)})((u{c_type(dtype)}){a} << {b}))"
        text = f"({a} {_BITS[short]} {b})"
        return f"(({c_type(dtype)}){text})" if dtype in _NARROW else text

    def _reinterpreted(self, value: Any, dtype: str) -> str:
        source = str(value.ty.dtype)
        text = self.expression(value)
        if (source, dtype) == ("float32", "int32"):
            return f"{self._helper('effc_bits')}({_bare(text)})"
        if (source, dtype) == ("int32", "float32"):
            return f"{self._helper('effc_float')}({_bare(text)})"
        if "float" not in source and "float" not in dtype:
            return f"(({c_type(dtype)}){text})"
        if (source, dtype) == ("float32", "uint32"):
            return f"((uint32_t){self._helper('effc_bits')}({_bare(text)}))"
        raise InternalError(f"{self.name}: the bits of a {source} as {dtype} have no form here")

    def _helper(self, name: str) -> str:
        self.helpers.add(name)
        return name

    def _element(self, buffer: Any, indices: Any) -> str:
        pointer = self.roots.get(buffer, buffer)  # a local buffer is its own
        if pointer in self.scalars:
            return self.names[pointer]
        if pointer not in self.names or len(indices) != 1:
            raise InternalError(f"{self.name}: an element of {buffer.name} is no element of flat memory")
        dtype, name = str(buffer.dtype), self.names[pointer]
        index = _bare(self.expression(indices[0]))
        if self.typed[pointer] != dtype:
            const = "" if self._root(pointer) in self.written else "const "
            name = f"(({const}{c_type(dtype)} *)({const}void *){name})"
        return f"{name}[{index}]"

    # ---- names -----------------------------------------------------------------------------------------------------------------

    def _named(self, variable: Any, wanted: str) -> str:
        self.names[variable] = self._fresh(wanted)
        return self.names[variable]

    def _fresh(self, wanted: str) -> str:
        name = identifier(wanted, self.taken)
        self.taken.add(name)
        return name


def _call(node: Any, short: str) -> Any:
    """A call of an operator, by the last word of its name; None for anything else."""
    from tvm.ir import Call

    found = isinstance(node, Call) and str(getattr(node.op, "name", "")).rsplit(".", 1)[-1] == short
    return node if found else None


def _memory(data: Any) -> Any:
    """The pointer, or the buffer whose memory it is, that a buffer is declared over."""
    from tvm.ir import Call

    return data.args[0] if isinstance(data, Call) else data


def _intrinsic(call: Any) -> str:
    """The name of the LLVM intrinsic that a call is of; TVM keeps its number."""
    import tvm

    first = call.args[0]
    value = getattr(first, "value", first)
    return str(tvm.get_global_func("target.llvm_get_intrinsic_name")(int(value))) if isinstance(value, int) else str(value)


def _plain(name: str) -> str:
    return re.sub(r"_(pointer|ptr|temporary|intermediate)\b|_+$", "", str(name)) or "x"


def _bare(text: str) -> str:
    """Without the parentheses around all of it."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0 and place < len(text) - 1:
            return text
    return text[1:-1]
