"""`ActivationSparsity`: the gradient is that of loss + weight * penalty, hooks come off, what is logged is true."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from effc.errors import ConfigError, UsageError
from effc.ir.torch_compat import import_lightning
from effc.nn import ActivationSparsity, hoyer_square, l1

pl = import_lightning()


class Net(pl.LightningModule):
    """Two hidden layers; keeps the gradients of each optimiser step."""

    def __init__(self, as_mapping: bool = False, inplace: bool = False, fails: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.relu = nn.Linear(4, 6), nn.ReLU(inplace=inplace)
        self.second, self.gelu, self.last = nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 1)
        self.unused = nn.ReLU()
        self.as_mapping, self.fails = as_mapping, fails
        self.gradients: list[list[Tensor]] = []
        self.double()

    def hidden(self, x: Tensor) -> tuple[Tensor, Tensor]:
        relu = self.relu(self.first(x))
        return relu, self.gelu(self.second(relu))

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return nn.functional.mse_loss(self.last(self.hidden(x)[1]), y)

    def training_step(self, batch: Any, index: int) -> Any:
        """The step's docstring."""
        loss = self.loss(batch)
        if self.fails:
            raise ArithmeticError("a step fails")
        return {"loss": loss, "more": 1} if self.as_mapping else loss

    def validation_step(self, batch: Any, index: int) -> None:
        self.loss(batch)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.gradients.append([p.grad.clone() for p in self.parameters()])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)  # the weights stay, so that gradients can be compared


def batches(count: int, size: int = 8) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    numbers = torch.randn(count, size, 5, generator=generator, dtype=torch.float64)
    return [(x[:, :4], x[:, 4:]) for x in numbers]


def fit(net: Net, callbacks: list[Any], data: list[Any], validation: list[Any] | None = None, **options: Any) -> Any:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", callbacks=callbacks, **quiet, **options)
    trainer.fit(net, *(DataLoader(given, batch_size=None) for given in (data, validation) if given is not None))
    return trainer


def untouched(net: nn.Module) -> bool:
    return not any(part._forward_hooks for part in net.modules()) and not any(
        "training_step" in name or "effc" in name for name in vars(net)
    )


pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*The number of training batches.*"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no.*"),
    pytest.mark.filterwarnings("ignore:This property will be removed in 2.0.0:DeprecationWarning"),  # Lightning's use of torchmetrics
]


@pytest.mark.parametrize("regulariser", ["hoyer-square", "l1"])
@pytest.mark.parametrize("as_mapping", [False, True])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_gradient_is_that_of_loss_plus_penalty_exactly(regulariser: str, as_mapping: bool, accumulated: int) -> None:
    net, data, weight = Net(as_mapping), batches(2), 0.25
    callback = ActivationSparsity(["relu", "gelu"], weight, regulariser)
    fit(net, [callback], data, batches(1), accumulate_grad_batches=accumulated)
    measure = {"hoyer-square": hoyer_square, "l1": l1}[regulariser]
    parameters = list(net.parameters())
    expected = []
    for batch in data:
        net.zero_grad()
        total = net.loss(batch) + weight * sum(measure(value) for value in net.hidden(batch[0]))
        expected.append(torch.autograd.grad(total, parameters))
    if accumulated == 2:
        expected = [[(a + b) / 2 for a, b in zip(*expected, strict=True)]]
    assert len(net.gradients) == len(expected)
    for got, wanted in zip(net.gradients, expected, strict=True):
        torch.testing.assert_close(got, list(wanted), rtol=1e-12, atol=1e-12)
    assert untouched(net)


def test_density_and_penalty_are_logged_as_means_over_the_epoch() -> None:
    net, data = Net(), batches(3)
    trainer = fit(net, [ActivationSparsity(["relu"], 0.5, "l1")], data)
    hidden = [net.hidden(x)[0] for x, _ in data]
    logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert logged == {
        "activations/relu/density": pytest.approx(sum((h != 0).float().mean().item() for h in hidden) / 3),
        "activations/relu/l1": pytest.approx(sum(0.5 * l1(h).item() for h in hidden) / 3),
    }


