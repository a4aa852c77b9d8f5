"""From a module to a clean exported program: tracing, functional form, no noise.

`torch.export` leaves two things in its non-decomposed graphs that no pass should meet: in-place operators (`relu_` of
`nn.ReLU(inplace=True)`, `add_` of a residual `+=`), which TVM's importer would drop without a word, and bookkeeping (`detach`,
`lift_fresh_copy`, assertions). Both go here. Batch norm and dropout stay whole, so that a program can train again.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import Any
from unittest.mock import patch

import torch
import torch.export._trace
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind
from torch.fx.traceback import preserve_node_meta

from effc.errors import Problem, UnsupportedModelError
from effc.frontends.refusals import refuse_operators
from effc.ir import Batch, Edit, Program, Provenance, source_of, verify
from effc.ir.torch_calls import decompose

__all__ = ["as_program", "quiet", "trace"]

_LOGGERS = ("torch._subclasses.fake_tensor", "torch.fx.experimental.symbolic_shapes", "torch.export", "torch._export")
_aten = torch.ops.aten
_NOISE = (_aten.lift_fresh_copy.default, _aten.detach.default, _aten.detach_.default, _aten.alias.default)
_ASSERTIONS = ("_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range", "sym_constrain_range_for_size")


def trace(module: torch.nn.Module, args: tuple[Any, ...], dynamic_shapes: Any = None) -> ExportedProgram:
    """torch.export in non-strict mode, with the annotations that carry source names. Raises whatever the tracer raises."""
    with quiet(), preserve_node_meta(), torch.no_grad():
        return torch.export.export(module, args, dynamic_shapes=dynamic_shapes, strict=False)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep torch from logging, and from printing half a graph to stderr, what a failed attempt raises anyway: frontends expect failures."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        with patch.object(torch.export._trace, "print", _say_nothing, create=True):
            yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


def _say_nothing(*args: object, **options: object) -> None:
    """Stands in for `print` in torch's exporter."""


def as_program(
    exported: ExportedProgram,
    provenance: Provenance,
    batch: Batch,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> Program:
    """The Program around an exported program: functional, stripped, verified.

    Raises:
        UnsupportedModelError: it keeps state of its own, branches, has an operator that effc does not know or one without a functional
            form, or its data decide a size.
    """
    exported = _without_input_mutation(_functional(exported))
    _refuse_state(exported)
    _strip(exported.graph)
    program = Program.from_exported(exported, provenance, batch=batch, input_names=input_names, output_names=output_names)
    refuse_operators(program)
    program = Edit(program).done()  # drops what nothing uses any more, repairs the signature
    verify(program)
    return program


def _refuse_state(exported: ExportedProgram) -> None:
    problems = [
        Problem(str(spec.target or spec.arg.name), spec.kind.name.lower().replace("_", " "), "the module changes it while it runs")
        for spec in exported.graph_signature.output_specs
        if spec.kind not in (OutputKind.USER_OUTPUT,)
    ]
    if problems:
        hint = "a program is a function of its inputs: call module.eval() first; pass state in and return it"
        raise UnsupportedModelError(f"the module mutates its state; {hint}", problems)


def _without_input_mutation(exported: ExportedProgram) -> ExportedProgram:
    """Forget that the module overwrites its inputs: that is a side effect on the caller's memory, no result."""
    signature, output = exported.graph_signature, exported.graph.output_node()
    kept = [spec.kind != OutputKind.USER_INPUT_MUTATION for spec in signature.output_specs]
    if not all(kept):
        output.args = (tuple(itertools.compress(output.args[0], kept)),)
        signature.output_specs = list(itertools.compress(signature.output_specs, kept))
    return exported


# ---- functional form -----------------------------------------------------------------------------------------------------------


def _functional(exported: ExportedProgram) -> ExportedProgram:
    """The same program without in-place operators."""
    mutating = [node for node in exported.graph.nodes if _mutates(node)]
    if not mutating:
        return exported
    if all(_replaceable(node) for node in mutating):
        for node in mutating:
            _replace(exported.graph, node)
        return exported
    return _by_torch(exported)


def _mutates(node: fx.Node) -> bool:
    is_call = node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload)
    return is_call and node.target._schema.is_mutable and node.target not in _NOISE  # type: ignore[union-attr]


