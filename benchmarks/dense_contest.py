"""One network at one setting: effc, its peers and the processor's peak in alternating blocks, as rows of a table."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import fma_peak
from benchmarks.dense_figures import Setting, blocks_for, share_of_peak
from benchmarks.dense_networks import Network
from benchmarks.dense_prepare import ARTIFACT, ONNX
from effc.compiler.peers import peer_contender
from effc.errors import EffcError
from effc.runtime.bench import Comparison, Contender, Timing, artifact_contender, compare_engines, contender_arguments

__all__ = ["ENGINES", "Contest", "Prepared", "contest"]

ENGINES = ("onnxruntime", "openvino", "torch", "torch_compile")
_MODULE_ENGINES = {"torch": (), "torch_compile": ("--compiled",)}  # those that run a module as it is, with options of eager_worker


@dataclass(frozen=True)
class Prepared:
    """A network that `dense_prepare` compiled.

    Attributes:
        folder: with the artifact and the file for the peers.
        inputs: name, shape and dtype of each.
        macs: multiply-accumulates of the plan; None on the virtual machine.
        thread_seconds: of one call as the compiler measured it, times its threads: how long a call will take, roughly.
    """

    folder: Path
    inputs: Sequence[Mapping[str, Any]]
    macs: int | None
    thread_seconds: float


@dataclass
class Contest:
    """What came out: rows without a table's name, the ratio by engine, the settings that engines reported."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Mapping[str, Any]] = field(default_factory=dict)


def contest(network: Network, setting: Setting, prepared: Prepared, engines: Sequence[str], peak: Path | None, *, quick: bool) -> Contest:
    """Time one network. A peer that cannot run it is a row that says why; an error of effc is raised.

    Args:
        network: which.
        setting: threads and batch.
        prepared: what effc and its peers run.
        engines: the peers.
        peak: the loop of `fma_peak`; None to leave out shares.
        quick: short blocks.
    """
    shared = contender_arguments(prepared.inputs, threads=setting.threads)
    contenders = [
        artifact_contender(prepared.folder / ARTIFACT, shared),
        *(_peer(network, engine, prepared.folder / ONNX, shared) for engine in engines),
        *([] if peak is None else [fma_peak.contender(peak, contender_arguments([], threads=setting.threads))]),
    ]
    comparison, lost = _surviving(contenders, engines, prepared.thread_seconds / setting.threads, quick=quick)
    found = Contest()
    ratios = {ratio.other: ratio for ratio in comparison.ratios}
    for timing in comparison.timings:
        row = _row(network.name, timing)
        found.settings[timing.label] = timing.settings
        if timing.label == fma_peak.LABEL:
            row["GFLOP/s"] = fma_peak.operations(timing) / timing.percentile5
        elif timing.label in ratios:
            ratio = ratios[timing.label]
            found.ratios[timing.label] = ratio.value
            row |= {"times effc": ratio.value, "interval": f"{ratio.low:.3g} to {ratio.high:.3g}"}
        elif prepared.macs:
            row |= _work(2 * prepared.macs, comparison)
        found.rows.append(row)
    found.rows += [{"model": network.name, "engine": engine, "failed": why} for engine, why in lost.items()]
    return found


def _peer(network: Network, engine: str, path: Path, shared: Sequence[str]) -> Contender:
    if network.build is not None and engine in _MODULE_ENGINES:
        command = (sys.executable, "-m", "benchmarks.eager_worker", network.name, *_MODULE_ENGINES[engine], *shared)
        return Contender(engine, command)
    return peer_contender(engine, path, shared)


def _surviving(contenders: list[Contender], optional: Sequence[str], call: float, *, quick: bool) -> tuple[Comparison, dict[str, str]]:
    """The comparison without the peers that cannot take part, and why they cannot. Errors name their engine first."""
    blocks, lost = blocks_for(call, quick=quick), {}
    while True:
        try:
            running = [contender for contender in contenders if contender.label not in lost]
            done = compare_engines(running, blocks=blocks.count, block_seconds=blocks.seconds, warm_up_seconds=blocks.warm_up)
        except EffcError as error:
            engine = str(error).partition(":")[0].partition(" ")[0]
            if engine not in optional or engine in lost:
                raise
            lost[engine] = str(error)[:300]
        else:
            return done, lost


def _row(name: str, timing: Timing) -> dict[str, Any]:
    micro = {"median us": timing.median, "p5 us": timing.percentile5, "p95 us": timing.percentile95}
    return {"model": name, "engine": timing.label, **{key: value / 1000 for key, value in micro.items()}, "calls": timing.calls}


def _work(work: int, comparison: Comparison) -> dict[str, float]:
    """Operations a second of the first contender, effc, and their share of the peak."""
    found = {"GFLOP/s": work / comparison.timings[0].median}
    for timing, bursts in zip(comparison.timings, comparison.durations, strict=True):
        if timing.label == fma_peak.LABEL:
            found["of peak"] = share_of_peak(work, comparison.durations[0], fma_peak.operations(timing), bursts)
    return found
