"""`prune`: exact zeros and exact counts, channels that leave the program, cycles that rewind, and the log of it all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effc.data import Dataset
from effc.errors import ConfigError, DataError, EffcWarning, PassError
from effc.frontends import load_program
from effc.ir import Program
from effc.passes.base import Context
from effc.passes.dead_relus import dead_relus, measure
from effc.passes.prunable import prunable_weights, stored
from effc.passes.prune import Prune

LAYERS = ["first.weight", "second.weight", "hidden.weight", "head.weight"]
F = nn.functional

pytestmark = pytest.mark.filterwarnings("ignore:This property will be removed in 2.0.0:DeprecationWarning")  # torchmetrics in Lightning


class Net(nn.Module):
    """Two convolutions with batch norm, a residual sum, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.second, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.hidden, self.head = nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.first(x)))
        x = F.relu(self.norm2(self.second(x)) + x)
        return self.head(F.relu(self.hidden(x.mean((2, 3)))))


def made(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    net = Net()
    with torch.no_grad():
        for norm in (net.norm1, net.norm2):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 2)
    return net.eval()


@pytest.fixture(scope="module")
def program() -> Program:
    return load_program(made(), example_inputs=(torch.zeros(2, 2, 5, 5),))


def data(count: int, seed: int, labelled: bool = True) -> Dataset:
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((count, 2, 5, 5)).astype(np.float32)
    return Dataset({"x": x}, (x[:, 0].mean((1, 2)) > 0).astype(np.int64) if labelled else None)


def context(labelled: bool = True, **options: Any) -> Context:
    return Context(fit=data(48, 1, labelled), selection=data(16, 2, labelled), **options)


def zeros(program: Program) -> int:
    return sum(int((stored(program)[name] == 0).sum()) for name in LAYERS)


TOTAL = 2 * 8 * 9 + 8 * 8 * 9 + 8 * 12 + 12 * 3


def said(context: Context, site: str) -> list[str]:
    return [one.why for one in context.decisions if one.site == site]


@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.123])
def test_once_without_data_the_smallest_weights_become_zero(program: Program, sparsity: float) -> None:
    given = Context()
    result = Prune(sparsity=sparsity)(program, given)
    assert zeros(result) == TOTAL - round(TOTAL * (1 - sparsity))
    before, after = (torch.cat([stored(one)[name].flatten() for name in LAYERS]) for one in (program, result))
    assert after.equal(torch.where(after == 0, torch.zeros(()), before))
    assert not bool(torch.signbit(after[after == 0]).any())
    head = stored(program)["head.weight"].abs()
    assert float(before[after == 0].abs().max()) <= float(before[(after != 0)].abs().sort().values[3])  # but for the head's rows
    assert bool((stored(result)["head.weight"] != 0).any(1).all()), head
    assert [name for name, value in stored(result).items() if not value.equal(stored(program)[name])] == LAYERS
    share = 1 - round(TOTAL * (1 - sparsity)) / TOTAL
    assert said(given, program.provenance.source)[-1] == f"{share:.2%} of {TOTAL} weights pruned"


def test_a_second_run_finds_nothing_to_do(program: Program) -> None:
    once = Prune()(program, Context())
    given = Context()
    again = Prune()(once, given)
    assert all(value.equal(stored(once)[name]) for name, value in stored(again).items())
    assert "zero already" in said(given, program.provenance.source)[0]


def test_layers_and_scope(program: Program) -> None:
    result = Prune(sparsity=0.5, layers="second|hidden", by="layer-magnitude")(program, Context())
    shares = {name: float((stored(result)[name] == 0).double().mean()) for name in LAYERS}
    assert shares == {"first.weight": 0.0, "second.weight": 0.5, "hidden.weight": 0.5, "head.weight": 0.0}
    with pytest.raises(ConfigError, match="matches none"):
        Prune(layers="third")(program, Context())


def test_an_emptied_layer_is_warned_of(program: Program) -> None:
    small = program.with_parameters({"second.weight": stored(program)["second.weight"] * 1e-3})
    with pytest.warns(EffcWarning, match=r"nothing is left of second.*by=layer-magnitude"):
        Prune(sparsity=0.8)(small, Context())


@pytest.mark.filterwarnings("ignore:.*nothing is left.*")
def test_heads_keep_a_weight_in_each_row_even_at_the_end(program: Program) -> None:
    result = Prune(sparsity=1 - 3 / TOTAL)(program, Context())
    assert (stored(result)["head.weight"] != 0).sum(1).tolist() == [1, 1, 1]
    with pytest.raises(ConfigError, match=r"only \d+ of 852 may; ask for less"):
        Prune(sparsity=1 - 1 / TOTAL)(program, Context())


