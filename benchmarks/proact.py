"""ProAct beside its baselines: accuracy of two networks under bit flips in all their parameters, bounds included.

Networks: ResNet-20 (CIFAR-10), protected with labelled training images, and MLPerf Tiny's ResNet-8, imported from ONNX and protected
without labels. Methods, each a pass with its default options (the same `max-drop` where a method has one):

    Ranger (clamp)       ranger                      the paper's: clamp to the profiled range, at activations and what follows them
    Ranger (zero)        ranger{above=zero}          a variant: what is out of range becomes 0
    FT-ClipAct           ft-clipact{view=q15.16}     one threshold a layer, by interval search on accuracy under faults in Q15.16
    FitAct               fitact                      one bound a neuron, learned together: 20 epochs, after which they move no more
    ProAct               proact                      one bound a layer, a neuron at the last activation; 6 epochs a layer, last one first
    ProAct, per channel  proact{elsewhere=channel}   effc's extension: one bound a channel elsewhere

Every method gets the same data (fit and selection parts of the training images), and the same weight faults: draw k at a rate flips the
same bits of the same weights in every network (`effc.faultsim.drawing`); bounds are faulty beside that at the same rate, scalar ones too.
Accuracy is the mean over draws on test images, its interval the 95 % interval of the mean over draws. `worse by at most` is the one-sided
95 % limit (Student's, paired by draw) of ProAct's accuracy minus that of the best of the baselines at that rate, chosen on the same draws;
Gaffke's, which assumes nothing about the spread, stands beside it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import resnet20
from benchmarks.harness import Claim, Options, Outcome, data_file, main
from effc.data import Dataset
from effc.evaluate import Score, compare, evaluate
from effc.faultsim import Campaign, CampaignSpec, ProgramSubject, run_campaign, summarise
from effc.faultsim import compare as compare_campaigns
from effc.faultsim.sites import find_sites
from effc.ir import Program
from effc.ir.arrays import to_numpy, to_torch

__all__ = ["METHODS", "SHORT", "measure"]

METHODS = {
    "unprotected": "",
    "Ranger (clamp)": "ranger",
    "Ranger (zero)": "ranger{above=zero}",
    "FT-ClipAct": "ft-clipact{view=q15.16}",
    "FitAct": "fitact",
    "ProAct": "proact",
    "ProAct, per channel": "proact{elsewhere=channel}",
}
OURS, EXTENSION = "ProAct", "ProAct, per channel"
BASELINES = tuple(name for name in METHODS if name not in (OURS, EXTENSION))
SHORT = ("Bounds", "Accuracy in Q15.16", "Accuracy in float32", "ProAct against the best baseline")
_RESNET8 = "onnx/mlperf_tiny_resnet8_cifar10.onnx"
_RATES = (1e-7, 1e-6, 3e-6, 1e-5, 3e-5)
_JUDGED = (1e-5, 3e-5)
_VIEWS = {"Q15.16": "q15.16", "float32": "stored"}
_EXTENSION_VIEWS = ("Q15.16",)
_DRAWS, _QUICK_DRAWS = 200, 2
_IMAGES, _QUICK_IMAGES = 200, 64
_TRAINING, _QUICK_TRAINING = None, 400
_QUICK = {"fitact": "fitact{epochs=1}", "proact": "proact{epochs=1}", "ranger": "ranger", "": ""}
_CLEAN_DROP, _MARGIN, _MINUTES = 0.005, 0.01, 15.0


@dataclass(frozen=True)
class _Network:
    """What is protected: the program, the data that passes see, and test images with labels."""

    name: str
    program: Program
    fit: Dataset
    selection: Dataset
    test: Dataset


@dataclass(frozen=True)
class _Protected:
    program: Program
    minutes: float
    correct: Score


def measure(options: Options) -> Outcome:
    """See the module's docstring."""
    outcome = Outcome()
    torch.set_num_threads(options.threads)
    chosen = options.more.get("network")
    readers = {"ResNet-20": _resnet20, "ResNet-8": _resnet8}
    for name, read in readers.items():
        if chosen not in (None, name) or (options.quick and name != "ResNet-8"):
            continue
        if not resnet20.is_there() or data_file(_RESNET8) is None:
            outcome.skip(name, f"cifar10/ or {_RESNET8} is missing in $EFFC_DATA")
            continue
        with tempfile.TemporaryDirectory() as scratch:
            work = Path(options.more.get("work") or scratch) / (f"{name}-quick" if options.quick else name)
            _network(outcome, options, read(options), work)
    return outcome


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--work", type=Path, help="keep protected networks and campaigns here; the same run goes on from there")
    parser.add_argument("--skip", action="append", default=[], choices=list(METHODS), help="leave a method out")
    parser.add_argument("--view", choices=list(_VIEWS), help="only in this number view")
    parser.add_argument("--network", choices=["ResNet-20", "ResNet-8"], help="only this one")


