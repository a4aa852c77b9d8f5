"""What `effc stream` says at its end: rows of tables, one JSON document, a page; and the outputs that it keeps."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from effc.cli.text import bytes_text
from effc.errors import LimitError, OutputError, counted
from effc.report import StreamLayer, StreamReport, render_stream
from effc.runtime import Session, TensorSpec
from effc.runtime.stream_record import Against, StreamRecord
from effc.runtime.tensors import Array

__all__ = ["Kept", "Run", "document", "layer_rows", "page", "summary_rows", "write_page"]


@dataclass(frozen=True)
class Run:
    """A stream that was run.

    Attributes:
        name: of the artifact. source: of the frames. rate: frames a second of the recording, where it says.
    """

    artifact: Path
    source: str
    session: Session
    record: StreamRecord
    rate: float | None

    @property
    def name(self) -> str:
        return str(self.artifact)


class Kept:
    """Outputs of all frames, in memory."""

    def __init__(self, outputs: Sequence[TensorSpec], limit: int | None) -> None:
        """Keep outputs up to `limit` bytes; none at all where that is None."""
        self._outputs, self._limit = outputs, limit
        self._frames: list[dict[str, Array]] = []

    def add(self, frames: Sequence[dict[str, Array]]) -> None:
        """Raises LimitError when there are too many."""
        if self._limit is None:
            return
        self._frames += frames
        total = len(self._frames) * sum(spec.bytes for spec in self._outputs)
        if total > self._limit:
            raise LimitError(
                f"the outputs of {counted(len(self._frames), 'frame')} are over the limit of {self._limit} bytes that are kept for --save: "
                f"stop earlier with --frames, or raise it with --limit data_bytes={2 * total}"
            )

    def arrays(self) -> dict[str, Array]:
        """(T, ...) by output: frames along the leading axis where an output has one of 1, else along a new one."""
        if not self._frames:
            return {}
        join = {spec.name: np.concatenate if spec.shape[:1] == (1,) else np.stack for spec in self._outputs}
        return {name: joined([frame[name] for frame in self._frames]) for name, joined in join.items()}


def summary_rows(run: Run) -> list[tuple[str, str]]:
    """(what, numbers) for people."""
    record = run.record
    median, late = np.percentile(record.nanoseconds, [50, 95])
    recorded = f"; recorded at {run.rate:g}" if run.rate else ""
    rows = [
        ("frames", f"{len(record):,} from {run.source}{recorded}; {counted(int(record.whole.sum()), 'frame')} computed whole"),
        ("time of a frame", f"median {_ms(median)}, 95 % under {_ms(late)}: {1e9 / median:,.0f} frames/s, {_threads(run)}"),
        ("computed", f"median {np.median(record.shares):.1%}, mean {record.shares.mean():.1%} of multiply-accumulates"),
    ]
    if record.against is not None:
        whole = float(np.median(record.against.nanoseconds))
        faster = f"the stream is {whole / median:.2f} x faster" if whole >= median else f"the stream is {median / whole:.2f} x slower"
        rows.append(("every frame whole", f"median {_ms(whole)}: {faster}"))
        rows.append(("error against whole", _error(record.against)))
    rows.append(("memory of the states", bytes_text(run.session.manifest.state_bytes)))
    return rows


def layer_rows(run: Run) -> list[tuple[Any, ...]]:
    """Every step with multiply-accumulates."""
    return [
        (
            step.name,
            step.ops,
            step.family,
            f"{step.positions:,}" if step.positions else "",
            "dense" if not step.positions else "-" if step.share is None else f"{step.share:.1%}",
            f"{step.macs:,}",
        )
        for step in run.record.steps
        if step.macs
    ]


def document(run: Run) -> dict[str, Any]:
    """Plain JSON; an infinite error reads as null."""
    record, against = run.record, run.record.against
    manifest = run.session.manifest
    return {
        "artifact": run.name,
        "input": run.source,
        "frames": len(record),
        "whole_frames": int(record.whole.sum()),
        "threads": run.session.threads_used,
        "median_ns": float(np.median(record.nanoseconds)),
        "median_share": float(np.median(record.shares)),
        "mean_share": float(record.shares.mean()),
        "state_bytes": manifest.state_bytes,
        "states": manifest.state_sizes,
        "against_whole": None
        if against is None
        else {
            "median_ns": float(np.median(against.nanoseconds)),
            "ratio": float(np.median(against.nanoseconds) / np.median(record.nanoseconds)),
            "largest_error": _finite(against.errors.max()),
            "largest_usual_error": _finite(against.usual_errors.max()),
        },
        "layers": [
            {"name": step.name, "ops": step.ops, "family": step.family, "macs": step.macs, "positions": step.positions, "share": step.share}
            for step in record.steps
        ],
        "per_frame": {
            "ns": record.nanoseconds.tolist(),
            "share": record.shares.tolist(),
            "whole": record.whole.tolist(),
            **(
                {}
                if against is None
                else {
                    "ns_whole": against.nanoseconds.tolist(),
                    "error": [_finite(error) for error in against.errors],
                    "usual_error": [_finite(error) for error in against.usual_errors],
                }
            ),
        },
    }


def page(run: Run) -> bytes:
    """The HTML page."""
    record, against = run.record, run.record.against
    manifest = run.session.manifest
    data = manifest.data
    facts = [("artifact", f"{data['source'].get('name')} for {data['target'].get('name')}"), *summary_rows(run)]
    notes = []
    if not manifest.streams:
        notes.append("No pass `delta` was applied: every frame is computed whole.")
    elif not manifest.keeps_states:
        notes.append(
            "This code computes every frame whole, with the outputs that a streaming program has: its lowering has no lists of pixels."
        )
    return render_stream(
        StreamReport(
            title=f"{run.artifact.name}: {Path(run.source).name}",
            facts=tuple((label.capitalize() if label.islower() else label, value) for label, value in facts),
            shares=tuple(record.shares.tolist()),
            whole=tuple(record.whole.tolist()),
            milliseconds=tuple((record.nanoseconds / 1e6).tolist()),
            whole_milliseconds=() if against is None else tuple((against.nanoseconds / 1e6).tolist()),
            errors=() if against is None else tuple(against.errors.tolist()),
            usual_errors=() if against is None else tuple(against.usual_errors.tolist()),
            layers=tuple(
                StreamLayer(step.name, step.ops, step.family, step.note, step.macs, step.positions, step.share) for step in record.steps
            ),
            states=tuple(manifest.state_sizes.items()),
            notes=tuple(notes),
        )
    )


def write_page(path: Path, content: bytes) -> None:
    """In one step. Raises OutputError when the disk refuses."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(f"cannot write {path}: {error.strerror}; choose another --report") from error


def _error(against: Against) -> str:
    at = int(np.argmax(against.errors))
    if not against.errors[at]:
        return "none: the outputs are the same"
    usual = f"99.9th percentile of a frame at most {against.usual_errors.max():.2%}"
    return f"largest {against.errors[at]:.2%} at frame {at}, {usual}, of the output's largest magnitude"


def _ms(nanoseconds: float) -> str:
    return f"{nanoseconds / 1e6:.3g} ms"


def _threads(run: Run) -> str:
    return counted(run.session.threads_used, "thread")


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
