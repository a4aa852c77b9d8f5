"""Where faults of a campaign on the array can be: its registers and the words of its memories, as sites; and what a drawn place means.

| kind | stuck-at-0, stuck-at-1: in every product | flip: in one product |
|---|---|---|
| pe-product, pe-sum | of a multiplier (row, column) | none: an upset there is one of an accumulator |
| accumulator | of a column (where sums stay in their place it is the multiplier's: pe-sum) | a sum: (fold, channel, position) |
| sram-weight, sram-activation | a word of the memory (address) | a number of the weights, or of a sample of the input |

`pe` and `sram` stand for both of theirs. A flip of an accumulator or an activation comes at the same place for every sample it is tried on
(`duration = "transient"`: one sample). Of a memory only words that some product uses are in the population. Where tensors lie in it, and
so which layers share a word, says `effc.cost.accelerator.layout`: weights that all fit stay, and a stuck word hits one layer; what comes
and goes shares words with what came before.
"""

from __future__ import annotations

import fnmatch
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from effc.cost.accelerator.description import Accelerator
from effc.cost.accelerator.layout import Layout, laid_out, weights_stay
from effc.errors import ConfigError, Problem
from effc.faultsim.accelerator.faults import ArrayFault
from effc.faultsim.accelerator.mapping import Mapping
from effc.faultsim.accelerator.work import Gemm
from effc.faultsim.formats import stored_view
from effc.faultsim.sites import ARRAY_KINDS, Site
from effc.faultsim.spec import CampaignSpec
from effc.ir import Program
from effc.ir.edit import keyword_arguments

__all__ = ["array_sites", "fault_at", "layouts", "mapping_of"]

_WORDS = {"pe": ("pe-product", "pe-sum"), "sram": ("sram-weight", "sram-activation")}
_VIEWS = {"pe-product": torch.int16, "pe-sum": torch.int32, "accumulator": torch.int32}
_LAYER = "array"  # of what every product goes through


def mapping_of(description: Accelerator) -> Mapping:
    """The array of a description."""
    return Mapping(
        description.rows, description.columns, description.dataflow, description.width("zeros"), description.width("changes") or 1
    )


def layouts(program: Program, products: Sequence[Gemm], description: Accelerator) -> dict[str, Layout]:
    """The contents of the memories, by kind of site; a tensor for each product."""
    return _layouts([_Tensors(program, product) for product in products], description)


def array_sites(program: Program, products: Sequence[Gemm], description: Accelerator, spec: CampaignSpec) -> list[Site]:
    """The sites that a spec chooses. Raises ConfigError with all that does not fit the array."""
    unknown = [word for word in spec.where if word not in (*ARRAY_KINDS, *_WORDS)]
    hint = f"an accelerator has: {', '.join((*_WORDS, *ARRAY_KINDS))}"
    problems = [Problem("where", repr(word), "is nowhere in an array", hint) for word in unknown]
    kinds = [kind for kind in ARRAY_KINDS if any(kind in _WORDS.get(word, (word,)) for word in spec.where)]
    if program.interface.states:
        problems.append(Problem("the program", "streams", "its states would carry a fault from sample to sample"))
    problems += _misfits(kinds, mapping_of(description), spec) + _widths(description)
    tensors = [_Tensors(program, product) for product in products]
    for pattern in spec.layers if spec.effect == "flip" else ():
        if not any(one.fits(pattern) for one in tensors):
            some = ", ".join([one.layer for one in tensors][:8]) + (", ..." if len(tensors) > 8 else "")
            problems.append(Problem("layers", repr(pattern), "fits no product", f"products: {some}"))
    if problems:
        raise ConfigError("the faults do not fit the accelerator", problems)
    if spec.effect != "flip":
        return [_of_the_array(kind, _layouts(tensors, description), description) for kind in kinds]
    taken = [one for one in tensors if not spec.layers or any(one.fits(pattern) for pattern in spec.layers)]
    names = Counter(one.layer for one in tensors)
    return [one.site(kind, mapping_of(description), alone=names[one.layer] == 1) for kind in kinds for one in taken]


def fault_at(site: Site, element: int, bit: int, effect: Any) -> ArrayFault:
    """What a drawn place means; of a stuck word its address, of which a layout tells the elements."""
    place = site.index(element) if site.kind in ("pe-product", "pe-sum", "accumulator") else (element,)
    return ArrayFault(site.kind, bit, effect, place)  # type: ignore[arg-type]  # sites of an array have its kinds


def is_everywhere(site: Site) -> bool:
    """Whether every product goes through it."""
    return site.layer == _LAYER and site.key == site.kind


