"""A large graph made readable: chains of operators become one box, and repeats of a run of boxes become one run with a count.

Only a chain folds in which every box feeds just the next; so no edge of the graph is lost, and the drawing shows every branch and join.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from effc.report.model import Graph, Node

__all__ = ["Box", "fold"]

_CHAIN = 6  # operators in one box at most
_RUN = 24  # boxes in one repeated run at most
_SAVED = 3  # boxes that folding a run must save


@dataclass(frozen=True)
class Box:
    """One drawn box.

    Attributes:
        nodes: the operators in it, in order.
        inputs: names of the boxes it reads; a box is named by its last node.
        repeats: how many runs of the same operators this box stands for.
        run: index of the repeated run it belongs to, -1 for none.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    repeats: int = 1
    run: int = -1

    @property
    def name(self) -> str:
        return self.nodes[-1].name

    @property
    def signature(self) -> tuple[tuple[str, str, str], ...]:
        """What makes two boxes look the same."""
        return tuple((node.op, node.shape, node.mark) for node in self.nodes)


def fold(graph: Graph, limit: int = 40) -> tuple[Box, ...]:
    """The graph as boxes; runs are folded only where there are more than `limit` boxes."""
    boxes = _chains(graph)
    return _repeats(boxes) if len(boxes) > limit else boxes


def _chains(graph: Graph) -> tuple[Box, ...]:
    readers = Counter(name for node in graph.nodes for name in node.inputs)
    groups: list[list[Node]] = []
    group_of: dict[str, int] = {}
    for node in graph.nodes:
        before = node.inputs[0] if len(node.inputs) == 1 else ""
        index = group_of.get(before, -1)
        joins = (
            index >= 0
            and readers[before] == 1
            and groups[index][-1].name == before
            and len(groups[index]) < _CHAIN
            and node.op != "output"
            and groups[index][-1].op != "input"
            and not _starts(node)
        )
        if not joins:
            index = len(groups)
            groups.append([])
        groups[index].append(node)
        group_of[node.name] = index
    name_of = {node.name: group[-1].name for group in groups for node in group}
    return tuple(Box(tuple(group), tuple(dict.fromkeys(name_of[name] for name in group[0].inputs))) for group in groups)


def _starts(node: Node) -> bool:
    """Operators with weights begin a box of their own: that is how people count layers."""
    return any(word in node.op for word in ("conv", "linear", "matmul", "addmm", "attention", "bmm", "gemm"))


def _repeats(boxes: tuple[Box, ...]) -> tuple[Box, ...]:
    """Fold runs of boxes that follow each other with the same operators and the same wiring among themselves."""
    result: list[Box] = []
    renamed: dict[str, str] = {}
    index, runs = 0, 0
    while index < len(boxes):
        length, count = _best_run(boxes, index)
        first = boxes[index : index + length]
        for box in first:
            inputs = tuple(dict.fromkeys(renamed.get(name, name) for name in box.inputs))
            result.append(replace(box, inputs=inputs, repeats=count, run=runs if count > 1 else -1))
        for repeat in range(1, count):
            for own, other in zip(first, boxes[index + repeat * length : index + (repeat + 1) * length], strict=True):
                renamed[other.name] = own.name
        runs += count > 1
        index += length * count
    return tuple(result)


def _best_run(boxes: tuple[Box, ...], start: int) -> tuple[int, int]:
    """(length, count) of the repeated run at `start` that saves most boxes; (1, 1) where nothing repeats."""
    best, saved = (1, 1), _SAVED - 1
    for length in range(1, min(_RUN, (len(boxes) - start) // 2) + 1):
        count = 1
        while _same(boxes, start, start + count * length, length):
            count += 1
        if length * (count - 1) > saved:
            best, saved = (length, count), length * (count - 1)
    return best


def _same(boxes: tuple[Box, ...], first: int, other: int, length: int) -> bool:
    if other + length > len(boxes):
        return False
    # A run may read what lies before it only through the box right before it: so the repeats form a chain.
    return _pattern(boxes, first, length) == _pattern(boxes, other, length) and _pattern(boxes, first, length) is not None


def _pattern(boxes: tuple[Box, ...], start: int, length: int) -> tuple[object, ...] | None:
    """Operators and wiring of a run with positions instead of names; None where it reads further back, or is read from later."""
    position = {boxes[start + offset].name: offset for offset in range(length)}
    entry = boxes[start - 1].name if start else ""
    rows: list[object] = []
    for offset in range(length):
        box = boxes[start + offset]
        places = []
        for name in box.inputs:
            if name in position:
                places.append(position[name])
            elif name == entry:
                places.append(-1)
            else:
                return None
        rows.append((box.signature, tuple(places)))
    inner = set(position) - {boxes[start + length - 1].name}
    if any(name in inner for box in boxes[start + length :] for name in box.inputs):
        return None
    return tuple(rows)
