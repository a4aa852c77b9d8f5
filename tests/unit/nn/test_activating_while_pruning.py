"""Pruning in cycles under Lightning: exact budgets, exact rewinding, zeros that stay, and a fit that goes on as if it had not stopped."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from effc.errors import ConfigError, EffcWarning, UsageError
from effc.ir.torch_compat import import_lightning
from effc.nn import ActivatingWhilePruning, IterativePruning
from effc.nn.channel_group import ChannelGroup, Slice
from effc.nn.pruning import for_sparsity

pl = import_lightning()

WEIGHTS = ["conv.weight", "hidden.weight", "head.weight"]
GROUPS = (
    ChannelGroup(
        "conv",
        6,
        (Slice("conv.weight", 0), *(Slice(f"norm.{part}", 0) for part in ("weight", "bias", "running_mean", "running_var"))),
        (Slice("hidden.weight", 1, repeat=4),),
    ),
    ChannelGroup("hidden", 16, (Slice("hidden.weight", 0), Slice("hidden.bias", 0)), (Slice("head.weight", 1),)),
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*The number of training batches.*"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no.*"),
    pytest.mark.filterwarnings("ignore:.*sampler has shuffling.*"),
    pytest.mark.filterwarnings("ignore:.*Checkpoint directory.*"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed.*"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`.*"),
    pytest.mark.filterwarnings("ignore:This property will be removed in 2.0.0:DeprecationWarning"),  # Lightning's use of torchmetrics
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are slower on several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Net(pl.LightningModule):
    """Convolution, batch norm, two linear layers; SGD with all that could bring a masked weight back."""

    def __init__(self, optimiser: str = "sgd") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.hidden, self.head = nn.Linear(24, 16), nn.Linear(16, 3)
        self.optimiser = optimiser
        self.rates: list[float] = []
        self.states: list[dict[str, Tensor]] = []  # at the start of each epoch
        self.ends: list[dict[str, Tensor]] = []  # at the end of each epoch

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.norm(self.conv(x)))
        return self.head(torch.relu(self.hidden(x.flatten(1))))

    def training_step(self, batch: Any, index: int) -> Any:
        self.rates.append(self.optimizers().param_groups[0]["lr"])
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("val", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def on_train_epoch_start(self) -> None:
        self.states.append({name: value.clone() for name, value in self.state_dict().items()})

    def on_train_epoch_end(self) -> None:
        self.ends.append({name: value.clone() for name, value in self.state_dict().items()})

    def configure_optimizers(self) -> Any:
        made = {
            "sgd": lambda: torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
            "adamw": lambda: torch.optim.AdamW(self.parameters(), lr=0.01, weight_decay=0.1),
        }[self.optimiser]()
        return {"optimizer": made, "lr_scheduler": torch.optim.lr_scheduler.StepLR(made, 1, 0.5)}


def data() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 2, 4, 4, generator=generator), torch.randint(0, 3, (8,), generator=generator)) for _ in range(4)]


def fit(net: Net, *callbacks: Any, epochs: int, path: Path | None = None, root: Path | None = None) -> Any:
    quiet = {"logger": False, "enable_checkpointing": root is not None, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_epochs=epochs, accelerator="cpu", callbacks=list(callbacks), default_root_dir=root, **quiet)
    loaders = [DataLoader(part, batch_size=None) for part in (data(), data()[:1])]  # type: ignore[arg-type]
    trainer.fit(net, *loaders, ckpt_path=path, weights_only=True if path else None)
    return trainer


def zeros(state: dict[str, Tensor]) -> int:
    return sum(int((state[name] == 0).sum()) for name in WEIGHTS)


def bits_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(value.equal(other[name]) for name, value in one.items()) and one.keys() == other.keys()


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
@pytest.mark.parametrize("by", ["magnitude", "layer-magnitude", "gradient"])
def test_cycles_prune_exactly_and_rewind_to_the_bit(by: Any, optimiser: str) -> None:
    net = Net(optimiser)
    start = {name: value.clone() for name, value in net.state_dict().items()}
    total = sum(start[name].numel() for name in WEIGHTS)
    callback = ActivatingWhilePruning(WEIGHTS, by=by, cycles=2, epochs=2)
    assert callback.fit_epochs == 6
    fit(net, callback, epochs=6)
    for epoch, cycle in ((2, 1), (4, 2)):
        state = net.states[epoch]
        assert zeros(state) == total - round(total * 0.8**cycle)
        for name, value in state.items():  # survivors and everything else: the first values, batch norm's statistics included
            expected = torch.where(value == 0, value, start[name]) if name in WEIGHTS else start[name]
            assert value.equal(expected), name
    for epoch, cycle in ((0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2)):
        assert zeros(net.ends[epoch]) == total - round(total * 0.8**cycle)  # momentum, decay: nothing came back, nothing went
    for name in WEIGHTS:
        value = net.state_dict()[name]
        assert (value == 0).equal(~callback.masks[name])
        assert not bool(torch.signbit(value[value == 0]).any())  # +0.0
    assert net.rates == [rate for rate in ([0.1, 0.05] if optimiser == "sgd" else [0.01, 0.005]) for _ in range(4)] * 3
    assert [(one.remaining, one.removed, one.by_ap) for one in callback.history] == [
        (total, total - round(0.8 * total), round(0.02 * total)),
        (round(0.8 * total), round(0.8 * total) - round(0.64 * total), round(0.02 * round(0.8 * total))),
        (round(0.64 * total), 0, 0),
    ]
    assert all({"val", "pruning/sparsity", "pruning/cycle"} <= one.metrics.keys() for one in callback.history)
    assert callback.history[1].metrics["pruning/sparsity"] == pytest.approx(callback.history[1].sparsity)


def test_the_choice_is_the_paper_s() -> None:
    net = Net()
    start = {name: value.clone() for name, value in net.state_dict().items()}
    fit(net, ActivatingWhilePruning(WEIGHTS, cycles=1, epochs=1), epochs=2)
    trained, gone = net.ends[0], {name: net.states[1][name] == 0 for name in WEIGHTS}
    flat, moved, dead = (
        torch.cat([part[name].flatten() for name in WEIGHTS])
        for part in (trained, {name: (trained[name] - start[name]).abs() for name in WEIGHTS}, gone)
    )
    total = len(flat)
    count, by_ap = total - round(0.8 * total), round(0.02 * total)
    order = flat.abs().argsort()
    expected = torch.zeros(total, dtype=torch.bool)
    expected[order[: count - by_ap]] = True
    negative = ((flat < 0) & ~expected).nonzero().squeeze(1)
    expected[negative[moved[negative].argsort()[:by_ap]]] = True
    assert dead.equal(expected)


def test_gradient_scores_are_those_of_the_last_epoch() -> None:
    net = Net()
    seen: list[Tensor] = []

    class Watching(pl.Callback):
        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            seen.append(torch.cat([(module.get_parameter(name) * module.get_parameter(name).grad).abs().flatten() for name in WEIGHTS]))

    fit(net, IterativePruning(WEIGHTS, by="gradient", cycles=1, epochs=2, share=0.3), Watching(), epochs=4)
    scores = torch.stack(seen[4:8]).double().sum(0)
    gone = torch.cat([(net.states[2][name] == 0).flatten() for name in WEIGHTS])
    assert int(gone.sum()) == len(gone) - round(0.7 * len(gone))
    assert float(scores[gone].detach().max()) <= float(scores[~gone].detach().min()) * (1 + 1e-6)


def test_a_given_start_a_plan_for_a_sparsity_and_masks() -> None:
    net = Net()
    other = {name: value + 1 for name, value in net.state_dict().items()}
    del other["hidden.bias"]
    own = net.hidden.bias.detach().clone()
    mask = torch.ones(6, 2, 3, 3, dtype=torch.bool)
    mask[0] = False
    shares = for_sparsity(0.5, 0.2)
    callback = IterativePruning(WEIGHTS, share=shares, epochs=1, initial=other, masks={"conv.weight": mask}, outputs={"head.weight": 0})
    fit(net, callback, epochs=callback.fit_epochs)
    assert callback.plan.cycles == len(shares) == 4
    state = net.states[-1]
    total = sum(other[name].numel() for name in WEIGHTS) - 18
    assert zeros(state) - 18 == total - round(total * 0.5)
    assert not bool(state["conv.weight"][0].any())
    assert state["norm.running_mean"].equal(other["norm.running_mean"])
    assert state["hidden.bias"].equal(own)
    alive = callback.masks["hidden.weight"]
    assert state["hidden.weight"][alive].equal(other["hidden.weight"][alive])
    assert bool(callback.masks["head.weight"].any(1).all())


def test_without_rewinding_training_goes_on() -> None:
    net = Net()
    fit(net, IterativePruning(WEIGHTS, cycles=1, epochs=1, rewind=False), epochs=2)
    alive = net.states[1]["hidden.weight"] != 0
    assert net.states[1]["hidden.weight"][alive].equal(net.ends[0]["hidden.weight"][alive])
    assert net.rates == [0.1] * 8


def test_whole_channels_go_and_the_network_computes_without_them() -> None:
    net = Net()
    callback = ActivatingWhilePruning(WEIGHTS, cycles=2, epochs=1, groups=GROUPS, share=0.3, ap_share=0.05)
    fit(net, callback, epochs=3)
    total = callback.history[0].total
    left = [one.remaining for one in callback.history]
    widest = 16 + 24 + 3 + 18  # a channel's weights
    for cycle in (1, 2):
        assert round(total * 0.7**cycle) - widest < left[cycle] <= round(total * 0.7**cycle)
    assert callback.history[0].by_ap == round(0.05 * total)
    conv = callback.masks["norm.weight"]
    assert "norm.running_var" not in callback.masks
    assert 0 < int(conv.sum()) < 6
    assert not bool(callback.masks["conv.weight"][~conv].any())
    assert callback.masks["hidden.weight"].reshape(16, 6, 4).any(2).any(0).equal(conv)
    net.eval()
    before = net(data()[0][0])
    with torch.no_grad():
        net.hidden.weight.reshape(16, 6, 4)[:, ~conv] = 7.0  # nothing arrives there
    torch.testing.assert_close(net(data()[0][0]), before, rtol=0, atol=0)


@pytest.mark.parametrize("by", ["magnitude", "gradient"])
@pytest.mark.parametrize("stop", ["cycle's end", "mid-cycle"])
def test_a_resumed_fit_ends_with_the_same_bits(tmp_path: Path, by: Any, stop: str) -> None:
    def callback() -> IterativePruning:
        return ActivatingWhilePruning(WEIGHTS, by=by, cycles=2, epochs=2, share=0.3, ap_share=0.05)

    whole = Net()
    straight = callback()
    fit(whole, straight, epochs=6)
    keeper = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, filename="last", enable_version_counter=False, save_on_train_epoch_end=True)
    last = {"cycle's end": 1, "mid-cycle": 2}[stop]

    class Stop(pl.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
            if trainer.current_epoch == last + 1:
                raise ArithmeticError("the machine stops")

    with pytest.raises(ArithmeticError):
        fit(Net(), callback(), Stop(), keeper, epochs=6, root=tmp_path)
    resumed, again = Net(), callback()
    trainer = fit(resumed, again, epochs=6, path=tmp_path / "last.ckpt", root=tmp_path)
    assert trainer.current_epoch == 6
    assert bits_equal(resumed.state_dict(), whole.state_dict())
    assert [(one.remaining, one.removed, one.by_ap) for one in again.history] == [
        (one.remaining, one.removed, one.by_ap) for one in straight.history
    ]
    assert [one.metrics for one in again.history] == [one.metrics for one in straight.history]


def test_a_second_fit_begins_anew() -> None:
    callback = IterativePruning(WEIGHTS, cycles=1, epochs=1)
    first, second = Net(), Net()
    fit(first, callback, epochs=2)
    fit(second, callback, epochs=2)
    assert bits_equal(first.state_dict(), second.state_dict())
    assert len(callback.history) == 2


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    trainer = fit(Net(), epochs=2)
    trainer.save_checkpoint(tmp_path / "bare.ckpt")
    with pytest.raises(UsageError, match="no state of it"):
        fit(Net(), IterativePruning(WEIGHTS, cycles=1, epochs=2), epochs=4, path=tmp_path / "bare.ckpt")
    trainer = fit(Net(), IterativePruning(WEIGHTS, cycles=1, epochs=1), epochs=2)
    trainer.save_checkpoint(tmp_path / "other.ckpt")
    with pytest.raises(UsageError, match="the checkpoint is of"):
        fit(Net(), IterativePruning(WEIGHTS, cycles=1, epochs=2), epochs=4, path=tmp_path / "other.ckpt")


def test_a_fit_that_stops_early_says_so() -> None:
    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            trainer.should_stop = True

    callback = IterativePruning(WEIGHTS, cycles=1, epochs=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.warns(EffcWarning, match="after epoch 1 of 4, with 0 of 1 cycles pruned"):
            fit(Net(), callback, Stop(), epochs=4)
    assert callback.history == []


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"weights": ["conv.weights"]}, "conv.weights: parameter: there is none"),
        ({"weights": ["norm.running_mean"]}, "norm.running_mean: parameter: there is none"),
        ({"initial": {"conv.weight": torch.ones(3)}}, r"initial of shape \[3\]: the module has \[6, 2, 3, 3\]"),
        ({"masks": {"conf.weight": torch.ones(3)}}, "none of that name"),
        ({"groups": [ChannelGroup("a", 1, (Slice("a.w", 0),), ())]}, "a.w: tensor of a channel group"),
        ({"epochs": 2}, "need max_epochs=4; the Trainer has 2"),
    ],
)
def test_what_does_not_fit_the_module_is_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        fit(Net(), IterativePruning(**{"weights": WEIGHTS, "cycles": 1, "epochs": 1, **options}), epochs=2)


@pytest.mark.parametrize("options", [{"weights": []}, {"weights": "w"}, {"by": "size"}, {"epochs": 0}, {"cycles": None}, {"ap_share": 0.3}])
def test_arguments_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        IterativePruning(**{"weights": ["w"], "cycles": 1, "epochs": 1, **options})
