"""Speed of compiled dense networks beside onnxruntime, OpenVINO and torch, with one thread and with all, and their share of the peak.

Every engine has a process of its own on the same processors; blocks alternate; inputs are fresh. `times effc` is the engine's time divided
by effc's (`harness.TIMES_EFFC`). Peers get their best case: the original network at fixed sizes, constants foldable, every optimisation on,
float32 arithmetic (OpenVINO would choose bfloat16 by itself), and torch the module as it is written. effc compiles without passes, as a
user would. GFLOP/s count two operations for each multiply-accumulate of the plan; `of peak` divides them by what fused multiply-adds reach
in blocks between (`fma_peak`). `error` is the largest difference from onnxruntime's outputs, without optimisations, over their largest
magnitude; `of another input` is what the outputs of another input would make it.

Tables: the ratios in short, which is what the README shows; one per setting; what compiling took; the 3x3 layers of ResNet-18
(`dense_layers`); int8 networks; ResNet-18 for AVX2; the settings of the engines. Single rows: `--models resnet18,stage2 --settings 2x1`.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import fma_peak
from benchmarks.dense_child import in_child
from benchmarks.dense_contest import ENGINES, Contest, Prepared, contest
from benchmarks.dense_figures import Setting, default_settings, geometric_mean, parse_settings
from benchmarks.dense_layers import STAGES, TABLE, measure_layers
from benchmarks.dense_networks import NETWORKS, Network
from benchmarks.harness import Claim, Options, Outcome, main
from effc.errors import DataError, MissingDependencyError
from effc.runtime.verify import TOLERANCE

__all__ = ["SHORT", "SUMMARY", "add_arguments", "measure"]

SUMMARY = "Time of one call divided by effc's"
OTHERS = {"int8": f"int8 networks. {SUMMARY}", "avx2": f"ResNet-18 compiled for x86-64-v3 (AVX2). {SUMMARY}"}
COMPILING = "Compiling"
SHORT = (SUMMARY, TABLE, *OTHERS.values())  # the tables that the README shows
QUICK = ("resnet8", "ultraface", "stage2")
DEFAULT_ENGINES = ENGINES[:3]
RIVAL = "onnxruntime"  # the peer of the claims
MEAN_BAR, LEAST_BAR, AIM = 1.0, 0.85, 1.0  # of its time divided by effc's
SIZE_BAR = 1.05
LARGEST, COMPILE_SECONDS, COMPILE_GIB = "vgg16", 60.0, 6.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What this benchmark can be asked for beyond the common options."""
    known = ", ".join((*NETWORKS, *STAGES))
    parser.add_argument("--models", help=f"only these, separated by commas: {known}")
    parser.add_argument("--settings", help="THREADSxBATCH, separated by commas (default: 1x1, all threads x1, all threads x8 for CNNs)")
    parser.add_argument("--engines", help=f"peers, separated by commas (default: {','.join(DEFAULT_ENGINES)}; also: {ENGINES[-1]})")


def measure(options: Options) -> Outcome:
    """Everything, or what `--models`, `--settings` and `--engines` leave of it."""
    run = _run_of(options)
    with tempfile.TemporaryDirectory(prefix="effc-dense-") as folder:
        try:
            run.peak = fma_peak.build(Path(folder))
        except MissingDependencyError as error:
            run.outcome.skip(fma_peak.LABEL, str(error))
        for network in run.networks:
            _network(run, network, Path(folder))
        if run.stages:
            if run.peak is None:
                run.outcome.skip("3x3 layers of ResNet-18", "there is no peak to hold them against")
            else:
                _say(f"layers: {', '.join(run.stages)}")
                threads = list(dict.fromkeys(setting.threads for setting in run.settings))
                measure_layers(run.outcome, run.stages, threads, Path(folder), run.peak, quick=options.quick)
    _conclude(run)
    return run.outcome


@dataclass
class _Run:
    """What to measure, and what has been found."""

    networks: list[Network]
    stages: list[str]
    settings: tuple[Setting, ...]
    engines: list[str]
    options: Options
    peak: Path | None = None
    outcome: Outcome = field(default_factory=Outcome)
    ratios: dict[Setting, dict[str, dict[str, float]]] = field(default_factory=dict)  # of dense networks: setting -> engine -> network
    others: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)  # of the others: rows by table and network
    told: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)  # rows about what engines say of themselves


def _run_of(options: Options) -> _Run:
    """Raises DataError for names that are unknown and settings that this machine cannot run."""
    every = (*NETWORKS, *STAGES)
    names = _list(options.more.get("models"), QUICK if options.quick else every, every, "models")
    engines = _list(options.more.get("engines"), DEFAULT_ENGINES[: 2 if options.quick else None], ENGINES, "engines")
    given = options.more.get("settings")
    standard = (Setting(options.threads, 1),) if options.quick else default_settings(options.threads)
    settings = parse_settings(given) if given else standard
    allowed = len(os.sched_getaffinity(0))
    if max(setting.threads for setting in settings) > allowed:
        raise DataError(f"this process may use {allowed} processors, and every thread needs one: give smaller --threads or --settings")
    networks, stages = [NETWORKS[name] for name in names if name in NETWORKS], [name for name in names if name in STAGES]
    run = _Run(networks, stages, settings, engines, options)
    if "openvino" in engines and importlib.util.find_spec("openvino") is None:
        run.outcome.skip("openvino", "is not installed; pip install 'effc[peers]'")
        engines.remove("openvino")
    return run


def _list(given: str | None, default: Sequence[str], known: Sequence[str], what: str) -> list[str]:
    names = [name.strip() for name in given.split(",")] if given else list(default)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise DataError(f"unknown {what}: {', '.join(unknown)}; known: {', '.join(known)}")
    return names


