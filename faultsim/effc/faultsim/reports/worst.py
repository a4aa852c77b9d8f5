"""The worst case beside the average: `worst.json`, `worst.csv` and `worst.html`.

The list has the bits that differ in the end, as one injection, and each weight's full name. A campaign in the search's number view on the
search's weights replays it: `effc faultsim MODEL --faults-csv worst.csv --view int8 --where weight`.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

from effc.errors import OutputError
from effc.faultsim.bit_search import SearchResult, SearchSpec, SearchStep
from effc.faultsim.random_flips import QUANTILES, RandomFlips, RandomLevel
from effc.faultsim.reports.csv_report import csv_chunks
from effc.faultsim.reports.scales import linear, nice_ticks
from effc.faultsim.reports.texts import hover, percent, visible
from effc.faultsim.store import canonical
from effc.faultsim.summary import FaultRow
from effc.faultsim.whole_files import remove_leftovers, write_all
from effc.report.svg import document, text

__all__ = ["draw_worst", "make_folder", "worst_document", "write_worst"]

_WIDTH, _HEIGHT = 640.0, 320.0
_LEFT, _RIGHT, _TOP, _BASE = 56.0, 622.0, 34.0, 262.0
SCHEMA, SCHEMA_VERSION = "effc.faultsim.worst", 1


def worst_document(model: str, spec: SearchSpec, found: SearchResult, beside: RandomFlips) -> dict[str, Any]:
    """All of it as plain JSON; losses that are infinite are the string `Infinity`."""
    steps = []
    for step in found.steps:
        entry = {**asdict(step), "index": list(step.index)}
        steps.append({name: _plain(value) for name, value in entry.items()})
    levels = [{**asdict(level), "quantiles": dict(zip(map(str, QUANTILES), level.quantiles, strict=True))} for level in beside.levels]
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "model": model,
        "spec": {**asdict(spec), "bits": None if spec.bits is None else list(spec.bits), "layers": list(spec.layers)},
        "population": found.population,
        "tensors": list(found.tensors),
        "accuracy": {"clean": found.clean_accuracy, "in_view": found.quantised_accuracy},
        "searched": steps,
        "stopped": found.stopped,
        "random": {"draws": len(beside.accuracies), "levels": levels},
    }


def make_folder(folder: Path) -> None:
    """Make the folder of the files and try to write there, before hours are spent on what goes into them. Raises OutputError."""
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def write_worst(folder: Path, model: str, spec: SearchSpec, found: SearchResult, beside: RandomFlips) -> tuple[dict[str, Any], list[str]]:
    """Write the three files, each whole or not at all; the document and their names. Raises OutputError."""
    told = worst_document(model, spec, found, beside)
    files = {
        "worst.json": canonical(told),
        "worst.html": _page(model, spec, found, beside),
        "worst.csv": b"".join(csv_chunks(_rows(found.steps))),
    }
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_all({folder / name: [content] for name, content in files.items()})
        remove_leftovers(folder)
    return json.loads(files["worst.json"]), list(files)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror or error}; choose another -o") from error


def draw_worst(found: SearchResult, levels: Sequence[RandomLevel]) -> str:
    """Accuracy against the number of flips as inline SVG: the searched ones as a line, random ones as their mean and 5 % to 95 % band."""
    most = max(len(found.steps), len(levels), 1)
    x, y = linear(0, most, _LEFT, _RIGHT), linear(0.0, 1.0, _BASE, _TOP)
    parts = []
    for value in nice_ticks(0.0, 1.0, 5):
        parts.append(f'<line x1="{_LEFT:.0f}" y1="{y(value):.1f}" x2="{_RIGHT:.0f}" y2="{y(value):.1f}" class="grid"/>')
        parts.append(text(_LEFT - 7, y(value) + 4, f"{100 * value:.0f} %", "axis", "end"))
    for value in nice_ticks(0, most, 10):
        if value == int(value):
            parts.append(text(x(value), _BASE + 19, f"{value:.0f}", "axis", "middle"))
    parts.append(text(8, 16, "accuracy", "axis"))
    parts.append(text((_LEFT + _RIGHT) / 2, _HEIGHT - 18, "bits flipped", "axis", "middle"))
    start = (x(0), y(found.quantised_accuracy))
    if levels:
        upper = [start, *((x(level.flips), y(level.quantiles[-1])) for level in levels)]
        lower = [start, *((x(level.flips), y(level.quantiles[0])) for level in levels)]
        parts.append(f'<polygon points="{_points([*upper, *reversed(lower)])}" class="surely"/>')
        parts.append(f'<polyline points="{_points([start, *((x(level.flips), y(level.mean)) for level in levels)])}" class="mean"/>')
        last = levels[-1]
        parts.append(text(_RIGHT, y(last.mean) - 8, f"random, on average {percent(last.mean)}", "axis", "end"))
    if found.steps:
        searched = [start, *((x(step.flip), y(step.accuracy)) for step in found.steps)]
        parts.append(f'<polyline points="{_points(searched)}" class="attack"/>')
        for step in found.steps:
            words = hover(f"flip {step.flip}: bit {step.bit} of {step.tensor} {step.index}: accuracy {percent(step.accuracy)}")
            parts.append(f'<circle cx="{x(step.flip):.1f}" cy="{y(step.accuracy):.1f}" r="3.5" class="attackdot">{words}</circle>')
        end = found.steps[-1]
        parts.append(text(_RIGHT, y(end.accuracy) - 8, f"searched {percent(end.accuracy)}", "axis attackword", "end"))
    return document(parts, _WIDTH, _HEIGHT, "accuracy against the number of flipped bits", "wide")


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{across:.1f},{down:.1f}" for across, down in points)


def _page(model: str, spec: SearchSpec, found: SearchResult, beside: RandomFlips) -> bytes:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": percent, "visible": visible, "number": lambda value: f"{value:.4g}"}
    here = resources.files("effc.faultsim.reports")
    style = resources.files("effc.report").joinpath("page.css").read_text(encoding="utf-8")
    style += here.joinpath("faults.css").read_text(encoding="utf-8")
    template = environment.from_string(here.joinpath("worst.html.jinja").read_text(encoding="utf-8"))
    page = template.render(
        model=model,
        spec=spec,
        found=found,
        draws=len(beside.accuracies),
        rows=[(step, beside.levels[step.flip - 1]) for step in found.steps],
        curve=Markup(draw_worst(found, beside.levels)),
        style=Markup(style),
    )
    return page.encode(errors="replace")


def _rows(steps: Sequence[SearchStep]) -> list[FaultRow]:
    """One injection of the bits that differ in the end: one that was flipped back is none of them."""
    flipped: dict[tuple[str, tuple[int, ...], int], SearchStep] = {}
    for step in steps:
        place = (step.tensor, step.index, step.bit)
        if flipped.pop(place, None) is None:
            flipped[place] = step
    # a layer's name could mean several weights
    return [FaultRow(0, one.tensor, one.tensor, one.index, one.bit, 0, 0, 0, 0, one.before, one.after) for one in flipped.values()]


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
