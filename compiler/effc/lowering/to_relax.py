"""From a decomposed ATen program to a relax module, with every relax binding traced back to the node that it computes.

TVM's importer does the translation; effc adds its own ops' meanings, its converters for operators that the importer lacks, and the
bookkeeping. All weights become arguments of `main`, so that the code holds none. What cannot be converted is reported at once: a
failing node is replaced by zeros of its shape, only to let the conversion reach the remaining nodes, and then the whole import fails.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from effc.errors import Problem, UnsupportedModelError
from effc.ir import Program, source_of
from effc.ir.flat import weights_as_inputs
from effc.lowering.densities import density_of, mask_of
from effc.lowering.ops import OP_KERNELS
from effc.lowering.relax_converters import CONVERTERS

__all__ = ["Origin", "RelaxModule", "to_relax"]


@dataclass(frozen=True)
class Origin:
    """The node behind a relax binding.

    Attributes:
        source: the user's name.
        op: its operator.
        node: its name in the graph.
        density: how dense the left operand of a product was on data; None where that is not known.
        mask: the same of what the product's result is multiplied by.
    """

    source: str
    op: str
    node: str
    density: float | None = None
    mask: float | None = None


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
    problems += [
        Problem(source_of(node), str(node.all_input_nodes[0].target), "TVM's importer does not compute the indices of maxima")
        for node in program.nodes
        if node.target is operator.getitem and "with_indices" in str(node.all_input_nodes[0].target) and node.args[1] == 1 and node.users
    ]
    if problems:
        raise UnsupportedModelError("parts of the program cannot be lowered", problems)
    exported, parameters = weights_as_inputs(program)
    module = importer.from_exported_program(exported, True, False, False, recorder.converters())
    if recorder.problems:
        raise UnsupportedModelError("parts of the program cannot be lowered", recorder.problems)
    return RelaxModule(
        module=module,
        origins=recorder.origins(module),
        parameters=parameters,
        inputs=tuple(node.name for node in program.input_nodes.values()),
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
    """Wraps every converter: names what a node emits after the node, and collects failures."""

    def __init__(self, importer: Any) -> None:
        self._importer = importer
        self._origins: list[Origin] = []
        self._builder: Any = None
        self.problems: list[Problem] = []

    def converters(self) -> dict[str, Callable[[fx.Node, Any], Any]]:
        return {key: self._wrap(convert) for key, convert in self._importer.convert_map.items() if isinstance(key, str)}

    def _wrap(self, convert: Callable[[fx.Node], Any]) -> Callable[[fx.Node, Any], Any]:
        def converted(node: fx.Node, importer: Any) -> Any:
            self._name_after_nodes(importer)
            operator_name = str(node.target).removeprefix("aten.").removesuffix(".default")
            self._origins.append(Origin(source_of(node), operator_name, node.name, density_of(node), mask_of(node)))
            try:
                fake = node.meta.get("val")
                if isinstance(fake, Tensor) and 0 in fake.shape:  # nothing to compute, and TVM's simplifier divides by the size
                    return _zeros(fake, importer)
                return _as_torch_says(convert(node), fake, importer)
            except Exception as error:  # noqa: BLE001 - importers raise anything; each failure is reported with its node
                why = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
                self.problems.append(Problem(source_of(node), str(node.target), f"TVM's importer refuses it: {why}"))
                return _zeros(node.meta["val"], importer)

        return converted

    def _name_after_nodes(self, importer: Any) -> None:
        """Variables are called n<index of the node>_; what later passes add is called otherwise."""
        if importer.block_builder is self._builder:
            return
        self._builder = importer.block_builder
        emit = self._builder.emit
        self._builder.emit = lambda value, name_hint="": emit(value, name_hint or f"n{len(self._origins) - 1}_")

    def origins(self, module: Any) -> dict[str, Origin]:
        """The origin of every variable that a converter emitted, by name."""
        names = [str(binding.var.name) for block in module["main"].body.blocks for binding in block.bindings]
        numbers = {name: match for name in names if (match := re.fullmatch(r"n(\d+)_\d*", name))}
        return {name: self._origins[int(match[1])] for name, match in numbers.items()}


def _as_torch_says(result: Any, fake: Any, importer: Any) -> Any:
    """The result in torch's dtype. Raises ValueError for another shape: buffers are sized by what torch says."""
    from tvm import relax

    if isinstance(fake, (list, tuple)) and isinstance(result, (list, tuple)) and len(fake) == len(result):
        return type(result)(_as_torch_says(one, other, importer) for one, other in zip(result, fake, strict=True))
    if not isinstance(fake, Tensor) or not isinstance(result, relax.Expr) or not isinstance(result.ty, relax.TensorType):
        return result
    given, wanted = _known_sizes(result.ty.shape), _known_sizes(fake.shape)
    if given is not None and wanted is not None and given != wanted:
        raise ValueError(f"gives shape {given} where torch gives {wanted}")
    dtype = str(fake.dtype).removeprefix("torch.")
    if str(result.ty.dtype) != dtype:  # attention in float16 comes back as float32
        return importer.block_builder.emit(relax.op.astype(result, dtype))
    return result


def _known_sizes(shape: Any) -> list[int] | None:
    """The sizes; None where one is symbolic or the rank is open."""
    try:
        return [int(size) for size in shape]
    except TypeError:
        return None


def _zeros(fake: Any, importer: Any) -> Any:
    from tvm import relax

    if not isinstance(fake, Tensor):
        return tuple(_zeros(item, importer) for item in fake) if isinstance(fake, (list, tuple)) else fake
    shape = [int(size) if isinstance(size, int) else 1 for size in fake.shape]
    return importer.block_builder.emit(relax.op.zeros(shape, str(fake.dtype).removeprefix("torch.")))