def _twin(node: fx.Node) -> Any:
    """The functional overload of an in-place operator: `relu_.default` -> `relu.default`; None where there is none."""
    namespace, name = node.target._schema.name.split("::")  # type: ignore[union-attr]
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
    if not name.endswith("_") or name.startswith("_") or packet is None:
        return None
    twin = getattr(packet, node.target._overloadname, None)  # type: ignore[union-attr]
    return twin if twin is not None and not twin._schema.is_mutable else None


def _replaceable(node: fx.Node) -> bool:
    """Whether the changed tensor is a fresh one that nothing else looks into, so that later users can take the result instead."""
    changed = node.args[0]
    fresh = isinstance(changed, fx.Node) and changed.op == "call_function" and not _is_view(changed)
    return fresh and _twin(node) is not None and not any(_is_view(user) for user in changed.users)  # type: ignore[union-attr]


def _is_view(node: fx.Node) -> bool:
    """Whether the result may share memory with an argument (in-place operators that were replaced already return fresh ones)."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return node.op == "call_function"  # getitem of a tuple: it may hold views
    if node.target in (_aten.reshape.default, _aten.contiguous.default, _aten.to.dtype, _aten.flatten.using_ints, _aten.dropout.default):
        return True  # composite operators alias by circumstance, which their schemas do not say
    if node.target._schema.is_mutable:
        return False
    return any(result.alias_info is not None for result in node.target._schema.returns)


def _replace(graph: fx.Graph, node: fx.Node) -> None:
    changed = node.args[0]
    assert isinstance(changed, fx.Node)
    order = {other: position for position, other in enumerate(graph.nodes)}
    node.target = _twin(node)
    changed.replace_all_uses_with(node, delete_user_cb=lambda user: order[user] > order[node])


def _by_torch(exported: ExportedProgram) -> ExportedProgram:
    """torch's own functionalisation, which resolves any aliasing. It freezes batch norm, so it is the second choice."""
    names = {node.name: source_of(node) for node in exported.graph.nodes}
    functional: ExportedProgram = decompose(exported, {})
    mutating = [node for node in functional.graph.nodes if _mutates(node)]
    if mutating:
        where = [Problem(names.get(node.name, node.name), str(node.target), "changes its input in place") for node in mutating]
        raise UnsupportedModelError("the module has in-place operators without a functional form", where)
    return functional


# ---- noise ---------------------------------------------------------------------------------------------------------------------


def _strip(graph: fx.Graph) -> None:
    for node in reversed(list(graph.nodes)):
        if node.op != "call_function":
            continue
        name = getattr(getattr(node.target, "_schema", None), "name", "").removeprefix("aten::")
        if name in _ASSERTIONS:
            graph.erase_node(node)
        elif node.target in _NOISE or _converts_nothing(node):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    _erase_unused_arithmetic(graph)


def _converts_nothing(node: fx.Node) -> bool:
    """A conversion to the type that the value has already, which tracing a constant leaves behind (everything is on the CPU)."""
    if node.target not in (_aten.to.device, _aten.to.dtype) or not isinstance(node.args[0], fx.Node):
        return False
    before, after = node.args[0].meta.get("val"), node.meta.get("val")
    return isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor) and before.dtype == after.dtype


def _erase_unused_arithmetic(graph: fx.Graph) -> None:
    """Sizes that only assertions compared: plain Python calls, which fx does not count as dead by itself."""
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and not node.users and not _mutates(node):
            graph.erase_node(node)
