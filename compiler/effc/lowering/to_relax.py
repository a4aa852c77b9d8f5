"""From a decomposed ATen program to a relax module, with every relax binding traced back to the node that it computes.

TVM's importer does the translation; effc adds its own ops' meanings, its converters for operators that the importer lacks, and the
bookkeeping. All weights become arguments of `main`, so that the code holds none. What cannot be converted is reported at once: a
failing node is replaced by zeros of its shape, only to let the conversion reach the remaining nodes, and then the whole import fails.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec

from effc.errors import Problem, UnsupportedModelError
from effc.ir import Program, source_of
from effc.lowering.ops import OP_KERNELS
from effc.lowering.relax_converters import CONVERTERS

__all__ = ["Origin", "RelaxModule", "to_relax"]


@dataclass(frozen=True)
class Origin:
    """The node behind a relax binding: the user's name, its operator, and the node's name in the graph."""

    source: str
    op: str
    node: str


@dataclass(frozen=True)
class RelaxModule:
    """A relax module and the origin of each of `main`'s bindings, by variable name.

    Attributes:
        module: tvm.IRModule with one function `main(parameters..., inputs...)`.
        origins: variable name -> origin.
        parameters: names of main's leading arguments that hold stored tensors.
        inputs: names of the others, in the program's input order.
    """

    module: Any
    origins: dict[str, Origin]
    parameters: tuple[str, ...]
    inputs: tuple[str, ...]


def to_relax(program: Program) -> RelaxModule:
    """Translate a program with concrete shapes, decomposed to core ATen.

    Raises:
        UnsupportedModelError: with every node that TVM's importer and effc's converters cannot translate.
    """
    importer = _importer()
    recorder = _Recorder(importer)
    targets = {node.target.__name__: node for node in program.nodes if hasattr(node.target, "__name__")}
    missing = set(targets) - set(importer.convert_map)
    problems = [
        Problem(source_of(node), str(node.target), "TVM's importer has no conversion for it")
        for node in program.nodes
        if getattr(node.target, "__name__", "") in missing
    ]
    if problems:
        raise UnsupportedModelError("parts of the program cannot be lowered", problems)
    exported = _weights_as_inputs(program)
    module = importer.from_exported_program(exported, True, False, False, recorder.converters())
    if recorder.problems:
        raise UnsupportedModelError("parts of the program cannot be lowered", recorder.problems)
    names = [spec.arg.name for spec in exported.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT]
    inputs = tuple(node.name for node in program.input_nodes.values())
    return RelaxModule(
        module=module,
        origins=recorder.origins(module),
        parameters=tuple(name for name in names if name not in inputs),
        inputs=inputs,
    )


def _importer() -> Any:
    from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

    importer = ExportedProgramImporter()
    importer.convert_map.update({kernel.key: _bind(kernel.convert, importer) for kernel in OP_KERNELS})
    importer.convert_map.update({key: _bind(convert, importer) for key, convert in CONVERTERS.items()})
    return importer


def _bind(convert: Callable[[fx.Node, Any], Any], importer: Any) -> Callable[[fx.Node], Any]:
    return lambda node: convert(node, importer)


class _Recorder:
    """Wraps every converter: remembers which variable a node ended in, and collects failures."""

    def __init__(self, importer: Any) -> None:
        self._importer = importer
        self._ends: list[tuple[str, Origin]] = []
        self.problems: list[Problem] = []

    def converters(self) -> dict[str, Callable[[fx.Node, Any], Any]]:
        return {key: self._wrap(convert) for key, convert in self._importer.convert_map.items() if isinstance(key, str)}

    def _wrap(self, convert: Callable[[fx.Node], Any]) -> Callable[[fx.Node, Any], Any]:
        def converted(node: fx.Node, importer: Any) -> Any:
            try:
                result = convert(node)
            except Exception as error:  # noqa: BLE001 - importers raise anything; each failure is reported with its node
                why = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
                self.problems.append(Problem(source_of(node), str(node.target), f"TVM's importer refuses it: {why}"))
                result = _zeros(node.meta["val"], importer)
            origin = Origin(source_of(node), str(node.target).removeprefix("aten.").removesuffix(".default"), node.name)
            last = result[-1] if isinstance(result, (list, tuple)) and result else result
            if hasattr(last, "name"):
                self._ends.append((str(last.name), origin))
            return result

        return converted

    def origins(self, module: Any) -> dict[str, Origin]:
        """Bindings are emitted in order, so each one belongs to the first node that ends at it or after it."""
        names = [str(binding.var.name) for block in module["main"].body.blocks for binding in block.bindings]
        position = {name: index for index, name in enumerate(names)}
        ends = sorted((position[name], origin) for name, origin in _first(self._ends) if name in position)
        found: dict[str, Origin] = {}
        start = 0
        for end, origin in ends:
            for index in range(start, end + 1):
                found[names[index]] = origin
            start = max(start, end + 1)
        return found


def _first(ends: list[tuple[str, Origin]]) -> list[tuple[str, Origin]]:
    """A variable that several nodes end in (an alias) belongs to the first of them."""
    return list(dict(reversed(ends)).items())


def _zeros(fake: Any, importer: Any) -> Any:
    from tvm import relax

    if not isinstance(fake, Tensor):
        return tuple(_zeros(item, importer) for item in fake) if isinstance(fake, (list, tuple)) else fake
    shape = [int(size) if isinstance(size, int) else 1 for size in fake.shape]
    return importer.block_builder.emit(relax.op.zeros(shape, str(fake.dtype).removeprefix("torch.")))


def _weights_as_inputs(program: Program) -> ExportedProgram:
    """The same graph with parameters and buffers declared as plain inputs: the importer then embeds no data."""
    exported = program.exported
    signature = copy.copy(exported.graph_signature)
    signature.input_specs = [
        InputSpec(kind=InputKind.USER_INPUT, arg=spec.arg, target=None)
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
        else spec
        for spec in signature.input_specs
    ]
    return ExportedProgram(
        root=exported.graph_module,
        graph=exported.graph,
        graph_signature=signature,
        state_dict={},
        range_constraints={},
        module_call_graph=exported.module_call_graph,
        example_inputs=None,
        constants={name: value for name, value in exported.constants.items() if not isinstance(value, torch.Tensor)},
    )