def test_callbacks_side_by_side_each_add_their_part() -> None:
    net, data = Net(), batches(1)
    fit(net, [ActivationSparsity(["relu"], 0.5), ActivationSparsity(["gelu"], 0.125, "l1")], data)
    relu, gelu = net.hidden(data[0][0])
    total = net.loss(data[0]) + 0.5 * hoyer_square(relu) + 0.125 * l1(gelu)
    torch.testing.assert_close(net.gradients[0], list(torch.autograd.grad(total, list(net.parameters()))), rtol=1e-12, atol=1e-12)
    assert untouched(net)


@pytest.mark.parametrize("where", ["training", "later hook", "start"])
def test_hooks_come_off_after_an_exception(where: str) -> None:
    class Failing(pl.Callback):
        def on_train_batch_end(self, *arguments: Any) -> None:
            raise ArithmeticError("a callback fails")

    class FailingAtStart(pl.Callback):
        def on_fit_start(self, *arguments: Any) -> None:
            raise ArithmeticError("a callback fails")

    net = Net(fails=where == "training")
    others = {"training": [], "later hook": [Failing()], "start": [FailingAtStart()]}[where]
    callback = ActivationSparsity(["relu"], 0.5)
    with pytest.raises(ArithmeticError):
        fit(net, [callback, *others], batches(2))
    assert untouched(net)
    net.fails = False
    before = net.loss(batches(1)[0]).item()
    assert net.training_step(batches(1)[0], 0).item() == before
    fit(net, [callback], batches(1))  # and it can go again
    assert untouched(net)


def test_a_step_of_the_instance_s_own_comes_back() -> None:
    net = Net()

    def own(batch: Any, batch_idx: int) -> Tensor:
        return 2 * net.loss(batch)

    net.training_step = own
    fit(net, [ActivationSparsity(["relu"], 0.5)], batches(1))
    relu, _ = net.hidden(batches(1)[0][0])
    total = 2 * net.loss(batches(1)[0]) + 0.5 * hoyer_square(relu)
    torch.testing.assert_close(net.gradients[0], list(torch.autograd.grad(total, list(net.parameters()))), rtol=1e-12, atol=1e-12)
    assert net.training_step is own


def test_a_decorated_step_is_called_as_without_the_callback() -> None:
    """Lightning looks behind one decorator for whether the step takes an index."""

    def decorated(step: Any) -> Any:
        @functools.wraps(step)
        def outer(*args: Any, **kwargs: Any) -> Any:
            return step(*args, **kwargs)

        return outer

    class WithoutIndex(Net):
        @decorated
        def training_step(self, batch: Any) -> Any:
            return self.loss(batch)

    net = WithoutIndex()
    fit(net, [ActivationSparsity(["relu"], 0.5)], batches(1))
    assert len(net.gradients) == 1


@pytest.mark.parametrize(
    ("net", "layer", "why"),
    [
        (Net(), "relu7", "there is none of that name"),
        (Net(), "unused", "did not run in training_step"),
        (Net(inplace=True), "first", "overwritten in place"),
    ],
)
def test_a_layer_that_cannot_be_penalised_is_an_error(net: Net, layer: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        fit(net, [ActivationSparsity([layer], 0.5)], batches(1))
    assert untouched(net)


def test_manual_optimisation_is_refused() -> None:
    net = Net()
    net.automatic_optimization = False
    with pytest.raises(UsageError, match=r"effc\.nn\.hoyer_square"):
        fit(net, [ActivationSparsity(["relu"], 0.5)], batches(1))


@pytest.mark.parametrize("arguments", [("relu", 0.5), ([], 0.5), (["a", "a"], 0.5), (["a"], -1.0), (["a"], 0.5, "l3")])
def test_arguments_out_of_range_are_refused(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ConfigError, match="ActivationSparsity"):
        ActivationSparsity(*arguments)
