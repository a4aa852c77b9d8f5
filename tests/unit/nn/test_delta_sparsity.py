"""`DeltaSparsity`: the exact gradient, stage by stage, on shortened sequences; and hooks that come off."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from effc.errors import ConfigError, UsageError
from effc.ir.torch_compat import import_lightning
from effc.nn import DeltaActivation, DeltaSparsity, DeltaStage

pl = import_lightning()

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*The number of training batches.*"),
    pytest.mark.filterwarnings("ignore:This property will be removed in 2.0.0:DeprecationWarning"),
]


class Net(pl.LightningModule):
    """Two delta activations around a linear layer; keeps gradients and the lengths of what the network gave."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(
            DeltaActivation(None, 0.5, sigma=False, fan_out=6.0),
            nn.Linear(3, 6, bias=False),
            DeltaActivation(nn.ReLU(), 0.25, bias=torch.zeros(6), fan_out=2.0),
            nn.Linear(6, 2, bias=False),
            DeltaActivation(None, None, level=0, fan_out=0.0),
        )
        self.gradients: list[list[Tensor]] = []
        self.lengths: list[int] = []
        self.double()

    def loss(self, x: Tensor) -> Tensor:
        return self.network(x).square().mean()

    def training_step(self, x: Tensor, index: int) -> Tensor:
        scores = self.network(x)
        self.lengths.append(scores.shape[1])
        return scores.square().mean()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.gradients.append([p.grad.clone() for p in self.parameters()])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(net: Net, callback: Any, data: list[Tensor], epochs: int = 1) -> Any:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_epochs=epochs, accelerator="cpu", callbacks=[callback], **quiet)
    trainer.fit(net, DataLoader(data, batch_size=None))
    return trainer


def clip(frames: int = 6) -> Tensor:
    return torch.randn(4, frames, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def gradient(net: Net, x: Tensor, rate: float) -> list[Tensor]:
    """Of the loss and the sparsity terms, written out."""
    layers = [part for part in net.network if isinstance(part, DeltaActivation)][:2]
    first = layers[0](x)
    second = layers[1](net.network[1](first))
    total = net.loss(x)
    for passed, fan_out in ((first, 6.0), (second, 2.0)):
        total = total + rate * fan_out * (passed[:, 1:].abs().sum() / passed[:, 1:].numel())
    return list(torch.autograd.grad(total, list(net.parameters())))


def test_gradients_follow_the_stages_and_their_lengths() -> None:
    net, x = Net(), clip()
    stages = [DeltaStage(2, 0.1), DeltaStage(1, 0.01, frames=2)]
    trainer = fit(net, DeltaSparsity("network", stages), [x], epochs=4)
    assert net.lengths == [6, 6, 2, 2] and len(net.gradients) == 4
    for got in net.gradients[:2]:
        torch.testing.assert_close(got, gradient(net, x, 0.1), rtol=1e-12, atol=1e-12)
    for got in net.gradients[2:]:  # the last stage goes on; each batch begins somewhere
        parts = [gradient(net, x[:, start : start + 2], 0.01) for start in range(5)]
        assert any(all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(got, part, strict=True)) for part in parts)
    assert {name.split("/", 1)[1] for name in trainer.callback_metrics} == {f"{i}/{w}" for i in (0, 2) for w in ("density", "loss", "step")}
    assert trainer.callback_metrics["delta/0/step"].item() == 0.5


def test_hooks_come_off_also_after_an_exception() -> None:
    net = Net()
    with pytest.raises(UsageError, match="a sequence has 6"):
        fit(net, DeltaSparsity("network", [DeltaStage(1, 0.1, frames=7)]), [clip()])
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules()) and "training_step" not in vars(net)


@pytest.mark.parametrize(
    ("network", "epochs", "why"),
    [("other", 1, "has no module 'other'"), ("network.1", 1, "holds no DeltaActivation"), ("network", 2, "the stages take 2 epochs")],
)
def test_what_cannot_train_is_refused(network: str, epochs: int, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        fit(Net(), DeltaSparsity(network, [DeltaStage(epochs, 0.1)]), [clip()])


@pytest.mark.parametrize("stages", [[], [DeltaStage(0, 0.1)], [DeltaStage(1, -0.1)], [DeltaStage(1, 0.1, frames=1)]])
def test_stages_out_of_range_are_refused(stages: list[DeltaStage]) -> None:
    with pytest.raises(ConfigError, match="DeltaSparsity: stages"):
        DeltaSparsity("network", stages)