def test_gradient_scores_are_those_of_the_labels(program: Program) -> None:
    given = context()
    result = Prune(sparsity=0.4, by="gradient")(program, given)
    assert given.fit is not None and given.fit.labels is not None
    net, total = made(), {}
    loss = F.cross_entropy(net(torch.from_numpy(given.fit.inputs["x"])), torch.from_numpy(given.fit.labels))
    loss.backward()  # 48 samples are one batch
    total = torch.cat([(net.get_parameter(name) * net.get_parameter(name).grad).abs().detach().flatten() for name in LAYERS])
    gone = torch.cat([(stored(result)[name] == 0).flatten() for name in LAYERS])
    assert int(gone.sum()) == TOTAL - round(TOTAL * 0.6)
    assert float(total[gone].max()) <= float(total[~gone].sort().values[3]) * 1.001
    with pytest.raises(DataError, match="needs labels"):
        Prune(by="gradient")(program, context(labelled=False))


def test_ap_without_training_goes_by_the_way_from_init(program: Program) -> None:
    start = {name: value for name, value in made(seed=1).state_dict().items() if value.is_floating_point()}
    given = Context(initial=start)
    result = Prune(sparsity=0.2, ap=True)(program, given)
    by_ap = round(0.1 * (TOTAL - round(TOTAL * 0.8)))
    assert zeros(result) == TOTAL - round(TOTAL * 0.8)
    base = Prune(sparsity=(TOTAL - round(TOTAL * 0.8) - by_ap) / TOTAL)(program, Context())
    more = [(name, (stored(result)[name] == 0) & (stored(base)[name] != 0)) for name in LAYERS]
    assert sum(int(mask.sum()) for _, mask in more) == by_ap
    assert all(bool((stored(program)[name][mask] < 0).all()) for name, mask in more)
    assert any(f"AP chose {by_ap}" in why for why in said(given, program.provenance.source))
    with pytest.raises(ConfigError, match=r"ap=true.*give epochs=N, or --init"):
        Prune(ap=True)(program, Context())


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("by", ["magnitude", "layer-magnitude"])
def test_cycles_end_at_the_sparsity_and_train_the_rest(program: Program, labelled: bool, by: Any) -> None:
    given = context(labelled)
    result = Prune(sparsity=0.6, by=by, ap=True, cycles=3, epochs=1)(program, given)
    assert zeros(result) == TOTAL - round(TOTAL * 0.4)
    assert not stored(result)["norm1.running_mean"].equal(stored(program)["norm1.running_mean"])  # batch norm trained
    log = [why for cycle in (1, 2, 3) for why in said(given, f"cycle {cycle}")]
    assert len(log) == 3
    assert all("on the selection data" in why and "dead dynamically" in why for why in log)
    step = 1 - 0.4 ** (1 / 3)
    removed = TOTAL - round(TOTAL * (1 - step))
    assert f"trained {TOTAL} weights" in log[0]
    assert f"then {removed} went, {round(0.1 * step * TOTAL)} of them by AP" in log[0]
    assert any("a deviation from the paper" in why for why in said(given, program.provenance.source))


def test_the_number_of_cycles_follows_from_the_sparsity(program: Program) -> None:
    given = context()
    Prune(sparsity=0.5, epochs=1)(program, given)
    assert said(given, "cycle 4") and not said(given, "cycle 5")


def test_training_starts_from_the_program_and_survivors_return_to_init(program: Program) -> None:
    """With a learning rate of almost nothing what comes out is what survivors were set to."""
    start = {name: value for name, value in made(seed=1).state_dict().items() if value.is_floating_point()}
    given = context(initial=start)
    result = Prune(sparsity=0.5, cycles=1, epochs=1, learning_rate=1e-30)(program, given)
    for name in LAYERS:
        value = stored(result)[name]
        assert value.equal(torch.where(value == 0, value, start[name])), name
    gone = torch.cat([(stored(result)[name] == 0).flatten() for name in LAYERS])
    trained = torch.cat([stored(program)[name].flatten().abs() for name in LAYERS])
    assert float(trained[gone].max()) <= float(trained[~gone].sort().values[3])  # chosen by the imported weights
    wrong = {**start, "hidden.weight": torch.zeros(3, 3)}
    del wrong["first.weight"]
    with pytest.raises(DataError, match=r"(?s)first.weight: weight: --init has none.*hidden.weight: shape \[3, 3\]"):
        Prune(epochs=1)(program, context(initial=wrong))


def test_an_interrupted_run_goes_on_to_the_same_bits(program: Program, tmp_path: Path) -> None:
    pruned = Prune(sparsity=0.5, cycles=2, epochs=2, ap=True)
    whole = pruned(program, context())
    shown: list[str] = []

    class Interrupting:
        """A progress bar that dies in the fourth epoch."""

        def __init__(self, label: str, total: int) -> None:
            self.label = label

        def __enter__(self) -> Any:
            def advance(count: int, note: str = "") -> None:
                if "training" in self.label:
                    shown.append(note)
                    if len(shown) == 4:
                        raise ArithmeticError("the machine stops")

            return advance

        def __exit__(self, *error: object) -> None:
            pass

    with pytest.raises((ArithmeticError, PassError)):
        pruned(program, context(checkpoints=tmp_path, progress=Interrupting))
    assert "cycle 2 of 3" in shown[3]
    resumed = pruned(program, context(checkpoints=tmp_path))
    assert all(value.equal(stored(whole)[name]) for name, value in stored(resumed).items())


