"""Parts of a program that an extension's library computes: TVM's way to bring your own code generator, with effc's plan at its end.

    before: y = relu(conv2d(x, w) + b)                        operators of relax, channels last, weights arguments of main
    after:  y = call_tir(external_0, (x, w, b))               a kernel that the extension's C code defines

`relax.transform.FuseOpsByPattern` groups what matches the extension's patterns. Each group becomes a TIR function that stands for a call of
its C function: it has no blocks, so nothing fuses into it, and the plan calls the C function itself, by pointers, as every kernel. There is
no packed function and nothing of TVM's runtime. Groups that compute the same (weights are arguments) share a C function.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from effc.errors import MissingDependencyError, counted
from effc.lowering.composite_parts import composite_parts
from effc.lowering.drafts import EXTERNAL, Draft, External
from effc.lowering.extensions import Composite, ExternalCode, Hooks, Tensor, blamed, origin_of
from effc.lowering.external_code import compiled_externals
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.optimise import Part
from effc.lowering.patterns import grouped, stored_values
from effc.lowering.relax_edit import Main, rewritten_with_builder
from effc.lowering.to_relax import RelaxModule
from effc.runtime.plan import EXTERNAL as SYMBOLS
from effc.targets import Target

__all__ = ["Offloaded", "offloaded", "told", "with_externals"]

_OPAQUE = 8  # the kind of function that relax fuses with nothing


@dataclass(frozen=True)
class Offloaded:
    """A module whose matches are calls of external functions.

    Attributes:
        module: of relax; its external functions carry the attribute `EXTERNAL`.
        parts: what each such call computes, by main's variable.
        code: of the functions; None where nothing matched.
        untaken: why nothing did; empty where something did.
    """

    module: RelaxModule
    parts: Mapping[str, tuple[Part, ...]] = field(default_factory=dict)
    code: External | None = None
    untaken: str = ""


def offloaded(given: RelaxModule, hooks: Hooks, target: Target) -> Offloaded:
    """Give what matches an extension's patterns to its code generator.

    Args:
        given: with channels last, before legalisation.
        hooks: of the extension.
        target: one of its targets, of family `cpu`.

    Raises:
        MissingDependencyError: the extension fails, its code does not compile, or lacks a function.
    """
    if hooks.patterns is None or hooks.codegen is None or target.origin is None:
        return Offloaded(given)
    if target.family != "cpu":
        raise MissingDependencyError(
            f"{origin_of(target)}: its patterns need a plan that calls C functions, of family cpu, "
            f"but the target is of family {target.family}"
        )
    matched = grouped(given.module, given.parameters, hooks, target)
    found = matched.module
    functions = {name.name_hint: one for name, one in found.functions.items() if "Composite" in (getattr(one, "attrs", None) or {})}
    composites = _composites(functions, _stored_arguments(found, given.parameters, functions), target)
    if not composites:
        return Offloaded(given, untaken=matched.nothing)
    distinct = tuple({one.symbol: one for one in composites.values()}.values())
    with blamed(target, "its codegen()"):
        code = hooks.codegen(distinct, target)
    if not isinstance(code, ExternalCode):
        raise MissingDependencyError(f"{origin_of(target)}: its codegen() gives a {type(code).__name__}, no ExternalCode")
    objects = compiled_externals(code, distinct, target)
    external = External(target.origin.extension, objects, {one.symbol: str(code.notes.get(one.symbol, "")) for one in distinct})
    module, variables = _with_calls(found, composites)
    parts = dict(zip(variables, composite_parts(given, found, functions), strict=True))
    return Offloaded(replace(given, module=module), parts, external)


def with_externals(drafted: Draft, taken: Offloaded) -> Draft:
    """The draft with the external functions as kernels that are ready."""
    code = taken.code
    drafted.external, drafted.untaken = code, taken.untaken
    if code is not None:
        used = {symbol: note for symbol, note in code.notes.items() if symbol in drafted.functions}
        drafted.ready |= {symbol: Implementation(drafted.functions[symbol], code.extension, note=note) for symbol, note in used.items()}
    return drafted


def told(hooks: Hooks, target: Target, drafted: Draft | None, *, streaming: bool = False) -> tuple[str, ...]:
    """What a user should know of a library's share; `drafted` is None where the program does not plan."""
    if hooks.patterns is None or target.origin is None:
        return ()
    who = f"{target.origin.extension} ({target.origin.package})"
    if drafted is None:
        return (f"{who} computes nothing: its code is called from a plan",)
    if streaming:
        return (f"{who} computes nothing: what only follows what moved between frames runs on effc's own kernels",)
    if drafted.external is None:
        return (f"{who} computes nothing: {drafted.untaken}",)
    own = [call for call in drafted.calls if call.function in drafted.external.notes]
    work, total = (sum(part.macs for call in calls for part in call.parts) for calls in (own, drafted.calls))
    share = f", {work / total:.1%} of the multiply-accumulates" if total else ""
    return (f"{who} computes {len(own)} of {counted(len(drafted.calls), 'step')}{share}",)


