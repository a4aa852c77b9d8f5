"""A network as the streaming benchmark compiles and runs it: its dense artifact, its streaming ones, and all outputs on a clip."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.clips import Frames
from benchmarks.harness import Options
from benchmarks.models import onnxruntime_reference
from benchmarks.stream_networks import StreamNetwork
from effc.compiler import compile_model
from effc.compiler.peers import peer_contender
from effc.passes import parse_passes
from effc.runtime import FrameActivity, Stream, load, open_artifact
from effc.runtime.bench import Comparison, artifact_contender, compare_engines, contender_arguments

__all__ = ["DENSE", "PEER", "STREAMING", "Prepared", "Run", "difference", "prepare", "run", "time_engines"]

Arrays = Mapping[str, np.ndarray[Any, Any]]

STREAMING, DENSE, PEER = "effc, delta", "effc, dense", "onnxruntime"
_CLEAN = "eliminate-dead,fold-constants,fold-batch-norm"


@dataclass(frozen=True)
class Prepared:
    """A network on disk, and its fastest dense form.

    Attributes:
        network: which.
        folder: where everything is.
        model: what peers run.
        dense: the artifact without `delta`; Winograd's algorithm where it is faster.
        input: the name of its input.
    """

    network: StreamNetwork
    folder: Path
    model: Path
    dense: Path
    input: str

    def compiled(self, label: str, passes: str, fitting: Frames) -> Path:
        """A streaming artifact, fitted on prepared frames; that of an earlier run where the folder holds one with these passes."""
        path, specs = self.folder / label, f"{_CLEAN},{passes}"
        if not _holds(path, specs):
            print(f"stream: {self.network.name}: compiling {label} ...", file=sys.stderr)
            compile_model(self.model, path, passes=specs, data={"x": fitting})
        return path

    def reference(self, frames: Frames) -> list[Arrays]:
        """The dense network's outputs: onnxruntime without optimisations, frame by frame."""
        answer = onnxruntime_reference(self.model)
        return [answer({self.input: frame[None]}) for frame in frames]


@dataclass(frozen=True)
class Run:
    """A clip through a stream: what came out of every frame, and how much of it was computed."""

    outputs: list[Arrays]
    activities: list[FrameActivity]

    @property
    def share(self) -> float:
        """Of the multiply-accumulates of a dense frame, over the frames after the first."""
        return float(np.mean([one.share for one in self.activities[1:]]))


def _holds(path: Path, passes: str) -> bool:
    """Whether an artifact there was compiled with these passes."""
    return path.is_dir() and list(open_artifact(path).manifest.data["passes"]) == [one.spec for one in parse_passes(passes)]


def prepare(network: StreamNetwork, folder: Path) -> Prepared:
    """Write the network and compile it without `delta`."""
    model, dense = folder / "model.onnx", folder / "dense"
    if not _holds(dense, _CLEAN):
        network.write(model)
        compile_model(model, dense, passes=_CLEAN)
    (value,) = load(dense).inputs
    return Prepared(network, folder, model, dense, value.name)


def run(artifact: Path, frames: Frames, threads: int, *, whole: bool = False) -> Run:
    """Feed prepared frames to a stream from a reset; with `whole`, reset it before every frame: the artifact's own dense code."""
    stream = Stream(load(artifact, threads=threads))
    (spec,) = stream.inputs
    outputs, activities = [], []
    for frame in frames:
        if whole:
            stream.reset()
        outputs.append(stream.run({spec.name: frame[None]}))
        activities.append(stream.activity())
    return Run(outputs, activities)


def difference(got: Sequence[Arrays], wanted: Sequence[Arrays]) -> int:
    """Frames in which any bit differs."""
    pairs = zip(got, wanted, strict=True)
    return sum(any(one[name].tobytes() != other[name].tobytes() for name in other) for one, other in pairs)


def time_engines(prepared: Prepared, artifact: Path, frames: Frames, options: Options, *, peer: bool = True) -> Comparison:
    """A streaming artifact against the dense one and onnxruntime, on a clip: every engine gets all frames in order, over and over."""
    samples = prepared.folder / "frames.npz"
    np.savez(samples, allow_pickle=False, **{prepared.input: frames})
    inputs = [{"name": prepared.input, "shape": [1, *frames.shape[1:]], "dtype": "float32"}]
    shared = contender_arguments(inputs, threads=options.threads, samples=samples)
    contenders = [artifact_contender(artifact, shared, STREAMING), artifact_contender(prepared.dense, shared, DENSE)]
    if peer:
        contenders.append(peer_contender(PEER, prepared.model, shared))
    if options.quick:
        return compare_engines(contenders, blocks=4, block_seconds=0.2, warm_up_seconds=0.3)
    return compare_engines(contenders, blocks=20, block_seconds=0.5, warm_up_seconds=1)
