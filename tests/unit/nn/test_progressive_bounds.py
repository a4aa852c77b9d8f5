"""`ProgressiveBounds`: which bounds move, by how much, what is accepted, where a drop leads, what a checkpoint resumes.

The net is a chain of bounds behind ReLUs. Most tests replace the metric by a scripted one and train by the pull alone (plain SGD at
inputs of zero), so that every bound has a value that can be written down: one step multiplies a scalar bound that stands at its start by
1 - 2 * rate * pull / start^2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from effc.errors import ConfigError, UsageError
from effc.ir.torch_compat import import_lightning
from effc.nn import Bound, ProgressiveBounds
from effc.nn.distillation import distillation

pl = import_lightning()

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*The number of training batches.*"),
    pytest.mark.filterwarnings("ignore:.*Found .* module.*in eval mode.*"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec.*"),
    pytest.mark.filterwarnings("ignore:.*Checkpoint directory.*"),
    pytest.mark.filterwarnings("ignore:This property will be removed in 2.0.0:DeprecationWarning"),  # Lightning's use of torchmetrics
]

FIRST, LAST = "first.upper", "last.upper"
STAGES = [[LAST], [FIRST]]


class Net(pl.LightningModule):
    """Two bounded layers, batch norm and dropout; its metric comes from a script."""

    def __init__(self, metric: Callable[[Net], float] | None = None, make: Any = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm, self.drop, self.head = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)
        self.first, self.last = Bound(2.0), Bound(torch.full((6,), 4.0))
        self.double()
        self.metric = metric or (lambda net: 0.9)
        self.make = make or (lambda net: torch.optim.SGD(net.parameters(), lr=0.5))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(torch.relu(self.norm(self.stem(x))))
        return self.head(self.drop(self.last(hidden)))

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        return 0.0 * self(batch).sum()

    def validation_step(self, batch: Tensor, index: int) -> None:
        assert not self.first.training
        self.log("accuracy", self.metric(self), batch_size=1)

    def configure_optimizers(self) -> Any:
        return self.make(self)

    def bounds(self) -> tuple[float, float]:
        assert self.last.upper.unique().numel() == 1
        return self.first.upper.item(), self.last.upper[0].item()


def script(*values: float) -> Callable[[Net], float]:
    """The metric of each epoch."""
    return lambda net: values[net.trainer.current_epoch]


def progressive(epochs: int = 1, stages: Any = STAGES, **options: Any) -> ProgressiveBounds:
    return ProgressiveBounds(stages, **{"epochs": epochs, "monitor": "accuracy", "reference": 0.9, "budget": 0.01, "pull": 0.4, **options})


def fit(net: Any, callbacks: list[Any], epochs: int = 50, data: Any = None, ckpt_path: Any = None, **options: Any) -> Any:
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False, **options}
    trainer = pl.Trainer(**{"max_epochs": epochs, "accelerator": "cpu", "num_sanity_val_steps": 1, "callbacks": callbacks, **settings})
    batches = [torch.zeros(4, 4, dtype=torch.float64)] if data is None else data
    loaders = (DataLoader(batches, batch_size=None), DataLoader(batches[:1], batch_size=None))
    trainer.fit(net, *loaders, ckpt_path=ckpt_path, **({"weights_only": True} if ckpt_path else {}))
    return trainer


def scalar(start: float, steps: Sequence[float]) -> float:
    """A scalar bound after steps of SGD at rate 0.5 with these pulls."""
    value = start
    for pull in steps:
        value -= 0.5 * pull * 2 * value / start**2
    return value


def neurons(start: float, steps: Sequence[float]) -> float:
    """Likewise one of six: the pull is their mean."""
    return scalar(start, [pull / 6 for pull in steps])


# ---- stages ----------------------------------------------------------------------------------------------------------------------


def test_each_stage_moves_by_its_own_learning_rate_and_nothing_else_does() -> None:
    """The reference toolbox's rate for neuron-wise bounds never reaches its optimiser."""

    def make(net: Net) -> torch.optim.Optimizer:
        others = [parameter for name, parameter in net.named_parameters() if "upper" not in name]
        groups = [
            {"params": others, "weight_decay": 0.1},
            {"params": [net.first.upper], "lr": 0.5},
            {"params": [net.last.upper], "lr": 0.25},
        ]
        return torch.optim.SGD(groups, lr=1.0)

    class Watch(pl.Callback):
        def __init__(self) -> None:
            self.seen: list[tuple[float, float]] = []

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            self.seen.append(pl_module.bounds())

    net, watch, callback = Net(make=make), Watch(), progressive(epochs=2)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    trainer = fit(net, [callback, watch], data=[torch.randn(4, 4, dtype=torch.float64)])
    last = [neurons(4.0, [0.2] * n) for n in (1, 2)]
    first = [scalar(2.0, [0.4] * n) for n in (1, 2)]
    assert watch.seen == [pytest.approx(pair) for pair in [(2.0, last[0]), (2.0, last[1]), (first[0], last[1]), (first[1], last[1])]]
    assert trainer.current_epoch == 4  # it stops after the last stage
    after = net.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items() if "upper" not in name)  # running statistics, too
    assert [(trial.stage, trial.epoch) for trial in callback.history] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert callback.note() == f"stage 2/2 first.upper, bound {first[1]:.4g}"