def _stored_arguments(module: Any, parameters: Collection[str], functions: Mapping[str, Any]) -> dict[str, tuple[bool, ...]]:
    """Of each composite's arguments, by its name, whether every call of it gives a stored tensor."""
    stored = stored_values(module["main"], parameters)
    found: dict[str, tuple[bool, ...]] = {}
    for call in (binding.value for block in module["main"].body.blocks for binding in block.bindings):
        name = str(getattr(getattr(call, "op", None), "name_hint", ""))
        if name in functions:
            given = tuple(argument in stored for argument in call.args)
            found[name] = tuple(map(operator.and_, given, found.get(name, given)))
    return found


def _composites(functions: Mapping[str, Any], stored: Mapping[str, tuple[bool, ...]], target: Target) -> dict[str, Composite]:
    """By the name of the function; equal ones have the same symbol."""
    import tvm_ffi

    found: dict[str, Composite] = {}
    prefix = re.sub(r"\W", "_", target.name, flags=re.ASCII)
    for name, function in functions.items():
        pattern = str(function.attrs["Composite"])
        known = [other for other, one in found.items() if tvm_ffi.structural_equal(one.function, function)]
        if known:
            everywhere = tuple(map(operator.and_, found[known[0]].stored, stored[name]))
            found |= dict.fromkeys((*known, name), replace(found[known[0]], stored=everywhere))
            continue
        result = function.ret_ty
        outputs = list(result.fields) if hasattr(result, "fields") else [result]
        number = len({one.symbol for one in found.values()})
        try:
            inputs, results = [tuple(_tensor(one) for one in many) for many in ((p.ty for p in function.params), outputs)]
        except (AttributeError, TypeError) as error:
            raise MissingDependencyError(
                f"{origin_of(target)}: its pattern {pattern} took operands that are no tensors of known shape ({function.ty}); its check "
                "must refuse those"
            ) from error
        found[name] = Composite(f"{SYMBOLS}{prefix}_{number}", pattern, function, inputs, results, stored[name])
    return found


def _tensor(type_: Any) -> Tensor:
    return Tensor(tuple(int(size) for size in type_.shape), str(type_.dtype))


def _with_calls(module: Any, composites: Mapping[str, Composite]) -> tuple[Any, list[str]]:
    """The module with calls of external functions in the place of composites, and the variables of main that they give, in order.

    What a composite gives gets a name of its own here: grouping calls its results like other variables.
    """
    import tvm
    from tvm import relax

    variables: list[str] = []

    def make(builder: Any) -> Callable[[Any, Main], Any]:
        known: dict[str, Any] = {}

        def rewrite(call: Any, main: Main) -> Any:
            composite = composites.get(str(getattr(call.op, "name_hint", "")))
            if composite is None:
                return None
            if composite.symbol not in known:
                known[composite.symbol] = builder.add_func(_declared(composite), composite.symbol)
            types = [relax.TensorType(one.shape, one.dtype) for one in composite.outputs]
            several = hasattr(call.ty, "fields")
            given = builder.emit(relax.call_tir(known[composite.symbol], relax.Tuple(list(call.args)), types if several else types[0]))
            variables.append(str(given.name))
            return given

        return rewrite

    result = rewritten_with_builder(module, make)
    kept = {name: one for name, one in result.functions.items() if name.name_hint not in composites}
    return tvm.IRModule(kept, attrs=result.attrs), variables


def _declared(composite: Composite) -> Any:
    """A TIR function over a composite's tensors that says which C function computes them; its body is what the plan's entry does."""
    from tvm import tirx

    tensors = [*((f"in{i}", one) for i, one in enumerate(composite.inputs)), *((f"out{i}", one) for i, one in enumerate(composite.outputs))]
    buffers = [tirx.decl_buffer(one.shape, one.dtype, name=name) for name, one in tensors]
    attributes = {EXTERNAL: composite.symbol, "global_symbol": composite.symbol, "op_pattern": _OPAQUE}
    call = tirx.call_extern("int32", composite.symbol, *(buffer.data for buffer in buffers))
    return tirx.PrimFunc(buffers, tirx.Evaluate(call)).with_attr(attributes)
