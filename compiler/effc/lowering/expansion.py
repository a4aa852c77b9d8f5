"""Calls of elementary functions become arithmetic that stays in vectors: the passes around `mathematics`, and what must be known of them.

    before:   y[i : i + 16] = exp(x[i : i + 16])          (or a loop over 16 elements, where TVM has no vector form of the call)
    after:    m0 = x[i : i + 16];  m1 = m0 * 1.4427 + 12582912;  ...;  y[i : i + 16] = (m0 < -87.3 ? 0 : ...)

Until loops become vectors a function is one call, so that it is fused, inlined and costed as one node. Then `expansion` puts expressions
in the place of calls. They bind what they use more than once by `tirx.Let`, of which TVM makes vectors like of everything else, and at last
`local_variables` stores what is bound.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from effc.lowering import mathematics
from effc.lowering.relax_edit import operator_name

__all__ = ["VECTOR_MATH", "expand", "expansion", "in_local_variables", "in_vectors", "local_variables"]

_EXPANSIONS: dict[str, Callable[[Any], Any]] = {
    "expm1f": mathematics.expm1,  # of the C library: TVM has no operator
    "tirx.erf": mathematics.erf,
    "tirx.exp": mathematics.exp,
    "tirx.isnan": mathematics.is_nan,
    "tirx.log": mathematics.log,
    "tirx.log1p": mathematics.log1p,
    "tirx.nearbyint": mathematics.nearest,
    "tirx.rsqrt": mathematics.rsqrt,
    "tirx.sigmoid": mathematics.sigmoid,
    "tirx.tanh": mathematics.tanh,
}
# Calls that TVM makes vectors of and LLVM has instructions for.
_INSTRUCTIONS = frozenset(("tirx.fabs", "tirx.floor", "tirx.fma", "tirx.reinterpret", "tirx.sqrt", "tirx.trunc"))


def in_vectors(call: Any) -> bool:
    """Whether a call in a vectorised loop becomes vector instructions: by itself, or by `expansion`."""
    return operator_name(call) in _INSTRUCTIONS or _expanded(call) is not None


def expansion() -> Any:
    """`expand` as a pass over lowered functions; it belongs after `BF16ComputeLegalize` and before `VectorizeLoop`."""
    return _pass(expand, "ExpandMathematics")


def local_variables(scope: str = "global") -> Any:
    """`in_local_variables` as a pass; it belongs behind all others that move allocations or loops (`StorageRewrite`, `UnrollLoop`)."""
    return _pass(functools.partial(in_local_variables, scope=scope), "LocalVariables")


def expand(function: Any) -> Any:
    """A TIR function with arithmetic in the place of calls, those of float32 and, computed in float32, of float16."""
    import tvm_ffi
    from tvm.ir import Call

    def expanded(call: Any) -> Any:
        result = _expanded(call)
        return call if result is None else result

    return function.with_body(tvm_ffi.structural_map(function.body, (Call, expanded)))


def in_local_variables(function: Any, scope: str = "global") -> Any:
    """A TIR function whose bound values are stored in local variables, which LLVM makes registers of.

    TVM's code generator simplifies the value of a binding with all earlier ones put in, which for `tanh(log(exp(x)))` takes ten seconds. It
    does not look into memory. Bindings in a branch stay, as what they read may be read in that branch only.

    Args:
        function: a TIR function.
        scope: of the variables. In `global`, a small allocation becomes a variable on the stack for a processor, in others a call of an
            allocator; for a GPU, `local` is what belongs to a thread.
    """
    import tvm_ffi
    from tvm import tirx

    return function.with_body(
        tvm_ffi.structural_map(function.body, ((tirx.BufferStore, tirx.Bind), functools.partial(_stored, scope=scope)))
    )


def _stored(statement: Any, scope: str) -> Any:
    import tvm_ffi
    from tvm import tirx
    from tvm.ir import Call

    before: list[Any] = []
    variables: dict[Any, Any] = {}

    def binding(let: Any, mutator: Any) -> Any:
        value = mutator.mutate(let.value)
        buffer, place = tirx.decl_buffer((1,), str(value.ty.dtype), name=let.var.name, scope=scope), [tirx.IntImm("int32", 0)]
        before.extend((tirx.AllocBuffer(buffer), tirx.BufferStore(buffer, value, place)))
        variables[let.var] = tirx.BufferLoad(buffer, place)
        return mutator.mutate(let.body)

    def variable(one: Any, mutator: Any) -> Any:
        return variables.get(one, one)

    def call(one: Any, mutator: Any) -> Any:
        if operator_name(one) != "prim.if_then_else":
            return mutator.default_mutate(one)
        return tvm_ffi.structural_map(one, (tirx.Var, lambda inner: variables.get(inner, inner)))

    value = tvm_ffi.structural_mutate(statement.value, [(tirx.Let, binding), (tirx.Var, variable), (Call, call)])
    if not before:
        return statement
    if isinstance(statement, tirx.Bind):
        return tirx.SeqStmt([*before, tirx.Bind(statement.var, value)])
    return tirx.SeqStmt([*before, tirx.BufferStore(statement.buffer, value, list(statement.indices))])


def _pass(change: Callable[[Any], Any], name: str) -> Any:
    from tvm import tirx

    return tirx.transform.prim_func_pass(lambda function, module, context: change(function), opt_level=0, name=name)


def _expanded(call: Any) -> Any | None:
    """The arithmetic for a call; None where it stays."""
    from tvm import tirx

    name, operands = operator_name(call), list(call.args)
    if name == "tirx.call_pure_extern":
        name, operands = str(operands[0].value), operands[1:]
    build: Callable[[Any], Any] | None = _EXPANSIONS.get(name)
    if name == "tirx.pow":
        exponent = operands[1].value if isinstance(operands[1], tirx.Broadcast) else operands[1]
        build = functools.partial(mathematics.power, exponent=float(exponent.value)) if isinstance(exponent, tirx.FloatImm) else None
    if build is None:
        return None
    x = operands[0]
    kind = str(x.ty.dtype)
    if not kind.startswith(("float16", "float32")):
        return None
    # The operand may hold expanded calls itself, and an expression that binds variables must not stand at two places.
    bound = x if isinstance(x, (tirx.Var, tirx.FloatImm)) else tirx.Var("x", x.ty)
    result = build(bound if kind.startswith("float32") else tirx.Cast(kind.replace("float16", "float32"), bound))
    if result is None:
        return None
    if kind.startswith("float16") and "float" in str(result.ty.dtype):
        result = tirx.Cast(kind, result)
    return result if bound is x else tirx.Let(bound, x, result)


def _gelu_tanh(x: Any) -> Any:
    """x (1 + tanh(u)) / 2 = x sigmoid(2 u), where u = sqrt(2 / pi) (x + 0.044715 x^3)."""
    from tvm import tirx

    scale = 2.0 * math.sqrt(2.0 / math.pi)
    first, third = (tirx.const(value, x.ty.dtype) for value in (scale, scale * 0.044715))
    return x * tirx.sigmoid(x * (first + x * x * third))


def _legalise(name: str, element: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    def legalise(builder: Any, call: Any) -> Any:
        from tvm import te, tirx

        def computed(x: Any) -> Any:
            wide = "float32" if str(x.dtype) in ("float16", "bfloat16") else str(x.dtype)
            return te.compute(x.shape, lambda *i: tirx.Cast(str(x.dtype), element(tirx.Cast(wide, x[i]))), name=name)

        return builder.call_te(computed, call.args[0], primfunc_name_hint=name)

    return legalise


# Relax operators with a shorter form than TVM's own; the calls in it are expanded later.
VECTOR_MATH: dict[str, Callable[[Any, Any], Any]] = {"relax.nn.gelu_tanh": _legalise("gelu_tanh", _gelu_tanh)}
