"""Changed copies of a program: the only place that adds inputs, parameters or states to a signature, or removes them.

    edit = Edit(program)
    node = edit.call(torch.ops.aten.relu.default, (x,), like=x)     # inserted after x, with its fake value and source name
    edit.replace(x, node, but_not={node})
    program = edit.done()

An Edit owns a private copy of the graph; tensors are shared until replaced. `done` drops what nothing uses any more, lints the graph and
checks that shapes and dtypes at the outputs are what they were.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch._export.verifier import SpecViolationError
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)

from effc.errors import InternalError
from effc.ir.interface import State, Value, value_of
from effc.ir.program import Program, set_source, source_of
from effc.ir.torch_calls import copy_call_graph

__all__ = ["Edit", "copy_graph", "keyword_arguments", "without_guards"]

TensorKind = Literal["parameter", "buffer"]


def keyword_arguments(node: fx.Node) -> dict[str, Any]:
    """A node's arguments by the names of its operator's schema, defaults filled in: `keyword_arguments(conv)["stride"]`."""
    schema = node.target._schema  # type: ignore[union-attr]
    given = dict(zip((argument.name for argument in schema.arguments), node.args, strict=False)) | dict(node.kwargs)
    for argument in schema.arguments:
        if argument.name not in given and argument.has_default_value():
            given[argument.name] = argument.default_value
    return given


def copy_graph(graph: fx.Graph) -> fx.Graph:
    """A deep copy with the same node names.

    fx renames what is called like a Python builtin (`input`, the argument of every `nn.Sequential`); the signature would lose it.
    """
    copied = copy.deepcopy(graph)
    for node, original in zip(copied.nodes, graph.nodes, strict=True):
        if node.name != original.name:
            node.name = original.name
    return copied


@contextmanager
def without_guards(mode: Any) -> Iterator[None]:
    """A fake mode in which a symbolic batch stays one: an operator that looks at its number (some resizes do) would fix it for all.

    Operators' rules in Python keep it; those in C++ (of padding, of convolutions) take the number that the program was exported with.
    """
    with mode, enable_python_dispatcher(), nullcontext() if mode.shape_env is None else mode.shape_env.suppress_guards():
        yield


class Edit:
    """A private, changeable copy of a program's graph and signature."""

    def __init__(self, program: Program) -> None:
        self._program = program
        exported = program.exported
        self._module = fx.GraphModule(exported.graph_module, copy_graph(exported.graph))
        self._copy_submodules(exported.graph_module)
        # A graph that was read from a file repeats its results' fake values here; they would go stale with the first change.
        self._module.graph.output_node().meta.pop("val", None)
        self._inputs: list[InputSpec] = list(exported.graph_signature.input_specs)
        self._outputs: list[OutputSpec] = list(exported.graph_signature.output_specs)
        self._state_dict: dict[str, Any] = dict(exported.state_dict)
        self._constants: dict[str, Any] = dict(exported.constants)
        self._interface = program.interface
        self._resized: set[str] = set()

    def _copy_submodules(self, source: fx.GraphModule) -> None:
        for name, child in source.named_children():
            if not hasattr(self._module, name):
                self._module.add_submodule(name, child)

    # ---- reading -------------------------------------------------------------------------------------------------------------

    @property
    def graph(self) -> fx.Graph:
        """The private graph. Nodes of `program.graph` are other objects; find their copies by name with `node`."""
        return self._module.graph

    @property
    def nodes(self) -> list[fx.Node]:
        """Computing nodes in execution order (a snapshot: safe to change the graph while walking it)."""
        return [node for node in self.graph.nodes if node.op == "call_function"]

    def node(self, name: str) -> fx.Node:
        """The private copy of the node with this name."""
        found: fx.Node = next(node for node in self.graph.nodes if node.name == name)
        return found

    def tensor(self, node: object) -> Tensor | None:
        """The parameter, buffer or constant behind a placeholder; None where `node` is something else."""
        if not isinstance(node, fx.Node) or node.op != "placeholder":
            return None
        spec = next(spec for spec in self._inputs if spec.arg.name == node.name)
        if spec.kind == InputKind.USER_INPUT:
            return None
        store = self._constants if str(spec.target) in self._constants else self._state_dict
        value = store.get(str(spec.target))
        return value if isinstance(value, Tensor) else None

    # ---- nodes ---------------------------------------------------------------------------------------------------------------

    def call(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None = None,
        *,
        like: fx.Node,
        before: fx.Node | None = None,
    ) -> fx.Node:
        """Insert a call after `like` (or before `before`), with its fake value, named after `like`'s source.

        Args:
            target: an ATen or effc overload.
            args, kwargs: nodes and constants.
            like: the node whose source name the new one inherits.
            before: where to insert, when that is not right after `like`.
        """
        place = self.graph.inserting_before(before) if before is not None else self.graph.inserting_after(like)
        with place:
            node = self.graph.call_function(target, args, dict(kwargs or {}))
        set_source(node, source_of(like))
        node.meta["val"] = self.fake_value(node)
        return node

    def fake_value(self, node: fx.Node) -> Any:
        """What the node gives on fake inputs: shapes and dtypes (also symbolic ones) without data."""
        fakes = fx.map_arg((node.args, node.kwargs), lambda argument: argument.meta["val"])
        with without_guards(self._fake_mode()), torch.no_grad():
            args, kwargs = fakes
            return node.target(*args, **kwargs)  # type: ignore[operator]

    def _fake_mode(self) -> Any:
        for node in self.graph.nodes:
            value = node.meta.get("val")
            if isinstance(value, torch._subclasses.FakeTensor):
                return value.fake_mode
        raise InternalError("the program has no tensor at all, so nothing can be inserted into it")

    def replace(self, old: fx.Node, new: fx.Node, *, but_not: set[fx.Node] | None = None) -> None:
        """Let every user of `old` use `new` instead, except those in `but_not` (usually `new` itself)."""
        spared = but_not or set()
        old.replace_all_uses_with(new, delete_user_cb=lambda user: user not in spared)

    def erase(self, node: fx.Node) -> None:
        """Remove a node that nothing uses."""
        self.graph.erase_node(node)

    # ---- tensors -------------------------------------------------------------------------------------------------------------

    def add_tensor(self, name: str, value: Tensor, *, kind: TensorKind = "parameter") -> fx.Node:
        """A new parameter or buffer; returns its placeholder.

        Args:
            name: a dotted name such as `layer1.bound_upper`; a number is appended where it is taken.
            value: the data; it is detached and made contiguous.
            kind: `parameter` can train (floating point only), `buffer` cannot.
        """
        target = self._free_name(name)
        prefix = "p_" if kind == "parameter" else "b_"
        placeholder_name = prefix + target.replace(".", "_")
        first_user = next(node for node in self.graph.nodes if node.op != "placeholder" or self._spec(node).kind == InputKind.USER_INPUT)
        with self.graph.inserting_before(first_user):
            node = self.graph.placeholder(placeholder_name)
        node.name = self.graph._graph_namespace.create_name(placeholder_name, None) if node.name != placeholder_name else node.name
        node.target = node.name
        held = value.detach().contiguous().clone()
        stored: Tensor = torch.nn.Parameter(held, requires_grad=True) if kind == "parameter" else held
        node.meta["val"] = self._fake_mode().from_tensor(held, static_shapes=True)
        node.meta["custom"] = {}
        spec = InputSpec(
            kind=InputKind.PARAMETER if kind == "parameter" else InputKind.BUFFER,
            arg=TensorArgument(name=node.name),
            target=target,
            persistent=None if kind == "parameter" else True,
        )
        position = next((i for i, entry in enumerate(self._inputs) if entry.kind == InputKind.USER_INPUT), len(self._inputs))
        # Placeholders and specs must stand in one order: both go last before the first user input.
        self._inputs.insert(position, spec)
        self._state_dict[target] = stored
        return node

    def set_tensor(self, node: fx.Node, value: Tensor) -> None:
        """Give a parameter, buffer or constant new data of the same shape and dtype (other users of it see it too)."""
        old = self.tensor(node)
        if old is None or old.shape != value.shape or old.dtype != value.dtype:
            raise InternalError(f"set_tensor({node.name}): shape or dtype differ from the present tensor's")
        self._store(node, value, old)

    def resize_tensor(self, node: fx.Node, value: Tensor) -> None:
        """Give a parameter, buffer or constant new data of another shape, under its name; `refresh` when all are changed."""
        old = self.tensor(node)
        if old is None or old.dtype != value.dtype:
            raise InternalError(f"resize_tensor({node.name}): is no stored tensor, or of another dtype")
        held = self._store(node, value, old)
        node.meta["val"] = self._fake_mode().from_tensor(held, static_shapes=True)
        node.meta.pop("tensor_meta", None)  # torch.export's second note of the shape, which TVM reads first
        self._resized.add(node.name)

    def _store(self, node: fx.Node, value: Tensor, old: Tensor) -> Tensor:
        target = str(self._spec(node).target)
        held = value.detach().contiguous().clone()
        store = self._constants if target in self._constants else self._state_dict
        store[target] = torch.nn.Parameter(held) if isinstance(old, torch.nn.Parameter) else held
        return held

    def refresh(self) -> None:
        """Compute the fake values behind tensors that were resized; `done` drops the facts of values that get another shape."""
        for node in self.nodes:
            if self._resized.isdisjoint(one.name for one in node.all_input_nodes):
                continue
            before, now = node.meta["val"], self.fake_value(node)
            if _sizes(before) != _sizes(now):
                node.meta["val"] = now
                node.meta.pop("tensor_meta", None)
                self._resized.add(node.name)

    def _spec(self, node: fx.Node) -> InputSpec:
        return next(spec for spec in self._inputs if spec.arg.name == node.name)

    def _free_name(self, name: str) -> str:
        """The name, or one like it: it must be new, and no tensor can stand beneath another one."""
        taken = {str(spec.target) for spec in self._inputs if spec.target}
        for above in sorted(taken):
            if name.startswith(f"{above}."):
                name = f"{above}_{name[len(above) + 1 :]}"
        candidate, number = name, 0
        while candidate in taken or any(one.startswith(f"{candidate}.") for one in taken):
            number += 1
            candidate = f"{name}_{number}"
        return candidate

    # ---- states --------------------------------------------------------------------------------------------------------------

    def add_state(self, name: str, like: fx.Node | Tensor, *, resident: bool = False) -> fx.Node:
        """A new state input shaped like a value; give it its one writer with `write_state`.

        Args:
            name: the user's name for it; the placeholder gets one like it that Python can read.
            like: a node whose value has the state's shape and dtype, or a fake tensor of the program: `node.meta["val"]`, or what is made
                of it, as `x.meta["val"].flatten(1)[:, 0].to(torch.int32)`, one number a sample.
            resident: whether the state is effc's own and starts as zeros (see `State`).
        """
        fake = like.meta["val"] if isinstance(like, fx.Node) else like
        last = [node for node in self.graph.nodes if node.op == "placeholder"][-1]
        with self.graph.inserting_after(last):
            node = self.graph.placeholder(re.sub(r"\W", "_", name))
        node.target = node.name
        node.meta["val"], node.meta["custom"] = fake, {}
        self._inputs.append(InputSpec(kind=InputKind.USER_INPUT, arg=TensorArgument(name=node.name), target=None))
        reference = value_of(name, fake)
        self._interface = replace(
            self._interface,
            inputs=(*self._interface.inputs, reference),
            states=(*self._interface.states, State(input=name, output=f"{name}_next", resident=resident)),
        )
        return node

    def write_state(self, name: str, value: fx.Node) -> None:
        """Declare `value` as the new value of the state `name`."""
        output = self.graph.output_node()
        output.args = ((*output.args[0], value),)  # type: ignore[misc]
        self._outputs.append(OutputSpec(kind=OutputKind.USER_OUTPUT, arg=TensorArgument(name=value.name), target=None))
        held = next(entry for entry in self._interface.inputs if entry.name == name)
        self._interface = replace(self._interface, outputs=(*self._interface.outputs, Value(f"{name}_next", held.shape, held.dtype)))

    def drop_state(self, name: str, *, output: str | None) -> None:
        """A state is none any more: its input, which nothing may read, vanishes; its new value is an ordinary output, or none.

        Args:
            name: of the state's input.
            output: what its output is called from now on; None where it vanishes, too.
        """
        state = next(one for one in self._interface.states if one.input == name)
        places = [index for index, value in enumerate(self._interface.inputs) if value.name == name]
        users = [spec for spec in self._inputs if spec.kind == InputKind.USER_INPUT]
        node = self.node(str(users[places[0]].arg.name))
        self._inputs.remove(self._spec(node))
        self.graph.erase_node(node)
        at = next(index for index, value in enumerate(self._interface.outputs) if value.name == state.output)
        outputs = list(self._interface.outputs)
        if output is None:
            results = list(self.graph.output_node().args[0])  # type: ignore[arg-type]
            del results[at], self._outputs[at], outputs[at]
            self.graph.output_node().args = (tuple(results),)
        else:
            outputs[at] = replace(outputs[at], name=output)
        self._interface = replace(
            self._interface,
            inputs=tuple(value for value in self._interface.inputs if value.name != name),
            outputs=tuple(outputs),
            states=tuple(one for one in self._interface.states if one is not state),
        )

    # ---- finishing -----------------------------------------------------------------------------------------------------------

    def done(self) -> Program:
        """The changed program: dead nodes and unused tensors dropped, facts of vanished values dropped."""
        self.graph.eliminate_dead_code()
        for node in [node for node in self.graph.nodes if node.op == "placeholder"]:
            spec = self._spec(node)
            if spec.kind != InputKind.USER_INPUT and not node.users:
                self._inputs.remove(spec)
                self.graph.erase_node(node)
        used = {str(spec.target) for spec in self._inputs if spec.target}
        state_dict = {name: value for name, value in self._state_dict.items() if name in used}
        constants = {name: value for name, value in self._constants.items() if name in used or not isinstance(value, Tensor)}
        self._rename_outputs()
        self._module.recompile()
        try:
            rebuilt = self._rebuild(state_dict, constants)
        except SpecViolationError as error:
            raise InternalError(f"the edited graph is not a valid exported program: {error}") from error
        names = {node.name for node in self.graph.nodes} - self._resized
        return Program(
            exported=rebuilt,
            interface=self._interface,
            provenance=self._program.provenance,
            facts=self._program.facts.only(names),
        )

    def _rebuild(self, state_dict: dict[str, Any], constants: dict[str, Any]) -> ExportedProgram:
        exported = self._program.exported
        signature = copy.copy(exported.graph_signature)
        signature.input_specs, signature.output_specs = self._inputs, self._outputs
        return ExportedProgram(
            root=self._module,
            graph=self._module.graph,
            graph_signature=signature,
            state_dict=state_dict,
            range_constraints=dict(exported.range_constraints),
            module_call_graph=self._call_graph(),
            example_inputs=None,
            constants=constants,
        )

    def _rename_outputs(self) -> None:
        results = self.graph.output_node().args[0]
        self._outputs = [
            OutputSpec(kind=spec.kind, arg=TensorArgument(name=node.name), target=spec.target)
            if isinstance(node, fx.Node) and isinstance(spec.arg, TensorArgument)
            else spec
            for spec, node in zip(self._outputs, results, strict=True)  # type: ignore[arg-type]
        ]

    def _call_graph(self) -> Any:
        """The call specification of the root module, with the states that were added or dropped."""
        call_graph = copy_call_graph(self._program.exported)
        before = self._program.interface
        if self._interface.states != before.states:
            root = call_graph[0].signature
            leaves = torch.utils._pytree
            arguments = root.in_spec.num_leaves + len(self._interface.inputs) - len(before.inputs)
            results = root.out_spec.num_leaves + len(self._interface.outputs) - len(before.outputs)
            root.in_spec = leaves.tree_flatten((tuple(range(arguments)), {}))[1]
            root.out_spec = leaves.tree_flatten(tuple(range(results)))[1]
            root.inputs, root.outputs = [], []  # as torch leaves those of the root: names in there do not follow a decomposition
            root.forward_arg_names = None
        return call_graph


def _sizes(value: Any) -> list[str]:
    """The shapes in a fake value as text: to compare symbolic sizes as numbers may assume something about them."""
    values = value if isinstance(value, list | tuple) else [value]
    return [str(tuple(one.shape)) if isinstance(one, Tensor) else str(one) for one in values]
