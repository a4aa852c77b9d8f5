"""Where faults can be: the stored tensors and the values of a program, each with its number view.

A stored tensor is named by what its consumers do with it:

- `weight`: what a convolution or a matrix product multiplies its input with (also through a dequantisation, or a part of it);
- `bias`: what it adds; `norm`: the four tensors of a batch, layer or group norm;
- `bound`: what a protection added, as an input of effc's `bound`; `threshold`: of `sparsify`;
- `other`: any other stored number: scales, zero points, embeddings, constants.

A tensor with several consumers is the first of these that fits: an embedding that is also the last layer's matrix is a `weight`.
`parameters` stands for all of these. `activation` is the result of any operator that computes something (`only_shows` says which do not:
they have no bits of their own), `input` an input of the program. Their elements are counted for one sample.
"""

from __future__ import annotations

import fnmatch
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from effc.errors import ConfigError, Problem
from effc.faultsim.formats import NumberView, stored_view, view_for
from effc.ir import Program, source_of

__all__ = ["ARRAY_KINDS", "KINDS", "PARAMETERS", "Site", "find_sites", "only_shows", "operator_name"]

PARAMETERS = ("weight", "bias", "norm", "bound", "threshold", "other")
KINDS = (*PARAMETERS, "activation", "input")
ARRAY_KINDS = ("pe-product", "pe-sum", "accumulator", "sram-weight", "sram-activation")  # of an accelerator (`effc.faultsim.accelerator`)

