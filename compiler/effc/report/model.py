"""What a report says, as plain data. `effc.compiler` fills it, `report.json` is it, `render` shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from effc.report.sparsity import Magnitudes, Prediction, QualityCurve

__all__ = ["Block", "Graph", "Layer", "Memory", "Node", "PassReport", "Quality", "Range", "Report"]


@dataclass(frozen=True)
class Quality:
    """The metric of the source and of the result on held-out data.

    Attributes:
        metric: its name.
        samples: how many samples were judged.
        before, after: the metric's values.
        drop: how much was lost; negative where the result is better.
        low, high: 95 % interval of the drop; None where one sample gives none.
        allowed: the largest accepted drop; None where nothing was gated.
        changed: samples whose prediction changed, or whose score where the metric compares no predictions.
        larger_is_better: whether the metric falls or rises where the result is worse.
    """

    metric: str
    samples: int
    before: float
    after: float
    drop: float
    low: float | None
    high: float | None
    allowed: float | None
    changed: int
    larger_is_better: bool = True

    @property
    def loss(self) -> str:
        """What a worse result does to the metric."""
        return "drop" if self.larger_is_better else "rise"

    @property
    def interval(self) -> str:
        return "no interval from 1 sample" if self.low is None or self.high is None else f"{self.text(self.low)} to {self.text(self.high)}"

    @property
    def movement(self) -> str:
        """How many samples are behind the difference."""
        what = "prediction" if self.larger_is_better else "score"
        if not self.changed:
            return f"no {what} changed"
        return f"{self.changed:,} of {self.samples:,} {what}s changed"

    def text(self, value: float) -> str:
        """A value of the metric for people: shares to four places, others to four digits."""
        return f"{value:.4f}" if self.larger_is_better else f"{value:.4g}"


@dataclass(frozen=True)
class PassReport:
    """What one pass did.

    Attributes:
        spec: the pass with its options.
        exact: whether it promised the same outputs.
        difference: largest change of an output relative to its largest magnitude; None where it is infinite.
        seconds: how long it took.
        nodes_before, nodes_after: operators in the graph.
        decisions: rows of `site`, `op`, `done`, `why`.
        measured_on: the samples behind `difference`: `64 samples of --eval`.
    """

    spec: str
    exact: bool
    difference: float | None
    seconds: float
    nodes_before: int
    nodes_after: int
    decisions: tuple[Mapping[str, Any], ...] = ()
    measured_on: str = ""


@dataclass(frozen=True)
class Layer:
    """One step of the compiled program.

    Attributes:
        name: the user's names of what it computes.
        ops: its operators.
        family: the kernel family.
        macs: multiply-accumulates; bytes: that it must move at least.
        nanoseconds: measured, or None.
        note: what the kernel's author says of it.
        predicted: by the cost model, for products of which it is known how many inputs are zero.
        listed: it computes only the positions of its output that may have changed since the last frame.
    """

    name: str
    ops: str
    family: str
    macs: int
    bytes: int
    nanoseconds: float | None
    note: str = ""
    predicted: Prediction | None = None
    listed: bool = False


@dataclass(frozen=True)
class Block:
    """One tensor of the arena: bytes `offset` to `offset + size`, needed from step `first` to step `last`."""

    name: str
    offset: int
    size: int
    first: int
    last: int


@dataclass(frozen=True)
class Memory:
    """The plan of the arena over the steps.

    Attributes:
        steps: of a streaming program those of both kinds of frame: the steps of a frame that is computed whole come last.
        states: (name, bytes) of what one stream keeps from frame to frame.
    """

    arena_bytes: int
    parameter_bytes: int
    steps: int
    blocks: tuple[Block, ...]
    states: tuple[tuple[str, int], ...] = ()

    @property
    def state_bytes(self) -> int:
        """Of all states."""
        return sum(size for _, size in self.states)


@dataclass(frozen=True)
class Range:
    """What was seen of one value on calibration data, and the bounds that a pass gave it.

    Attributes:
        minimum, maximum: seen extremes. density: share of elements that are not zero.
        lower, upper: the loosest of its bounds; None where it has none.
    """

    name: str
    minimum: float
    maximum: float
    density: float
    lower: float | None = None
    upper: float | None = None


@dataclass(frozen=True)
class Node:
    """One box of a drawn graph.

    Attributes:
        name: unique in the graph.
        op: what is written large: the operator.
        label: the user's name.
        shape: of its result.
        inputs: names of the boxes it reads.
        mark: `removed` (not in the other graph), `added`, or empty.
    """

    name: str
    op: str
    label: str
    shape: str
    inputs: tuple[str, ...]
    mark: str = ""


@dataclass(frozen=True)
class Graph:
    """Boxes in an order in which every box comes after its inputs."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Report:
    """All of it. `facts` are (label, value) for the head of the page; `notes` are sentences that a user should read.

    `whole_layers` are the steps of a frame that is computed whole, where a streaming program has two kinds of frame; `layers` are those of
    the others then.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    before: Graph
    after: Graph
    quality: Quality | None = None
    passes: tuple[PassReport, ...] = ()
    layers: tuple[Layer, ...] = ()
    memory: Memory | None = None
    ranges: tuple[Range, ...] = ()
    curves: tuple[QualityCurve, ...] = ()
    magnitudes: tuple[Magnitudes, ...] = ()
    notes: tuple[str, ...] = field(default=())
    whole_layers: tuple[Layer, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