def test_momentum_moves_no_finished_stage() -> None:
    net = Net(make=lambda net: torch.optim.Adam(net.parameters(), lr=0.1))
    seen = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
            seen.append(pl_module.bounds())

    fit(net, [progressive(epochs=2), Watch()])
    assert seen[1][1] == seen[2][1] == seen[3][1] == net.bounds()[1] < 4.0
    assert net.bounds()[0] < 2.0


def test_flags_and_modes_are_restored_also_after_an_exception() -> None:
    def state(net: Net) -> list[Any]:
        return [*(p.requires_grad for p in net.parameters()), *(m.training for m in net.modules()), "training_step" in vars(net)]

    net = Net()
    net.head.bias.requires_grad_(False)
    before = state(net)
    fit(net, [progressive()])
    assert state(net) == before

    def fails(net: Net) -> float:
        raise ArithmeticError("a validation fails")

    net.metric = fails
    with pytest.raises(ArithmeticError):
        fit(net, [progressive()], num_sanity_val_steps=0)
    assert state(net)[: len(list(net.parameters()))] == before[: len(list(net.parameters()))]
    assert "training_step" not in vars(net)


# ---- accepting and going back ----------------------------------------------------------------------------------------------------


def test_a_drop_over_the_budget_goes_back_to_the_best_and_weakens_the_pull() -> None:
    net, callback = Net(script(0.895, 0.88, 0.85, 0.895)), progressive(epochs=4, stages=[[FIRST]])
    fit(net, [callback])
    best = scalar(2.0, [0.4])
    over = scalar_from(best, [0.4]), scalar_from(best, [0.04])
    kept = scalar_from(best, [0.004])
    assert [trial.accepted for trial in callback.history] == [True, False, False, True]
    assert [trial.pull for trial in callback.history] == pytest.approx([0.4, 0.4, 0.04, 0.004])
    assert [trial.mean for trial in callback.history] == pytest.approx([best, *over, kept])
    assert net.bounds()[0] == pytest.approx(kept)
    net = Net(script(0.895, 0.85))
    fit(net, [progressive(epochs=2, stages=[[FIRST]])])
    assert net.bounds()[0] == pytest.approx(best)


def scalar_from(value: float, steps: Sequence[float]) -> float:
    return scalar(2.0, steps) / 2.0 * value


