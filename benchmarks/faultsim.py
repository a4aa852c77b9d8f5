"""How fast faults are injected, and how soon a campaign has its answer.

1. *Speed.* The same single weight faults in ResNet-20 (CIFAR-10), each tried on the same images by every way to do it: a process for each,
   all on one processor, fault by fault in turns. The plain loop (XOR in place, a whole pass, undo) takes the batch and the memory format
   that are fastest. effc's parts are measured alone, too: late start, early stop, neither, and compiled code (whole passes).
2. *Time to an answer.* Wall time of `effc faultsim --stratify bit --precision 0.1` with one image per fault, against the time that uniform
   faults on 1,000 images each would need for the same precision: so many as the measured variance between faults asks for, times the plain
   loop's time for one.
3. *Coverage.* 500 simulated campaigns with the measured rates as the truth: how often their intervals cover it.
4. *Memory* of a campaign on ResNet-50, 224 x 224.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faultsim_worker import ENGINES
from benchmarks.harness import Claim, Options, Outcome, main
from benchmarks.resnet20 import images, is_there, program

__all__ = ["measure"]

_IMAGES, _QUICK_IMAGES = 1000, 100
_FAULTS, _QUICK_FAULTS = 60, 6
_PRECISION = 0.1
_CAMPAIGNS, _QUICK_CAMPAIGNS = 500, 60
_VARIANCE_FAULTS, _QUICK_VARIANCE_FAULTS = 1200, 320
_UNSEEN = 1e-6
_MEMORY = 4.0  # GiB


def measure(options: Options) -> Outcome:
    """See the module's docstring."""
    outcome = Outcome()
    if not is_there():
        outcome.skip("ResNet-20", "cifar10/ is missing in $EFFC_DATA")
        return outcome
    with tempfile.TemporaryDirectory() as work:
        plain = _speed(outcome, options, Path(work))
        _answer(outcome, options, Path(work), plain)
        if not options.quick:
            _memory(outcome, Path(work))
    return outcome


