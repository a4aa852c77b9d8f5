"""Train a video classifier with delta activations: the same accuracy as with ReLUs, with a fraction of the operations.

    python -m examples.train_moving_digits                  # about five minutes on two cores; --quick: one seed, less training
    python -m examples.train_moving_digits --json --svg curve.svg

Videos of digits that bounce over a still, textured background (`moving_digits`) are classified by a small CNN, frame by frame, and the
frames' scores averaged. It is trained with ReLUs first. Then `effc.nn.DeltaNetwork` takes its weights, and `effc.nn.DeltaSparsity` trains
steps and weights in the two stages of the Delta Activation Layer (arXiv 2107.07305): a high sparsity rate on sequences of 8 frames, then a
tenth of it on sequences of 4. Each rate is a network of its own.

Operations of a frame are counted alike for both: inputs of convolutions and linear layers that are not 0, times their fan-out
(`effc.nn.SynapticOperations`), averaged over all frames of the test videos. The first frame of a video has nothing to differ from and is
included. `dense form` is the same trained network computed from each frame by itself: what its quantised activations save without deltas.

The rate and all settings were chosen on seed 0, which is not among the seeds that are reported. Needs the extra `dev` (scikit-learn).
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sys
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from examples.moving_digits import FRAMES, Videos, load
from examples.moving_digits_svg import Point, draw
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.harness import Claim, Options, Outcome, main
from effc.ir.torch_compat import import_lightning
from effc.nn import DeltaNetwork, DeltaSparsity, DeltaStage, SynapticOperations

SEEDS, RATES, RATE = (1, 2, 3), (0.0, 0.001, 0.003, 0.01, 0.03), 0.01
BATCH = 64
STEP, INPUT_STEP = 1.0, 0.1  # of the activation's root mean square; of the full brightness
WEIGHT_RATE, STEP_RATE, INPUT_STEP_RATE = 2e-3, 1e-2, 5e-4  # learning rates


class DigitNet(nn.Module):
    """Four 3x3 convolutions with batch norm and one linear layer: 24 k parameters, 0.64 million multiply-accumulates a frame."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width, wider, stride, pools in ((1, 8, 2, False), (8, 16, 1, True), (16, 32, 1, True), (32, 32, 1, False)):
            layers += [nn.Conv2d(width, wider, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(wider), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if pools else []
        self.features = nn.Sequential(*layers)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(32 * 4 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.classifier(self.flatten(self.features(x)))
        return scores


class PerFrame(nn.Module):
    """A network of single frames over sequences (N, T, ...)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.network(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return scores


@dataclass(frozen=True)
class Effort:
    """Epochs of the ReLU network, of each stage of the delta network, and videos made of each training image."""

    relu_epochs: int = 20
    stage_epochs: int = 2
    per_image: int = 2


@dataclass(frozen=True)
class Measured:
    """On the test videos of a seed. Operations are a frame's: of all frames, of first ones, of later ones, and of the dense form.

    `apart`: the largest difference of the exported step, run frame by frame, to the sequence, relative to the largest score.
    """

    seed: int
    rate: float | None
    accuracy: float
    operations: float
    first: float
    later: float
    dense_form: float
    apart: float


def train_relu(seed: int, effort: Effort) -> tuple[dict[str, NDArray[Any]], Measured]:
    """The ReLU network's state, and how it does."""
    train, test = _start(seed, effort)
    network = DigitNet()
    steps = effort.relu_epochs * (len(train.x) // BATCH)

    def optimiser(module: nn.Module) -> Any:
        sgd = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
        return sgd, torch.optim.lr_scheduler.OneCycleLR(sgd, 0.1, total_steps=steps)

    _fit(PerFrame(network), train, seed, effort.relu_epochs, optimiser, frames=2)
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    return state, _measure(PerFrame(network.eval()), test, seed, None)


def train_delta(seed: int, effort: Effort, state: Mapping[str, NDArray[Any]], rate: float) -> Measured:
    """How a delta network that starts from the ReLU network does after both stages."""
    train, test = _start(seed, effort)
    relu = DigitNet()
    relu.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()})
    network = DeltaNetwork(relu, train.x[:64].flatten(0, 1), step=STEP, steps={"input": INPUT_STEP})
    epochs = 2 * effort.stage_epochs
    steps = epochs * (len(train.x) // BATCH)

    def optimiser(module: nn.Module) -> Any:
        thetas = {name: value for name, value in module.named_parameters() if name.endswith("theta")}
        of_input = [value for name, value in thetas.items() if name.endswith("input.theta")]
        others = [value for name, value in thetas.items() if not name.endswith("input.theta")]
        weights = [value for name, value in module.named_parameters() if name not in thetas]
        groups = [
            {"params": weights},
            {"params": others, "lr": STEP_RATE},
            {"params": of_input, "lr": INPUT_STEP_RATE},
        ]
        adam = torch.optim.Adam(groups, lr=WEIGHT_RATE)
        return adam, torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)

    stages = [DeltaStage(effort.stage_epochs, rate, frames=8), DeltaStage(effort.stage_epochs, rate / 10, frames=4)]
    _fit(network, train, seed, epochs, optimiser, callbacks=[DeltaSparsity("network", stages, seed)])
    return _measure(network.eval(), test, seed, rate)


def measure(options: Options) -> Outcome:
    """Train everything and compare."""
    effort = Effort(relu_epochs=10, stage_epochs=1) if options.quick else Effort()
    seeds, rates = (SEEDS[:1], (RATE,)) if options.quick else (SEEDS, RATES)
    with ProcessPoolExecutor(max(1, options.threads), multiprocessing.get_context("spawn")) as pool:
        starts = list(pool.map(train_relu, seeds, [effort] * len(seeds)))
        jobs = [(seed, effort, state, rate) for seed, (state, _) in zip(seeds, starts, strict=True) for rate in rates]
        deltas = list(pool.map(train_delta, *zip(*jobs, strict=True)))
    relus = [measured for _, measured in starts]
    outcome = Outcome([_row("ReLU", relus, relus), *(_row(f"delta, rate {rate:g}", _of(deltas, rate), relus) for rate in rates)])
    ratios = [relu.operations / delta.operations for relu, delta in zip(relus, _of(deltas, RATE), strict=True)]
    lost = _mean(relus, "accuracy") - _mean(_of(deltas, RATE), "accuracy")
    outcome.claims = [
        Claim(f"operations a frame, ReLU over delta at rate {RATE:g}, worst seed", min(ratios), 2.5, "at least"),
        Claim(f"points of top-1 lost at rate {RATE:g}, mean over seeds", 100 * lost, 1.0, "at most"),
        Claim("delta step against the sequence, largest difference over largest score", max(one.apart for one in deltas), 1e-5, "at most"),
    ]
    if options.more.get("svg"):
        rows = [(None, relus), *((rate, _of(deltas, rate)) for rate in rates)]
        points = [Point(rate, _mean(of, "operations"), _mean(of, "accuracy"), [one.accuracy for one in of]) for rate, of in rows]
        Path(options.more["svg"]).write_text(draw(points))
    return outcome


# ---- training ------------------------------------------------------------------------------------------------------------------


def _start(seed: int, effort: Effort) -> tuple[Videos, Videos]:
    torch.set_num_threads(1)  # one process a core, and sums in one order
    torch.manual_seed(seed)
    return load(seed, effort.per_image)


def _fit(
    network: nn.Module, train: Videos, seed: int, epochs: int, optimiser: Any, frames: int = FRAMES, callbacks: Sequence[Any] = ()
) -> None:
    """Cross-entropy of every frame's scores, on `frames` of each video, picked anew each time."""
    lightning = import_lightning()
    for name in ("pytorch_lightning", "lightning_fabric", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    picking = torch.Generator().manual_seed(seed)

    class Task(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def training_step(self, batch: Any, index: int) -> Tensor:
            x, y = batch
            if frames < FRAMES:
                x = x[:, torch.randperm(FRAMES, generator=picking)[:frames]]
            scores = self.network(x)
            return F.cross_entropy(scores.flatten(0, 1), y.repeat_interleave(scores.shape[1]))

        def configure_optimizers(self) -> Any:
            chosen, schedule = optimiser(self)
            return {"optimizer": chosen, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    order = torch.Generator().manual_seed(seed)
    loader = DataLoader(TensorDataset(train.x, train.y), BATCH, shuffle=True, drop_last=True, generator=order)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(accelerator="cpu", devices=1, max_epochs=epochs, callbacks=list(callbacks), **quiet)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on workers and on its own dependencies
        trainer.fit(Task(), loader)


# ---- measuring -----------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def _measure(network: nn.Module, test: Videos, seed: int, rate: float | None) -> Measured:
    scores, operations = _counted(network, test.x)
    dense_form, apart = operations, 0.0
    if isinstance(network, DeltaNetwork):
        _, dense_form = _counted(PerFrame(network.quantised_module()), test.x)
        apart = _step_apart(network, test.x[:32], scores[:32])
    return Measured(
        seed,
        rate,
        accuracy=float((scores.mean(1).argmax(1) == test.y).double().mean()),
        operations=float(operations.mean()),
        first=float(operations[:, 0].mean()),
        later=float(operations[:, 1:].mean()),
        dense_form=float(dense_form.mean()),
        apart=apart,
    )


def _counted(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (N, T, 10) and operations (N, T)."""
    with SynapticOperations(network) as count:
        scores = torch.cat([network(part) for part in x.split(BATCH)])
    return scores, count.total().reshape(x.shape[:2])


def _step_apart(network: DeltaNetwork, x: Tensor, scores: Tensor) -> float:
    step = network.delta_step()
    states: Sequence[Tensor] = step.zeros(x[:, 0])
    frames = []
    for frame in x.unbind(1):
        shown, *states = step(frame, *states).values()
        frames.append(shown)
    return float((torch.stack(frames, 1) - scores).abs().max() / scores.abs().max())


def _of(measured: Sequence[Measured], rate: float) -> list[Measured]:
    return [one for one in measured if one.rate == rate]


def _mean(measured: Sequence[Measured], field: str) -> float:
    return float(np.mean([getattr(one, field) for one in measured]))


def _row(name: str, measured: Sequence[Measured], relus: Sequence[Measured]) -> dict[str, Any]:
    accuracies = [one.accuracy for one in measured]
    return {
        "model": name,
        "seeds": len(measured),
        "top-1 %": round(100 * _mean(measured, "accuracy"), 2),
        "top-1 %, worst and best seed": f"{100 * min(accuracies):.2f} to {100 * max(accuracies):.2f}",
        "operations a frame": round(_mean(measured, "operations")),
        "first frame": round(_mean(measured, "first")),
        "later frames": round(_mean(measured, "later")),
        "dense form": round(_mean(measured, "dense_form")),
        "fewer than ReLU": _mean(relus, "operations") / _mean(measured, "operations"),
    }


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--svg", type=Path, help="write the curve, accuracy against operations, into this file")


if __name__ == "__main__":
    sys.exit(main(measure, add_arguments=_arguments))