def _misfits(kinds: Sequence[str], mapping: Mapping, spec: CampaignSpec) -> list[Problem]:
    problems = []
    if spec.effect in ("burst", "random"):
        problems.append(Problem("effect", spec.effect, "is for stored tensors", "an array has flip, stuck-at-0 and stuck-at-1"))
    if spec.rates:
        problems.append(Problem("rates", "of bit errors", "an array has single faults", "give faults, exhaustive or precision"))
    if spec.view != "stored":
        problems.append(Problem("view", spec.view, "an array has the words of its own registers", "leave it out"))
    if spec.ops:
        problems.append(Problem("ops", ", ".join(spec.ops), "the array does products alone", "leave it out, or choose layers"))
    if spec.effect == "flip":
        for kind in kinds:
            if kind.startswith("pe"):
                hint = "effect stuck-at-0 or stuck-at-1; a single upset is one of where = accumulator or sram"
                problems.append(Problem(kind, "effect flip", "a faulty multiplier stays faulty", hint))
    elif spec.effect.startswith("stuck"):
        if spec.layers:
            problems.append(Problem("layers", ", ".join(spec.layers), f"what is {spec.effect} is so in every product", "leave it out"))
        if spec.duration == "transient":
            problems.append(Problem("duration", "transient", f"what is {spec.effect} stays", "leave it out, or choose effect flip"))
        if "accumulator" in kinds and not mapping.reduces_in_columns:
            hint = "where = pe-sum"
            problems.append(Problem("accumulator", spec.effect, f"in a {mapping.dataflow} array each multiplier has its own", hint))
    return problems


def _widths(description: Accelerator) -> list[Problem]:
    """Registers and words of other sizes than those that faults are put into."""
    problems = []
    for name, width in (("activation", 1), ("weight", 1), ("accumulator", 4)):
        found = getattr(description.bytes, name)
        if found != width:
            why = f"faults are put into words of {8 * width} bits"
            problems.append(Problem(f"{description.name}: bytes.{name}", str(found), why, f"describe the array with {name} = {width}"))
    return problems


class _Tensors:
    """Of one product: names, sizes, types."""

    def __init__(self, program: Program, product: Gemm) -> None:
        node = next(node for node in program.nodes if node.name == product.name)
        given = keyword_arguments(node)
        x, weights = (given["x"], given["w"]) if "x" in given else (given["a"], given["b"])
        self.product, self.layer, self.stored = product, product.source, weights.name
        self.x, self.weights = x.meta["val"], weights.meta["val"]
        entries = (product.per_sample,) if product.per_sample > 1 else ()
        self.sample = (*entries, *(int(extent) for extent in self.x.shape[1:]))

    def fits(self, pattern: str) -> bool:
        return fnmatch.fnmatchcase(self.layer, pattern)

    def site(self, kind: str, mapping: Mapping, *, alone: bool) -> Site:
        extents = self.product.extents(self.x, self.weights)
        shape: tuple[int, ...]
        if kind == "accumulator":
            shape, dtype = (mapping.folds(extents), extents.groups * extents.channels, extents.positions), torch.int32
        elif kind == "sram-weight":
            shape, dtype = tuple(map(int, self.weights.shape)), torch.int8
        else:
            shape, dtype = self.sample, self.x.dtype
        name = f"{self.layer}.{kind}" if alone else f"{self.layer}.{kind}:{self.product.name}"
        return Site(name, self.product.name, self.layer, kind, self.product.op, shape, stored_view(dtype))


def _of_the_array(kind: str, memories: dict[str, Layout], description: Accelerator) -> Site:
    shape: tuple[int, ...] = (description.rows, description.columns)
    if kind == "accumulator":
        shape = (description.columns,)
    elif kind in memories:
        shape = (memories[kind].words,)
    return Site(f"{_LAYER}.{kind}", kind, _LAYER, kind, _LAYER, shape, stored_view(_VIEWS.get(kind, torch.int8)))


def _layouts(tensors: Sequence[_Tensors], description: Accelerator) -> dict[str, Layout]:
    weights = [one.weights.numel() for one in tensors]
    inputs = [math.prod(one.sample) for one in tensors]
    names = [one.stored for one in tensors]  # layers that read one tensor find it at one place
    stay = weights_stay(sum(dict(zip(names, weights, strict=True)).values()), description)
    return {
        "sram-weight": laid_out(weights, description.sram.weights, stay=stay, names=names),
        "sram-activation": laid_out(inputs, description.sram.activations, stay=False),
    }
