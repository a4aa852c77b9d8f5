"""The proof that a symbolic batch is one: samples do not see each other.

At batch sizes 2 and 3, on seeded random inputs, every output of an exported program equals the outputs of the samples run alone, put
together along the dimension that is symbolic; and at the source's own batch it equals the source. Equal means to the tolerance of
reordered sums, relative to the output's largest magnitude; a value that is rounded may fall to either side (`lockstep`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from effc.frontends.lockstep import Lockstep, agree

__all__ = ["unproved"]

_SIZES = (2, 3)
_DRAWS = 6  # at the source's own batch: small integers, which are often indices, agree by chance in one draw


def unproved(
    exported: ExportedProgram,
    inputs_at: Callable[[int, int], Sequence[Tensor]],
    carriers: Sequence[bool],
    original: Callable[..., Any] | None,
    own_batch: int,
) -> str:
    """Why the batch is not proved; empty where it is.

    Args:
        exported: traced with a symbolic leading dimension of the inputs where `carriers` says so.
        inputs_at: inputs at a batch size, from a seed.
        carriers: which inputs carry the batch.
        original: the source as it was, callable at `own_batch`; returns tensors in any nesting. None where `exported` is the source.
        own_batch: the batch that the source was made for.
    """
    axes, why = _batch_axes(exported)
    if why:
        return why
    lockstep = Lockstep(exported, carriers, _input_symbols(exported))
    module = exported.module()
    with torch.no_grad():
        for batch in _SIZES:
            inputs = inputs_at(batch, batch)
            together, around = lockstep.together(inputs)
            alone = [lockstep.alone(inputs, i, around) for i in range(batch)]
            expected = [torch.cat(parts, axis) for parts, axis in zip(zip(*alone, strict=True), axes, strict=True)]
            if (name := _first_difference(together, expected)) is not None:
                node = lockstep.first_difference(inputs)
                where = f": the first value that does is that of {node}" if node else ""
                return f"output {name} of a batch of {batch} differs from its samples run one by one{where}"
        for seed in range(_DRAWS if original is not None else 0):
            inputs = inputs_at(own_batch, seed)
            assert original is not None
            if (name := _first_difference(_outputs(module, inputs), _outputs(original, inputs))) is not None:
                return f"output {name} differs from the source's at its own batch of {own_batch}"
    return ""


def _batch_axes(exported: ExportedProgram) -> tuple[list[int], str]:
    """The symbolic dimension of each output; every output must have exactly one, and it must be the batch itself."""
    specs = exported.graph_signature.user_outputs
    by_name = {node.name: node for node in exported.graph.nodes}
    symbols = _input_symbols(exported)
    axes = []
    for position, name in enumerate(specs):
        node = by_name.get(str(name))
        fake = node.meta.get("val") if isinstance(node, fx.Node) else None
        if not isinstance(fake, Tensor):
            return [], f"output {position} is no tensor"
        found = [axis for axis, size in enumerate(fake.shape) if not isinstance(size, int)]
        if len(found) != 1 or str(fake.shape[found[0]]) not in symbols:
            return [], f"output {position} has the shape {[str(size) for size in fake.shape]}: not one dimension of it is the batch"
        axes.append(found[0])
    return axes, ""


def _input_symbols(exported: ExportedProgram) -> set[str]:
    fakes = [node.meta.get("val") for node in exported.graph.nodes if node.op == "placeholder"]
    return {str(size) for fake in fakes if isinstance(fake, Tensor) for size in fake.shape if not isinstance(size, int)}


def _outputs(function: Callable[..., Any], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Flat results; the function gets copies, because a module may overwrite its inputs."""
    flat: list[Tensor] = torch.utils._pytree.tree_leaves(function(*(value.clone() for value in inputs)))
    return flat


def _first_difference(results: Sequence[Tensor], expected: Sequence[Tensor]) -> int | None:
    """The position of the first output that differs; None where all agree."""
    pairs = enumerate(zip(results, expected, strict=True))
    return next((position for position, (result, want) in pairs if not agree(result, want)), None)
