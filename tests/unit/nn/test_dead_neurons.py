"""Rates of dead neurons: exact counts, and what the callback logs is what the definition gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from effc.errors import ConfigError, UsageError
from effc.ir.torch_compat import import_lightning
from effc.nn import DeadNeurons
from effc.nn.dead_rates import DeadRates, alive_rows, dead_rates

pl = import_lightning()

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*The number of training batches.*"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no.*"),
    pytest.mark.filterwarnings("ignore:This property will be removed in 2.0.0:DeprecationWarning"),  # Lightning's use of torchmetrics
]


class Net(pl.LightningModule):
    """A convolution and a linear layer, one row of each pruned; the learning rate is 0."""

    def __init__(self, twice: bool = False, fails: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.relu1 = nn.Conv2d(1, 4, 3), nn.ReLU()
        self.flatten, self.hidden, self.relu2 = nn.Flatten(), nn.Linear(16, 5), nn.ReLU()
        self.twice, self.fails = twice, fails
        with torch.no_grad():
            self.conv.weight[1] = 0.0
            self.hidden.weight[2:4] = 0.0
            self.hidden.bias[2] = 1.0  # pruned, and yet not 0

    def forward(self, x: Tensor) -> Any:
        x = self.relu2(self.hidden(self.flatten(self.relu1(self.conv(x)))))
        return self.relu2(x) if self.twice else x

    def training_step(self, batch: Any, index: int) -> Any:
        if self.fails:
            raise ArithmeticError("a step fails")
        return self(batch).sum()

    def validation_step(self, batch: Any, index: int) -> None:
        self(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


NEURONS = {"relu1": "conv", "relu2": "hidden"}


def batches(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, 1, 4, 4, generator=generator) for count in (6, 6, 2)]


def fit(net: Net, callback: Any, validation: list[Tensor] | None, epochs: int = 1) -> Any:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_epochs=epochs, accelerator="cpu", callbacks=[callback], **quiet)
    trainer.fit(net, *(DataLoader(part, batch_size=None) for part in (batches(1), validation) if part is not None))  # type: ignore[arg-type]
    return trainer


def expected(net: Net, data: list[Tensor]) -> dict[str, DeadRates]:
    with torch.no_grad():
        x = torch.cat(data)
        first = torch.relu(net.conv(x))
        second = torch.relu(net.hidden(first.flatten(1)))
    dynamic = [int((first[:, [0, 2, 3]] == 0).sum()) / len(x), int((second[:, [0, 1, 4]] == 0).sum()) / len(x)]
    return {
        "relu1": DeadRates(pytest.approx(dynamic[0] / 16), 0.25),
        "relu2": DeadRates(pytest.approx(dynamic[1] / 5), 0.4),
        "": DeadRates(pytest.approx(sum(dynamic) / 21), pytest.approx(6 / 21)),
    }


def test_rates_of_a_linear_layer() -> None:
    weight = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 2.0], [3.0, 3.0]])
    assert alive_rows(weight).tolist() == [True, False, True, True]
    assert alive_rows(weight.T, axis=1).tolist() == [True, False, True, True]
    outputs = torch.tensor([[0.0, 0.0, 1.0, 0.0], [0.0, 5.0, 2.0, 1.0]])
    assert dead_rates(outputs, alive_rows(weight)) == (3 / 8, 1 / 4)


def test_neurons_of_a_convolution_are_elements() -> None:
    outputs = torch.zeros(2, 2, 3, 3)
    outputs[0, 0, 0, 0] = 1.0
    outputs[1, 1] = 1.0  # a pruned filter, and a bias
    assert dead_rates(outputs, torch.tensor([True, False])) == (17 / 36, 1 / 2)
    assert dead_rates(outputs.movedim(1, -1), torch.tensor([True, False]), axis=-1) == (17 / 36, 1 / 2)


@pytest.mark.parametrize(("shape", "axis"), [((2, 3), 1), ((2,), 0), ((0, 2), 1), ((), 1)])
def test_outputs_that_do_not_fit_are_refused(shape: tuple[int, ...], axis: int) -> None:
    with pytest.raises(UsageError, match="dead neurons"):
        dead_rates(torch.zeros(shape), torch.tensor([True, False]), axis)


@pytest.mark.parametrize("validates", [True, False])
def test_the_callback_logs_means_over_samples_and_all_neurons(validates: bool) -> None:
    net = Net()
    callback = DeadNeurons(NEURONS)
    trainer = fit(net, callback, batches(2) if validates else None, epochs=2)
    wanted = expected(net, batches(2 if validates else 1))
    assert callback.history == [wanted, wanted]
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert logged == {
        f"dead/{name}/{kind}" if name else f"dead/{kind}": pytest.approx(getattr(wanted[name], kind), abs=1e-6)
        for name in wanted
        for kind in ("dynamic", "static")
    }
    assert not net.relu1._forward_hooks


def test_of_layers_that_are_summed_all_must_be_pruned() -> None:
    net = Net()
    net.other = nn.Conv2d(1, 4, 3)
    callback = DeadNeurons({"relu1": ["conv", "other"]})
    fit(net, callback, batches(2))
    assert callback.history[0]["relu1"].static == 0.0


def test_what_cannot_be_counted_is_an_error_and_hooks_come_off() -> None:
    with pytest.raises(ConfigError, match="empty"):
        DeadNeurons({})
    net = Net(twice=True)
    with pytest.raises(UsageError, match="relu2 runs twice"):
        fit(net, DeadNeurons(NEURONS), batches(2))
    assert not net.relu2._forward_hooks
    with pytest.raises(UsageError, match=r"(?s)relu9: activation: there is no.*flatten: layer: there is no module of that name that has"):
        fit(net, DeadNeurons({"relu9": "conv", "relu2": "flatten"}), batches(2))
    failing = Net(fails=True)
    with pytest.raises(ArithmeticError):
        fit(failing, DeadNeurons(NEURONS), None)
    assert not failing.relu1._forward_hooks
