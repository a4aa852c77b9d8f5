"""Streams of frames: what computing only what changed gains on real video, and what it costs in accuracy.

Three trained networks see a recorded street, 240 x 320 (`benchmarks.clips`, `benchmarks.stream_networks`). The pass `delta` fits its
thresholds on the clip, and everything is measured on that clip, from a reset: errors on frames that it was not fitted on can be larger
(docs/streaming.md says by how much here).

Time is of a frame, in one comparison on the same frames: effc's stream, effc's fastest dense artifact (Winograd's algorithm allowed) and
onnxruntime with all optimisations on the original network, initialisers taken off the graph's inputs.

Errors are of the stream against the dense network in onnxruntime without optimisations (`benchmarks.stream_errors`): a maximum, never a
mean. Beside it stands what somebody gets who computes whole frames, only not all of them, and shows the last one meanwhile, for the same
number of multiply-accumulates.

`exact` is compared with its own dense code bit for bit, and timed on the street and on a camera that pans, where every pixel changes and
nothing can be gained.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import clips
from benchmarks.clips import Frames
from benchmarks.detections import SAME, SCORE, agreement, faces
from benchmarks.harness import Claim, Options, Outcome, main
from benchmarks.stream_errors import held, spread
from benchmarks.stream_networks import NETWORKS, StreamNetwork
from benchmarks.stream_run import DENSE, PEER, STREAMING, Prepared, Run, difference, prepare, run, time_engines
from effc.runtime import open_artifact
from effc.runtime.bench import Comparison

__all__ = ["SHORT", "measure"]

TIMES, ERRORS, FACES, EXACT, LAYERS = "Time of a frame", "Work and error", "Faces", "Exact mode", "What was computed of each layer"
SHORT = TIMES, ERRORS, FACES, EXACT  # the tables for a README

FRAMES, QUICK_FRAMES = 192, 24
MAX_ERROR = 0.06
LOSSY, LOSSLESS = f"delta{{mode=truncate,max-error={MAX_ERROR}}}", "delta{mode=exact}"
QUICK_LOSSY = "delta{mode=truncate,threshold=0.01}"  # nothing to search for
OVER_PEER, OVER_DENSE = 1.5, 2.0  # times as fast, on the street
OF_HELD = 0.5  # largest error, of that of holding frames
F1 = 0.98
EXACT_COST, PAN_COST = 1.05, 1.10  # time, of dense
VIDEO = ("street", "noise 1", "noise 2")


def measure(options: Options) -> Outcome:
    """All networks on all clips; UltraFace on the street in a quick run."""
    outcome, wanted, work = Outcome(), options.more.get("network"), options.more.get("work")
    for network in NETWORKS[:1] if options.quick else [one for one in NETWORKS if wanted in (None, one.name)]:
        why = network.missing() or clips.missing("street")
        if why:
            outcome.skip(network.name, why)
            continue
        print(f"stream: {network.name} ...", file=sys.stderr)
        try:
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch) if work is None else Path(work) / network.name
                folder.mkdir(parents=True, exist_ok=True)
                _network(outcome, prepare(network, folder), options)
        except Exception as error:  # noqa: BLE001 - one network that fails is a row of its own, and the others are still measured
            outcome.rows.append({"model": network.name, "failed": f"{type(error).__name__}: {str(error)[:300]}"})
            outcome.claims.append(Claim(f"{network.name}: compiled, run and compared", float("nan"), 1, "at least"))
    return outcome


def _network(outcome: Outcome, prepared: Prepared, options: Options) -> None:
    left = options.more.get("skip") or ()
    for name in VIDEO if prepared.network.detects and not options.quick else VIDEO[:1]:
        if name in left:
            outcome.skip(f"{prepared.network.name}, {name}", "asked for with --skip")
        else:
            _video(outcome, prepared, name, options)
    _exact(outcome, prepared, options)
    if options.quick:
        return
    _pan(outcome, prepared, options)
    if prepared.network.detects:
        _faces(outcome, prepared, options)


def _frames(network: StreamNetwork, clip: str, options: Options) -> Frames:
    """A clip as the network takes it."""
    return network.prepared(clips.clip(clip, QUICK_FRAMES if options.quick else FRAMES))


def _video(outcome: Outcome, prepared: Prepared, clip: str, options: Options) -> None:
    """Time, work and error of the lossy stream, and its layers."""
    name = prepared.network.name
    test = _frames(prepared.network, clip, options)
    path = prepared.compiled(f"delta on {clip}", QUICK_LOSSY if options.quick else LOSSY, test)
    if open_artifact(path).manifest.streams:
        streamed = run(path, test, options.threads)
        _errors(outcome, name, clip, streamed, prepared.reference(test))
        if clip == VIDEO[0]:
            outcome.rows += _layers(name, clip, streamed)
    else:  # no layer is predicted to gain: every frame is computed whole, without an error, and the times below say what that costs
        outcome.rows.append({"table": ERRORS, "model": name, "clip": clip, "MACs": 1.0, "max error": "all layers dense"})
    ratios = _times(outcome, name, clip, time_engines(prepared, path, test, options))
    outcome.claims.append(Claim(f"{name}, {clip}: times as fast as onnxruntime", ratios[PEER], OVER_PEER, "at least"))
    outcome.claims.append(Claim(f"{name}, {clip}: times as fast as effc's fastest dense", ratios[DENSE], OVER_DENSE, "at least"))


def _errors(outcome: Outcome, name: str, clip: str, streamed: Run, dense: list[Any]) -> None:
    ours, baseline = spread(streamed.outputs, dense), spread(held(dense, streamed.share), dense)
    row: dict[str, Any] = {"table": ERRORS, "model": name, "clip": clip, "MACs": streamed.share}
    row |= {"max error": ours.most, "99.9 %": ours.high, "mean": ours.mean}
    row |= {"max error, frames held": baseline.most, "99.9 %, held": baseline.high, "mean, held": baseline.mean}
    outcome.rows.append(row | {"frames computed whole": sum(one.whole for one in streamed.activities)})
    outcome.claims.append(Claim(f"{name}, {clip}: largest error", ours.most, MAX_ERROR, "at most"))
    share = ours.most / baseline.most if baseline.most else float("nan")
    outcome.claims.append(Claim(f"{name}, {clip}: largest error / that of holding frames for the same work", share, OF_HELD, "at most"))


def _layers(name: str, clip: str, streamed: Run) -> list[dict[str, Any]]:
    """The share of positions that was computed of every step that multiplies, over the frames after the first."""
    rows = []
    for number, step in enumerate(streamed.activities[0].steps):
        if not step.macs:
            continue
        shares = [one.steps[number].share for one in streamed.activities[1:]]
        row: dict[str, Any] = {"table": LAYERS, "model": name, "clip": clip, "layer": step.name, "kernel": step.family, "MACs": step.macs}
        rows.append(row | {"lists": step.is_sparse, "computed": float(np.mean(shares)), "most": float(np.max(shares))})
    return rows


def _times(outcome: Outcome, name: str, clip: str, comparison: Comparison, table: str = TIMES) -> dict[str, float]:
    """Rows of all engines; how many times as fast as each of the others the stream is."""
    ratios = {ratio.other: ratio for ratio in comparison.ratios}
    for timing in comparison.timings:
        row: dict[str, Any] = {"table": table, "model": name, "clip": clip, "engine": timing.label}
        row |= {"median ms": timing.median / 1e6, "p5 ms": timing.percentile5 / 1e6, "p95 ms": timing.percentile95 / 1e6}
        if timing.label in ratios:
            ratio = ratios[timing.label]
            row |= {"times effc": ratio.value, "interval": f"{ratio.low:.3g} to {ratio.high:.3g}"}
        outcome.rows.append(row | {"settings": timing.settings})
    return {label: ratio.value for label, ratio in ratios.items()}


def _exact(outcome: Outcome, prepared: Prepared, options: Options) -> None:
    """Bit for bit what its own dense code computes, and hardly slower than the fastest dense where nothing can be left out."""
    name = prepared.network.name
    path = prepared.compiled(f"exact on {VIDEO[0]}", LOSSLESS, _frames(prepared.network, VIDEO[0], options))
    for clip in VIDEO[:1] if options.quick else (VIDEO[0], "pan"):
        test = _frames(prepared.network, clip, options)
        row: dict[str, Any] = {"table": EXACT, "model": name, "clip": clip}
        other = 0  # where no layer is predicted to gain, nothing streams: every frame is whole
        if open_artifact(path).manifest.streams:
            streamed, whole = run(path, test, options.threads), run(path, test, options.threads, whole=True)
            other = difference(streamed.outputs, whole.outputs)
            row |= {"MACs": streamed.share, "from onnxruntime": spread(streamed.outputs, prepared.reference(test)).most}
        else:
            row |= {"MACs": 1.0, "from onnxruntime": "all layers dense"}
        cost = 1 / _times(outcome, name, f"{clip}, exact", time_engines(prepared, path, test, options, peer=False))[DENSE]
        outcome.rows.append(row | {"frames that differ": other, "of": len(test), "time / fastest dense": cost})
        outcome.claims.append(Claim(f"{name}, {clip}, exact: frames that differ from its dense code", other, 0, "at most"))
        outcome.claims.append(Claim(f"{name}, {clip}, exact: time / fastest dense", cost, EXACT_COST, "at most"))


def _pan(outcome: Outcome, prepared: Prepared, options: Options) -> None:
    """A camera that moves, with thresholds for one that does not: everything changes, and the stream must not lose much."""
    name, clip = prepared.network.name, "pan"
    test = _frames(prepared.network, clip, options)
    artifact = prepared.folder / f"delta on {VIDEO[0]}"
    cost = 1 / _times(outcome, name, clip, time_engines(prepared, artifact, test, options, peer=False))[DENSE]
    outcome.claims.append(Claim(f"{name}, {clip}: time / fastest dense", cost, PAN_COST, "at most"))


def _faces(outcome: Outcome, prepared: Prepared, options: Options) -> None:
    """Detections of the stream against those of the dense network, where there is a face to find."""
    name, clip = prepared.network.name, "face"
    why = clips.missing(clip)
    if why:
        outcome.skip(f"{name}, {clip}", why)
        return
    test = _frames(prepared.network, clip, options)
    path = prepared.compiled(f"delta on {clip}", LOSSY, test)
    dense, streamed = prepared.reference(test), run(path, test, options.threads)
    _errors(outcome, name, clip, streamed, dense)
    wanted = [faces(frame) for frame in dense]
    for label, outputs in ((STREAMING, streamed.outputs), ("frames held", held(dense, streamed.share))):
        found = agreement(zip([faces(frame) for frame in outputs], wanted, strict=True))
        row = {"table": FACES, "model": name, "method": label, "MACs": streamed.share, "faces": sum(map(len, wanted)), "F1": found.f1}
        outcome.rows.append(row | {"found": found.found, "missed": found.missed, "invented": found.invented})
        if label == STREAMING:
            claim = f"{name}, {clip}: F1 of detections against dense, score {SCORE}, overlap {SAME}"
            outcome.claims.append(Claim(claim, found.f1, F1, "at least"))
    ratios = _times(outcome, name, clip, time_engines(prepared, path, test, options))
    outcome.claims.append(Claim(f"{name}, {clip}: times as fast as onnxruntime", ratios[PEER], OVER_PEER, "at least"))


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--network", choices=[one.name for one in NETWORKS], help="this network alone")
    parser.add_argument("--skip", action="append", choices=VIDEO[1:], help="not this clip: each costs minutes of searching")
    parser.add_argument("--work", help="a folder that keeps compiled artifacts, to be used again with the same passes")


if __name__ == "__main__":
    sys.exit(main(measure, add_arguments=_arguments))
