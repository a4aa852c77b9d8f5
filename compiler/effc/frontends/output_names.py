"""What a module's outputs are called: by the keys under which it returns them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind, TensorArgument
from torch.utils import _pytree as pytree

from effc.errors import Problem, UnsupportedModelError

__all__ = ["flatten_outputs", "output_names"]


def output_names(exported: ExportedProgram) -> list[str]:
    """A name for every tensor that the program returns, none of them an input's.

    A dictionary's key, a field of a named tuple or a data class: `mask`; nested ones joined by dots: `boxes.0`. What has no key is
    `output`, `output_1`, ... by its place among all. A name that an input or an earlier output has gets `output.` before it.

    Raises:
        UnsupportedModelError: something that the module returns is no tensor, or it returns nothing.
    """
    specs = [spec.arg for spec in exported.graph_signature.output_specs if spec.kind == OutputKind.USER_OUTPUT]
    paths = _paths(exported, len(specs))
    given = [_name(path, position) for position, path in enumerate(paths)]
    problems = [
        Problem(name, str(getattr(arg, "value", type(arg).__name__)), "is returned and is no tensor", "let forward return tensors only")
        for name, arg in zip(given, specs, strict=True)
        if not isinstance(arg, TensorArgument)
    ]
    if problems or not specs:
        raise UnsupportedModelError("a program returns tensors only" if problems else "the module returns no tensor", problems)
    inputs = [spec.arg.name for spec in exported.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT]
    return _distinct(given, inputs)


def flatten_outputs(exported: ExportedProgram) -> ExportedProgram:
    """Let the program return its tensors in one tuple (in place): names say the rest, and torch cannot save every structure."""
    signature = exported.module_call_graph[0].signature
    if signature is not None and signature.out_spec.num_leaves == len(exported.graph_signature.user_outputs):
        signature.out_spec = pytree.tree_structure(tuple(range(signature.out_spec.num_leaves)))
    return exported


def _paths(exported: ExportedProgram, count: int) -> list[tuple[Any, ...]]:
    """Where every result stands in what the module returns; their places where torch did not keep that."""
    spec = exported.call_spec.out_spec
    if spec is None or spec.num_leaves != count:
        return [(pytree.SequenceKey(position),) for position in range(count)]
    leaves, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(list(range(count)), spec))
    return [tuple(path) for path, _ in leaves]


def _name(path: tuple[Any, ...], position: int) -> str:
    steps = [str(getattr(step, "key", getattr(step, "name", getattr(step, "idx", "")))) for step in path]
    keyed = any(not isinstance(step, pytree.SequenceKey) for step in path)
    if keyed and all(steps):
        return ".".join(steps)
    return f"output_{position}" if position else "output"


def _distinct(names: Iterable[str], inputs: Iterable[str]) -> list[str]:
    taken, made = set(inputs), []
    for name in names:
        candidates = itertools.chain([name, f"output.{name}"], (f"output.{name}.{number}" for number in itertools.count(1)))
        made.append(next(candidate for candidate in candidates if candidate not in taken))
        taken.add(made[-1])
    return made
