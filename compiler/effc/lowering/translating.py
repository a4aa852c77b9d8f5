"""A program in relax as patterns and kernels meet it: core ATen, stored tensors folded, channels last, before legalisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from effc.ir import Program
from effc.ir.arrays import to_numpy
from effc.ir.torch_calls import decompose
from effc.ir.torch_compat import core_decompositions
from effc.lowering.batch_norm import multiply_add
from effc.lowering.channels_last import Stored, channels_last
from effc.lowering.fix_batch import fix_batch
from effc.lowering.normalise import normalise
from effc.lowering.parameters import ParameterSource, fold_parameters
from effc.lowering.precision import widen
from effc.lowering.quantised_constants import with_constants
from effc.lowering.to_relax import RelaxModule, to_relax
from effc.lowering.views import positive_axes

__all__ = ["in_core", "in_relax", "relax_text"]

_WHOLE = ("upsample", "aten.scaled_dot_product_attention", "aten.rms_norm", "aten.mv.")


def in_core(program: Program) -> tuple[Program, dict[str, ParameterSource]]:
    """A program with a fixed batch in the operators that are translated, and where its stored tensors come from."""
    return fold_parameters(with_constants(multiply_add(normalise(widen(_decomposed(program))))))


def in_relax(core: Program, sources: Mapping[str, ParameterSource]) -> tuple[RelaxModule, Stored]:
    """Its module with channels last, and its stored tensors by placeholder: those of the program, and those that were moved.

    Raises:
        UnsupportedModelError: TVM cannot express parts of the program; all of them are listed.
    """
    plain = to_relax(core)
    given = {name: (to_numpy(core.tensors[name]), sources[name]) for name in plain.parameters}
    module, moved = channels_last(positive_axes(plain.module), given)
    return replace(plain, module=module, parameters=(*plain.parameters, *moved)), given | moved


def relax_text(program: Program, batch: int = 1) -> str:
    """What patterns of an extension are matched against, as TVMScript: docs/extending.md says what the operators look like.

    Args:
        program: any verified program.
        batch: samples of one call, for a program with a symbolic batch.

    Raises:
        UnsupportedModelError: as `in_relax`.
    """
    module, _ = in_relax(*in_core(fix_batch(program, batch)))
    return str(module.module.script(show_meta=False)).rstrip("\n") + "\n"


def _decomposed(program: Program) -> Program:
    """Core ATen; effc ops stay, and what effc converts itself: attention, interpolations (torch 2.13 gets the trilinear one wrong), ..."""
    return replace(program, exported=decompose(program.exported, core_decompositions(without=_WHOLE)))
