"""`effc faultsim worst`: the bit flips that hurt most, beside random ones."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from effc.cli.console import common_options, emit_json, note, progress_bars, table
from effc.cli.options import DATA_RULE, check_import_option, limit_option, shape_option

if TYPE_CHECKING:
    from effc.faultsim.bit_search import SearchResult
    from effc.faultsim.random_flips import RandomFlips

__all__ = ["command"]


_EPILOG = """\b
worst.csv has the bits that differ in the end; this replays all of them together:
  effc faultsim SOURCE --eval test.npz -o DIR --faults-csv worst.csv --view int8 --where weight
with --view and --layers as in the search.
"""


@click.command("worst", epilog=_EPILOG)
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--data", type=click.Path(path_type=Path), required=True, help=f"Whose loss is raised: {DATA_RULE} The first --samples of it."
)
@click.option("--eval", "held_out", type=click.Path(path_type=Path), required=True, help="What accuracy is counted on.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="A folder for worst.json, worst.html and worst.csv.")
@click.option("--samples", type=click.IntRange(min=1), default=128, show_default=True, help="Of --data.")
@click.option("--flips", type=click.IntRange(min=1), default=20, show_default=True, help="How many bits are flipped.")
@click.option("--view", default="int8", show_default=True, metavar="FORMAT", help="Number format of the weights: int8, stored, q15.16, ...")
@click.option("--layers", multiple=True, metavar="PATTERN", help="Only weights whose layer or name fits, such as 'layer1.*'.")
@click.option("--bits", default="", metavar="POSITIONS", help="Only these bits: 7 or 0-6.  [default: all]")
@click.option("--candidates", type=click.IntRange(min=1), default=10, show_default=True, help="Elements of each weight that are looked at.")
@click.option("--random-draws", type=click.IntRange(min=1), default=20, show_default=True, help="Random sequences of as many flips.")
@click.option("--preprocess", help="How a folder of images becomes inputs.  [default: as an artifact keeps it]")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of torch.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Root of all randomness.")
@shape_option
@limit_option
@check_import_option
@common_options
def command(
    source: Path,
    data: Path,
    held_out: Path,
    output: Path,
    samples: int,
    flips: int,
    view: str,
    layers: tuple[str, ...],
    bits: str,
    candidates: int,
    random_draws: int,
    preprocess: str | None,
    threads: int,
    seed: int,
    input_shapes: tuple[str, ...],
    limits: tuple[str, ...],
    check_import: bool | None,
    as_json: bool,
) -> None:
    """Search, step by step, the flips in the weights of SOURCE that raise the loss most (BFA, Rakin et al. 2019)."""
    from effc.cli.faultsim_campaign import load_subject, stored_preprocess
    from effc.cli.pairs import parse_limits, parse_shapes
    from effc.data import DATA_BYTES, Preprocess, load_dataset
    from effc.faultsim.bit_search import SearchSpec, search
    from effc.faultsim.random_flips import random_flips
    from effc.faultsim.reports.worst import make_folder, write_worst
    from effc.faultsim.spec import parse_bits
    from effc.faultsim.workers import torch_threads

    bounds = parse_limits(limits)
    spec = SearchSpec(view="f32" if view == "stored" else view, flips=flips, candidates=candidates, bits=parse_bits(bits), layers=layers)
    program = load_subject(source, parse_shapes(input_shapes), bounds, check_import is not False).program
    most = bounds.get("data_bytes", DATA_BYTES)
    images = Preprocess.parse(preprocess) if preprocess else stored_preprocess(source)
    attack = load_dataset(data, program.interface.frame_inputs, preprocess=images, max_bytes=most).take(samples)
    judged = load_dataset(held_out, program.interface.frame_inputs, preprocess=images, max_bytes=most)
    make_folder(output)
    with torch_threads(threads), progress_bars() as progress:
        with progress("searching", flips) as advance:
            found = search(program, attack, judged, spec, seed=seed, progress=lambda step: advance(1))
        with progress("random flips", random_draws) as advance:
            beside = random_flips(program, judged, spec, random_draws, seed, advance)
    document, written = write_worst(output, source.name, spec, found, beside)
    if as_json:
        emit_json(document)
        return
    _show(found, beside)
    note(f"{output}: {', '.join(written)}")
    if found.distance:
        shown = [*(("--preprocess", preprocess) if preprocess else ()), *(part for one in input_shapes for part in ("--input-shape", one))]
        chosen = ["--view", spec.view, "--where", "weight", *(part for one in layers for part in ("--layers", one))]
        replay = ["effc", "faultsim", source, "--eval", held_out, "-o", "DIR", "--faults-csv", output / "worst.csv", *chosen, *shown]
        note(f"replay the flips together: {shlex.join(map(str, replay))}")


def _show(found: SearchResult, beside: RandomFlips) -> None:
    note(
        f"{found.population:,} bits in {len(found.tensors)} weights; accuracy {found.clean_accuracy:.2%}, "
        f"with the weights in the view {found.quantised_accuracy:.2%}"
    )
    rows = [
        (
            step.flip,
            step.tensor,
            str(step.index),
            step.bit,
            f"{step.before:.4g} -> {step.after:.4g}",
            f"{step.loss:.3g}",
            f"{step.accuracy:.2%}",
            f"{level.mean:.2%}",
            f"{level.minimum:.2%}",
        )
        for step, level in zip(found.steps, beside.levels, strict=False)
    ]
    numbers = ("flip", "bit", "loss", "accuracy", "random: mean", "least")
    table(("flip", "weight", "element", "bit", "value", "loss", "accuracy", "random: mean", "least"), rows, numbers=numbers)
    if found.stopped:
        note(f"the search stopped: {found.stopped}")
