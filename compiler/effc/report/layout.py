"""Layered layout of boxes: every box below its inputs, as few crossings as a few sweeps of barycentres give, no box on another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Place", "layered"]

_GAP_X, _GAP_Y = 22.0, 26.0
_SWEEPS = 6


@dataclass(frozen=True)
class Place:
    """Where a box stands: its left upper corner, its size and its layer, in pixels."""

    x: float
    y: float
    width: float
    height: float
    layer: int


def layered(
    names: Sequence[str], inputs: Mapping[str, Sequence[str]], sizes: Mapping[str, tuple[float, float]]
) -> tuple[dict[str, Place], dict[tuple[str, str], list[tuple[float, float]]], float, float]:
    """Places of all boxes, routes of all edges, and the width and height of the whole.

    Args:
        names: in an order in which every box comes after its inputs.
        inputs: what each box reads.
        sizes: width and height of each box.

    Returns:
        places by name; for every edge (from, to) the points it passes through; width; height.
    """
    depth = _depths(names, inputs)
    rows: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    size, chain, parents = dict(sizes), {}, {name: list(inputs[name]) for name in names}
    for name in names:
        rows[depth[name]].append(name)
    for name in names:
        for source in inputs[name]:
            links = [f"{source}>{name}@{level}" for level in range(depth[source] + 1, depth[name])]
            chain[source, name] = links
            for level, link in enumerate(links, depth[source] + 1):
                rows[level].append(link)
                size[link] = (6.0, 0.0)
                parents[link] = [source if level == depth[source] + 1 else links[level - depth[source] - 2]]
            if links:
                parents[name] = [links[-1] if one == source else one for one in parents[name]]
    _order(rows, parents)
    centre = _centres(rows, parents, size)
    left = min((centre[name] - size[name][0] / 2 for row in rows for name in row), default=0.0)
    top, tops = 0.0, []
    for row in rows:
        tops.append(top)
        top += max(size[name][1] for name in row) + _GAP_Y
    places = {name: Place(centre[name] - size[name][0] / 2 - left, tops[depth[name]], *size[name], depth[name]) for name in names}
    heights = [max(size[name][1] for name in row) for row in rows]
    routes = {}
    for (source, target), links in chain.items():
        start, end = places[source], places[target]
        points = [(start.x + start.width / 2, start.y + start.height)]
        for level, link in enumerate(links, depth[source] + 1):
            points += [(centre[link] - left, tops[level]), (centre[link] - left, tops[level] + heights[level])]
        points.append((end.x + end.width / 2, end.y))
        routes[source, target] = points
    width = max((centre[name] + size[name][0] / 2 - left for row in rows for name in row), default=0.0)
    return places, routes, width, max(0.0, top - _GAP_Y)


def _depths(names: Sequence[str], inputs: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """The layer of each box: below all of its inputs; a box without inputs right above the first that reads it."""
    depth: dict[str, int] = {}
    for name in names:
        depth[name] = max((depth[one] + 1 for one in inputs[name]), default=0)
    nearest: dict[str, int] = {}
    for name in names:
        for source in inputs[name]:
            nearest[source] = min(nearest.get(source, depth[name]), depth[name])
    return {name: layer if inputs[name] or name not in nearest else nearest[name] - 1 for name, layer in depth.items()}


def _order(rows: list[list[str]], parents: Mapping[str, Sequence[str]]) -> None:
    children: dict[str, list[str]] = {}
    for name, sources in parents.items():
        for source in sources:
            children.setdefault(source, []).append(name)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        order = range(1, len(rows)) if down else range(len(rows) - 2, -1, -1)
        for index in order:
            near = {name: place for place, name in enumerate(rows[index - 1 if down else index + 1])}
            links = parents if down else children

            def weight(name: str, links: Mapping[str, Sequence[str]] = links, near: Mapping[str, int] = near) -> float:
                places = [near[one] for one in links.get(name, ()) if one in near]
                return sum(places) / len(places) if places else 0.0

            rows[index].sort(key=weight)


def _centres(rows: list[list[str]], parents: Mapping[str, Sequence[str]], size: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Each box as near below its inputs as its neighbours let it."""
    centre: dict[str, float] = {}
    for row in rows:
        wanted = []
        for name in row:
            above = [centre[one] for one in parents.get(name, ()) if one in centre]
            wanted.append(sum(above) / len(above) if above else 0.0)
        placed: list[float] = []
        for name, wish in zip(row, wanted, strict=True):
            at = wish
            if placed:
                before = row[len(placed) - 1]
                at = max(wish, placed[-1] + (size[before][0] + size[name][0]) / 2 + _GAP_X)
            placed.append(at)
        shift = sum(wish - at for wish, at in zip(wanted, placed, strict=True)) / max(len(row), 1)
        centre.update({name: at + shift for name, at in zip(row, placed, strict=True)})
    return centre
