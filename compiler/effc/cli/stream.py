"""`effc stream`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from effc.cli.console import common_options, emit_json, note, table
from effc.cli.options import limit_option

if TYPE_CHECKING:
    from effc.cli.stream_results import Run
    from effc.data import FrameSource
    from effc.runtime.stream_record import StreamRecorder

__all__ = ["command"]

_GROUP, _GROUP_BYTES = 16, 1 << 28  # frames between two turns of a comparison, and bytes of them at the most


@click.command("stream")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option(
    "--input",
    "source",
    required=True,
    help="Frames in order: a .npz or .npy (T, ...), a video file, camera (or one by name: v4l2:/dev/video1), - for a video on stdin.",
)
@click.option("--frames", type=click.IntRange(min=1), help="Stop after so many; at the end of the input, or at Ctrl-C, without it.")
@click.option("--reset-every", type=click.IntRange(min=1), help="Forget the past before every so many frames.")
@click.option(
    "--compare-dense/--no-compare-dense",
    "compare",
    default=None,
    help="Compute every frame whole, too, and compare times and outputs.  [default: with --report]",
)
@click.option("--report", type=click.Path(path_type=Path), help="Write an HTML page with charts over frames and layers.")
@click.option("-o", "--save", "output", type=click.Path(path_type=Path), help="Write the outputs of all frames to this .npz (or .npy).")
@click.option("--preprocess", help="How pictures of a video become inputs; the artifact's own preprocessing without it.")
@click.option("--threads", type=click.IntRange(min=1), help="Worker threads; the processors of this process without it.")
@limit_option
@common_options
def command(
    artifact: Path,
    source: str,
    frames: int | None,
    reset_every: int | None,
    compare: bool | None,
    report: Path | None,
    output: Path | None,
    preprocess: str | None,
    threads: int | None,
    limits: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run the streaming ARTIFACT frame by frame: rate and computed share live on a terminal, a summary at the end."""
    from effc.cli.arrays import check_output, write_arrays
    from effc.cli.pairs import parse_limits
    from effc.cli.stream_results import Run, document, layer_rows, page, summary_rows, write_page
    from effc.data import DATA_BYTES, Preprocess, open_frames
    from effc.errors import counted
    from effc.runtime import load
    from effc.runtime.stream_record import StreamRecorder

    limit = parse_limits(limits).get("data_bytes", DATA_BYTES)
    if output is not None:
        check_output(output)
    if report is not None:
        check_output(report, suffixes=(".html",), option="--report")
    session = load(artifact, threads=threads)
    against = (report is not None and session.manifest.streams) if compare is None else compare
    recorder = StreamRecorder(session, reset_every=reset_every or 0, against_whole=against)
    stored = session.manifest.data["preprocess"]
    is_arrays = Path(source).suffix.lower() in (".npz", ".npy")
    steps = Preprocess.parse(preprocess) if preprocess else Preprocess.from_json(stored) if stored and not is_arrays else None
    with open_frames(source, recorder.stream.inputs, preprocess=steps, max_bytes=limit) as given:
        kept = _feed(given, recorder, frames, against, limit if output is not None else None)
        run = Run(artifact, given.name, session, recorder.record(), given.rate)
    if output is not None:
        write_arrays(output, kept)
    if report is not None:
        write_page(report, page(run))
    if as_json:
        emit_json({**document(run), "saved": _text(output), "report": _text(report)})
        return
    _show(run, summary_rows(run), layer_rows(run))
    written = [str(path) for path in (output, report) if path is not None]
    note(counted(recorder.frames, "frame") + (f", written: {', '.join(written)}" if written else ""))


def _feed(given: FrameSource, recorder: StreamRecorder, most: int | None, in_groups: bool, keep: int | None) -> dict[str, Any]:
    """Run the frames; the outputs of all of them where they are kept, in at most `keep` bytes. Ctrl-C ends a live source in good order."""
    import itertools

    from effc.cli.live import LiveLine
    from effc.cli.stream_results import Kept

    kept = Kept(recorder.stream.outputs, keep)
    size = max(1, min(_GROUP, _GROUP_BYTES // max(1, sum(spec.bytes for spec in recorder.stream.inputs)))) if in_groups else 1
    left = itertools.islice(given, most)
    total = min(number for number in (given.count, most, float("inf")) if number is not None)
    with LiveLine() as live:
        try:
            while group := list(itertools.islice(left, size)):
                kept.add(recorder.feed(group))
                live.show(recorder, None if total == float("inf") else int(total))
        except KeyboardInterrupt:
            if not given.live or not recorder.frames:
                raise
    return kept.arrays()


def _show(run: Run, rows: list[tuple[str, str]], layers: list[tuple[Any, ...]]) -> None:
    table(("", run.name), rows)
    if layers:
        numbers = ("positions", "computed", "MACs")
        table(("layer", "operators", "kernel", *numbers), layers, numbers=numbers)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
