"""What bit flips do to the trained ResNet-20 (CIFAR-10), beside published numbers: one at a time, at bit error rates, and the worst ones.

1. *Single flips* in float32 weights, stratified by bit, one test image per fault. Published (dnn-benchmarks, Politecnico di Torino; 16,627
   faults x 10,000 test images): 1.276 % critical, +- 0.159 points clustered by fault; 97.96 % of it from bit 30. Then the layers: bit 30
   alone, by layer.
2. *Bit error rates* over all parameters, as float32 and in Q15.16: accuracy on the test images, 100 draws a rate.
3. *The worst flips*: progressive bit search in int8 weights, of the bundled digits network and of ResNet-20, beside random flips.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import REPOSITORY, Claim, Options, Outcome, main
from benchmarks.resnet20 import images, is_there, program
from effc.data import Dataset, load_dataset
from effc.faultsim import CampaignSpec, ProgramSubject, Summary, run_campaign, summarise
from effc.faultsim.sites import find_sites
from effc.ir import Program

__all__ = ["SHORT", "layers", "measure"]

SHORT = ("Single flips", "Layers", "Accuracy at bit error rates", "Worst flips")
_PUBLISHED, _PUBLISHED_HALF, _PUBLISHED_BIT30 = 0.01276, 0.00159, 0.9796
_PUBLISHED_FAULTS = 16627
_PUBLISHED_LAYERS = {"linear": 0.0478, "layer1.1.conv2": 0.0387, "conv1": 0.0355, "layer1.0.conv2": 0.00078}
_RATES = (1e-7, 3e-7, 1e-6, 3e-6, 1e-5, 3e-5)
_DRAWS, _QUICK_DRAWS = 100, 4
_FLIPS, _QUICK_FLIPS = 20, 4
_SHOWN = (1, 2, 3, 5, 7, 10, 15, 20)  # rows that the README has


def measure(options: Options) -> Outcome:
    """See the module's docstring."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory() as work:
        if is_there():
            _single(outcome, options, Path(work))
            _rates(outcome, options, Path(work))
        else:
            outcome.skip("ResNet-20", "cifar10/ is missing in $EFFC_DATA")
        _worst(outcome, options)
    return outcome


def _campaign(folder: Path, data: Dataset, **values: Any) -> tuple[Summary, float]:
    start = time.perf_counter()
    campaign = run_campaign(ProgramSubject(program(), "resnet20"), data, CampaignSpec(**values), folder)
    return summarise(campaign), time.perf_counter() - start


def _single(outcome: Outcome, options: Options, work: Path) -> None:
    precision = 0.3 if options.quick else 0.05
    summary, seconds = _campaign(
        work / "single", images(), where=("weight",), stratify=("bit",), precision=precision, images_per_fault=1, jobs=options.threads
    )
    critical = summary.overall["critical"]
    total = sum(cell.population * cell.critical.value for cell in summary.bits)
    bit30 = sum(cell.population * cell.critical.value for cell in summary.bits if cell.bit == 30) / total
    outcome.rows += [
        {
            "table": "Single flips",
            "measured by": "effc, 1,017 test images",
            "critical": f"{critical.value:.3%}",
            "interval": f"{critical.low:.3%} to {critical.high:.3%}",
            "from bit 30": f"{bit30:.2%}",
            "faults": critical.units,
            "s": seconds,
        },
        {
            "table": "Single flips",
            "measured by": "published, 10,000 test images",
            "critical": f"{_PUBLISHED:.3%}",
            "interval": f"{_PUBLISHED - _PUBLISHED_HALF:.3%} to {_PUBLISHED + _PUBLISHED_HALF:.3%}",
            "from bit 30": f"{_PUBLISHED_BIT30:.2%}",
            "faults": _PUBLISHED_FAULTS,
        },
    ]
    apart = max(critical.low - (_PUBLISHED + _PUBLISHED_HALF), (_PUBLISHED - _PUBLISHED_HALF) - critical.high)
    outcome.claims.append(Claim("gap between the intervals of the critical share, measured and published", max(0.0, apart), 0.0, "at most"))
    outcome.claims.append(Claim("share of the critical ones from bit 30", bit30, 0.95, "at least"))
    layers(outcome, options, work)


