"""`effc run`."""

from __future__ import annotations

from pathlib import Path

import click

from effc.cli.console import common_options, emit_json, note, table
from effc.cli.options import limit_option

__all__ = ["command"]

_MODELS = (".onnx", ".pt2", ".pt", ".pth")


@click.command("run")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--input", "source", type=click.Path(path_type=Path), required=True, help="A .npz, a .npy, or a folder of images.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the outputs to this .npz (or .npy for a single output).")
@click.option("--preprocess", help="How a folder of images becomes inputs; the artifact's own preprocessing without it.")
@click.option("--threads", type=click.IntRange(min=1), help="Worker threads; the processors of this process without it.")
@limit_option
@common_options
def command(
    artifact: Path,
    source: Path,
    output: Path | None,
    preprocess: str | None,
    threads: int | None,
    limits: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run ARTIFACT on data and write or show its outputs."""
    from effc.cli.arrays import check_output, describe, write_arrays
    from effc.cli.pairs import parse_limits
    from effc.data import DATA_BYTES, Preprocess, load_dataset
    from effc.errors import ConfigError, DataError, counted
    from effc.runtime import load

    limit = parse_limits(limits).get("data_bytes", DATA_BYTES)
    if source.suffix.lower() in _MODELS and source.is_file():
        raise DataError(f"{source} is a model, not data: --input takes a .npz, a .npy or a folder of images")
    if preprocess and source.is_file():
        raise ConfigError(f"--preprocess is for folders of images; {source} holds arrays, which are taken as they are: leave it out")
    if output is not None:
        check_output(output)
    session = load(artifact, threads=threads)
    stored = session.manifest.data["preprocess"]
    steps = Preprocess.parse(preprocess) if preprocess else Preprocess.from_json(stored) if stored else None
    dataset = load_dataset(source, session.inputs, preprocess=steps, max_bytes=limit)
    outputs = session.run(dataset.inputs)
    if output is not None:
        write_arrays(output, outputs)
    if as_json:
        described = {name: describe(array) for name, array in outputs.items()}
        emit_json({"samples": len(dataset), "outputs": described, "written": None if output is None else str(output)})
        return
    rows = [(name, *describe(array).values()) for name, array in outputs.items()]
    table(("output", "dtype", "shape", "min", "mean", "max"), rows, numbers=("min", "mean", "max"))
    note(counted(len(dataset), "sample") + (f", written to {output}" if output is not None else "; -o y.npz writes them"))