def _network(run: _Run, network: Network, folder: Path) -> None:
    """All settings of one network; its files are removed at the end of each batch, because those of large ones fill a disk."""
    if network.missing():
        run.outcome.skip(network.name, network.missing())
        return
    larger = network.convolutional and network.group == "dense"
    for batch in dict.fromkeys(setting.batch for setting in run.settings):
        settings = [setting for setting in run.settings if setting.batch == batch and (batch == 1 or larger)]
        if not settings:
            continue
        place = folder / network.name
        place.mkdir()
        _say(f"{network.name}: compiling for batch {batch}")
        options = ["--batch", str(batch), "--threads", str(max(setting.threads for setting in settings))]
        made = in_child("benchmarks.dense_prepare", [network.name, str(place), *options])
        _compiled(run, network, batch, made)
        if "failed" not in made:
            prepared = Prepared(place, made["inputs"], made["macs"], made["thread seconds"])
            for setting in settings:
                _setting(run, network, setting, prepared)
        shutil.rmtree(place)


def _compiled(run: _Run, network: Network, batch: int, made: dict[str, Any]) -> None:
    """The row and the claims of one compile."""
    facts = {"failed": made["failed"]} if "failed" in made else made["facts"]
    run.outcome.rows.append({"table": COMPILING, "model": network.name, "batch": batch, **facts})
    if "failed" in made:
        run.outcome.claims.append(Claim(f"{network.name}, batch {batch}: compiles and runs", 0, 1, "at least"))
    elif network.group in ("dense", "avx2"):
        title = f"{network.name}, batch {batch}: error against {RIVAL}, of the largest magnitude"
        run.outcome.claims.append(Claim(title, facts["error"], TOLERANCE, "at most"))
        if batch == 1 and "rest of weights" in facts:
            title = f"{network.name}: code and parameters of the weights, Winograd's copies and padding apart"
            run.outcome.claims.append(Claim(title, facts["rest of weights"], SIZE_BAR, "at most"))
    if network.name == LARGEST and batch == 1 and "failed" not in made:
        run.outcome.claims.append(Claim(f"{LARGEST}: seconds to compile", facts["compile s"], COMPILE_SECONDS, "at most"))
        run.outcome.claims.append(Claim(f"{LARGEST}: GiB held while it compiles", facts["peak GiB"], COMPILE_GIB, "at most"))


def _setting(run: _Run, network: Network, setting: Setting, prepared: Prepared) -> None:
    """The rows of one network at one setting."""
    _say(f"{network.name}: {setting}")
    dense = network.group == "dense"
    engines = run.engines if dense else [RIVAL]
    table = {"dense": "", "int8": "int8 networks, ", "avx2": f"ResNet-18 compiled for {network.target}, "}[network.group] + str(setting)
    peak = run.peak if dense else None
    try:
        found = contest(network, setting, prepared, engines, peak, quick=run.options.quick)
    except Exception as error:  # noqa: BLE001 - one network that fails is a row of its own, and the others are still measured
        run.outcome.rows.append({"table": table, "model": network.name, "failed": f"{type(error).__name__}: {str(error)[:300]}"})
        run.outcome.claims.append(Claim(f"{network.name}, {setting}: runs", 0, 1, "at least"))
        return
    run.outcome.rows += [{"table": table, **row} for row in found.rows]
    _remember(run, network, setting, found)
    if network.group == "int8":
        title = f"aim: {network.name}, {setting}: as fast as {RIVAL} (its time divided by effc's)"
        run.outcome.claims.append(Claim(title, found.ratios.get(RIVAL, math.nan), AIM, "at least"))


def _remember(run: _Run, network: Network, setting: Setting, found: Contest) -> None:
    """Ratios for the means, and who ran with which settings."""
    for engine, ratio in found.ratios.items():
        if network.group == "dense":
            run.ratios.setdefault(setting, {}).setdefault(engine, {})[network.name] = ratio
        else:
            table = OTHERS[network.group]
            row = run.others.setdefault((table, network.name), {"table": table, "model": network.name})
            row[f"{engine}, {setting}"] = ratio
    for engine, settings in found.settings.items():
        told = ", ".join(f"{key} {value}" for key, value in settings.items() if key != "operations")
        row = run.told.setdefault((engine, told), {"table": "Settings of the engines", "engine": engine, "settings": told, "models": ""})
        row["models"] = ", ".join(dict.fromkeys((*filter(None, row["models"].split(", ")), network.name)))


def _conclude(run: _Run) -> None:
    """Means, the claims about them, the short table in front, the engines' settings behind."""
    summary: dict[str, dict[str, Any]] = {}
    for setting, engines in run.ratios.items():
        for engine, ratios in engines.items():
            mean = geometric_mean(ratios.values())
            mean_row = {"model": "geometric mean", "engine": engine, "times effc": mean}
            run.outcome.rows.append({"table": str(setting), **mean_row})
            for name, value in (*ratios.items(), ("geometric mean", mean)):
                summary.setdefault(name, {"table": SUMMARY, "model": name})[f"{engine}, {setting}"] = value
            if engine == RIVAL:
                what = f"{RIVAL}'s time divided by effc's, {setting} (networks: {len(ratios)})"
                run.outcome.claims.append(Claim(f"geometric mean of {what}", mean, MEAN_BAR, "at least"))
                run.outcome.claims.append(Claim(f"smallest of {what}", min(ratios.values()), LEAST_BAR, "at least"))
    last = [summary.pop("geometric mean")] if summary else []
    run.outcome.rows[:0] = [*summary.values(), *last, *run.others.values()]
    run.outcome.rows += run.told.values()


def _say(what: str) -> None:
    """Progress, on stderr: a full run takes a while."""
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the folder of artifacts goes, too
    sys.exit(main(measure, add_arguments=add_arguments))
