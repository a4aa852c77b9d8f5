"""`Program`: the one graph that every pass reads and writes.

It wraps a `torch.export.ExportedProgram` in non-decomposed ATen form and adds what that form lacks: the user's names and the batch
(`Interface`), observations on data (`Facts`) and where it came from (`Provenance`). A Program is immutable; `effc.ir.edit` makes
changed copies. `node.meta["custom"]["effc"]` holds the source node or module name of a node (`source_of`).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from effc.errors import DataError, Problem
from effc.ir.facts import Facts
from effc.ir.interface import BATCH, Batch, Interface, value_of

if TYPE_CHECKING:
    from effc.ir.training import TrainableProgram

__all__ = ["Program", "Provenance", "own_notes", "set_source", "source_of"]

_KEY = "effc"


@dataclass(frozen=True)
class Provenance:
    """Where a program came from and what was done to it.

    Attributes:
        source: the file name (no folder: a path would leak into artifacts) or the module's class name.
        format: `onnx`, `torch` or `pt2`.
        sha256: hash of the source's bytes, in hex; of the exported program's bytes for an nn.Module.
        passes: the specs of the passes that ran, in order.
        checked: how the import was compared with another reader of the same file; empty where it was not.
    """

    source: str
    format: str
    sha256: str
    passes: tuple[str, ...] = ()
    checked: str = ""

    def as_json(self) -> dict[str, Any]:
        return {"source": self.source, "format": self.format, "sha256": self.sha256, "passes": list(self.passes), "checked": self.checked}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Provenance:
        return cls(data["source"], data["format"], data["sha256"], tuple(data.get("passes", ())), data.get("checked", ""))


def source_of(node: fx.Node) -> str:
    """The user's name for a node: its ONNX node or module; the graph's own name where the source had none."""
    name = node.meta.get("custom", {}).get(_KEY)
    return str(name) if name else node.name


def set_source(node: fx.Node, name: str) -> None:
    """Remember the user's name for a node. It survives save, load and decomposition."""
    node.meta["custom"] = {_KEY: name}


def own_notes(node: fx.Node) -> dict[str, str]:
    """What effc itself keeps in `meta["custom"]`. torch leaves marks there when it retraces a graph, other ones from run to run."""
    name = node.meta.get("custom", {}).get(_KEY)
    return {_KEY: str(name)} if name else {}


def _clean_metadata(exported: ExportedProgram) -> None:
    """Keep, of `meta["custom"]`, only effc's entry; nodes without one take their innermost module's name.

    torch.export mixes notes of its own into that dictionary which change from run to run of its tracer and would be saved.
    """
    for node in exported.graph.nodes:
        name = node.meta.get("custom", {}).get(_KEY)
        if not name and node.op == "call_function":
            stack = node.meta.get("nn_module_stack") or {}
            paths = [entry[0] for entry in stack.values() if isinstance(entry, tuple) and entry[0]]
            name = str(paths[-1]) if paths and not str(paths[-1]).startswith("_empty_nn_module_stack") else ""
        node.meta["custom"] = {_KEY: name} if name else {}


