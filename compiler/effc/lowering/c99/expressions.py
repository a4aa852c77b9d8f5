"""Expressions of TIR as C: the part of the printer that has values. Statements that an expression needs are written in front of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from effc.errors import InternalError
from effc.lowering.c99.helpers import HELPERS
from effc.lowering.c99.names import C_WORDS, identifier
from effc.lowering.c99.values import c_number, c_type, lanes_of, scalar_of

__all__ = ["Expressions", "bare", "call_of", "intrinsic_of", "memory_of", "plain"]

_WRAPPING = ("int32", "int64")
_NARROW = ("int8", "uint8", "int16", "uint16")
_BINARY = {
    "Add": "+", "Sub": "-", "Mul": "*", "Div": "/", "Mod": "%", "EQ": "==", "NE": "!=", "LT": "<", "LE": "<=", "GT": ">", "GE": ">=",
    "And": "&&", "Or": "||",
}  # fmt: skip
_BIT_NODES = {
    "LShift": "shift_left",
    "RShift": "shift_right",
    "BitwiseAnd": "bitwise_and",
    "BitwiseOr": "bitwise_or",
    "BitwiseXor": "bitwise_xor",
}
_BITS = {"shift_left": "<<", "shift_right": ">>", "bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^"}
_REDUCED = {"or": "|", "and": "&", "xor": "^", "add": "+"}  # what combines the lanes of a vector
_REALS = {"float32": "f32", "float64": "f64"}
_WHOLE = dict.fromkeys(("int8", "uint8", "int16", "uint16", "int32"), "i32") | {"int64": "i64", "uint32": "i64", "uint64": "u64"}
_SHORT = {"int32": "i32", "float32": "f32", "uint32": "u32", "int64": "i64"}
_CALLS = {"sqrt": "effc_sqrt", "nearbyint": "effc_nearest_float", "trunc": "effc_trunc", "floor": "effc_floor", "ceil": "effc_ceil"}
_INTRINSICS = {"llvm.lrint": "effc_nearest", "llvm.nearbyint": "effc_nearest_float", "llvm.rint": "effc_nearest_float"}


class Expressions:
    """The names and the lines of one function, and its expressions."""

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
        self.data: set[Any] = set()  # variables and local buffers of integers that come from data, and not from counters of loops alone
        self.bound: dict[str, str] = {}  # the line of a binding or a local buffer -> its name
        self.formless: dict[str, None] = {}  # what was asked for that C99 has not without its library, in order
        self.lane = ""  # the variable that counts the lanes of the vectors which are written now, one after the other

    def _pointer(self, pointer: Any) -> str:
        root = self._root(pointer)
        const = "" if root in self.written else "const "
        return f"{const}{c_type(self.typed[pointer])} *"

    def home(self, pointer: Any) -> Any:
        """The pointer or local buffer by whose name the memory is called that a buffer is declared over, also over another declared one."""
        while pointer in self.roots and pointer not in self.names:
            pointer = self.roots[pointer]
        return pointer

    def _root(self, pointer: Any) -> Any:
        while pointer in self.roots:
            pointer = self.roots[pointer]
        return pointer

    def line(self, text: str) -> None:
        self.lines.append("  " * self.depth + text)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        self.line(f"{head} {{")
        self.depth += 1
        yield
        self.depth -= 1
        self.line("}")

    @contextmanager
    def _each_lane(self, lanes: int) -> Iterator[None]:
        if self.lane:
            raise InternalError(f"{self.name}: a vector within a vector has no form here")
        lane = self._fresh("lane")
        with self.block(f"for (int32_t {lane} = 0; {lane} < {lanes}; ++{lane})"):
            self.lane = lane
            yield
            self.lane = ""

    def expression(self, node: Any) -> str:
        """A C expression in parentheses, where it needs some; statements that it needs are written in front."""
        from tvm import tirx
        from tvm.ir import Call, TensorLoad

        kind = type(node).__name__
        if isinstance(node, (tirx.IntImm, tirx.FloatImm)):
            text = c_number(node.value, scalar_of(node.ty.dtype))
            return f"({text})" if text.startswith("-") else text
        if isinstance(node, tirx.Var):
            if node not in self.names:
                raise InternalError(f"{self.name}: {node.name} is bound nowhere")
            several = hasattr(node.ty, "dtype") and lanes_of(node.ty.dtype) > 1
            return f"{self.names[node]}[{self._own_lane()}]" if several else self.names[node]
        if isinstance(node, tirx.Broadcast):
            return self.expression(node.value)
        if isinstance(node, tirx.Ramp):
            return f"({self.expression(node.base)} + ({self._own_lane()} * {self.expression(node.stride)}))"
        if isinstance(node, TensorLoad):
            return self._element(node.source, node.indices)
        if isinstance(node, tirx.Let):
            variable = self._fresh(plain(node.var.name))
            value = self.expression(node.value)
            self.line(f"const {c_type(scalar_of(node.var.ty.dtype))} {variable} = {bare(value)};")
            self.names[node.var] = variable
            if self._from_data(node.value):
                self.data.add(node.var)
            return self.expression(node.body)
        if isinstance(node, tirx.Cast):
            return self._cast(node)
        if isinstance(node, tirx.Select):
            return self._select(node.condition, node.true_value, node.false_value, scalar_of(node.ty.dtype))
        if kind in ("Min", "Max"):
            return self._extreme(kind.lower(), node)
        if kind == "Not":
            return f"(!{self.expression(node.a)})"
        if kind in _BINARY:
            return self._binary(_BINARY[kind], node.a, node.b, scalar_of(node.ty.dtype))
        if kind in _BIT_NODES:
            return self._bitwise(_BIT_NODES[kind], [node.a, node.b], scalar_of(node.ty.dtype))
        if kind == "BitwiseNot":
            return f"(({c_type(scalar_of(node.ty.dtype))})~{self.expression(node.a)})"
        if isinstance(node, Call):
            return self._called(node)
        raise InternalError(f"{self.name}: a {kind} has no form in C99")

    def _binary(self, sign: str, a: Any, b: Any, dtype: str) -> str:
        if sign in ("&&", "||"):
            return self._logical(sign, a, b)
        if sign == "%" and dtype.startswith("float"):
            raise InternalError(f"{self.name}: the remainder of two {dtype} has no form in C99 without its library")
        if dtype in _WRAPPING and sign in "+-*" and (self._from_data(a) or self._from_data(b)):
            kind = c_type(dtype)  # in TIR they wrap, in C that has no meaning
            return f"(({kind})((u{kind}){self.expression(a)} {sign} (u{kind}){self.expression(b)}))"
        text = f"({self.expression(a)} {sign} {self.expression(b)})"
        return f"(({c_type(dtype)}){text})" if dtype in _NARROW else text

    def _logical(self, sign: str, a: Any, b: Any) -> str:
        """Statements that the second operand needs are executed only where its value counts: the first may say that it must not be read."""
        from tvm import tirx

        first, (second, lines) = self.expression(a), self._apart(b)
        if not lines:
            return f"({first} {sign} {second})"
        known = self._apart(tirx.const(sign == "||", "bool"))
        return self._choice(first, *((known, (second, lines)) if sign == "||" else ((second, lines), known)), "bool")

    def _from_data(self, node: Any) -> bool:
        """Whether an integer comes from stored integers or the bits of a real number, so that its sums may be any."""
        import tvm_ffi
        from tvm import tirx
        from tvm.ir import Call, TensorLoad

        if not hasattr(node.ty, "dtype") or scalar_of(node.ty.dtype) not in _WRAPPING:
            return False
        found: list[bool] = []

        def loaded(load: Any) -> None:
            found.append(load.source in self.data or (scalar_of(load.source.dtype) in _WRAPPING and load.source in self.roots))

        acts = (
            (TensorLoad, loaded),
            (tirx.Var, lambda one: found.append(one in self.data)),
            (tirx.Cast, lambda one: found.append(scalar_of(one.value.ty.dtype).startswith("float"))),
            (Call, lambda one: found.append(call_of(one, "reinterpret") is not None)),
        )
        tvm_ffi.structural_walk(node, acts)
        return any(found)

    def _cast(self, node: Any) -> str:
        to, source = scalar_of(node.ty.dtype), scalar_of(node.value.ty.dtype)
        value = self.expression(node.value)
        if to == source:
            return value
        if to == "bool":
            return f"({value} != 0)"
        return f"(({c_type(to)}){self._whole(value, source, to) if source in _REALS else value})"

    def _whole(self, value: str, source: str, to: str) -> str:
        """The integer part of a real number. For what does not fit, and NaN, C has no meaning; the helpers have that of x86-64."""
        if to not in _WHOLE:
            return value
        return f"{self._helper(f'effc_{_WHOLE[to]}_{_REALS[source]}')}({bare(value)})"

    def _extreme(self, which: str, node: Any) -> str:
        dtype = scalar_of(node.ty.dtype)
        if dtype in _NARROW:
            return f"(({c_type(dtype)}){self._helper(f'effc_{which}_i32')}({self.expression(node.a)}, {self.expression(node.b)}))"
        if dtype not in _SHORT:
            raise InternalError(f"{self.name}: the {which} of two {dtype} has no form here")
        return f"{self._helper(f'effc_{which}_{_SHORT[dtype]}')}({bare(self.expression(node.a))}, {bare(self.expression(node.b))})"

    def _apart(self, node: Any) -> tuple[str, list[str]]:
        """An expression for one side of a branch, and the lines that it needs there."""
        before, self.lines = self.lines, []
        self.depth += 1
        text = self.expression(node)
        self.depth -= 1
        lines, self.lines = self.lines, before
        return text, lines

    def _select(self, condition: Any, then: Any, otherwise: Any, dtype: str) -> str:
        return self._choice(self.expression(condition), self._apart(then), self._apart(otherwise), dtype)

    def _choice(self, test: str, then: tuple[str, list[str]], otherwise: tuple[str, list[str]], dtype: str) -> str:
        """A conditional expression; a branch where one side needs statements, which may read what only that side may."""
        (first, mine), (second, other) = then, otherwise
        if not mine and not other:
            text = f"({test} ? {first} : {second})"
            return f"(({c_type(dtype)}){text})" if dtype in _NARROW else text
        name = self._fresh("chosen")
        self.line(f"{c_type(dtype)} {name};")
        self.line(f"if ({bare(test)}) {{")
        self.lines += [*mine, "  " * (self.depth + 1) + f"{name} = {bare(first)};"]
        self.line("} else {")
        self.lines += [*other, "  " * (self.depth + 1) + f"{name} = {bare(second)};"]
        self.line("}")
        return name

    def _called(self, node: Any) -> str:
        name, arguments, dtype = str(node.op.name), list(node.args), scalar_of(node.ty.dtype) if hasattr(node.ty, "dtype") else ""
        short = name.rsplit(".", 1)[-1]
        if short == "if_then_else":
            return self._select(arguments[0], arguments[1], arguments[2], dtype)
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
            intrinsic = intrinsic_of(node)
            reduced = re.match(r"llvm\.vector\.reduce\.(or|and|xor|add)\b", intrinsic)
            if reduced is not None:
                return self._reduced(_REDUCED[reduced[1]], arguments[-1], dtype)
            wanted = next((helper for key, helper in _INTRINSICS.items() if intrinsic.startswith(key)), None)
            if wanted is not None:
                return f"{self._helper(wanted)}({bare(self.expression(arguments[-1]))})"
            raise InternalError(f"{self.name}: {intrinsic} has no form in C99")
        if short == "call_pure_extern":  # of the C library, which these machines may not have: `sqrtf`
            short, arguments = str(arguments[0].value).removesuffix("f"), arguments[1:]
        if short == "fabs" and dtype == "float32":
            value = self.expression(arguments[0])
            return f"{self._helper('effc_float')}({self._helper('effc_bits')}({bare(value)}) & INT32_MAX)"
        if short in _CALLS and dtype == "float32":
            return f"{self._helper(_CALLS[short])}({bare(self.expression(arguments[0]))})"
        for argument in arguments:  # what has no form within it is listed, too
            with suppress(InternalError):
                self.expression(argument)
        self.formless[f"{short} of {dtype} has no form in C99"] = None
        return "0"

    def _reduced(self, sign: str, vector: Any, dtype: str) -> str:
        """All lanes of a vector of integers combined."""
        name, kind = self._fresh("reduced"), c_type(dtype)
        if "float" in dtype or dtype == "bool":
            raise InternalError(f"{self.name}: the lanes of {dtype} combined by {sign} have no form here")
        self.line(f"{kind} {name} = {'(' + kind + ')-1' if sign == '&' else '0'};")
        with self._each_lane(lanes_of(vector.ty.dtype)):
            self.line(f"{name} = ({kind})({name} {sign} {self.expression(vector)});")
        return name

    def _own_lane(self) -> str:
        if not self.lane:
            raise InternalError(f"{self.name}: a vector stands where a number should")
        return self.lane

    def _bitwise(self, short: str, arguments: list[Any], dtype: str) -> str:
        a, b = (self.expression(argument) for argument in arguments)
        if dtype == "bool":
            return f"(({a} {_BITS[short]} {b}) != 0)"
        if short == "shift_left" and dtype.startswith("int"):  # of a negative number it has no meaning in C99
            return f"(({c_type(dtype)})((u{c_type(dtype)}){a} << {b}))"
        text = f"({a} {_BITS[short]} {b})"
        return f"(({c_type(dtype)}){text})" if dtype in _NARROW else text

    def _reinterpreted(self, value: Any, dtype: str) -> str:
        source = scalar_of(value.ty.dtype)
        text = self.expression(value)
        if (source, dtype) == ("float32", "int32"):
            return f"{self._helper('effc_bits')}({bare(text)})"
        if (source, dtype) == ("int32", "float32"):
            return f"{self._helper('effc_float')}({bare(text)})"
        if "float" not in source and "float" not in dtype:
            return f"(({c_type(dtype)}){text})"
        if (source, dtype) == ("uint32", "float32"):
            return f"{self._helper('effc_float')}((int32_t){text})"
        if (source, dtype) == ("float32", "uint32"):
            return f"((uint32_t){self._helper('effc_bits')}({bare(text)}))"
        raise InternalError(f"{self.name}: the bits of a {source} as {dtype} have no form here")

    def _helper(self, name: str) -> str:
        self.helpers.add(name)
        return name

    def _element(self, buffer: Any, indices: Any) -> str:
        pointer = self.home(buffer)
        if pointer in self.scalars:
            return self.names[pointer]
        if pointer not in self.names or len(indices) != 1:
            raise InternalError(f"{self.name}: an element of {buffer.name} is no element of flat memory")
        dtype, name = scalar_of(buffer.dtype), self.names[pointer]
        index = bare(self.expression(indices[0]))
        lanes = lanes_of(buffer.dtype)
        if lanes > 1:  # a buffer of vectors
            index = f"(({index}) * {lanes}) + {self._own_lane()}"
        if self.typed[pointer] != dtype:
            const = "" if self._root(pointer) in self.written else "const "
            name = f"(({const}{c_type(dtype)} *)({const}void *){name})"
        return f"{name}[{index}]"

    def _named(self, variable: Any, wanted: str) -> str:
        self.names[variable] = self._fresh(wanted)
        return self.names[variable]

    def _fresh(self, wanted: str) -> str:
        name = identifier(wanted, self.taken)
        self.taken.add(name)
        return name


def call_of(node: Any, short: str) -> Any:
    """A call of an operator, by the last word of its name; None for anything else."""
    from tvm.ir import Call

    found = isinstance(node, Call) and str(getattr(node.op, "name", "")).rsplit(".", 1)[-1] == short
    return node if found else None


def memory_of(data: Any) -> Any:
    """The pointer, or the buffer whose memory it is, that a buffer is declared over."""
    from tvm.ir import Call

    return data.args[0] if isinstance(data, Call) else data


def intrinsic_of(call: Any) -> str:
    """The name of the LLVM intrinsic that a call is of; TVM keeps its number."""
    import tvm

    first = call.args[0]
    value = getattr(first, "value", first)
    return str(tvm.get_global_func("target.llvm_get_intrinsic_name")(int(value))) if isinstance(value, int) else str(value)


def plain(name: str) -> str:
    return re.sub(r"_(pointer|ptr|temporary|intermediate)\b|_+$", "", str(name)) or "x"


def bare(text: str) -> str:
    """Without the parentheses around all of it."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0 and place < len(text) - 1:
            return text
    return text[1:-1]
