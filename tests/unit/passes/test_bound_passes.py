"""ProAct, FitAct and Ranger's variant on a small network that is trained on scikit-learn's digits."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from effc.data import Dataset
from effc.errors import DataError, EffcWarning
from effc.faultsim.rate_accuracy import rate_accuracy
from effc.frontends import load_program
from effc.ir import Program
from effc.ir.ops.bound import BOUND
from effc.passes import Context, Ranger
from effc.passes.base import Advance
from effc.passes.bound_training import FLOOR, BoundTraining, relative_adam
from effc.passes.fitact import Fitact
from effc.passes.proact import Proact
from effc.passes.quality import Judge

SHORT = {"epochs": 3, "samples": 256, "learning_rate": 0.03, "max_drop": 0.01}


class Net(nn.Module):
    """A functional ReLU, one behind a residual sum, a GELU, and a ReLU in front of the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.deep = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1)
        self.hidden, self.last, self.head = nn.Linear(6 * 4 * 4, 24), nn.Linear(24, 16), nn.Linear(16, 10)
        self.gelu, self.relu = nn.GELU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.max_pool2d(torch.relu(self.deep(x) + x), 2).flatten(1)
        result: Tensor = self.head(self.relu(self.last(self.gelu(self.hidden(x)))))
        return result


