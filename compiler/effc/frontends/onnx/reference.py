"""An import is compared with another reader of the same file: onnxruntime, without its optimisations, on random inputs.

A wrong operator would otherwise stay unseen: every later check of a compile compares with the imported program. Where onnxruntime
cannot run the file (a newer opset, an operator that it lacks), the import stands unchecked, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effc.errors import Problem, VerificationError
from effc.frontends.onnx.loader import LoadedModel
from effc.frontends.onnx.signature import Input
from effc.ir import Program
from effc.ir.arrays import random_like_indices, to_numpy

__all__ = ["compare_with_onnxruntime"]

# Two readers add in different orders; what depends on a rounding or a tie may then fall to either side. A wrong operator is wrong
# nearly always, so two differing draws of three refuse.
_DRAWS = 3
_DIFFERING = 2
_TOLERANCE = 1e-3  # of the output's largest magnitude
_TOLERANCE_HALF = 2e-2  # float16 and bfloat16
_TOLERANCE_INTEGER = 2e-2  # mean difference of a network with quantisers: single values may be a step or two apart
_MOST_BYTES = 2**31 - 1  # a protobuf message holds no more

Array = np.ndarray[Any, Any]


def compare_with_onnxruntime(program: Program, model: LoadedModel, inputs: Sequence[Input]) -> str:
    """Run both on seeded random inputs (`effc.ir.arrays`) at the file's own sizes.

    Returns:
        A sentence for `Provenance.checked`: that they agree, or why they could not be compared.

    Raises:
        VerificationError: outputs differ in shape or type, or in value in most of the draws.
    """
    import onnxruntime

    name = f"onnxruntime {onnxruntime.__version__}"
    session, why = _session(model)
    if session is None:
        return f"not compared with {name}: {why}"
    rounds = any("quantize_linear" in str(node.target) or "qlinear" in str(node.target) for node in program.nodes)
    differences: list[Problem] = []
    differing = 0
    shapes, dtypes = [value.shape for value in inputs], [value.dtype for value in inputs]
    for seed in range(_DRAWS):
        given = random_like_indices(shapes, dtypes, seed, lambda tried: _run(program, tried))
        feeds = {value.name: to_numpy(tensor) for value, tensor in zip(inputs, given, strict=True)}
        try:
            expected = session.run(None, feeds)
        except Exception as error:  # noqa: BLE001 - onnxruntime has no class of its own for "not implemented"
            return f"not compared with {name}: {_first_line(error)}"
        results = _run(program, given)
        found = _differences(results, [np.asarray(array) for array in expected], rounds)
        differing += bool(found)
        differences = differences or found
    if differing >= _DIFFERING:
        raise VerificationError(
            f"{model.name} does not mean the same to effc and to {name}: outputs differ on random inputs. Please report this; "
            "--no-check-import compiles it all the same",
            differences,
        )
    return f"{name} computes the same on random inputs"


def _session(model: LoadedModel) -> tuple[Any, str]:
    import onnxruntime

    if model.proto.ByteSize() > _MOST_BYTES:
        return None, "the model is too large to be handed over in memory"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model.proto.SerializeToString(), options, ["CPUExecutionProvider"]), ""
    except Exception as error:  # noqa: BLE001 - as above
        return None, _first_line(error)


def _run(program: Program, given: Sequence[Tensor]) -> dict[str, Tensor]:
    with torch.no_grad():
        return program.run(dict(zip((value.name for value in program.interface.inputs), given, strict=True)))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _differences(results: Mapping[str, Tensor], expected: Sequence[Array], rounds: bool) -> list[Problem]:
    problems = []
    for (name, tensor), want in zip(results.items(), expected, strict=True):
        got = to_numpy(tensor)
        if got.shape != want.shape or got.dtype != want.dtype:
            shapes = f"{got.dtype}{list(got.shape)}, onnxruntime says {want.dtype}{list(want.shape)}"
            problems.append(Problem(name, "output", f"is {shapes}"))
        elif why := _difference(got, want, rounds):
            problems.append(Problem(name, "output", why))
    return problems


def _difference(got: Array, want: Array, rounds: bool) -> str:
    half = want.dtype.itemsize == 2
    if want.dtype.kind in "biu" and want.dtype.name != "bfloat16":
        if rounds and want.dtype.kind != "b":
            off = float(np.abs(got.astype(np.float64) - want).mean()) if want.size else 0.0
            return f"differs by {off:.3g} on average" if off > _TOLERANCE_INTEGER * max(1.0, float(np.abs(want).max())) else ""
        count = int((got != want).sum())
        return f"{count} of {want.size} elements differ" if count else ""
    wide = np.complex128 if want.dtype.kind == "c" else np.float64
    got, want = got.astype(wide), want.astype(wide)
    odd = ~np.isfinite(want)
    if not np.array_equal(got[odd], want[odd], equal_nan=True):
        return "has infinities or NaNs at other places"
    gaps = np.abs(got[~odd] - want[~odd])
    scale = float(np.abs(want[~odd]).max(initial=0.0)) or 1.0
    off = float((gaps.mean() if rounds else gaps.max()) / scale) if gaps.size else 0.0
    bound = _TOLERANCE_INTEGER if rounds else _TOLERANCE_HALF if half else _TOLERANCE
    if not off <= bound:
        return f"differs by {off:.3g} of its largest magnitude{' on average' if rounds else ''}, accepted: {bound:g}"
    return ""
