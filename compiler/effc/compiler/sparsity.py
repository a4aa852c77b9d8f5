"""What a report says of zeros: magnitudes behind thresholds, curves of searches, and which weights compiled products need not read.

Steps and the program's products find each other by the stored tensor that both read. Nothing is taken from notes of kernels: densities
are the facts of the program, sizes those of its tensors, times those of the cost model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, fx, ops

from effc.cost import node_cost
from effc.cost.skipping import MOST_ROWS, skipping
from effc.errors import counted
from effc.evaluate import Score
from effc.ir import Program, ValueFacts, source_of
from effc.ir.ops.keep_top_k import KEEP_TOP_K
from effc.ir.ops.sparsify import SPARSIFY
from effc.ir.ops.statistical_top_k import STATISTICAL_TOP_K
from effc.lowering import Lowered
from effc.lowering.densities import density_of, mask_of, with_densities
from effc.passes.curve import Curve
from effc.passes.linear_sites import block_of
from effc.report import Magnitudes, Prediction, QualityCurve, QualityPoint, Spread
from effc.targets import Target

__all__ = ["magnitudes", "predictions", "quality_curve", "weight_facts"]

_aten = ops.aten
_RIGHT: dict[object, int] = {
    _aten.linear.default: 1,
    _aten.matmul.default: 1,
    _aten.mm.default: 1,
    _aten.addmm.default: 2,
}  # the place of the matrix
_MAKERS = frozenset({SPARSIFY.overload, KEEP_TOP_K.overload, STATISTICAL_TOP_K.overload})
_SKIPPING, _READING = ("skipping", "masked"), ("streaming", "matmul")


@dataclass(frozen=True)
class _Product:
    """A product of an activation with a stored matrix.

    Attributes:
        source: the user's name. stored: the source's name of the matrix. itemsize: bytes of one of its elements.
        rows, depth, columns: sizes of one call.
        density: share of inputs that are not zero, mask: the same of what the result is multiplied by; None where that is not known.
    """

    source: str
    stored: str
    itemsize: int
    rows: int
    depth: int
    columns: int
    density: float | None
    mask: float | None

    @property
    def bytes(self) -> int:
        return self.depth * self.columns * self.itemsize

    @property
    def needed(self) -> float:
        """The share of the matrix that one input needs."""
        return min(1.0 if one is None else one for one in (self.density, self.mask))

    def predict(self, family: str, target: Target, stored: int) -> Prediction | None:
        """Both kernels' times beside a step of a family; None where the cost model does not speak of it."""
        masked = family == "masked"
        density = self.mask if masked else self.density
        if density is None and family != "streaming":
            return None
        if family in _READING and self.rows > MOST_ROWS:  # their time is arithmetic, of which the model knows nothing
            return None
        depth, columns = (self.columns, self.depth) if masked else (self.depth, self.columns)
        known = 1.0 if density is None else density
        found = skipping(target, rows=self.rows, depth=depth, columns=columns, density=known, stored=stored, itemsize=self.itemsize)
        return Prediction(known, found.read, self.bytes, found.skipping, found.dense, family in _SKIPPING)


def predictions(program: Program, lowered: Lowered, target: Target) -> tuple[Prediction | None, ...]:
    """For every step of the plan, what is predicted of its product; None for other steps, and where no density is known."""
    if lowered.plan is None:
        return ()
    left = _products(program, lowered.batch)
    stored = sum(array.nbytes for array in lowered.parameters.values())
    found: list[Prediction | None] = []
    for step in lowered.plan.steps:
        names = {part for name in step.reads if name in lowered.sources for part in lowered.sources[name].name.split(",")}
        own = step.family in (*_SKIPPING, *_READING)
        same = [one for one in left if one.stored in names] if own else []
        # a matrix may serve several layers, and a node without a user's name is called otherwise in the plan
        product = next((one for one in same if one.source in step.sources), same[0] if same else None)
        if product is not None:
            left.remove(product)
        found.append(None if product is None else product.predict(step.family, target, stored))
    return tuple(found)