# ---- channels --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [0, 1])
def test_channels_leave_the_program(program: Program, epochs: int) -> None:
    given = context()
    result = Prune(sparsity=0.5, per="channel", epochs=epochs, cycles=2 if epochs else None)(program, given)
    left = {name: stored(result)[name] for name in LAYERS}
    weights = sum(value.numel() for value in left.values())
    widest = 9 * (8 + 2) + 9 * 8 + 12
    assert TOTAL * 0.5 - widest < weights <= TOTAL * 0.5
    assert all(bool((value != 0).flatten(1).any(1).all()) for value in left.values())
    assert left["head.weight"].shape[0] == 3
    assert left["first.weight"].shape[0] == left["second.weight"].shape[0] == stored(result)["norm1.weight"].shape[0]  # one residual sum
    assert result.run({"x": torch.randn(4, 2, 5, 5)})["output"].shape == (4, 3)
    assert any("channels stay" in why for one in given.decisions for why in [one.why])


def test_removed_channels_are_those_that_zeros_would_be(program: Program) -> None:
    result = Prune(sparsity=0.3, per="channel", layers="hidden|head")(program, Context())
    keep = (stored(program)["hidden.weight"][:, None] == stored(result)["hidden.weight"][None]).all(2).any(1)
    assert 0 < int(keep.sum()) < 12
    norms = stored(program)["hidden.weight"].abs().sum(1)
    assert float(norms[~keep].max()) <= float(norms[keep].min())
    zeroed = {name: stored(program)[name].clone() for name in ("hidden.weight", "hidden.bias")}
    for value in zeroed.values():
        value[~keep] = 0.0
    x = torch.randn(8, 2, 5, 5)
    expected = program.with_parameters(zeroed).run({"x": x})["output"]
    torch.testing.assert_close(result.run({"x": x})["output"], expected, rtol=1e-5, atol=1e-5)


def test_channels_that_cannot_go_are_refused(program: Program) -> None:
    with pytest.raises(ConfigError, match="one channel left in each of"):
        Prune(sparsity=0.999, per="channel")(program, Context())
    with pytest.raises(ConfigError, match="one channel left in each of"):  # before hours of training, not after
        Prune(sparsity=0.999, per="channel", epochs=1)(program, context())
    alone = load_program(nn.Linear(3, 2).eval(), example_inputs=(torch.zeros(2, 3),))
    with pytest.raises(ConfigError, match="no channels can be removed"):
        Prune(per="channel")(alone, Context())


# ---- what it stands on -----------------------------------------------------------------------------------------------------------------


def test_prunable_weights_are_found_whichever_way_round() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.up = nn.Linear(4, 4), nn.ConvTranspose1d(1, 3, 2)
            self.matrix = nn.Parameter(torch.randn(12, 5))

        def forward(self, x: Tensor) -> Tensor:
            x = self.layer(F.relu(self.layer(x)))
            x = F.relu(self.up(x[:, None])[..., :4]).flatten(1)
            return x @ self.matrix

    found = prunable_weights(load_program(Shared().eval(), example_inputs=(torch.zeros(2, 4),)))
    assert [(one.name, one.axis, one.head) for one in found] == [("layer.weight", 0, False), ("up.weight", 1, False), ("matrix", 1, True)]


def test_dead_neurons_of_a_program(program: Program) -> None:
    weights = stored(program)
    pruned = {"first.weight": weights["first.weight"].clone(), "hidden.weight": weights["hidden.weight"].clone()}
    pruned["first.weight"][:2] = 0.0
    pruned["hidden.weight"][5] = 0.0
    changed = program.with_parameters(pruned)
    relus = dead_relus(program)
    assert [relu.fed for relu in relus] == [False, True, False]  # something else arrives after the residual sum
    rates = measure(changed, relus, data(10, 3), context().progress, "")
    assert rates is not None
    net = made()
    net.load_state_dict(pruned, strict=False)
    with torch.no_grad():
        x = torch.from_numpy(data(10, 3).inputs["x"])
        one = F.relu(net.norm1(net.first(x)))
        two = F.relu(net.norm2(net.second(one)) + one)
        three = F.relu(net.hidden(two.mean((2, 3))))
    dead = int((one[:, 2:] == 0).sum()) + int((two == 0).sum()) + int((three[:, [i for i in range(12) if i != 5]] == 0).sum())
    neurons = 2 * 8 * 25 + 12
    assert rates.dynamic == pytest.approx(dead / 10 / neurons)
    assert rates.static == pytest.approx((2 * 25 + 1) / neurons)


def test_programs_without_layers_stay() -> None:
    bare = load_program(nn.ReLU(), example_inputs=(torch.zeros(2, 3),))
    given = Context()
    assert Prune()(bare, given).nodes[0].target == bare.nodes[0].target
    assert "no layer" in given.decisions[0].why


@pytest.mark.parametrize(
    ("name", "value"),
    [("sparsity", 0.0), ("sparsity", 1.0), ("cycles", 2), ("epochs", -1), ("ap_share", 2.0), ("learning_rate", 0.0), ("layers", "(")],
)
def test_options_out_of_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name.replace("_", "-")):
        Prune(**{name: value})