def test_without_an_accepted_epoch_the_start_stays() -> None:
    net, callback = Net(script(0.5, math.nan, 0.9, 0.9)), progressive(epochs=2)
    fit(net, [callback])
    assert [trial.accepted for trial in callback.history] == [False, False, True, True]
    assert net.bounds() == (pytest.approx(scalar(2.0, [0.4, 0.4])), 4.0)  # the next stage pulls at full strength again


def test_a_better_metric_is_no_drop() -> None:
    """The toolbox takes the absolute difference, and so refuses a gain."""
    for larger, metric in ((True, 0.99), (False, 0.5)):
        callback = progressive(stages=[[FIRST]], larger_is_better=larger)
        fit(Net(script(metric)), [callback])
        assert callback.history[0].accepted
    callback = progressive(stages=[[FIRST]], larger_is_better=False)
    fit(Net(script(0.99)), [callback])
    assert not callback.history[0].accepted


def test_a_drop_of_just_the_budget_is_accepted() -> None:
    """0.9 - 0.89 is more than 0.01 in binary, and Lightning keeps metrics in float32."""
    callback = progressive(stages=[[FIRST]])
    fit(Net(script(0.89)), [callback])
    assert callback.history[0].accepted


def test_the_budget_opens_stage_by_stage() -> None:
    """Or the stages that train first would spend all of it."""
    callback = progressive(epochs=2)
    fit(Net(script(0.896, 0.893, 0.893, 0.889)), [callback])
    assert [trial.accepted for trial in callback.history] == [True, False, True, False]  # 0.005 in the first of two, then 0.01


def test_bounds_that_grow_within_the_budget_are_not_kept() -> None:
    net, grown = Net(), []

    class Grow(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
            if trainer.current_epoch == 1:
                with torch.no_grad():
                    pl_module.first.upper.fill_(3.0)
                grown.append(True)

    fit(net, [progressive(epochs=2, stages=[[FIRST]]), Grow()])
    assert grown and net.bounds()[0] == pytest.approx(scalar(2.0, [0.4]))


def test_a_fit_that_is_cut_short_leaves_accepted_bounds() -> None:
    net = Net(script(0.9, 0.9))
    fit(net, [progressive(epochs=5, stages=[[FIRST]])], epochs=5, max_steps=2)
    assert net.bounds()[0] == pytest.approx(scalar(2.0, [0.4, 0.4]))
    net = Net(script(0.9, 0.1))
    fit(net, [progressive(epochs=5, stages=[[FIRST]])], epochs=5, max_steps=2)
    assert net.bounds()[0] == pytest.approx(scalar(2.0, [0.4]))


def test_dead_neurons_are_not_pulled() -> None:
    net = Net()
    with torch.no_grad():
        net.last.upper[2] = 0.0
    fit(net, [progressive(stages=[[LAST]])])
    expected = torch.full((6,), neurons(4.0, [0.4]), dtype=torch.float64)
    expected[2] = 0.0
    torch.testing.assert_close(net.last.upper.detach(), expected)


# ---- resuming --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after_validation", [True, False])
@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_a_resumed_fit_ends_with_the_same_bits(stop: int, after_validation: bool, tmp_path: Path) -> None:
    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.should_stop = trainer.should_stop or trainer.current_epoch + 1 == stop

    def keeper() -> Any:
        options = {"save_top_k": 1, "enable_version_counter": False, "save_on_train_epoch_end": not after_validation}
        return pl.callbacks.ModelCheckpoint(dirpath=tmp_path, filename="kept", **options)

    def make(net: Net) -> torch.optim.Optimizer:
        return torch.optim.Adam(net.parameters(), lr=0.1)

    metric = script(0.9, 0.8, 0.9, 0.9, 0.9, 0.7)
    whole, halved = Net(metric, make), Net(metric, make)
    expected = progressive(epochs=3)
    fit(whole, [expected])
    fit(halved, [progressive(epochs=3), Stop(), keeper()], enable_checkpointing=True)
    resumed, callback = Net(metric, make), progressive(epochs=3)
    fit(resumed, [callback, keeper()], enable_checkpointing=True, ckpt_path=tmp_path / "kept.ckpt")
    assert callback.history == expected.history and len(callback.history) == 6
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    with pytest.raises(UsageError, match="other stages"):
        fit(Net(), [progressive(stages=[[FIRST]]), keeper()], enable_checkpointing=True, ckpt_path=tmp_path / "kept.ckpt")


def test_a_second_fit_begins_anew() -> None:
    callback = progressive()
    for _ in range(2):
        net = Net()
        fit(net, [callback])
        assert net.bounds() == pytest.approx((scalar(2.0, [0.4]), neurons(4.0, [0.4])))
    assert len(callback.history) == 2


# ---- what cannot work is said ----------------------------------------------------------------------------------------------------


def test_bounds_that_could_not_train_are_all_named() -> None:
    net = Net(make=lambda net: torch.optim.SGD([net.first.upper], lr=0.1))
    with pytest.raises(UsageError) as caught:
        fit(net, [progressive(stages=[[LAST], [FIRST], ["upper"]])])
    assert [(problem.where, problem.why) for problem in caught.value.problems] == [
        (LAST, "no optimiser holds it, so it would never move"),
        ("upper", "there is no parameter of that name"),
    ]
    net = Net()
    with torch.no_grad():
        net.first.upper.fill_(math.inf)
    with pytest.raises(UsageError) as caught:
        fit(net, [progressive()])
    assert [(problem.where, problem.why) for problem in caught.value.problems] == [(FIRST, "is not finite")]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"check_val_every_n_epoch": 2}, "judged by its validation"),
        ({"limit_val_batches": 0}, "judged by its validation"),
        ({"epochs": 3}, "2 stages take 4 epochs"),
        ({"epochs": 9, "min_epochs": 5}, "2 stages take 4 epochs"),
    ],
)
def test_a_trainer_that_judges_too_seldom_is_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        fit(Net(), [progressive(epochs=2)], **options)