_PRODUCTS = (
    *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution"),
    *("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "conv_integer", "matmul_integer"),
)
_MANY = ("einsum", "lstm", "gru", "rnn_tanh", "rnn_relu", "qlinear_conv", "qlinear_matmul")  # their weights stand in lists, or further back
_NORMS = ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm")
_CONVERSIONS = ("to", "_to_copy", "type_as")  # their result is the argument where it has the type already
_DROPOUTS = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")  # their result is the argument except in training
# their result is memory of an argument, and their schemas do not say so
_UNSAID = ("_unsafe_view", "unsafe_chunk", "unsafe_split", "unsafe_split_with_sizes", "broadcast_tensors", "meshgrid")
_CARRIERS = ("dequantize_linear", "clone", *_CONVERSIONS)  # besides what only shows
_SUFFIXES = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Site:
    """One tensor that faults can reach.

    Attributes:
        name: the source's name of the tensor, or of the node whose result it is; no two sites of a program have the same.
        key: the graph's name: of a placeholder for stored tensors and inputs, of a node for activations.
        layer: the module or node that it belongs to, in the user's words.
        kind: one of KINDS, or of ARRAY_KINDS. `op`: the operator that reads a stored tensor, or makes a value.
        shape: of the tensor; of one sample for activations and inputs.
        view: how its numbers are laid out in bits, with the tensor's own scale where the view has one.
    """

    name: str
    key: str
    layer: str
    kind: str
    op: str
    shape: tuple[int, ...]
    view: NumberView

    @property
    def elements(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)

    @property
    def stream(self) -> str:
        """What names its random numbers at a bit error rate: the same for a network and for what a pass made of it.

        The source's name of a stored tensor. Of a value the graph's: its name here says more where other values share it, and a protection
        adds such values.
        """
        return f"stored {self.name}" if self.is_stored else f"value {self.key}"

    def element(self, index: tuple[int, ...]) -> int:
        """The flat element of an index. A single number is a flat index itself. Raises ValueError, which says why there is none."""
        if len(index) == 1 and len(self.shape) != 1:
            if index[0] < self.elements:
                return index[0]
            raise ValueError(f"{self.name} has {self.elements} elements")
        if len(index) != len(self.shape) or any(one >= extent for one, extent in zip(index, self.shape, strict=True)):
            raise ValueError(f"{self.name} has shape {list(self.shape)}")
        flat = 0
        for one, extent in zip(index, self.shape, strict=True):
            flat = flat * extent + one
        return flat

    def index(self, element: int) -> tuple[int, ...]:
        """The index of a flat element."""
        found = []
        for extent in reversed(self.shape):
            element, rest = divmod(element, extent)
            found.append(rest)
        return tuple(reversed(found))

    def as_json(self) -> dict[str, Any]:
        """Plain JSON that `from_json` reads."""
        view = {"name": self.view.name, "dtype": str(self.view.carrier).removeprefix("torch."), "scale": getattr(self.view, "scale", None)}
        plain = {"name": self.name, "key": self.key, "layer": self.layer, "kind": self.kind, "op": self.op, "shape": list(self.shape)}
        return {**plain, "view": view}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Site:
        """What `as_json` wrote. Raises KeyError, TypeError, ConfigError on anything else."""
        view = view_for(data["view"]["name"], getattr(torch, data["view"]["dtype"]))
        if data["view"]["scale"] is not None:
            view = replace(view, scale=float(data["view"]["scale"]))  # type: ignore[call-arg]
        words = {field: str(data[field]) for field in ("name", "key", "layer", "kind", "op")}
        return cls(**words, shape=tuple(map(int, data["shape"])), view=view)

    @property
    def is_stored(self) -> bool:
        """Whether it is a stored tensor: its faults are made in place, before a run."""
        return self.kind in PARAMETERS


def operator_name(node: fx.Node) -> str:
    """`conv2d` for `aten.conv2d.default`."""
    target = node.target
    return target._schema.name.split("::")[-1] if isinstance(target, torch._ops.OpOverload) else getattr(target, "__name__", str(target))


def only_shows(node: fx.Node) -> bool:
    """Whether a value is an argument of its operator, or a part of one, under another shape at most: it has no bits of its own.

    The operator's schema says so, or a list here. Some (`reshape`, `contiguous`) copy where they must, and count as the same value.
    """
    if node.op != "call_function":
        return False
    if operator_name(node) == "getitem":
        maker, output = node.args
        return isinstance(maker, fx.Node) and isinstance(output, int) and _is_shown(maker, output)
    return _is_shown(node, 0)


def _is_shown(node: fx.Node, output: int) -> bool:
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    op, schema = operator_name(node), node.target._schema
    if op in _CONVERSIONS:
        before, after = (one.meta.get("val") if isinstance(one, fx.Node) else None for one in (node.args[0], node))
        return before is not None and after is not None and bool(before.dtype == after.dtype)
    if op in _DROPOUTS:
        place = [argument.name for argument in schema.arguments].index("train")
        return not node.kwargs.get("train", node.args[place] if len(node.args) > place else True)
    alias = schema.returns[output if len(schema.returns) > 1 else 0].alias_info if schema.returns else None
    return op in _UNSAID or (alias is not None and not alias.is_write)


def find_sites(
    program: Program, *, where: Sequence[str] = ("parameters",), layers: Sequence[str] = (), ops: Sequence[str] = (), view: str = "stored"
) -> list[Site]:
    """The sites of a program, stored tensors first, in the graph's order.

    Args:
        program: any program.
        where: kinds (KINDS), or `parameters` for all that is stored.
        layers: shell patterns; a site is taken when one fits its layer or its name. None given takes all.
        ops: operator names (`conv2d`); a site is taken when it is read (activations: made) by one of them. None given takes all.
        view: number view of floating-point tensors; integers are always taken as they are stored.

    Raises:
        ConfigError: an unknown kind, a pattern or operator that fits nothing, no site at all; everything at once. Or the program streams.
    """
    if program.interface.states:
        raise ConfigError("a streaming program cannot be simulated: its states would carry a fault from sample to sample")
    unknown = [kind for kind in where if kind not in (*KINDS, "parameters")]
    problems = [Problem("where", repr(kind), "no such kind of site", _known(kind)) for kind in unknown]
    wanted = {one for kind in where for one in (PARAMETERS if kind == "parameters" else (kind,))}
    stored = _stored(program, view)
    every = [*stored, *_told_apart(_values(program, view), stored)]
    of_kind = [site for site in every if site.kind in wanted]
    if not of_kind and not unknown:
        there = sorted({site.kind for site in every})
        problems.append(Problem("where", ", ".join(where), "the model has no such site", f"it has: {', '.join(there)}"))
    for pattern in layers:
        if of_kind and not any(_fits(site, pattern) for site in of_kind):
            problems.append(Problem("layers", repr(pattern), "fits no layer", f"layers: {_some({site.layer for site in of_kind})}"))
    for op in ops:
        if of_kind and not any(site.op == op for site in of_kind):
            problems.append(Problem("ops", repr(op), "no site has this operator", f"there are: {_some({site.op for site in of_kind})}"))
    sites = [site for site in of_kind if (not layers or any(_fits(site, one) for one in layers)) and (not ops or site.op in ops)]
    if not sites and not problems:
        problems.append(Problem("where, layers, ops", "together", "fit no site"))
    if problems:
        raise ConfigError("there is nowhere to put faults", problems)
    return sites


def _known(kind: str) -> str:
    of_an_array = kind in (*ARRAY_KINDS, "pe", "sram")
    return "give an accelerator: --accelerator systolic-32x32" if of_an_array else f"known: parameters, {', '.join(KINDS)}"


def _some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:8]) + (", ..." if len(names) > 8 else "")


def _fits(site: Site, pattern: str) -> bool:
    return fnmatch.fnmatchcase(site.layer, pattern) or fnmatch.fnmatchcase(site.name, pattern)


