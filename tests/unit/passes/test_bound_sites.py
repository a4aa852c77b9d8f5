"""Where bounds can stand: on functional, shared, composed and two-sided activations, behind residual sums; and extremes per neuron."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from effc.data import Dataset
from effc.errors import InternalError
from effc.frontends import load_program
from effc.ir import Batch, Program, Provenance
from effc.ir.ops.bound import BOUND
from effc.passes.base import Context
from effc.passes.bound_sites import BoundNames, Bounds, BoundSite, Extremes, bound_sites, insert_bounds
from effc.passes.profiling import observe
from effc.passes.ranger import Ranger

IMAGE = (2, 3, 8, 8)


class Of(nn.Module):
    """A convolution, something, and a classifier."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.conv, self.function, self.head = nn.Conv2d(3, 4, 3, padding=1), function, nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.function(self.conv(x)).mean((2, 3)))
        return result


class Blocks(nn.Module):
    """A functional ReLU in the stem, a residual block whose ReLU module is called twice, ReLU6 in front of pool and classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = (nn.Conv2d(size, 4, 3, padding=1) for size in (3, 4, 4))
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(4 * 4 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = self.two(self.relu(self.one(x)))
        y += x
        x = F.relu6(self.relu(y) * 2)
        result: Tensor = self.head(F.max_pool2d(x, 2).flatten(1))
        return result


class Heads(nn.Module):
    """Two outputs, each with its own last activation, behind a shared one."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.left, self.right = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.outs = nn.ModuleList([nn.Linear(8, 2), nn.Linear(8, 3)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.trunk(x))
        return self.outs[0](F.gelu(self.left(x))), self.outs[1](torch.relu(self.right(x)))


def found(net: nn.Module, *shape: int) -> tuple[Program, list[BoundSite], Context]:
    torch.manual_seed(0)
    program = load_program(net.eval(), example_inputs=(torch.randn(*(shape or IMAGE)),))
    context = Context()
    return program, bound_sites(program, Ranger(), context), context


def seen(program: Program, sites: list[BoundSite], data: Dataset) -> Mapping[str, Extremes]:
    extremes = {site.label: Extremes() for site in sites}
    observe(program, {site.node.name: (extremes[site.label],) for site in sites}, data, Context().progress, "")
    return extremes


@pytest.mark.parametrize(
    ("function", "two_sided"),
    [
        pytest.param(F.relu, False, id="functional"),
        pytest.param(nn.ReLU(inplace=True), False, id="in-place"),
        pytest.param(nn.ReLU6(), False, id="relu6"),
        pytest.param(nn.Hardtanh(0, 4), False, id="hardtanh"),
        pytest.param(lambda x: x.clamp(min=0), False, id="clamp"),
        pytest.param(lambda x: torch.clamp_min(x, 0), False, id="clamp-min"),
        pytest.param(nn.GELU(), True, id="gelu"),
        pytest.param(nn.LeakyReLU(0.1), True, id="leaky"),
        pytest.param(nn.ELU(inplace=True), True, id="elu"),
        pytest.param(lambda x: x.clamp(min=-1), True, id="one-end"),
        pytest.param(lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)), True, id="composed-gelu"),
        pytest.param(lambda x: x * torch.sigmoid(x), True, id="composed-silu"),
        pytest.param(lambda x: x * torch.clamp(x + 3, 0, 6) / 6, True, id="composed-hard-swish"),
        pytest.param(lambda x: x * torch.tanh(F.softplus(x)), True, id="composed-mish"),
    ],
)
def test_each_kind_of_activation_is_one_site(function: Any, two_sided: bool) -> None:
    program, sites, _ = found(Of(function))
    assert [(site.two_sided, site.last, site.neurons) for site in sites] == [(two_sided, True, (4, 8, 8))]
    (site,) = sites
    assert [user.target for user in site.node.users] == [torch.ops.aten.mean.dim]  # the whole of a composed one, not a piece
    upper = torch.full((4, 1, 1), 0.25)
    bounds = {site.label: Bounds(-upper if two_sided else None, upper)}
    bounded, names = insert_bounds(program, sites, bounds, "test")
    stored = {name: bounded.tensors[place] for place, name in bounded.tensor_names.items()}
    assert torch.equal(stored[names[site.label].upper], upper)
    assert names[site.label] == BoundNames(f"{site.label}.test_lower" if two_sided else None, f"{site.label}.test_upper")
    context = Context()
    assert bound_sites(bounded, Ranger(), context) == []
    assert "is bounded already" in [decision.why for decision in context.decisions]


