"""Samples on which a program's own result hangs by a hair: a value so near to a threshold that rounding decides whether it is dropped.

A threshold or a top-k is a jump. Compiled code adds the same sums in another order, and where a value lies within rounding of a jump the
two may take different sides, each rightly; through the layers behind, that can become any difference. Comparing compiled code with its
program says something only on samples without such values. They are told by moving thresholds and weights by a few roundings and looking
whether the results move by more than the comparison allows. (Large matrices stay as they are: their copies would cost more than they tell.)

A truncation is such a jump, too, and a small one: a pixel taken or kept against the other side's decision moves by the threshold at most.
But it stays so in the frames that follow, so that on a long clip every frame may be touched. There, `spread` measures how far rounding
alone moves the program's own results, and a comparison allows twice that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from effc.compiler.golden import Checks, run_program
from effc.data import Dataset
from effc.ir import Program
from effc.ir.ops.keep_top_k import KEEP_TOP_K
from effc.ir.ops.sparsify import SPARSIFY
from effc.ir.ops.statistical_top_k import STATISTICAL_TOP_K
from effc.ir.ops.truncate import TRUNCATE
from effc.passes import Pass
from effc.runtime.tensors import Array
from effc.runtime.verify import TOLERANCE

__all__ = ["jumps", "settled", "spread", "wavering"]

_JUMPS = frozenset({SPARSIFY.overload, KEEP_TOP_K.overload, STATISTICAL_TOP_K.overload})
_TRIES = 4
_MOVED = 2e-6  # of each threshold and weight: some roundings, as sums of thousands of terms make
_LARGE = 1 << 21  # elements
_POOL = 64  # samples that golden ones are chosen among


def jumps(program: Program) -> bool:
    """Whether a program has operators that jump. A truncation with a threshold of 0 changes no value, so it does not.

    Roundings count in a streaming program, where the pass `delta` puts them in front of truncations.
    """
    found = {node.target for node in program.nodes if node.target is not TRUNCATE.overload or node.args[3] != 0}
    own = {TRUNCATE.overload, torch.ops.aten.round.default} if program.interface.resident else {TRUNCATE.overload}
    return not found.isdisjoint(_JUMPS | own)


def wavering(program: Program, inputs: Mapping[str, Array]) -> Array:
    """For each sample whether the program's outputs move by more than the tolerance of comparisons when its weights are rounded otherwise.

    Args:
        program: it may have a fixed batch; then all samples of a call count as one. One with resident states takes a clip.
        inputs: by name; the leading axis counts samples.

    Returns:
        booleans, one a sample of the first input.
    """
    samples = len(next(iter(inputs.values())))
    found = np.zeros(samples, bool)
    for moves in _rounded_otherwise(program, inputs, samples):
        found |= moves > TOLERANCE / 2
    by_sample = program.interface.batch.symbolic or program.interface.resident
    return found if by_sample else np.full(samples, bool(found.any()))


def spread(program: Program, inputs: Mapping[str, Array]) -> float:
    """The largest move of an output when the weights are rounded otherwise, relative to the output's largest magnitude; 0 without jumps."""
    samples = len(next(iter(inputs.values())))
    return max((float(moves.max()) for moves in _rounded_otherwise(program, inputs, samples)), default=0.0)


def _rounded_otherwise(program: Program, inputs: Mapping[str, Array], samples: int) -> Iterator[Array]:
    """How far each sample's outputs move, in some tries; nothing for a program without jumps."""
    if not jumps(program):
        return
    expected = run_program(program, inputs)
    generator = torch.Generator().manual_seed(0)
    stored = {program.tensor_names[name]: tensor.detach() for name, tensor in program.tensors.items()}
    movable = {name: tensor for name, tensor in stored.items() if tensor.dtype == torch.float32 and tensor.numel() <= _LARGE}
    for _ in range(_TRIES):
        moved = {name: tensor * (1 + _MOVED * torch.randn(tensor.shape, generator=generator)) for name, tensor in movable.items()}
        outputs = run_program(program.with_parameters(moved), inputs)
        moves = np.zeros(samples)
        for name, reference in expected.items():
            moves = np.maximum(moves, _moves(outputs[name], reference, samples))
        yield moves


def _moves(output: Array, reference: Array, samples: int) -> Array:
    if not reference.size or not np.issubdtype(reference.dtype, np.floating):
        return np.zeros(samples)
    gap = np.abs(np.nan_to_num(output.astype(np.float64)) - np.nan_to_num(reference.astype(np.float64)))
    gap /= max(float(np.abs(np.nan_to_num(reference)).max()), 1e-30)
    if gap.ndim and len(gap) == samples:
        return np.asarray(gap.reshape(samples, -1).max(1))
    return np.full(samples, float(gap.max()))


def settled(checks: Checks, programs: Sequence[tuple[Pass, Program]], original: Program, data: Dataset | None) -> Checks:
    """The checks with golden inputs on which the last program does not waver, chosen from the data; unchanged where it wavers nowhere.

    Where it wavers everywhere, or its batch is fixed, they stay as they are.
    """
    final = programs[-1][1] if programs else original
    shaky = wavering(final, checks.inputs)
    if not shaky.any() or not final.interface.batch.symbolic:
        return checks
    inputs = dict(checks.inputs)
    if data is not None:
        pool = data.take(_POOL)
        inputs = {name: pool.inputs[name] for name in inputs}
        rest = wavering(final, inputs)
    else:
        rest = shaky
    steady = np.flatnonzero(~rest)[: len(shaky)]
    if not steady.size:
        return checks
    chosen = Checks({name: np.ascontiguousarray(array[steady]) for name, array in inputs.items()})
    chosen.start(original)
    for applied, program in programs:
        chosen.after(applied, program)
    return chosen
