"""One run of `benchmarks.ap`: a network on scikit-learn's digits, trained, pruned and rewound cycle by cycle by the public callbacks.

The networks have their ReLUs as modules of their own, each with the layer in front of it, so that `DeadNeurons` can count. Training and
test images are those of examples/train_digits.py; nothing is selected by the test images.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from effc.ir.torch_compat import import_lightning
from effc.nn import DeadNeurons, IterativePruning

__all__ = ["BATCH", "NETWORKS", "Job", "Stage", "images", "run"]

BATCH = 64
_RATE, _MOMENTUM, _DECAY = 0.1, 0.9, 5e-4


@dataclass(frozen=True)
class Job:
    """What to train.

    Attributes:
        network: of NETWORKS. `by`: the base pruner. `seed`: of the initial weights and the batches.
        shares: of the remaining weights, removed after each cycle. `of_ap`: the part of each that AP chooses; 0 for the pruner alone.
        epochs: of a cycle.
    """

    network: str
    by: str
    seed: int
    shares: tuple[float, ...]
    of_ap: float
    epochs: int


@dataclass(frozen=True)
class Stage:
    """The network at the end of a cycle: the share of weights that are alive, its accuracy on the test images, and its dead neurons."""

    alive: float
    accuracy: float
    dynamic: float
    static: float


def run(job: Job) -> list[Stage]:
    """Train and prune; one stage a cycle, and one for the training after the last one."""
    lightning = import_lightning()
    for name in ("pytorch_lightning", "lightning_fabric", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    torch.manual_seed(job.seed)
    network, neurons = NETWORKS[job.network]()
    weights = [f"network.{name}" for name, tensor in network.named_parameters() if tensor.ndim > 1]
    cycles = len(job.shares)
    pruning = IterativePruning(
        weights,
        by=job.by,  # type: ignore[arg-type]
        share=job.shares,
        ap_share=tuple(share * job.of_ap for share in job.shares),
        epochs=job.epochs,
    )
    dead = DeadNeurons({f"network.{name}": f"network.{layer}" for name, layer in neurons.items()})
    train, test = _loaders(job.seed)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=pruning.fit_epochs,
        callbacks=[dead, pruning],
        check_val_every_n_epoch=job.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(_task(network, len(train) * job.epochs), train, test)
    assert len(pruning.history) == len(dead.history) == cycles + 1
    return [
        Stage(1 - cycle.sparsity, cycle.metrics["accuracy"], rates[""].dynamic, rates[""].static)
        for cycle, rates in zip(pruning.history, dead.history, strict=True)
    ]


def _mlp() -> tuple[nn.Module, dict[str, str]]:
    network = nn.Sequential()
    for name, module in (
        ("flatten", nn.Flatten()),
        ("layer1", nn.Linear(64, 300)),
        ("relu1", nn.ReLU()),
        ("layer2", nn.Linear(300, 100)),
        ("relu2", nn.ReLU()),
        ("classifier", nn.Linear(100, 10)),
    ):
        network.add_module(name, module)
    return network, {"relu1": "layer1", "relu2": "layer2"}


def _cnn() -> tuple[nn.Module, dict[str, str]]:
    network = nn.Sequential()
    for index, (width, wider, stride) in enumerate(((1, 16, 1), (16, 32, 2), (32, 32, 1)), 1):
        network.add_module(f"conv{index}", nn.Conv2d(width, wider, 3, stride=stride, padding=1, bias=False))
        network.add_module(f"norm{index}", nn.BatchNorm2d(wider))
        network.add_module(f"relu{index}", nn.ReLU())
    network.add_module("pool", nn.MaxPool2d(2))
    network.add_module("flatten", nn.Flatten())
    network.add_module("classifier", nn.Linear(128, 10))
    return network, {f"relu{index}": f"conv{index}" for index in (1, 2, 3)}


NETWORKS = {"MLP": _mlp, "CNN": _cnn}


def images() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and test images (N, 1, 8, 8) float32 in [0, 1], and their labels (int64): 1,347 and 450."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    pixels = (digits.images[:, None] / 16).astype("float32")
    x, x_test, y, y_test = train_test_split(pixels, digits.target, test_size=0.25, random_state=0, stratify=digits.target)
    return torch.from_numpy(x), torch.from_numpy(y).long(), torch.from_numpy(x_test), torch.from_numpy(y_test).long()


def _loaders(seed: int) -> tuple[Any, Any]:
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

    x, y, x_test, y_test = images()
    sampler = RandomSampler(range(len(x)), generator=torch.Generator().manual_seed(seed))
    batches: Sequence[Any] = BatchSampler(sampler, BATCH, drop_last=True)  # type: ignore[assignment]
    train: Any = DataLoader(TensorDataset(x, y), sampler=batches, batch_size=None)  # type: ignore[arg-type]
    return train, DataLoader(TensorDataset(x_test, y_test), batch_size=len(x_test))


def _task(network: nn.Module, steps: int) -> Any:
    """A LightningModule: SGD with momentum and weight decay, warm-up in a tenth of a cycle, a tenth of the rate after each third."""
    lightning = import_lightning()

    class Task(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            return F.cross_entropy(self.network(batch[0]), batch[1])

        def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
            right = (self.network(batch[0]).argmax(1) == batch[1]).float().mean()
            self.log("accuracy", right, on_epoch=True, batch_size=len(batch[1]))

        def configure_optimizers(self) -> Any:
            optimiser = torch.optim.SGD(self.parameters(), _RATE, momentum=_MOMENTUM, weight_decay=_DECAY)
            warm = max(1, steps // 10)
            schedule = torch.optim.lr_scheduler.LambdaLR(
                optimiser, lambda step: min(1.0, (step + 1) / warm) * 0.1 ** min(2, 3 * step // max(1, steps))
            )
            return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    return Task()