@functools.cache
def digits() -> tuple[Dataset, Dataset, Dataset]:
    """To fit, to choose by, to test."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    x, y = (loaded.images[:, None] / 16).astype(np.float32), loaded.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(x))
    return tuple(Dataset({"x": x[rows]}, y[rows]) for rows in np.split(order, [1000, 1400]))  # type: ignore[return-value]


@functools.cache
def trained() -> Program:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net, fit = Net(), digits()[0]
        assert fit.labels is not None
        x, y = torch.from_numpy(fit.inputs["x"]), torch.from_numpy(fit.labels)
        optimiser = torch.optim.Adam(net.parameters(), 1e-2)
        for _ in range(6):
            for rows in torch.randperm(len(x)).split(50):
                optimiser.zero_grad()
                F.cross_entropy(net(x[rows]), y[rows]).backward()
                optimiser.step()
    return load_program(net.eval(), example_inputs=(x[:2],))


@dataclass(frozen=True)
class Protected:
    program: Program
    context: Context

    @property
    def bounds(self) -> list[tuple[Tensor | None, Tensor, str]]:
        """Lower, upper and mode in execution order."""
        tensors = self.program.tensors
        nodes = [node for node in self.program.nodes if node.target == BOUND.overload]
        return [
            (None if node.args[1] is None else tensors[node.args[1].name].detach(), tensors[node.args[2].name].detach(), str(node.args[3]))  # type: ignore[union-attr]
            for node in nodes
        ]

    @property
    def reasons(self) -> list[str]:
        return [decision.why for decision in self.context.decisions]


def protect(by: BoundTraining | Ranger, program: Program, *, labels: bool = True) -> Protected:
    fit, selection, _ = (data if labels else Dataset(data.inputs) for data in digits())
    context = Context(fit=fit, selection=selection, seed=1)
    return Protected(by(program, context), context)


@functools.cache
def proact() -> Protected:
    return protect(Proact(**SHORT), trained())


def largest_values(program: Program) -> list[Tensor]:
    """Per neuron, of the activations in execution order, computed without a pass."""
    x = torch.from_numpy(digits()[0].inputs["x"])
    module = Net().eval()
    module.load_state_dict(program.trainable().source_state(), strict=False)
    with torch.no_grad():
        first = F.relu(module.norm(module.stem(x)))
        second = torch.relu(module.deep(first) + first)
        third = module.gelu(module.hidden(F.max_pool2d(second, 2).flatten(1)))
        return [one.amax(0) for one in (first, second, third, module.relu(module.last(third)))]


def test_proact_learns_smaller_bounds_within_its_budget() -> None:
    found = proact()
    shapes = [(None if lower is None else tuple(lower.shape), tuple(upper.shape), mode) for lower, upper, mode in found.bounds]
    assert shapes == [(None, (), "zero"), (None, (), "zero"), ((), (), "zero"), (None, (16,), "zero")]
    start = [1.2 * float(one.max()) for one in largest_values(trained())]
    end = [float(upper.mean()) for _, upper, _ in found.bounds]
    assert all(0 < one < 0.95 * limit for one, limit in zip(end[:3], start[:3], strict=True))
    assert end[3] < 0.95 * float(largest_values(trained())[3].mean() * 1.2)
    lower = found.bounds[2][0]
    assert lower is not None and -0.1700 * 1.2 < float(lower) < 0  # GELU's least value is -0.16997
    judge = Judge(trained(), digits()[1], None)
    assert judge.loss(judge.judge(found.program)[0]) <= 0.01
    before, after = trained().trainable().source_state(), found.program.trainable().source_state()
    assert all(torch.equal(after[name], value) for name, value in before.items())  # batch norm's statistics, too
    assert any("top1 0.9" in why and "20 bounds in 80 bytes" in why and "of 12 epochs kept" in why for why in found.reasons)


def test_faults_hurt_less_than_without_bounds() -> None:
    rates, test = [1e-4], digits()[2].take(150)
    unprotected, protected = (
        rate_accuracy(program, test, rates, 60, view="q15.16", seed=3)[0] for program in (trained(), proact().program)
    )
    difference = protected - unprotected
    assert difference.mean() > 0.05
    assert difference.mean() > 3 * difference.std(ddof=1) / len(difference) ** 0.5


def test_a_second_run_finds_nothing_unbounded() -> None:
    again = protect(Fitact(epochs=1), proact().program)
    assert [node.target for node in again.program.nodes] == [node.target for node in proact().program.nodes]
    assert again.reasons == ["is bounded already"] * 4 + ["has no activation to bound"]


def test_fitact_bounds_every_neuron_at_once_and_needs_no_labels() -> None:
    found = protect(Fitact(**{**SHORT, "epochs": 2}), trained(), labels=False)
    assert [tuple(upper.shape) for _, upper, _ in found.bounds] == [(6, 8, 8), (6, 8, 8), (24,), (16,)]
    # The network is trained here, and its last bits differ by processor: on some, bounds as profiled already cost agreement.
    higher = 1.5 if any("bounds begin 1.5 times higher" in why for why in found.reasons) else 1.0
    for (_, upper, _), largest in zip(found.bounds, largest_values(trained()), strict=True):
        start = higher * 1.2 * torch.maximum(largest, FLOOR * largest.max())
        assert float(upper.mean()) < float(start.mean())
        assert float(upper.min()) >= 0
    assert any("agreement 1 -> " in why and "of 2 epochs kept" in why for why in found.reasons)
    judge = Judge(trained(), Dataset(digits()[1].inputs), None)
    assert judge.judge(found.program)[0] >= 0.99
    same = protect(Fitact(**{**SHORT, "epochs": 2}), trained(), labels=False)
    assert all(torch.equal(one[1], other[1]) for one, other in zip(found.bounds, same.bounds, strict=True))


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bits(tmp_path: Path) -> None:
    fit, selection, _ = digits()
    epochs: list[str] = []

    @contextmanager
    def interrupted(label: str, total: int) -> Iterator[Advance]:
        def advance(count: int, note: str = "") -> None:
            if note:
                epochs.append(note)
            if len(epochs) == 5:  # in the second stage
                raise KeyboardInterrupt

        yield advance

    context = Context(fit=fit, selection=selection, seed=1, checkpoints=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        Proact(**SHORT)(trained(), replace(context, progress=interrupted))
    epochs.clear()

    @contextmanager
    def counted(label: str, total: int) -> Iterator[Advance]:
        def advance(count: int, note: str = "") -> None:
            epochs.extend([note] if note else [])

        yield advance

    again = Proact(**SHORT)(trained(), replace(context, progress=counted))
    assert 0 < len(epochs) < 12
    assert "(4/4), bound" in epochs[-1] and "top1" in epochs[-1]
    expected = proact().program.trainable().source_state()
    assert all(torch.equal(value, expected[name]) for name, value in again.trainable().source_state().items())


class Quiet(nn.Module):
    """A layer that never fires, and one with a neuron that never does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(64, 4), nn.Linear(4, 10)
        nn.init.constant_(self.first.bias, 0.5)
        with torch.no_grad():
            self.first.bias[2] = -99.0

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x.flatten(1)))
        result: Tensor = self.head(y + torch.relu(y - 1e6))
        return result


def test_what_never_fires_divides_nothing() -> None:
    torch.manual_seed(0)
    program = load_program(Quiet().eval(), example_inputs=(torch.zeros(2, 1, 8, 8),))
    found = protect(Fitact(**{**SHORT, "epochs": 1}), program)
    ((_, upper, _),) = found.bounds
    assert bool(upper.isfinite().all())
    assert 0 <= float(upper[2]) <= 1.2 * FLOOR * float(upper.max() / 0.5)
    assert any("nothing but 0 on 1,000 samples" in why for why in found.reasons)


def test_steps_are_relative_to_where_a_bound_starts() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bound = nn.Parameter(torch.tensor([0.5, -40.0, 3.0]))

    module = Two()
    optimiser = relative_adam(module, {"bound": torch.tensor([0.5, -40.0, 300.0])}, 0.1)  # type: ignore[arg-type]
    (module.bound * torch.tensor([1.0, -7.0, 1e-3])).sum().backward()
    optimiser.step()
    torch.testing.assert_close(module.bound.detach(), torch.tensor([0.45, -36.0, 0.0]), rtol=1e-4, atol=1e-4)