@dataclass(frozen=True)
class Program:
    """A trained network as effc sees it. See the module docstring."""

    exported: ExportedProgram
    interface: Interface
    provenance: Provenance
    facts: Facts = field(default_factory=Facts)

    @classmethod
    def from_exported(
        cls,
        exported: ExportedProgram,
        provenance: Provenance,
        *,
        batch: Batch,
        input_names: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
    ) -> Program:
        """Wrap an exported program.

        Args:
            exported: non-decomposed; an effc-only `meta["custom"]` is left on its nodes.
            provenance: its origin.
            batch: whether its leading dimension is symbolic (proved by the frontend).
            input_names: the user's names, in call order; the placeholders' names where absent.
            output_names: the user's names, in return order; `output`, `output_1`, ... where absent.
        """
        _clean_metadata(exported)
        placeholders = [node for node in exported.graph.nodes if node.op == "placeholder"]
        kinds = {spec.arg.name: spec.kind for spec in exported.graph_signature.input_specs}
        users = [node for node in placeholders if kinds[node.name] == InputKind.USER_INPUT]
        results = [
            arg
            for arg, spec in zip(exported.graph.output_node().args[0], exported.graph_signature.output_specs, strict=True)
            if spec.kind == OutputKind.USER_OUTPUT
        ]
        ins = list(input_names) if input_names is not None else [node.name for node in users]
        outs = list(output_names) if output_names is not None else ["output" if i == 0 else f"output_{i}" for i in range(len(results))]
        interface = Interface(
            inputs=tuple(value_of(name, node.meta["val"]) for name, node in zip(ins, users, strict=True)),
            outputs=tuple(value_of(name, _result(arg)) for name, arg in zip(outs, results, strict=True)),
            batch=batch,
        )
        return cls(exported=exported, interface=interface, provenance=provenance)

    # ---- reading -------------------------------------------------------------------------------------------------------------

    @property
    def graph(self) -> fx.Graph:
        """The ATen graph. Read it; to change it use `effc.ir.edit`."""
        graph: fx.Graph = self.exported.graph
        return graph

    @property
    def nodes(self) -> list[fx.Node]:
        """The graph's computing nodes, in execution order."""
        return [node for node in self.graph.nodes if node.op == "call_function"]

    @functools.cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Parameters, buffers and constants by the name of the placeholder that holds them."""
        found = {}
        for spec in self.exported.graph_signature.input_specs:
            if spec.kind == InputKind.PARAMETER or (spec.kind == InputKind.BUFFER and spec.persistent):
                found[spec.arg.name] = self.exported.state_dict[str(spec.target)]
            elif spec.kind in (InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
                found[spec.arg.name] = self.exported.constants[str(spec.target)]
        return found

    @functools.cached_property
    def tensor_names(self) -> dict[str, str]:
        """The source's name (`layer1.0.conv1.weight`) of every parameter, buffer and constant, by placeholder name."""
        specs = self.exported.graph_signature.input_specs
        return {spec.arg.name: str(spec.target) for spec in specs if spec.kind != InputKind.USER_INPUT}

    @functools.cached_property
    def input_nodes(self) -> dict[str, fx.Node]:
        """The placeholders of the user's inputs, by the user's name, in call order."""
        kinds = {spec.arg.name: spec.kind for spec in self.exported.graph_signature.input_specs}
        users = [n for n in self.graph.nodes if n.op == "placeholder" and kinds[n.name] == InputKind.USER_INPUT]
        return {value.name: node for value, node in zip(self.interface.inputs, users, strict=True)}

    # ---- running -------------------------------------------------------------------------------------------------------------

    def call(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Execute the program in torch on flat inputs, in `interface.inputs` order; gradients flow where the caller enables them."""
        tensors = [self.tensors[name] for name in self.tensor_names]
        return tuple(self.exported.graph_module(*tensors, *inputs))

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Execute the program in torch, once. `effc.ir.streaming` runs one with resident states on the frames of a clip.

        Args:
            inputs: one tensor per input, by the user's name. Shapes and dtypes as in `interface.inputs`.

        Returns:
            One tensor per output, by the user's name.

        Raises:
            DataError: a name, shape or dtype does not fit; all of them at once.
        """
        self.check_inputs({name: (tuple(x.shape), str(x.dtype).removeprefix("torch.")) for name, x in inputs.items()})
        with torch.no_grad():
            results = self.call(*(inputs[value.name] for value in self.interface.inputs))
        return {value.name: result for value, result in zip(self.interface.outputs, results, strict=True)}

    def check_inputs(self, given: Mapping[str, tuple[tuple[int, ...], str]], *, frame: bool = False) -> None:
        """Raise one DataError that lists everything wrong with the given (shape, dtype) by input name.

        Args:
            given: of all inputs; where `frame` is set, of all but the resident states.
            frame: see above.
        """
        values = self.interface.frame_inputs if frame else self.interface.inputs
        problems: list[Problem] = []
        batches: set[int] = set()
        expected = {value.name: value for value in values}
        for name in given.keys() - expected.keys():
            problems.append(Problem(name, "input", "no such input", f"inputs are: {', '.join(map(str, values))}"))
        for name, value in expected.items():
            if name not in given:
                problems.append(Problem(name, "input", "is missing", f"expected {value}"))
                continue
            shape, dtype = given[name]
            if dtype != value.dtype:
                problems.append(Problem(name, f"dtype {dtype}", f"expected {value.dtype}", f"convert it with .astype('{value.dtype}')"))
            fits = len(shape) == len(value.shape) and all(want in (BATCH, size) for size, want in zip(shape, value.shape, strict=True))
            if not fits:
                problems.append(Problem(name, f"shape {list(shape)}", f"expected {value}"))
            else:
                batches.update(size for size, want in zip(shape, value.shape, strict=True) if want == BATCH)
        if len(batches) > 1:
            problems.append(Problem("inputs", f"batches {sorted(batches)}", "all inputs must have one batch size"))
        if problems:
            raise DataError("the inputs do not fit the program", sorted(problems, key=lambda problem: problem.where))

    # ---- training ------------------------------------------------------------------------------------------------------------

    def trainable(self, batch_norm: Literal["frozen", "train"] = "frozen", dropout: bool = True) -> TrainableProgram:
        """An nn.Module that trains; see `effc.ir.training`."""
        from effc.ir.training import trainable

        return trainable(self, batch_norm, dropout)

    def with_parameters(self, state: Mapping[str, Tensor]) -> Program:
        """This program with other values for its stored tensors, by source name; see `effc.ir.training`."""
        from effc.ir.training import with_parameters

        return with_parameters(self, state)

    # ---- deriving ------------------------------------------------------------------------------------------------------------

    def with_facts(self, facts: Facts) -> Program:
        """This program with other observations."""
        return replace(self, facts=facts)

    def with_pass(self, spec: str) -> Program:
        """This program with one more pass in its provenance."""
        return replace(self, provenance=replace(self.provenance, passes=(*self.provenance.passes, spec)))


def _result(arg: object) -> Any:
    return arg.meta["val"] if isinstance(arg, fx.Node) else arg
