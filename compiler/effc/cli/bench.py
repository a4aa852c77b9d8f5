"""`effc bench`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from effc.cli.console import common_options, emit_json, note, progress_bars, table
from effc.cli.options import limit_option
from effc.compiler.peers import PEERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from effc.runtime import Manifest, TensorSpec
    from effc.runtime.bench import Timing

__all__ = ["command"]


class _Seconds(click.FloatRange):
    """A range that NaN and infinity are not in."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value} is no length of time.", param, ctx)
        return seconds


@click.command("bench")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--against", multiple=True, type=click.Choice(tuple(PEERS)), help="Another engine; may be given several times.")
@click.option("--model", type=click.Path(path_type=Path), help="The source model, which the other engines run.")
@click.option(
    "--input",
    "source",
    type=click.Path(path_type=Path),
    help="A .npz or .npy with samples to time on, in order; random ones without it. A streaming ARTIFACT needs its frames.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads of every engine; the processors of this process without it.")
@click.option("--blocks", type=click.IntRange(min=1), default=20, show_default=True, help="Alternating blocks of each engine.")
@click.option("--seconds", type=_Seconds(min=0, min_open=True), default=0.2, show_default=True, help="Length of one block.")
@click.option("--warm-up", type=_Seconds(min=0), default=1.0, show_default=True, help="Seconds before the first block.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random inputs.")
@limit_option
@common_options
def command(
    artifact: Path,
    against: tuple[str, ...],
    model: Path | None,
    source: Path | None,
    threads: int | None,
    blocks: int,
    seconds: float,
    warm_up: float,
    seed: int,
    limits: tuple[str, ...],
    as_json: bool,
) -> None:
    """Time ARTIFACT: each engine in a process of its own, in alternating blocks, on the same processors."""
    import tempfile

    from effc.compiler.peers import peer_contender
    from effc.errors import ConfigError
    from effc.runtime import open_artifact
    from effc.runtime.bench import artifact_contender, compare_engines, contender_arguments
    from effc.runtime.session import refuse_foreign, refuse_sources
    from effc.runtime.threads import available_threads

    if against and model is None:
        raise ConfigError("--against needs --model SOURCE: the other engines run the original model")
    if model is not None and not against:
        raise ConfigError("--model is what other engines run: name one with --against")
    opened = open_artifact(artifact)
    refuse_sources(opened)
    refuse_foreign(opened)
    manifest = opened.manifest
    if manifest.streams and source is None:
        raise ConfigError(
            f"{artifact} computes what changes from frame to frame, and random frames change everywhere: give --input clip.npz, "
            f"or run `effc stream {artifact} --input clip.npz`, which shows every frame"
        )
    specs = manifest.stream_inputs if manifest.streams else manifest.inputs
    inputs = [{"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype} for spec in specs]
    with tempfile.TemporaryDirectory() as folder, progress_bars() as progress, progress("timing", blocks) as advance:
        samples = None if source is None else _samples(source, specs, limits, Path(folder))
        options = contender_arguments(inputs, threads=threads or available_threads(), samples=samples, seed=seed)
        contenders = [artifact_contender(artifact, options), *(peer_contender(name, str(model), options) for name in against)]
        comparison = compare_engines(
            contenders, blocks=blocks, block_seconds=seconds, warm_up_seconds=warm_up, progress=lambda done, total: advance(1)
        )
    if model is not None:
        _warn_of_another_file(model, manifest)
    if as_json:
        emit_json(comparison.as_json())
        return
    rows = [
        (timing.label, timing.settings.get("engine", ""), *map(_microseconds, _percentiles(timing)), timing.calls)
        for timing in comparison.timings
    ]
    numbers = ("5 % [us]", "median [us]", "95 % [us]", "calls")
    table(("engine", "version", *numbers), rows, numbers=numbers)
    for ratio in comparison.ratios:
        verdict = "faster than" if ratio.value >= 1 else "slower than"
        factor = ratio.value if ratio.value >= 1 else 1 / ratio.value
        interval = f"95 % interval {ratio.low:.2f}..{ratio.high:.2f}"
        note(f"{ratio.label} is {factor:.2f} x {verdict} {ratio.other}, whose time is {ratio.value:.2f} times {ratio.label}'s ({interval})")
    settings = comparison.timings[0].settings
    if manifest.streams:
        note("frames in order, over and over, in one stream; other engines compute each of them whole")
    note(f"threads {settings.get('threads')}, processors {settings.get('cpus')}, batch {manifest.batch}, {blocks} blocks of {seconds:g} s")


def _samples(source: Path, inputs: Sequence[TensorSpec], limits: tuple[str, ...], folder: Path) -> Path:
    """The samples, checked, under the names of the inputs; all engines read this file."""
    import numpy as np

    from effc.cli.pairs import parse_limits
    from effc.data import DATA_BYTES, load_dataset
    from effc.errors import ConfigError

    if source.is_dir():
        raise ConfigError(f"{source} is a folder; effc bench takes a .npz or .npy")
    dataset = load_dataset(source, inputs, max_bytes=parse_limits(limits).get("data_bytes", DATA_BYTES))
    np.savez(folder / "samples.npz", allow_pickle=False, **dataset.inputs)
    return folder / "samples.npz"


def _warn_of_another_file(model: Path, manifest: Manifest) -> None:
    """A model that takes the artifact's inputs may still be another one, whose time says nothing about this one."""
    import hashlib
    import warnings

    from effc.errors import EffcWarning

    with open(model, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    source = manifest.data["source"]
    if digest not in (source.get("sha256"), *(entry.sha256 for entry in manifest.files.values())):
        text = f"{model} is not the file that the artifact was compiled from ({source.get('name')}, {str(source.get('sha256'))[:12]})"
        warnings.warn(f"{text}: the ratio compares two models", EffcWarning, stacklevel=2)


def _percentiles(timing: Timing) -> tuple[float, float, float]:
    return timing.percentile5, timing.median, timing.percentile95


def _microseconds(nanoseconds: float) -> str:
    return f"{nanoseconds / 1e3:.1f}"
