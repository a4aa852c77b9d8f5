"""Relax passes: high-level operators become TIR functions, neighbours fuse, every fused function remembers what it computes.

Before fusion every call gets a TIR function of its own (`s17`), named after its position, so that the names inside a fused function tell
which bindings went into it. Equal functions are merged again when the plan is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from effc.lowering.anchors import anchored
from effc.lowering.anchors_attention import attention_work
from effc.lowering.choices import CHOICES
from effc.lowering.expansion import VECTOR_MATH
from effc.lowering.integer_division import LEGALISE
from effc.lowering.legalise import NAN_KEEPING
from effc.lowering.relax_edit import Main, before_rewriting, rewritten_with_builder
from effc.lowering.to_relax import Origin, RelaxModule
from effc.lowering.views import fused_views

__all__ = ["UNKNOWN", "VIEWS", "Fused", "Part", "following", "multiply_accumulates", "optimise"]

# These only rename memory: they become aliases in the plan, not kernels.
VIEWS = ("relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.flatten")

UNKNOWN = Origin("", "", "")


@dataclass(frozen=True)
class Part:
    """One operator inside a kernel: where it came from and its multiply-accumulates."""

    origin: Origin
    operator: str
    macs: int


@dataclass(frozen=True)
class Fused:
    """A module of TIR functions and a `main` that calls them.

    Attributes:
        parts: what each function computes.
        origins: the nodes behind variables of `main` as it was before it was fused.
    """

    module: Any
    parts: dict[str, tuple[Part, ...]]
    origins: dict[str, Origin]


def optimise(relax_module: RelaxModule, target: Any, known: Mapping[str, tuple[Part, ...]] = MappingProxyType({})) -> Fused:
    """Legalise, fuse and clean up.

    Args:
        relax_module: from `to_relax`.
        target: a tvm.target.Target.
        known: what calls of functions that are TIR already compute, by the variable that each is bound to.
    """
    import tvm
    from tvm import relax

    transform = relax.transform
    with target:
        module = fused_views(_checked_takes(relax_module.module))
        work = multiply_accumulates(module) | attention_work(Main(module["main"]))
        module = rewritten_with_builder(module, anchored)
        module = transform.LegalizeOps(VECTOR_MATH | NAN_KEEPING | LEGALISE | CHOICES, skip_ops=list(VIEWS))(module)
        origins = following(module["main"], relax_module.origins)
        module, single = _one_function_per_call(module, origins, work, known)
        module = tvm.transform.Sequential(
            [transform.AnnotateTIROpPattern(), transform.FoldConstant(), transform.FuseOps(), transform.DeadCodeElimination()]
        )(module)
        parts = _parts(module, single)
        module = tvm.transform.Sequential([transform.FuseTIR(), transform.DeadCodeElimination()])(module)
    return Fused(module, parts, origins)


def _checked_takes(module: Any) -> Any:
    """Indices from data are clamped: TVM's importer asks for gathers that read foreign memory when an index is out of range.

    torch raises an error for such an index; compiled code gives the nearest element instead.
    """
    import tvm
    from tvm import relax

    @relax.expr_functor.mutator
    class Clamp(relax.PyExprMutator):  # type: ignore[misc]
        def visit_call_(self, call: Any) -> Any:
            call = super().visit_call_(call)
            if isinstance(call.op, tvm.ir.Op) and call.op.name == "relax.take" and str(call.attrs.mode) == "fast":
                return relax.op.take(call.args[0], call.args[1], axis=call.attrs.axis, mode="clip")
            return call

    clamp = Clamp(module)
    clamp.builder_.update_func(module.get_global_var("main"), clamp.visit_expr(module["main"]))
    return clamp.builder_.get()


def _bindings(function: Any) -> list[Any]:
    return [binding for block in function.body.blocks for binding in block.bindings]


def multiply_accumulates(module: Any) -> dict[str, int]:
    """MACs of the bindings whose operator multiplies and accumulates, by variable name."""
    from tvm import relax

    found = {}
    for binding in _bindings(module["main"]):
        call = binding.value
        if not isinstance(call, relax.Call) or not hasattr(call.op, "name") or not hasattr(binding.var.ty, "shape"):
            continue
        name = str(call.op.name)
        outputs = _elements(binding.var.ty)
        if name in ("relax.matmul", "relax.nn.linear"):
            found[str(binding.var.name)] = outputs * int(call.args[0].ty.shape[-1])
        elif "conv" in name and name.endswith("transpose"):
            weight = call.args[1].ty.shape
            found[str(binding.var.name)] = _elements(call.args[0].ty) * _product(list(weight)[1:])
        elif name.startswith("relax.nn.conv"):
            found[str(binding.var.name)] = outputs * _product(list(call.args[1].ty.shape)[1:])
    return found


def _product(sizes: Any) -> int:
    result = 1
    for size in sizes:
        result *= int(size)
    return result


def _elements(type_: Any) -> int:
    try:
        return _product(type_.shape)
    except TypeError:  # a shape that depends on data: the graph will not plan
        return 0


def _one_function_per_call(
    module: Any, origins: dict[str, Origin], work: dict[str, int], known: Mapping[str, tuple[Part, ...]]
) -> tuple[Any, dict[str, tuple[Part, ...]]]:
    """Give each `call_tir` of main its own copy of the function that it calls."""
    import tvm
    from tvm import relax

    parts: dict[str, tuple[Part, ...]] = {}

    @relax.expr_functor.mutator
    class Rename(relax.PyExprMutator):  # type: ignore[misc]
        def visit_var_binding_(self, binding: Any) -> None:
            call = binding.value
            if isinstance(call, relax.Call) and isinstance(call.op, tvm.ir.Op) and call.op.name == "relax.call_tir":
                name = f"s{len(parts)}"
                variable = str(binding.var.name)
                operator = str(call.args[0].name_hint).rstrip("0123456789").rstrip("_")
                parts[name] = known.get(variable) or (Part(origins.get(variable, UNKNOWN), operator, work.get(variable, 0)),)
                copied = self.builder_.add_func(module[call.args[0]].with_attr("global_symbol", name), name)
                call = relax.Call(call.op, [copied, *list(call.args)[1:]], call.attrs, call.ty_args)
                binding = relax.VarBinding(binding.var, call)
            super().visit_var_binding_(binding)

    rename = Rename(module)
    rename.builder_.update_func(module.get_global_var("main"), rename.visit_expr(module["main"]))
    return relax.transform.DeadCodeElimination()(rename.builder_.get()), parts


def following(function: Any, origins: dict[str, Origin]) -> dict[str, Origin]:
    """Origins of all bindings: those that relax passes added belong to the next binding that has one."""
    found: dict[str, Origin] = {}
    current = UNKNOWN
    for binding in reversed(_bindings(function)):
        current = origins.get(before_rewriting(str(binding.var.name)), current)
        found[str(binding.var.name)] = current
    return found


def _parts(module: Any, single: dict[str, tuple[Part, ...]]) -> dict[str, tuple[Part, ...]]:
    """What each function of main computes: itself, or the functions that a fused one calls."""
    from tvm import relax

    found = dict(single)
    for variable, function in module.functions.items():
        if isinstance(function, relax.Function) and variable.name_hint != "main":
            calls = [binding.value for binding in _bindings(function)]
            called = [str(call.args[0].name_hint) for call in calls if isinstance(call, relax.Call) and hasattr(call.args[0], "name_hint")]
            found[variable.name_hint] = tuple(part for name in called for part in single.get(name, ()))
    return found