def test_options_that_make_no_sense_are_refused() -> None:
    for wrong in ({"epochs": 0}, {"margin": -0.1}, {"pull": 0.0}, {"learning_rate": float("nan")}, {"max_drop": float("inf")}):
        with pytest.raises(ValueError, match=next(iter(wrong)).replace("_", "-")):
            Proact(**wrong)
    with pytest.raises(DataError, match="--data"):
        Proact()(trained(), Context())


def test_proact_with_a_bound_a_channel_elsewhere() -> None:
    found = protect(Proact(epochs=1, samples=64, elsewhere="channel"), trained())
    upper = [tuple(one.shape) for _, one, _ in found.bounds]
    assert [len(shape) for shape in upper] == [3, 3, 1, 1] and upper[0][1:] == (1, 1)
    largest = [one.amax((1, 2), keepdim=True) for one in largest_values(trained())[:2]]
    for one, most in zip(found.bounds, largest, strict=False):  # they start at 1.2 times what the channel gives, and fall
        assert bool((one[1] < 1.2001 * torch.maximum(most, 0.01 * most.max())).all())


class Heads(nn.Module):
    """A regression and another one, which share a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.left, self.right = nn.Linear(6, 24), nn.Linear(24, 12), nn.Linear(24, 12)
        self.outs = nn.ModuleList([nn.Linear(12, 1), nn.Linear(12, 3)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.shared(x))
        return self.outs[0](torch.relu(self.left(x))), self.outs[1](torch.relu(self.right(x)))


@pytest.mark.parametrize("kind", [Proact, Fitact])
def test_every_output_is_kept_near_its_own_and_one_number_has_no_class(kind: type[BoundTraining]) -> None:
    """Agreement over one class is always 1, and the first output says nothing about the second."""
    torch.manual_seed(0)
    program = load_program(Heads().eval(), example_inputs=[torch.zeros(2, 6)])
    x = torch.randn(600, 6)
    context = Context(fit=Dataset({"x": x[:480].numpy()}), selection=Dataset({"x": x[480:].numpy()}))
    made = kind(epochs=3, samples=256, max_drop=0.05)
    result = made(program, context)
    for before, after in zip(program.run({"x": x}).values(), result.run({"x": x}).values(), strict=True):
        assert float((after - before).abs().max()) < 0.3 * float(before.abs().max())
        assert float((after - before).square().mean().sqrt()) < 0.1 * float(before.std())
    assert any("max-error 0 ->" in decision.why for decision in context.decisions)


def test_channels_are_those_of_the_layer_in_front() -> None:
    """Of (C, L) behind a one-dimensional convolution the first axis."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv1d(2, 8, 3), nn.ReLU(), nn.Conv1d(8, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    program = load_program(module.eval(), example_inputs=[torch.zeros(2, 2, 20)])
    data = Dataset({"input": np.random.default_rng(0).normal(size=(80, 2, 20)).astype(np.float32)})
    result = Proact(epochs=1, samples=64, elsewhere="channel")(program, Context(fit=data, selection=data))
    shapes = [tuple(result.tensors[key].shape) for key, name in result.tensor_names.items() if "proact" in name]
    assert shapes == [(8, 1), (4, 16)]


def test_bounds_that_cost_too_much_from_the_start_begin_higher_or_are_warned_of() -> None:
    """A handful of samples does not show an activation's range."""
    fit, selection = digits()[:2]
    few = Context(fit=fit.take(2), selection=selection)
    with pytest.warns(EffcWarning, match=r"max-drop=0\.0 .*too few samples|cost .* over max-drop"):
        Fitact(epochs=1, samples=2, max_drop=0.0)(trained(), few)
    assert any("bounds begin 5 times higher" in decision.why for decision in few.decisions)


def test_ranger_with_zero_sends_away_what_its_clamp_keeps() -> None:
    clamped, zeroed = protect(Ranger(), trained()), protect(Ranger(above="zero"), trained())
    assert Ranger(above="zero").spec == "ranger{above=zero}"
    assert {mode for _, _, mode in clamped.bounds} == {"clamp"} and {mode for _, _, mode in zeroed.bounds} == {"zero"}
    for (low, high, _), (other_low, other_high, _) in zip(clamped.bounds, zeroed.bounds, strict=True):
        assert (low, high) == (other_low, other_high)
    images = torch.from_numpy(digits()[0].inputs["x"][:8])
    expected = trained().run({"x": images})["output"]
    assert torch.equal(zeroed.program.run({"x": images})["output"], expected)  # nothing is out of range on what was profiled
    assert any(why.startswith("zeroed out of [0, ") for why in zeroed.reasons)
    huge = {"x": images * 1e6}
    assert not torch.equal(zeroed.program.run(huge)["output"], clamped.program.run(huge)["output"])
    dark = zeroed.program.run({"x": torch.full_like(images, -1e6)})["output"]
    assert bool(dark.isfinite().all())