def _stored(program: Program, view: str) -> list[Site]:
    placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    readers = {
        key: _reader(placeholders[key], program.tensors[key])
        for key in program.tensor_names
        if placeholders[key].users and program.tensors[key].numel() and _has_numbers(program.tensors[key].dtype)
    }
    modules = {reader: _module(program.tensor_names[key]) for key, (reader, _) in readers.items() if _module(program.tensor_names[key])}
    sites = []
    for key, (reader, kind) in readers.items():
        name, tensor = program.tensor_names[key], program.tensors[key]
        # a bias that an exporter gave a name of its own belongs to the module whose weight the same operator reads
        layer = _module(name) or modules.get(reader) or source_of(reader)
        sites.append(Site(name, key, layer, kind, operator_name(reader), tuple(tensor.shape), _view(tensor, view)))
    return sites


def _module(name: str) -> str:
    """`layer1.conv` of `layer1.conv.weight`; nothing where a name is not of that form."""
    head, _, tail = name.rpartition(".")
    return head if tail in _SUFFIXES else ""


def _has_numbers(dtype: torch.dtype) -> bool:
    return dtype != torch.bool and not dtype.is_complex


def _reader(node: fx.Node, tensor: torch.Tensor) -> tuple[fx.Node, str]:
    """The operator that decides what a tensor is, and what that is: of all that compute with it, the first of the foremost kind."""
    found = ((reader, _kind(operator_name(reader), slot, tensor)) for reader, slot in _readers(node))
    return min(found, key=lambda one: PARAMETERS.index(one[1]))


def _readers(node: fx.Node) -> Iterator[tuple[fx.Node, int]]:
    """Operators that compute with a tensor or a part of it, and at which argument; what only carries it there is passed over."""
    left = [(node, user) for user in reversed(node.users)]
    while left:
        value, reader = left.pop()
        carries = only_shows(reader) or operator_name(reader) in _CARRIERS
        if carries and reader.args and reader.args[0] is value and reader.users:
            left += [(reader, user) for user in reversed(reader.users)]
        else:
            yield reader, next((index for index, one in enumerate(reader.args) if one is value), -1)


def _kind(op: str, slot: int, tensor: torch.Tensor) -> str:
    if op in _NORMS:
        return "norm"
    if op == "bound":
        return "bound"
    if op == "sparsify":
        return "threshold"
    if op in _PRODUCTS:
        if op in ("addmm", "baddbmm"):
            return "bias" if slot == 0 else "weight" if tensor.dim() > 1 else "other"
        if slot in (0, 1):
            return "weight" if tensor.dim() > 1 else "other"
        return "bias" if slot == 2 and tensor.dim() == 1 else "other"
    if op in _MANY and tensor.dim() > 1:
        return "weight"
    if op in _MANY and tensor.dim() == 1 and (tensor.dtype == torch.int32 or not op.startswith("q")):
        return "bias"
    if op in ("add", "sub") and tensor.dim() == 1 and tensor.is_floating_point():
        return "bias"
    return "other"


def _values(program: Program, view: str) -> list[Site]:
    sites, symbolic = [], program.interface.batch.symbolic
    for name, node in program.input_nodes.items():
        site = _value(node, name, name, "input", view, symbolic)
        sites += [site] if site else []
    names = program.tensor_names
    for node in program.nodes:
        if not only_shows(node):
            # the module whose weight the operator reads says more than what an exporter called the operator
            modules = [_module(names[one.name]) for one in node.all_input_nodes if one.name in names]
            layer = next((one for one in modules if one), source_of(node))
            site = _value(node, source_of(node), layer, "activation", view, symbolic)
            sites += [site] if site else []
    return sites


def _told_apart(values: Sequence[Site], stored: Sequence[Site]) -> list[Site]:
    """Names that mean one thing in a list of faults: where a module makes several values, or has a weight, the graph's name is added."""
    uses = Counter([site.name for site in values] + [name for site in stored for name in {site.name, site.layer}])
    return [site if uses[site.name] == 1 else replace(site, name=f"{site.name}:{site.key}") for site in values]


def _value(node: fx.Node, name: str, layer: str, kind: str, view: str, symbolic: bool) -> Site | None:
    """A site for one value; None for what has no numbers per sample: sizes, tuples, booleans, results that mix the batch or lack it."""
    fake = node.meta.get("val")
    if not isinstance(fake, torch.Tensor) or fake.dim() < 1 or not _has_numbers(fake.dtype):
        return None
    batch, *rest = fake.shape
    counts_samples = str(batch).isidentifier() if symbolic else batch == 1  # 4 * s0 is a symbol, too, and no batch
    if not counts_samples or not all(isinstance(extent, int) for extent in rest):
        return None
    op = operator_name(node) if node.op == "call_function" else "input"
    chosen = stored_view(fake.dtype) if view == "stored" or not fake.dtype.is_floating_point else view_for(view, fake.dtype)
    return Site(name, node.name, layer, kind, op, tuple(rest), chosen)


def _view(tensor: torch.Tensor, view: str) -> NumberView:
    if view == "stored" or not tensor.dtype.is_floating_point:
        return stored_view(tensor.dtype)
    return view_for(view, tensor.dtype).fitted(tensor)
