"""An import is compared with another reader of the same file: onnxruntime, without its optimisations, on random inputs.

A wrong operator would otherwise stay unseen: every later check of a compile compares with the imported program. Where onnxruntime
cannot run the file (a newer opset, an operator that it lacks), the import stands unchecked, and says so.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from effc.errors import Problem, VerificationError
from effc.frontends.onnx.loader import LoadedModel
from effc.frontends.onnx.onnxruntime import import_onnxruntime
from effc.frontends.onnx.reference import CannotRunError, Reference
from effc.frontends.onnx.signature import Input
from effc.ir import Program
from effc.ir.arrays import random_like_indices, to_numpy

__all__ = ["compare_with_onnxruntime"]

# Two readers add in different orders; what depends on a rounding or a tie may then fall to either side. A wrong operator is wrong
# nearly always, so two differing draws of three refuse.
_DRAWS = 3
_DIFFERING = 2


def compare_with_onnxruntime(program: Program, model: LoadedModel, inputs: Sequence[Input]) -> str:
    """Run both on seeded random inputs (`effc.ir.arrays`) at the file's own sizes.

    Returns:
        A sentence for `Provenance.checked`: that they agree, or why they could not be compared.

    Raises:
        VerificationError: outputs differ in shape or type, or in value in most of the draws.
    """
    shapes, dtypes = [value.shape for value in inputs], [value.dtype for value in inputs]
    first: list[Problem] = []
    differing = 0
    try:
        reference = Reference(model, inputs)
        for seed in range(_DRAWS):
            given = random_like_indices(shapes, dtypes, seed, lambda tried: _run(program, tried))
            expected = reference.run({value.name: to_numpy(tensor) for value, tensor in zip(inputs, given, strict=True)})
            results = {name: to_numpy(tensor) for name, tensor in _run(program, given).items()}
            found = [Problem(one.name, "output", str(one)) for one in reference.judge(results, expected) if not one.holds]
            differing += bool(found)
            first = first or found
    except CannotRunError as error:
        return f"not compared with onnxruntime {import_onnxruntime().__version__}: {error}"
    if differing >= _DIFFERING:
        raise VerificationError(
            f"{model.name} does not mean the same to effc and to {reference.name}: outputs differ on random inputs. Please report this; "
            "--no-check-import compiles it all the same",
            first,
        )
    return f"{reference.name} computes the same on random inputs"


def _run(program: Program, given: Sequence[Tensor]) -> dict[str, Tensor]:
    with torch.no_grad():
        return program.run(dict(zip((value.name for value in program.interface.inputs), given, strict=True)))