@pytest.mark.parametrize(
    ("function", "why"),
    [
        pytest.param(torch.sigmoid, "keeps its results by itself", id="sigmoid"),
        pytest.param(nn.Hardtanh(), "keeps its results in [-1, 1] by itself", id="hardtanh"),
        pytest.param(lambda x: x + torch.relu(torch.ones(1)), "does not depend on an input: it is the same for all samples", id="constant"),
        pytest.param(lambda x: x.to(torch.int32).clamp(0, 3) + x, "gives integers, not floating-point numbers", id="integer"),
    ],
)
def test_what_is_left_alone_says_why(function: Any, why: str) -> None:
    _, sites, context = found(Of(function))
    assert sites == []
    assert [(decision.done, decision.why) for decision in context.decisions] == [(False, why)]


def test_what_a_composed_activation_reads_is_no_piece_of_it() -> None:
    """The ReLU that a SiLU reads is none of its pieces, though nothing else reads it."""
    _, sites, context = found(Of(lambda x: (y := torch.relu(x)) * torch.sigmoid(y)))
    assert [(str(site.node.target), site.last) for site in sites] == [("aten.relu.default", False), ("aten.mul.Tensor", True)]
    assert [decision.why for decision in context.decisions] == ["is a piece of the SiLU at mul"]


def test_functional_shared_and_residual_ones_in_execution_order() -> None:
    program, sites, _ = found(Blocks())
    targets = [str(site.node.target) for site in sites]
    assert targets == ["aten.relu.default"] * 3 + ["aten.relu6.default"]
    assert [site.last for site in sites] == [False, False, False, True]
    shared = [site.label for site in sites[1:3]]
    assert len(set(shared)) == 2 and all(label.startswith("relu.") for label in shared)
    assert sites[2].node.args[0].target == torch.ops.aten.add.Tensor  # type: ignore[union-attr]
    bounds = {site.label: Bounds(None, torch.tensor(0.1 * (place + 1)), "zero") for place, site in enumerate(sites)}
    bounded, names = insert_bounds(program, sites, bounds, "test")
    assert len({name.upper for name in names.values()}) == 4
    uppers = [bounded.tensors[node.args[2].name].item() for node in bounded.nodes if node.target == BOUND.overload]
    assert uppers == pytest.approx([0.1, 0.2, 0.3, 0.4])
    net = Blocks()
    torch.manual_seed(0)
    x = torch.randn(5, 3, 8, 8)
    net.load_state_dict({name: program.tensors[place] for place, name in program.tensor_names.items()})

    def zeroed(value: Tensor, upper: float) -> Tensor:
        return torch.where(value > torch.tensor(upper), 0.0, value)

    with torch.no_grad():
        first = zeroed(F.relu(net.stem(x)), 0.1)
        second = zeroed(F.relu(net.one(first)), 0.2)
        third = zeroed(F.relu(net.two(second) + first), 0.3)
        expected = net.head(F.max_pool2d(zeroed(F.relu6(third * 2), 0.4), 2).flatten(1))
    torch.testing.assert_close(next(iter(bounded.run({program.interface.inputs[0].name: x}).values())), expected)


def test_every_head_has_its_last_one() -> None:
    _, sites, _ = found(Heads(), 2, 6)
    assert [(str(site.node.target), site.last) for site in sites] == [
        ("aten.relu.default", False),
        ("aten.gelu.default", True),
        ("aten.relu.default", True),
    ]


def test_extremes_never_mix_channels() -> None:
    """Maxima per channel over several batches of unequal size: the toolbox's came back as 90, 90, 91."""
    maxima, minima = torch.tensor([0.94, 9.9, 91.0]), torch.tensor([-0.5, -6.0, -70.0])
    generator = np.random.default_rng(0)
    x = (generator.uniform(-0.5, 0.9, (150, 3, 2, 2)) * np.array([1.0, 10.0, 100.0])[:, None, None]).astype(np.float32)
    for channel in range(3):
        for pixel in range(4):
            x[(channel * 53 + pixel * 17) % 150, channel, pixel // 2, pixel % 2] = maxima[channel]
            x[(channel * 31 + pixel * 7 + 5) % 150, channel, pixel // 2, pixel % 2] = minima[channel]

    class Identity(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.leaky_relu(x, 1.0).sum((2, 3))

    exported = torch.export.export(Identity(), (torch.zeros(2, 3, 2, 2),), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    program = Program.from_exported(exported, Provenance("net", "torch", "0"), batch=Batch(True))
    sites = bound_sites(program, Ranger(), Context())
    (extremes,) = seen(program, sites, Dataset({"x": x})).values()  # batches of 64, 64 and 22
    assert extremes.maximum is not None and extremes.minimum is not None
    assert torch.equal(extremes.maximum, maxima[:, None, None].expand(3, 2, 2))
    assert torch.equal(extremes.minimum, minima[:, None, None].expand(3, 2, 2))


def test_bounds_for_no_site_are_an_error() -> None:
    program, sites, _ = found(Of(F.relu))
    with pytest.raises(InternalError, match="bounds for other"):
        insert_bounds(program, sites, {"other": Bounds(None, torch.tensor(1.0), "zero")}, "test")