class _Worker:
    """A process of `benchmarks.faultsim_worker`."""

    def __init__(self, engine: str, work: Path, images: int) -> None:
        command = [sys.executable, "-m", "benchmarks.faultsim_worker", "--engine", engine, "--images", str(images), "--cpu", "0"]
        self._process = subprocess.Popen(
            [*command, "--work", str(work)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.engine = engine
        first = self._read()
        self.settings: Mapping[str, Any] = first["ready"] if first else {}
        self.failed = "" if first else (self._process.stderr.read() if self._process.stderr else "").strip().splitlines()[-1]

    def try_fault(self, number: int) -> Mapping[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"fault": number}) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return dict(json.loads(line)) if line.startswith("{") else {}


def _speed(outcome: Outcome, options: Options, work: Path) -> float:
    """Rows and claims of part 1; seconds that the plain loop takes for a fault."""
    workers = [_Worker(engine, work, _images(options)) for engine in ENGINES]
    for worker in workers:
        if worker.failed:
            outcome.skip(worker.engine, worker.failed)
    workers = [worker for worker in workers if not worker.failed]
    times: dict[str, list[float]] = {worker.engine: [] for worker in workers}
    found: dict[str, list[tuple[int, int]]] = {worker.engine: [] for worker in workers}
    for fault in range(_QUICK_FAULTS if options.quick else _FAULTS):
        for worker in workers:
            answer = worker.try_fault(fault)
            times[worker.engine].append(answer["ns"] / 1e9)
            found[worker.engine].append((answer["critical"], answer["masked"]))
    for worker in workers:
        worker.close()
    plain = np.array(times["plain loop"])
    for worker in workers:
        seconds = np.array(times[worker.engine])
        ratio, low, high = _ratio(plain, seconds)
        same = sum(mine[0] == its[0] for mine, its in zip(found[worker.engine], found["plain loop"], strict=True))
        outcome.rows.append(
            {
                "table": "Speed",
                "way": worker.engine,
                "batch": worker.settings.get("batch"),
                "passes": worker.settings.get("passes"),
                "faults/s": 1 / seconds.mean(),
                "plain loop's time / this": ratio,
                "interval": f"{low:.3g} to {high:.3g}",
                "faults": len(seconds),
                "same count of critical images as the plain loop": same,
            }
        )
    outcome.claims.append(Claim("faults per second, effc / plain loop", _ratio(plain, np.array(times["effc"]))[0], 3.0, "at least"))
    agree = float(np.mean([mine == its for mine, its in zip(found["effc"], found["effc, neither"], strict=True)]))
    outcome.claims.append(
        Claim("share of faults with the same counts, effc / effc without late start and early stop", agree, 1.0, "at least")
    )
    return float(plain.mean())


def _images(options: Options) -> int:
    return _QUICK_IMAGES if options.quick else _IMAGES


def _ratio(plain: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """Sum over sum, and its 95 % interval by resampling faults."""
    generator = np.random.default_rng(0)
    rows = generator.integers(0, len(plain), (2000, len(plain)))
    draws = plain[rows].sum(1) / other[rows].sum(1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(plain.sum() / other.sum()), float(low), float(high)


def _answer(outcome: Outcome, options: Options, work: Path, plain: float) -> None:
    """Parts 2 and 3."""
    from effc.faultsim import CampaignSpec, ProgramSubject, run_campaign, summarise
    from effc.faultsim.schedule import critical_shares
    from effc.faultsim.statistics import Plan, StratumTruth, simulate_campaigns, uniform_needed

    data = images(_images(options))
    subject = ProgramSubject(program(), "resnet20")
    precision = 0.3 if options.quick else _PRECISION
    spec = CampaignSpec(where=("weight",), stratify=("bit",), precision=precision, images_per_fault=1)
    start = time.perf_counter()
    campaign = run_campaign(subject, data, spec, work / "answer")
    seconds = time.perf_counter() - start
    critical = summarise(campaign).overall["critical"]

    count = _QUICK_VARIANCE_FAULTS if options.quick else _VARIANCE_FAULTS
    whole = CampaignSpec(where=("weight",), stratify=("bit",), faults=count, jobs=options.threads)
    full = run_campaign(subject, data, whole, work / "variance")
    shares = [critical_shares(records[full.schedule.pilot :]) for records in full.results]  # the pilot decided how many there are
    mean = float(np.mean([one.mean() for one in shares]))  # strata of equal size
    variance = float(np.mean([(one**2).mean() for one in shares])) - mean**2
    needed = uniform_needed(mean, variance, precision)
    outcome.rows.append(
        {
            "table": "Time to an answer",
            "way": "effc: stratified by bit, one image per fault",
            "faults": sum(map(len, campaign.results)),
            "images a fault": 1,
            "seconds": seconds,
            "critical": f"{critical.value:.4%}",
            "interval": f"{critical.low:.4%} to {critical.high:.4%}",
        }
    )
    outcome.rows.append(
        {
            "table": "Time to an answer",
            "way": "uniform faults, plain loop (faults needed x measured time of one)",
            "faults": needed,
            "images a fault": _images(options),
            "seconds": needed * plain,
            "critical": f"{mean:.4%}",
            "interval": f"standard deviation between faults {variance**0.5:.4f}, of {count} faults",
        }
    )
    if not options.quick:  # the bar is for 1,000 images a fault, and a quick run has a tenth of them
        outcome.claims.append(
            Claim("time to the same precision: uniform faults on all images / effc", needed * plain / seconds, 100.0, "at least")
        )
    half = (critical.high - critical.low) / 2 / critical.value
    outcome.claims.append(Claim("relative half-width of the critical rate", half, precision, "at most"))

    truth = [
        StratumTruth(group.population.size, one if one.any() else np.array([_UNSEEN]), images=1)
        for group, one in zip(full.design.groups, shares, strict=True)
    ]
    campaigns = _QUICK_CAMPAIGNS if options.quick else _CAMPAIGNS
    coverage = simulate_campaigns(truth, Plan(precision), campaigns, seed=0)
    outcome.rows.append(
        {
            "table": "Coverage",
            "truth": f"the measured faults of each bit; a rate of {_UNSEEN:g} where none was critical",
            "campaigns": coverage.campaigns,
            "covered": coverage.covered,
            "share": coverage.covered / coverage.campaigns,
            "faults on average": coverage.injections,
        }
    )
    if not options.quick:  # of 60 campaigns that cover in 95 %, every second lot is under 94 % by chance
        outcome.claims.append(
            Claim("simulated campaigns whose interval covers the truth", coverage.covered / coverage.campaigns, 0.94, "at least")
        )


def _memory(outcome: Outcome, work: Path) -> None:
    """Part 4: the largest memory of `effc faultsim` on ResNet-50, in a process of its own."""
    from benchmarks.models import torchvision_model
    from effc.errors import MissingDependencyError

    try:
        module = torchvision_model("resnet50")
    except MissingDependencyError as error:
        outcome.skip("ResNet-50", str(error))
        return
    import torch

    from effc.frontends import load_program
    from effc.ir.storage import save_program

    (work / "resnet50.pt2").write_bytes(save_program(load_program(module, example_inputs=[torch.zeros(2, 3, 224, 224)])))
    pictures = np.random.default_rng(0).standard_normal((32, 3, 224, 224)).astype(np.float32)
    np.savez(work / "pictures.npz", x=pictures)
    command = [sys.executable, "-m", "benchmarks.peak", "faultsim", str(work / "resnet50.pt2"), "--eval", str(work / "pictures.npz")]
    done = subprocess.run([*command, "-o", str(work / "resnet50"), "--faults", "24"], capture_output=True, text=True, check=False)
    peak = json.loads(done.stdout.splitlines()[-1])["peak_gib"]
    outcome.rows.append({"table": "Memory", "model": "ResNet-50, 32 images of 224 x 224, 24 faults", "largest GiB": peak})
    outcome.claims.append(Claim("memory of a campaign on ResNet-50, GiB", peak, _MEMORY, "at most"))


if __name__ == "__main__":
    sys.exit(main(measure))