def _resnet20(options: Options) -> _Network:
    fit, selection = resnet20.images(part="train").split(0.8, 0)
    return _Network("ResNet-20", resnet20.program(), fit, selection, resnet20.images())


def _resnet8(options: Options) -> _Network:
    from effc.frontends import load_program

    file = data_file(_RESNET8)
    assert file is not None
    program = load_program(file)
    (key,) = (value.name for value in program.interface.inputs)

    def read(part: str, count: int | None) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        path = data_file(resnet20.FILES[part])
        assert path is not None
        with np.load(path) as arrays:
            pixels = arrays["x"][:count].transpose(0, 3, 1, 2).astype(np.float32)  # it takes 0 to 255
            return np.ascontiguousarray(pixels), arrays["y"][:count].astype(np.int64)

    pixels, _ = read("train", _QUICK_TRAINING if options.quick else _TRAINING)
    fit, selection = Dataset({key: pixels}).split(0.8, 0)  # no labels
    images, labels = read("test", None)
    return _Network("ResNet-8", program, fit, selection, Dataset({key: images}, labels))


def _network(outcome: Outcome, options: Options, network: _Network, work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    methods = {name: spec for name, spec in METHODS.items() if not options.quick or spec in _QUICK}
    images = network.test.take(_QUICK_IMAGES if options.quick else _IMAGES)
    draws = _QUICK_DRAWS if options.quick else _DRAWS
    for view, spelled in _VIEWS.items():
        if options.more.get("view") not in (None, view):
            continue
        protected, campaigns = {}, {}
        for name, spec in methods.items():
            print(f"proact: {network.name}, {view}, {name} ...", file=sys.stderr)
            if name in options.more.get("skip", ()) or (name == EXTENSION and view not in _EXTENSION_VIEWS):
                continue
            chosen = _QUICK[spec] if options.quick else spec
            protected[name] = _protect(network, chosen, work)
            settings = CampaignSpec(view=spelled, rates=_RATES, draws=draws, jobs=options.threads, batch=min(200, len(images)))
            campaigns[name] = run_campaign(
                ProgramSubject(protected[name].program, name), images, settings, work / f"{spelled}-{_slug(name)}"
            )
        if view == next(iter(_VIEWS)):
            _bounds(outcome, network, protected)
        _accuracies(outcome, network.name, view, campaigns)
        _against_best(outcome, network.name, view, campaigns, judged=not options.quick)


def _protect(network: _Network, spec: str, work: Path) -> _Protected:
    """The program after a pass, made now or kept by an earlier run on the same data; its minutes are those of a whole run."""
    from effc.ir.storage import load_program_bytes, save_program
    from effc.passes import Context, Pipeline, parse_passes

    data = network.fit.sha256[:8]
    file = work / f"{_slug(spec) or 'unprotected'}-{data}.pt2"
    took = file.with_suffix(".minutes")  # written last
    if not took.exists():
        context = Context(network.fit, network.selection)
        start = time.monotonic()
        program = Pipeline(parse_passes(spec))(network.program, context)
        minutes = (time.monotonic() - start) / 60
        file.write_bytes(save_program(program))
        file.with_suffix(".log").write_text("".join(f"{one.site}: {one.why}\n" for one in context.decisions))
        took.write_text(repr(minutes))
    program = load_program_bytes(file.read_bytes())
    return _Protected(program, float(took.read_text()), evaluate(lambda given: _run(program, given), network.test, "top1"))


def _run(program: Program, given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: to_numpy(value) for name, value in program.run({name: to_torch(one) for name, one in given.items()}).items()}


def _bounds(outcome: Outcome, network: _Network, protected: Mapping[str, _Protected]) -> None:
    """Clean accuracy, what is stored, and how long it took."""
    weights = sum(tensor.numel() * tensor.element_size() for tensor in network.program.tensors.values())
    for name, one in protected.items():
        there = [site for site in find_sites(one.program) if site.kind == "bound"]
        size = sum(site.elements * 4 for site in there)
        change = compare(protected["unprotected"].correct, one.correct)
        outcome.rows.append(
            {
                "table": "Bounds",
                "network": network.name,
                "method": name,
                "clean top-1": f"{one.correct.value:.2%}",
                "drop": f"{100 * change.drop:.2f} points",
                "interval": f"{100 * change.low:.2f} to {100 * change.high:.2f}",
                "bytes of bounds": size,
                "of the parameters": f"{size / weights:.2%}",
                "minutes": f"{one.minutes:.1f}",
            }
        )
        if name in (OURS, EXTENSION):
            outcome.claims.append(Claim(f"{network.name}: {name}: drop of clean top-1 on test images", change.drop, _CLEAN_DROP, "at most"))
            outcome.claims.append(Claim(f"{network.name}: {name}: minutes of training", one.minutes, _MINUTES, "at most"))


def _accuracies(outcome: Outcome, network: str, view: str, campaigns: Mapping[str, Campaign]) -> None:
    for name, campaign in campaigns.items():
        row: dict[str, Any] = {"table": f"Accuracy in {view}", "network": network, "method": name}
        for group in summarise(campaign).groups:
            assert group.accuracy is not None
            row[f"{group.rate:g}"] = f"{group.accuracy.value:.1%} ({group.accuracy.low:.1%} to {group.accuracy.high:.1%})"
        outcome.rows.append(row)


def _against_best(outcome: Outcome, network: str, view: str, campaigns: Mapping[str, Campaign], judged: bool) -> None:
    """ProAct, and its extension, beside the baseline that is best at a rate."""
    for ours in (name for name in (OURS, EXTENSION) if name in campaigns):
        pairs = {name: compare_campaigns(campaigns[name], campaigns[ours]).rates for name in BASELINES if name in campaigns}
        for index, rate in enumerate(_RATES):
            best = max(pairs, key=lambda name: pairs[name][index].first)
            pair = pairs[best][index]
            outcome.rows.append(
                {
                    "table": "ProAct against the best baseline",
                    "network": network,
                    "view": view,
                    "method": ours,
                    "rate": f"{rate:g}",
                    "best baseline": best,
                    "points better": f"{100 * pair.difference:.1f}",
                    "interval": f"{100 * pair.student.low:.1f} to {100 * pair.student.high:.1f}",
                    "worse by at most": f"{-100 * pair.student.lower_limit:.1f}",
                    "by Gaffke's bound": f"{-100 * pair.gaffke.lower_limit:.1f}",
                    "draws": pair.draws,
                }
            )
            if view == "Q15.16" and rate in _JUDGED and ours == OURS and judged:
                what = f"{network}: ProAct against {best} at {rate:g} in Q15.16: the limit of the paired difference"
                outcome.claims.append(Claim(what, pair.student.lower_limit, -_MARGIN, "at least"))


def _slug(text: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in text.lower()).strip("-")


if __name__ == "__main__":
    sys.exit(main(measure, add_arguments=_add_arguments))