def layers(outcome: Outcome, options: Options, work: Path) -> None:
    """The same number of faults in bit 30 of every layer. The published list has so few in most layers that it gives no order of them."""
    weights = find_sites(program(), where=("weight",))
    total = sum(site.elements for site in weights)
    found: list[tuple[float, dict[str, Any]]] = []
    for number, site in enumerate(weights):
        summary, _ = _campaign(
            work / f"layer{number}",
            images(),
            where=("weight",),
            layers=(site.layer,),
            bits="30",
            faults=20 if options.quick else 300,
            images_per_fault=1,
        )
        critical = summary.overall["critical"]
        published = _PUBLISHED_LAYERS.get(site.layer)
        row = {
            "table": "Layers",
            "layer": site.layer,
            "critical, of bit 30": f"{critical.value:.1%}",
            "interval": f"{critical.low:.1%} to {critical.high:.1%}",
            "/ 32": f"{critical.value / 32:.2%}",
            "faults": critical.units,
            "published, of all bits": "" if published is None else f"{published:.2%}",
            "faults of it in bit 30, about": f"{_PUBLISHED_FAULTS * site.elements / total / 32:.1f}",
        }
        found.append((-critical.value, row))
    outcome.rows += [row for _, row in sorted(found, key=lambda one: one[0])]


def _rates(outcome: Outcome, options: Options, work: Path) -> None:
    draws = _QUICK_DRAWS if options.quick else _DRAWS
    data = images(200) if options.quick else images()
    for view in ("stored", "q15.16"):
        summary, seconds = _campaign(work / view, data, view=view, rates=_RATES, draws=draws, jobs=options.threads)
        assert summary.golden_accuracy is not None
        for group in summary.groups:
            assert group.accuracy is not None
            outcome.rows.append(
                {
                    "table": "Accuracy at bit error rates",
                    "view": "float32" if view == "stored" else "Q15.16",
                    "rate": f"{group.rate:g}",
                    "without faults": f"{summary.golden_accuracy.value:.2%}",
                    "accuracy": f"{group.accuracy.value:.2%}",
                    "interval": f"{group.accuracy.low:.2%} to {group.accuracy.high:.2%}",
                    "5 %": f"{group.accuracy_p5:.2%}",
                    "least": f"{group.accuracy_min:.2%}",
                    "draws": group.injections,
                    "without a flip": group.empty,
                    "s of the sweep": seconds,
                }
            )
        low, high = summary.groups[0], summary.groups[-1]
        assert low.accuracy is not None
        assert high.accuracy is not None
        name = "float32" if view == "stored" else "Q15.16"
        outcome.claims.append(
            Claim(f"{name}: accuracy lost from the lowest rate to the highest", low.accuracy.value - high.accuracy.value, 0.3, "at least")
        )


def _worst(outcome: Outcome, options: Options) -> None:
    from effc.frontends import load_program

    digits = load_program(REPOSITORY / "examples" / "digits.onnx")
    attack, held_out = (
        load_dataset(REPOSITORY / "examples" / f"digits_{name}.npz", digits.interface.inputs) for name in ("calibration", "test")
    )
    _search(outcome, options, "digits", digits, attack.take(128), held_out)
    if is_there() and not options.quick:  # some minutes
        _search(outcome, options, "ResNet-20", program(), images(128, "train"), images())


def _search(outcome: Outcome, options: Options, name: str, network: Program, attack: Dataset, held_out: Dataset) -> None:
    from effc.faultsim.bit_search import SearchSpec, search
    from effc.faultsim.random_flips import random_flips

    spec = SearchSpec(view="int8", flips=_QUICK_FLIPS if options.quick else _FLIPS)
    start = time.perf_counter()
    found = search(network, attack, held_out, spec, seed=0)
    seconds = time.perf_counter() - start
    beside = random_flips(network, held_out, spec, 2 if options.quick else 20, seed=0)
    outcome.rows.append({"table": "Worst flips", "model": name, "flips": 0, "searched": f"{found.quantised_accuracy:.2%}"})
    for step, level in zip(found.steps, beside.levels, strict=False):
        outcome.rows.append(
            {
                "table": "Worst flips" if step.flip in _SHOWN else "Worst flips, between",
                "model": name,
                "flips": step.flip,
                "searched": f"{step.accuracy:.2%}",
                "random, mean": f"{level.mean:.2%}",
                "random, least": f"{level.minimum:.2%}",
                "last flip": f"{step.tensor} {step.index} bit {step.bit}",
                "s of the search": seconds,
            }
        )
    lost = beside.levels[len(found.steps) - 1].mean - found.steps[-1].accuracy
    outcome.claims.append(Claim(f"{name}: accuracy that searched flips cost more than random ones", lost, 0.3, "at least"))


if __name__ == "__main__":
    sys.exit(main(measure))
