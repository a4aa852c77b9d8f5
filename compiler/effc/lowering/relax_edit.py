"""Small rewrites of a relax `main`: one binding at a time, names of variables kept.

What a rewrite adds is called after the binding that it rewrites (`before_rewriting` finds that name again), so that the node behind it
stays known, and like no other variable: what is known of a binding is kept by its name.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Main", "before_rewriting", "known_sizes", "operands", "operator_name", "rewritten", "rewritten_with_builder", "with_parameters"]


_ADDED = "_added"


class Main:
    """A function as it is before a rewrite.

    Attributes:
        parameters: its arguments.
        bound: what each variable is bound to.
        users: the variables whose bindings read each variable.
    """

    def __init__(self, function: Any) -> None:
        self.parameters = list(function.params)
        self.bound: dict[Any, Any] = {}
        self.users: dict[Any, list[Any]] = {}
        for block in function.body.blocks:
            for binding in block.bindings:
                self.bound[binding.var] = binding.value
                for argument in operands(binding.value):
                    self.users.setdefault(argument, []).append(binding.var)
        for result in operands(function.body.body):
            self.users.setdefault(result, []).append(None)


def operands(value: Any) -> list[Any]:
    """The variables that an expression reads."""
    from tvm import relax

    if isinstance(value, relax.Var):
        return [value]
    parts = [*getattr(value, "args", ()), *getattr(value, "fields", ())]
    if hasattr(value, "tuple_value"):
        parts.append(value.tuple_value)
    return [variable for part in parts for variable in operands(part)]


def before_rewriting(name: str) -> str:
    """The name of the binding for which a rewrite added a variable of this name; the name itself of any other."""
    return name.split(_ADDED)[0]


def operator_name(call: Any) -> str:
    """The name of a call's operator, such as `relax.add`; empty for what is no call of an operator."""
    return str(getattr(getattr(call, "op", None), "name", ""))


def known_sizes(x: Any) -> list[int] | None:
    """The shape; None where a size is known at run time only, or there is no tensor."""
    try:
        return [int(size) for size in x.ty.shape]
    except (AttributeError, TypeError):
        return None


def rewritten(module: Any, rewrite: Callable[[Any, Main], Any]) -> Any:
    """`rewritten_with_builder` for a rewrite that adds no functions."""
    return rewritten_with_builder(module, lambda builder: rewrite)


def rewritten_with_builder(module: Any, make: Callable[[Any], Callable[[Any, Main], Any]]) -> Any:
    """The module with calls of `main` replaced.

    Args:
        module: holds `main`, straight-line code in dataflow blocks.
        make: gives the rewrite, for the block builder that functions are added to. The rewrite says for a call and main as it was what
            to bind instead: an expression, a variable (which then stands for the call everywhere), or None to leave it.
    """
    from tvm import relax

    function = module["main"]
    main = Main(function)

    @relax.expr_functor.mutator
    class Rewrite(relax.PyExprMutator):  # type: ignore[misc]
        def visit_var_binding_(self, binding: Any) -> None:
            builder.rewritten = before_rewriting(str(binding.var.name))
            value = self.visit_expr(binding.value)
            changed = rewrite(value, main) if isinstance(value, relax.Call) else None
            if changed is None:
                super().visit_var_binding_(binding)
            elif isinstance(changed, relax.Var):
                self.set_var_remap(binding.var, self.visit_expr(changed))
            else:
                super().visit_var_binding_(relax.VarBinding(binding.var, self.builder_.normalize(changed)))

    mutator = Rewrite(module)
    builder = _Builder(mutator, main)
    rewrite = make(builder)
    mutator.builder_.update_func(module.get_global_var("main"), mutator.visit_expr(function))
    return mutator.builder_.get()


class _Builder:
    """A mutator's block builder, for expressions of main as it was: variables that were replaced meanwhile are replaced in them."""

    def __init__(self, mutator: Any, main: Main) -> None:
        self._mutator = mutator
        added = [int(number) for variable in main.bound for number in re.findall(f"{_ADDED}(\\d+)", str(variable.name))]
        self._numbers = itertools.count(max(added, default=-1) + 1)
        self.rewritten = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mutator.builder_, name)

    def emit(self, value: Any) -> Any:
        """Bind an expression to a new variable."""
        return self._mutator.builder_.emit(self._mutator.visit_expr(value), f"{self.rewritten}{_ADDED}{next(self._numbers)}_")


def with_parameters(module: Any, extra: Sequence[Any]) -> Any:
    """The module whose main takes further arguments at the end."""
    import tvm
    from tvm import relax

    if not extra:
        return module
    main = module["main"]
    function = relax.Function([*main.params, *extra], main.body, is_pure=main.is_pure, attrs=main.attrs)
    return tvm.IRModule({variable: (function if variable.name_hint == "main" else other) for variable, other in module.functions.items()})
