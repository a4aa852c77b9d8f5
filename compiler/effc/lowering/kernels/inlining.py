"""Elements of the buffers of a fused function as expressions of its arguments: blocks are put in the place of reads of what they write.

What several places read is computed once: it is bound to a variable (`tirx.Let`) around the whole expression. Without that, a chain of
activations that each read their operand twice would double with every link. In a branch (`if_then_else`), which may guard what it reads,
nothing is moved: blocks are put there as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from effc.lowering.kernels.fused import Block

__all__ = ["Load", "NotInlinableError", "inlined", "rebuilt", "same"]

Load = Callable[[Sequence[Any]], Any]  # places -> what stands for the element there
_MOST_NODES = 4000  # of one inlined expression: beyond it, inlining computes the same thing over and over


class NotInlinableError(Exception):
    """The function does not have the form that a hand-written kernel needs."""


def inlined(buffer: Any, indices: Sequence[Any], written: Mapping[Any, Block], known: Mapping[Any, Load]) -> Any:
    """An element of a buffer as an expression.

    Args:
        buffer, indices: which element.
        written: the block that writes a buffer; buffers that none writes are read.
        known: what stands for elements of some of them.

    Raises:
        NotInlinableError: a block on the way is no plain function of its position, or the expression grows too large.
    """
    found = _Elements(written, known)
    found.read(buffer, indices)  # counts how often each element is read
    found.binding = True
    result = found.read(buffer, indices)
    for element in reversed(found.bound):
        result = element.around(result)
    if _size(result) > _MOST_NODES:
        raise NotInlinableError(f"{buffer.name} is an expression of {_size(result)} nodes")
    return result


@dataclass
class _Element:
    """One element of a buffer that a block writes: how often it is read, and what it is bound to."""

    places: Sequence[Any]
    reads: int = 0
    variable: Any = None
    value: Any = None

    def around(self, expression: Any) -> Any:
        from tvm import tirx

        return tirx.Let(self.variable, self.value, expression)


class _Elements:
    """Reads elements twice over: to count, and then to bind what is read more than once."""

    def __init__(self, written: Mapping[Any, Block], known: Mapping[Any, Load]) -> None:
        self._written, self._known = written, known
        self._found: dict[Any, list[_Element]] = {}
        self._branches = 0
        self.binding = False
        self.bound: list[_Element] = []  # in the order in which they are computed

    def read(self, source: Any, places: Sequence[Any]) -> Any:
        from tvm import tirx

        if source in self._known:
            return self._known[source](places)
        block = self._written.get(source)
        if block is None:
            return tirx.BufferLoad(source, list(places))
        if not block.indices and set(block.extents) <= {1}:  # a tensor without axes
            places = [tirx.IntImm("int32", 0) for _ in block.variables]
        elif not block.spatial or not all(i.same_as(v) for i, v in zip(block.indices, block.variables, strict=True)):
            raise NotInlinableError(f"{block.name} is no plain function of its position")
        if self._branches:
            return self._computed(block, places)
        element = self._element(source, places)
        return self._bound(element, block) if self.binding else self._counted(element, block)

    def _computed(self, block: Block, places: Sequence[Any]) -> Any:
        return rebuilt(block.value, dict(zip(block.variables, places, strict=True)), self.read, self._branch)

    def _element(self, source: Any, places: Sequence[Any]) -> _Element:
        elements = self._found.setdefault(source, [])
        for element in elements:
            if all(same(one, other) for one, other in zip(element.places, places, strict=True)):
                return element
        elements.append(_Element(places))
        return elements[-1]

    def _counted(self, element: _Element, block: Block) -> Any:
        element.reads += 1
        if element.reads == 1:
            element.value = self._computed(block, element.places)
        return element.value

    def _bound(self, element: _Element, block: Block) -> Any:
        from tvm import tirx

        if element.variable is not None:
            return element.variable
        value = self._computed(block, element.places)
        # TVM computes bfloat16 in float32, but leaves the types of variables as they are.
        if element.reads < 2 or _size(value) == 1 or str(value.ty.dtype) == "bfloat16":
            return value
        element.variable, element.value = tirx.Var(block.name, value.ty), value
        self.bound.append(element)
        return element.variable

    @contextmanager
    def _branch(self) -> Iterator[None]:
        self._branches += 1
        try:
            yield
        finally:
            self._branches -= 1


def rebuilt(
    expression: Any,
    values: Mapping[Any, Any],
    load: Callable[[Any, Sequence[Any]], Any],
    branch: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Any:
    """An expression with variables replaced and every load made anew.

    Args:
        expression: of TIR.
        values: of its free variables.
        load: what stands for an element, given the buffer and the index.
        branch: entered while a part is built that is computed only sometimes.
    """
    from tvm import tirx
    from tvm.ir import Call, TensorLoad

    def again(part: Any) -> Any:
        return rebuilt(part, values, load, branch)

    if isinstance(expression, TensorLoad):
        return load(expression.source, [again(index) for index in expression.indices])
    if isinstance(expression, tirx.Var):
        return values.get(expression, expression)
    if isinstance(expression, (tirx.IntImm, tirx.FloatImm, str)):
        return expression
    if isinstance(expression, tirx.Let):  # with a variable of its own: the expression may stand at several places
        variable = tirx.Var(expression.var.name, expression.var.ty)
        body = rebuilt(expression.body, {**values, expression.var: variable}, load, branch)
        return tirx.Let(variable, again(expression.value), body)
    parts = _parts(expression)
    if isinstance(expression, Call) and str(getattr(expression.op, "name", "")).endswith("if_then_else"):
        condition = again(parts[0])
        with branch():
            parts = [condition, *map(again, parts[1:])]
    else:
        parts = [again(part) for part in parts]
    parts = _agreed(parts)
    if isinstance(expression, Call):
        return Call(expression.op, parts, expression.attrs, expression.ty_args, ret_ty=expression.ty)
    if isinstance(expression, tirx.Cast):
        return tirx.Cast(str(expression.ty.dtype), parts[0])
    if parts:
        return type(expression)(*parts)
    raise NotInlinableError(f"a {type(expression).__name__}")


def _agreed(operands: list[Any]) -> list[Any]:
    """Operands of one integer type: relax counts in int64, the loops around in int32. Constants follow variables, these follow data."""
    from tvm import tirx

    def kind(operand: Any) -> str:
        return str(getattr(getattr(operand, "ty", None), "dtype", ""))

    if not {kind(operand) for operand in operands} >= {"int32", "int64"}:
        return operands
    wide = [operand for operand in operands if kind(operand) == "int64"]
    if all(isinstance(operand, tirx.IntImm) and -(1 << 31) <= int(operand) < 1 << 31 for operand in wide):
        return [tirx.IntImm("int32", int(operand)) if kind(operand) == "int64" else operand for operand in operands]
    return [tirx.Cast("int64", operand) if kind(operand) == "int32" else operand for operand in operands]


def _parts(expression: Any) -> list[Any]:
    """The expressions that an expression is made of, in the order of its constructor's arguments."""
    from tvm.ir import Call

    if isinstance(expression, Call):
        return list(expression.args)
    for names in (("a", "b"), ("condition", "true_value", "false_value"), ("value",), ("a",)):
        if all(hasattr(expression, name) for name in names):
            return [getattr(expression, name) for name in names]
    return []


def _size(expression: Any) -> int:
    from tvm import tirx
    from tvm.ir import TensorLoad

    if isinstance(expression, TensorLoad):
        return 1
    if isinstance(expression, tirx.Let):
        return _size(expression.value) + _size(expression.body)
    return 1 + sum(_size(part) for part in _parts(expression) if not isinstance(part, (str, int, float)))


def same(a: Any, b: Any) -> bool:
    """Whether two expressions are equal."""
    import tvm_ffi

    return bool(a.same_as(b)) or bool(tvm_ffi.structural_equal(a, b))