def test_a_metric_that_is_not_logged_is_an_error() -> None:
    with pytest.raises(UsageError, match="nothing as 'top1'; known metrics: accuracy"):
        fit(Net(), [progressive(monitor="top1")])


@pytest.mark.parametrize(
    "options",
    [
        {"stages": []},
        {"stages": [[]]},
        {"stages": "first"},
        {"stages": ["first.upper"]},
        {"stages": [[FIRST], [FIRST]]},
        {"epochs": 0},
        {"budget": math.nan},
        {"reference": math.inf},
        {"pull": 0.0},
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="ProgressiveBounds: "):
        progressive(**options)


# ---- the whole of it -------------------------------------------------------------------------------------------------------------


def test_bounds_shrink_as_far_as_the_teacher_s_answers_allow() -> None:
    """ProAct without labels on a small net: bounds far over what is used come down, and the answers stay."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(256, 4, generator=generator, dtype=torch.float64)

    class Distilled(Net):
        def training_step(self, batch: Tensor, index: int) -> Tensor:
            return distillation(self(batch), teacher(batch))

    teacher = Net().eval()
    net = Distilled(make=lambda net: torch.optim.Adam(net.parameters(), lr=0.5))
    with torch.no_grad():
        for one in (teacher, net):
            one.head.weight.mul_(3)
            one.first.upper.fill_(20.0)
            one.last.upper.fill_(20.0)
    wanted = teacher(x).argmax(1)
    net.metric = lambda net: float((net(x).argmax(1) == wanted).double().mean())
    fit(net, [progressive(epochs=6, reference=1.0, budget=0.02, pull=20.0)], data=list(x.split(64)))
    net.eval()
    assert net.metric(net) >= 0.98
    largest = torch.relu(net.norm(net.stem(x))).max().item()
    assert net.first.upper.item() < 12.0 and net.last.upper.max().item() < 12.0 and largest < 6.0
