"""What is kept from frame to frame as the kernels write it: with the channels last, not transposed back for a reader outside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from effc.ir import Interface
from effc.lowering.relax_edit import Main, known_sizes, operator_name
from effc.lowering.streaming.stripping import Stripped
from effc.lowering.to_relax import RelaxModule

__all__ = ["NoListsError", "kept_channels_last", "with_kept"]


class NoListsError(Exception):
    """Kernels over lists cannot serve the program; the message says why."""


def with_kept(relax_module: RelaxModule, bare: Stripped) -> tuple[RelaxModule, Interface, Stripped]:
    """The module and its interface with what is kept in channels-last layout, where it exists in that, and in front of the user's outputs.

    What is kept says then whether its channels are last: the sizes do not tell where height, width and channels are equal.

    A buffer that is both is the state then, and the output a copy of it: readers read what was propagated. Raises NoListsError.
    """
    module, last = kept_channels_last(relax_module.module, [one.shape for one in bare.kept])
    shapes = {one.state: (one.shape[0], *one.shape[2:], one.shape[1]) for one, moved in zip(bare.kept, last, strict=True) if moved}
    interface, count = bare.program.interface, len(bare.kept)
    outputs = tuple(replace(value, shape=shapes.get(value.name, value.shape)) for value in interface.outputs)
    outputs = outputs[len(outputs) - count :] + outputs[: len(outputs) - count]
    kept = tuple(replace(one, channels_last=moved) for one, moved in zip(bare.kept, last, strict=True))
    return replace(relax_module, module=module), replace(interface, outputs=outputs), replace(bare, kept=kept)


def kept_channels_last(module: Any, shapes: Sequence[tuple[int, ...]]) -> tuple[Any, list[bool]]:
    """The module whose last results come first and have their channels last, where the network computes them so; for each whether it does.

    Args:
        module: one function `main` in channels-last layout whose results at the end are transposed back.
        shapes: (1, C, H, W) of these results, in order.
    """
    from tvm import relax

    main = Main(module["main"])
    result = module["main"].body.body
    if not isinstance(result, relax.Var) or not isinstance(main.bound.get(result), relax.Tuple):
        raise NoListsError("the results are no tuple")
    fields = list(main.bound[result].fields)
    first = len(fields) - len(shapes)
    last = []
    for index, (_, channels, *spatial) in enumerate(shapes, first):
        kept, transposed = _source(fields[index], main)
        last.append(transposed or channels == 1 or math.prod(spatial) == 1)  # of one channel or one pixel both layouts are one
        if transposed:
            fields[index] = kept
    fields = fields[first:] + fields[:first]

    @relax.expr_functor.mutator
    class Results(relax.PyExprMutator):  # type: ignore[misc]
        def visit_var_binding_(self, binding: Any) -> None:
            if binding.var.same_as(result):
                variable = relax.Var(str(result.name), relax.TupleType([field.ty for field in fields]))
                value = self.builder_.normalize(relax.Tuple([self.visit_expr(field) for field in fields]))
                self.builder_.emit_normalized(relax.VarBinding(variable, value))
                self.set_var_remap(result, variable)
                return
            super().visit_var_binding_(binding)

    mutator = Results(module)
    mutator.builder_.update_func(module.get_global_var("main"), mutator.visit_expr(module["main"]))
    return relax.transform.DeadCodeElimination()(mutator.builder_.get()), last


def _source(value: Any, main: Main) -> tuple[Any, bool]:
    """What a result is transposed from, and whether it is; where the transposition moves nothing it is a view."""
    from tvm import relax

    bound = main.bound.get(value)
    while isinstance(bound, (relax.Var, relax.TupleGetItem)):  # other names
        if isinstance(bound, relax.Var):
            value = bound
        else:
            group = main.bound.get(bound.tuple_value) if isinstance(bound.tuple_value, relax.Var) else bound.tuple_value
            if not isinstance(group, relax.Tuple):
                return value, False
            value = group.fields[int(bound.index)]
        bound = main.bound.get(value)
    if bound is None:
        return value, False
    if (
        operator_name(bound) == "relax.permute_dims"
        and bound.attrs.axes is not None
        and [int(axis) for axis in bound.attrs.axes] == [0, 3, 1, 2]
    ):
        return bound.args[0], True
    sizes = known_sizes(value) or [0, 0]
    one = sizes[1] == 1 or math.prod(sizes[2:]) == 1
    if operator_name(bound) == "relax.reshape" and one and _long_axes(bound.args[0]) == _long_axes(value):
        return bound.args[0], True
    return value, False


def _long_axes(value: Any) -> list[int]:
    """The axes of more than one element: where those are the same, a view changes no order of pixels and channels."""
    return [size for size in known_sizes(value) or () if size != 1]
