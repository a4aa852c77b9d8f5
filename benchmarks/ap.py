"""Activating-while-Pruning on digits: accuracy and dead neurons from 20 % to 1 % of the weights, with AP and without, at equal budget.

An MLP (64-300-100-10) and a CNN (three 3x3 convolutions with batch norm) on scikit-learn's digits, each pruned in 20 cycles of about 20 %
of the remaining weights by two base pruners (global magnitude; first-order Taylor). With AP (arXiv 2212.06145) a tenth of each cycle's
budget, the paper's 2 of 20 %, goes to the negative weights that training has moved least. After each cycle survivors are rewound to their
initial values. Both forms start from the same weights and see the same batches; a row's difference is paired by seed, its interval is
Student's over seeds.

The paper's finding is asked of these networks: the dynamic dead-neuron rate falls as pruning goes on, AP lets it fall further, and helps
most where few weights are left. The networks are small and the task is easy; what they say about the paper's CIFAR and ImageNet is little.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.ap_training import NETWORKS, Job, Stage, run
from benchmarks.harness import Claim, Options, Outcome, main

__all__ = ["SHORT", "SHOWN", "measure", "shares"]

SHORT = ("Accuracy, pruned with AP and without", "Dead neurons")
PRUNERS = ("magnitude", "gradient")
SHOWN = (0.2, 0.1, 0.05, 0.02, 0.01)  # of the weights
_STEPS = (7, 3, 3, 4, 3)  # cycles to each of them: about 20 % of the remaining weights go in each
_OF_AP = 0.1  # 2 of 20 %
_SEEDS, _QUICK_SEEDS = 5, 2
_EPOCHS, _QUICK_EPOCHS = 12, 1
_LEVEL = 0.95


def shares() -> tuple[float, ...]:
    """Of the remaining weights, for each cycle, so that exactly the shown shares are reached."""
    found, before = [], 1.0
    for target, steps in zip(SHOWN, _STEPS, strict=True):
        found += [1 - (target / before) ** (1 / steps)] * steps
        before = target
    return tuple(found)


def measure(options: Options) -> Outcome:
    """See the module's docstring. A quick run has fewer seeds, epochs and networks, and says nothing about AP."""
    outcome = Outcome()
    seeds = range(_QUICK_SEEDS if options.quick else options.more.get("seeds", _SEEDS))
    networks = ("MLP",) if options.quick else tuple(NETWORKS)
    epochs = _QUICK_EPOCHS if options.quick else _EPOCHS
    jobs = [
        Job(network, by, seed, shares(), of_ap, epochs)
        for network in networks
        for by in PRUNERS
        for seed in seeds
        for of_ap in (0.0, _OF_AP)
    ]
    found: dict[Job, list[Stage]] = {}
    with ProcessPoolExecutor(options.threads, mp_context=multiprocessing.get_context("spawn")) as pool:
        for number, (job, stages) in enumerate(zip(jobs, pool.map(run, jobs), strict=True), 1):
            print(f"ap: {number} of {len(jobs)}", file=sys.stderr)
            found[job] = stages
    for network in networks:
        for by in PRUNERS:
            plain, with_ap = (
                np.array(
                    [
                        [[stage.accuracy, stage.dynamic, stage.static] for stage in found[Job(network, by, seed, shares(), of_ap, epochs)]]
                        for seed in seeds
                    ]
                )
                for of_ap in (0.0, _OF_AP)
            )
            _report(outcome, network, by, plain, with_ap, judged=not options.quick)
    return outcome


def _report(outcome: Outcome, network: str, by: str, plain: NDArray[Any], with_ap: NDArray[Any], judged: bool) -> None:
    """Arrays (seeds, stages, 3): accuracy, dynamic and static rate at the end of each cycle; stage 0 is the dense network."""
    places = [0, *np.cumsum(_STEPS).tolist()]
    gains = {}
    for share, place in zip((1.0, *SHOWN), places, strict=True):
        gain = with_ap[:, place, 0] - plain[:, place, 0]
        gains[share] = gain
        outcome.rows.append(
            {
                "table": SHORT[0],
                "network": network,
                "pruner": by,
                "weights left": f"{share:.0%}",
                "without AP": _mean(plain[:, place, 0]),
                "with AP": _mean(with_ap[:, place, 0]),
                "points gained": f"{100 * gain.mean():.2f}",
                "interval": "{:.2f} to {:.2f}".format(*(100 * end for end in _interval(gain))),
                "seeds": len(gain),
            }
        )
        rates = {
            f"{kind}, {form}": f"{values[:, place, column].mean():.1%}"
            for column, kind in ((1, "dynamic"), (2, "static"))
            for form, values in (("without AP", plain), ("with AP", with_ap))
        }
        lower = with_ap[:, place, 1] - plain[:, place, 1]
        more = {
            "AP's change of dynamic, points": "{:.2f} ({:.2f} to {:.2f})".format(100 * lower.mean(), *(100 * e for e in _interval(lower)))
        }
        outcome.rows.append({"table": SHORT[1], "network": network, "pruner": by, "weights left": f"{share:.0%}", **rates, **more})
    if not judged:
        return
    name = f"{network}, {by}"
    fall = plain[:, 0, 1] - plain[:, -1, 1]
    outcome.claims += [
        Claim(f"{name}: fall of the dynamic rate from all weights to 1 %, lower limit", _interval(fall)[0], 0.0, "at least"),
        Claim(f"{name}: AP's change of the dynamic rate at 1 %, upper limit", _interval(lower)[1], 0.0, "at most"),
        Claim(f"{name}: accuracy that AP gains at 1 %, lower limit", _interval(gains[0.01])[0], 0.0, "at least"),
        Claim(f"{name}: AP's gain at 1 % beside that at 20 %, lower limit", _interval(gains[0.01] - gains[0.2])[0], 0.0, "at least"),
    ]


def _mean(values: NDArray[Any]) -> str:
    low, high = _interval(values)
    return f"{values.mean():.1%} ({low:.1%} to {high:.1%})"


def _interval(values: Sequence[float] | NDArray[Any]) -> tuple[float, float]:
    """Student's 95 % interval of the mean over seeds."""
    array = np.asarray(values, np.float64)
    half = stats.t.ppf(0.5 + _LEVEL / 2, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array))
    return float(array.mean() - half), float(array.mean() + half)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=_SEEDS, help=f"how many (default: {_SEEDS})")


if __name__ == "__main__":
    sys.exit(main(measure, add_arguments=_add_arguments))