def weight_facts(program: Program, lowered: Lowered, predicted: Sequence[Prediction | None]) -> list[tuple[str, str]]:
    """How many bytes of the weights of products need not be read, and how many are not; nothing where no zeros were made to that end."""
    skipping_ = [one for one in predicted if one is not None and one.skips]
    if not skipping_ and not any(node.target in _MAKERS for node in program.nodes):
        return []
    products = _products(program, lowered.batch)
    total = sum(one.bytes for one in products)
    spared = sum((1 - one.needed) * one.bytes for one in products)
    if not spared:
        return []
    facts = [("weights that need not be read", f"{_of(spared, total)}: they meet zeros, for one input, on calibration data")]
    if lowered.plan is not None:
        skipped = sum((1 - one.read) * one.weights for one in skipping_)
        which = f"{len(skipping_)} of {counted(len(products), 'product')} skip" if skipping_ else "no product skips"
        facts.append(("weights that are not read", f"{_of(skipped, total)} predicted; {which}"))
    return facts


def _of(part: float, total: int) -> str:
    unit, size = ("MB", 1e6) if total >= 1e6 else ("kB", 1e3)
    return f"{part / size:,.1f} of {total / size:,.1f} {unit} ({part / total:.0%})"


def _products(program: Program, batch: int) -> list[_Product]:
    """All products with a stored matrix of floating-point numbers, in execution order."""
    noted = with_densities(program)
    found = []
    for node in noted.nodes:
        place = _RIGHT.get(node.target)
        right = node.args[place] if place is not None and len(node.args) > place else None
        stored = _stored(noted, right)
        if stored is None or not isinstance(right, fx.Node):
            continue
        tensor, name = stored
        depth, columns = (int(size) for size in right.meta["val"].shape)
        if node.target == _aten.linear.default:
            depth, columns = columns, depth
        rows = node_cost(node, batch).macs // max(1, depth * columns)
        found.append(_Product(source_of(node), name, tensor.element_size(), rows, depth, columns, density_of(node), mask_of(node)))
    return found


def _stored(program: Program, value: Any) -> tuple[Tensor, str] | None:
    """The stored matrix that a value is made of, behind transpositions and casts, and its source name."""
    while isinstance(value, fx.Node) and value.op == "call_function" and len(value.all_input_nodes) == 1:
        value = value.all_input_nodes[0]
    tensor = program.tensors.get(value.name) if isinstance(value, fx.Node) else None
    if tensor is None or tensor.ndim != 2 or not tensor.is_floating_point():
        return None
    return tensor, program.tensor_names[value.name]


# ---- magnitudes --------------------------------------------------------------------------------------------------------------------


def magnitudes(program: Program) -> tuple[Magnitudes, ...]:
    """Every value of which a histogram is known, in execution order; those in front of a threshold or a top-k together with its result."""
    found = []
    for node in program.graph.nodes:
        if node.target in _MAKERS:
            before, after = _spread(program.facts.values, node.args[0]), _spread(program.facts.values, node)
            threshold = _threshold(program, node)
        elif node.users and all(user.target in _MAKERS for user in node.users):
            continue
        else:
            before, after, threshold = _spread(program.facts.values, node), None, None
        if before is not None or after is not None:
            name = source_of(node)
            found.append(Magnitudes(name, block_of(name), before, after, threshold))
    return tuple(found)


def _spread(facts: Mapping[str, ValueFacts], node: Any) -> Spread | None:
    fact = facts.get(node.name) if isinstance(node, fx.Node) else None
    if fact is None or fact.histogram is None:
        return None
    spread = Spread(fact.density, fact.histogram.upper, tuple(fact.histogram.shares))
    return spread if all(map(math.isfinite, (spread.density, spread.upper, *spread.shares))) else None


def _threshold(program: Program, node: fx.Node) -> tuple[float, float] | None:
    """The lowest and the highest finite threshold of a `sparsify`; an infinite one is of an input that is never needed."""
    stored = node.args[1] if node.target == SPARSIFY.overload else None
    tensor = program.tensors.get(stored.name) if isinstance(stored, fx.Node) else None
    if tensor is None:
        return None
    finite = tensor.detach()[tensor.detach().isfinite()]
    return (float(finite.min()), float(finite.max())) if finite.numel() else None


# ---- curves ------------------------------------------------------------------------------------------------------------------------


def quality_curve(name: str, curve: Curve) -> QualityCurve:
    """A search's curve for the report. `name`: the pass with its options."""
    points = (QualityPoint(one.level, one.density, _finite(one.value), one.uniform, one.kept) for one in curve.points)
    before, allowed = _finite(curve.before), _finite(curve.max_drop)
    rising = Score(curve.metric, np.zeros(1)).larger_is_better
    return QualityCurve(name, curve.metric, before, rising, allowed, curve.samples, tuple(points))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
