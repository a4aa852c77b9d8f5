"""Groups of channels on nets of every shape: removing channels is the same as zeroing what makes them, and makes the program smaller."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from effc.cost import program_cost
from effc.errors import ConfigError
from effc.ir import Batch, Edit, Facts, Program, Provenance, ValueFacts, verify
from effc.ir.ops.bound import BOUND
from effc.lowering import lower, run_lowered
from effc.nn.channel_group import ChannelGroup, Slice
from effc.passes.channel_removal import remove_channels
from effc.passes.channels import channel_groups
from effc.targets import find_target
from tests.semantics.networks import Sample, networks

_aten = torch.ops.aten


def program_of(net: nn.Module, *shape: int) -> Program:
    dimension = torch.export.Dim("batch", min=1)
    exported = torch.export.export(net.eval(), (torch.zeros(2, *shape),), dynamic_shapes=({0: dimension},))
    return Program.from_exported(exported, Provenance("net", "torch", "0"), batch=Batch(True))


def randomised(net: nn.Module, seed: int = 0) -> nn.Module:
    """With numbers everywhere: a fresh batch norm and a fresh bias hide mistakes behind their zeros and ones."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            value.normal_(0, 0.4, generator=generator)
            if name.endswith("running_var"):
                value.abs_().add_(0.1)
    return net.eval()


def zeroed(program: Program, groups: tuple[ChannelGroup, ...], keep: Mapping[str, Tensor]) -> Program:
    by_name = {name: program.tensors[placeholder].detach().clone() for placeholder, name in program.tensor_names.items()}
    for group in groups:
        gone = (~keep[group.name]).nonzero().flatten()
        for one in group.makes:
            if not one.tensor.endswith("running_var"):
                by_name[one.tensor].index_fill_(one.axis, one.select(gone), 0.0)
    return program.with_parameters({name: value for name, value in by_name.items() if value.is_floating_point()})


def drawn(groups: tuple[ChannelGroup, ...], seed: int) -> dict[str, Tensor]:
    """Masks that keep at least one channel of each group, and drop at least one where there are two."""
    generator = torch.Generator().manual_seed(seed)
    keep = {}
    for group in groups:
        order = torch.randperm(group.size, generator=generator)
        count = int(torch.randint(1, max(2, group.size), (), generator=generator))
        keep[group.name] = torch.zeros(group.size, dtype=torch.bool).index_fill(0, order[:count], True)
    return keep


def outputs(program: Program, shape: tuple[int, ...], batch: int) -> Tensor:
    x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(1))
    return next(iter(program.run({program.interface.inputs[0].name: x}).values()))


def check_removal(program: Program, shape: tuple[int, ...], keep: Mapping[str, Tensor]) -> Program:
    groups, _ = channel_groups(program)
    removed = remove_channels(program, keep)
    verify(removed)
    assert {*removed.tensor_names.values()} <= {*program.tensor_names.values()}
    assert removed.interface == program.interface
    for batch in (1, 3):
        expected = outputs(zeroed(program, groups, keep), shape, batch)
        torch.testing.assert_close(outputs(removed, shape, batch), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()) + 1e-6)
    return removed


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.short = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))) + self.short(x))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.one, self.two, self.three = Block(4, 4, 1), Block(4, 8, 2), Block(8, 12, 2)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.three(self.two(self.one(F.relu(self.norm(self.stem(x))))))
        return self.head(F.avg_pool2d(x, x.shape[-1]).flatten(1))


class Separable(nn.Module):
    """An inverted residual: depthwise, squeeze-and-excite, ReLU6 and hard-swish."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.Hardswish())
        self.expand = nn.Sequential(nn.Conv2d(6, 10, 1, bias=False), nn.BatchNorm2d(10), nn.ReLU6())
        self.depth = nn.Sequential(nn.Conv2d(10, 10, 3, padding=1, groups=10), nn.BatchNorm2d(10), nn.ReLU6())
        self.squeeze, self.excite = nn.Conv2d(10, 4, 1), nn.Conv2d(4, 10, 1)
        self.project = nn.Sequential(nn.Conv2d(10, 6, 1, bias=False), nn.BatchNorm2d(6))
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.depth(self.expand(x))
        y = y * torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        return self.head((x + self.project(y)).mean((2, 3)))


class Dense(nn.Module):
    """Concatenations, read by layers, norms and a flatten; a slice of each is another layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)
        self.norm, self.c = nn.BatchNorm2d(9), nn.Conv2d(9, 5, 1)
        self.head = nn.Linear((5 + 7) * 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        a = F.silu(self.a(x))
        both = torch.cat([a, torch.tanh(self.b(a))], 1)
        c = F.relu(self.c(F.relu(self.norm(torch.cat([x, both], 1)))))
        y = F.max_pool2d(F.pad(torch.cat([c, both], 1), (0, 1, 0, 1)), 2)
        return self.head(y.reshape(y.shape[0], 12 * 9))


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 5, 3)
        self.one, self.two, self.norm, self.three = nn.Linear(45, 16), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.scale, self.slope = nn.Parameter(torch.zeros(8)), nn.PReLU(16)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.conv(x)).flatten(1)
        return self.three(F.relu(self.norm(self.two(self.slope(self.one(F.dropout(x, training=self.training)))))) * self.scale)


NETS = {"residual": (Residual, (3, 8, 8)), "separable": (Separable, (3, 8, 8)), "dense": (Dense, (2, 5, 5)), "mlp": (Perceptron, (1, 5, 5))}
GROUPS = {
    "residual": {"stem": 4, "one.conv1": 4, "two.conv1": 8, "two.conv2": 8, "three.conv1": 12, "three.conv2": 12},
    "separable": {"stem.0": 6, "expand.0": 10, "squeeze": 4},
    "dense": {"a": 4, "b": 3, "c": 5},
    "mlp": {"conv": 5, "one": 16, "two": 8},
}


@pytest.mark.parametrize("name", NETS)
def test_removing_channels_is_zeroing_what_makes_them(name: str) -> None:
    kind, shape = NETS[name]
    program = program_of(randomised(kind()), *shape)
    groups, pinned = channel_groups(program)
    assert {group.name: group.size for group in groups} == GROUPS[name]
    assert [(one.name, one.why) for one in pinned] == [(program.nodes[-1].meta["custom"]["effc"], "are an output of the program")]
    for seed in range(2):
        removed = check_removal(program, shape, drawn(groups, seed))
        assert program_cost(removed).macs < program_cost(program).macs


def test_the_parts_of_a_group() -> None:
    """One residual stage, a depthwise pair with a multiplier, a concatenation and a flatten: where each holds its channels."""
    groups = {group.name: group for group in channel_groups(program_of(Residual(), 3, 8, 8))[0]}
    makers = {"stem.weight", "stem.bias", "one.conv2.weight"}
    makers |= {f"{norm}.{part}" for norm in ("norm", "one.norm2") for part in ("weight", "bias", "running_mean", "running_var")}
    assert {one.tensor for one in groups["stem"].makes} == makers and {one.axis for one in groups["stem"].makes} == {0}
    assert groups["stem"].reads == (Slice("one.conv1.weight", 1), Slice("two.conv1.weight", 1), Slice("two.short.weight", 1))
    expand = next(group for group in channel_groups(program_of(Separable(), 3, 8, 8))[0] if group.name == "expand.0")
    assert Slice("depth.0.weight", 0) in expand.makes and Slice("excite.weight", 0) in expand.makes
    assert expand.reads == (Slice("squeeze.weight", 1), Slice("project.0.weight", 1))
    b = next(group for group in channel_groups(program_of(Dense(), 2, 5, 5))[0] if group.name == "b")
    assert Slice("norm.bias", 0, 6) in b.makes and b.reads == (Slice("c.weight", 1, 6), Slice("head.weight", 1, 9 * 9, 9))


def test_a_depthwise_convolution_may_make_several_of_each() -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Sigmoid(), nn.Conv2d(4, 12, 3, groups=4), nn.Tanh(), nn.Flatten(), nn.Linear(48, 2))
    program = program_of(randomised(net), 2, 4, 4)
    ((group,), _) = channel_groups(program)
    assert group.makes[2:] == (Slice("2.weight", 0, 0, 3), Slice("2.bias", 0, 0, 3))
    assert group.reads == (Slice("5.weight", 1, 0, 12),)
    removed = check_removal(program, (2, 4, 4), {"0": torch.tensor([False, True, False, False])})
    assert removed.tensors["p_2_weight"].shape == (3, 1, 3, 3) and removed.tensors["p_5_weight"].shape == (2, 12)


def test_half_of_the_channels_is_a_quarter_of_the_work_between() -> None:
    net = randomised(nn.Sequential(nn.Conv2d(4, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1)))
    keep = torch.arange(8) % 2 == 0
    program = program_of(net, 4, 2, 2)
    fact = ValueFacts(0.0, 1.0, 0.5, 1)
    program = program.with_facts(Facts({node.name: fact for node in program.nodes}))
    removed = check_removal(program, (4, 2, 2), {"0": keep, "2": keep})
    assert program_cost(program).macs == 4 * (4 * 8 + 8 * 8 + 8 * 4)
    assert program_cost(removed).macs == 4 * (4 * 4 + 4 * 4 + 4 * 4)
    assert list(removed.facts.values) == ["conv2d_2"]  # all others have another shape
    assert program.tensors["p_2_weight"].shape == (8, 8, 1, 1)


class Web(nn.Module):
    """Steps over maps of one size; each takes earlier maps by number."""

    def __init__(self, steps: list[tuple[str, nn.Module | None, list[int]]], features: int) -> None:
        super().__init__()
        self.steps, self.head = steps, nn.Linear(features, 2)
        self.parts = nn.ModuleList([part for _, part, _ in steps if part is not None])

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for kind, part, sources in self.steps:
            taken = [maps[source] for source in sources]
            maps.append(torch.cat(taken, 1) if kind == "cat" else taken[0] + taken[1] if part is None else part(taken[0]))
        return self.head(maps[-1].flatten(1))


@st.composite
def webs(draw: st.DrawFn) -> nn.Module:
    widths = [2, 4]
    steps: list[tuple[str, nn.Module | None, list[int]]] = [("conv", nn.Conv2d(2, 4, 3, padding=1), [0])]
    for _ in range(draw(st.integers(3, 10))):
        kind = draw(st.sampled_from(["act", "conv", "norm", "add", "cat", "depth", "pool", "conv"]))
        one = max(0, len(widths) - draw(st.sampled_from([1, 1, 1, 2, 3])))
        width, sources, part = widths[one], [one], None
        if kind in ("add", "cat"):
            sources.append(draw(st.sampled_from([i for i, size in enumerate(widths) if kind == "cat" or size == width])))
            width += widths[sources[1]] if kind == "cat" else 0
        elif kind == "conv":
            width = draw(st.integers(2, 5))
            part = nn.Conv2d(widths[one], width, 3, padding=1, bias=draw(st.booleans()))
        elif kind == "depth":
            width *= draw(st.integers(1, 2))
            part = nn.Conv2d(widths[one], width, 3, padding=1, groups=widths[one])
        elif kind == "norm":
            part = nn.BatchNorm2d(width, affine=draw(st.booleans()))
        elif kind == "pool":
            part = draw(st.sampled_from([nn.AvgPool2d(3, 1, 1), nn.MaxPool2d(3, 1, 1)]))
        else:
            part = draw(st.sampled_from([nn.ReLU(), nn.Sigmoid(), nn.Tanh(), nn.SiLU(), nn.LeakyReLU()]))
        steps.append((kind, part, sources))
        widths.append(width)
    return randomised(Web(steps, widths[-1] * 9), draw(st.integers(0, 1000)))


QUICK = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@QUICK
@given(net=webs(), seed=st.integers(0, 1000))
def test_random_webs_of_layers(net: nn.Module, seed: int) -> None:
    program = program_of(net, 2, 3, 3)
    check_removal(program, (2, 3, 3), drawn(channel_groups(program)[0], seed))


@QUICK
@given(sample=networks(), seed=st.integers(0, 1000))
def test_random_chains(sample: Sample, seed: int) -> None:
    program = program_of(sample.net, *sample.shape)
    check_removal(program, sample.shape, drawn(channel_groups(program)[0], seed))


@pytest.mark.parametrize(
    ("behind", "why"),
    [
        (nn.Sigmoid(), "makes 0.5 of a channel of zeros"),
        (nn.ConstantPad2d(1, 2.0), "makes something else of a channel of zeros"),
        (nn.GroupNorm(2, 4), "mixes channels"),
        (nn.Softmax(1), "mixes channels"),
        (nn.Conv2d(4, 4, 1, groups=2), "in 2 groups"),
        (nn.PixelShuffle(2), "mixes channels"),
        (nn.Conv2d(4, 4, 1), ""),
        (nn.Sequential(nn.Sigmoid(), nn.Conv2d(4, 4, 3, groups=4)), ""),  # its own weights make zeros again
        (nn.Sequential(nn.Sigmoid(), nn.BatchNorm2d(4, affine=False)), "makes 0.5"),
        (nn.Sequential(nn.Sigmoid(), nn.BatchNorm2d(4)), ""),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, nn.Module) else "",
)
def test_what_does_not_keep_zeros_apart_is_left_whole(behind: nn.Module, why: str) -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 1), behind, nn.LazyConv2d(3, 1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    net(torch.zeros(2, 2, 3, 3))
    groups, pinned = channel_groups(program_of(randomised(net), 2, 3, 3))
    assert ("0" in {group.name for group in groups}) == (why == "")
    if why:
        assert why in next(one.why for one in pinned if one.name == "0")


def test_a_weight_with_two_roles_stays() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.shared, self.last = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(F.relu(self.shared(F.relu(self.shared(F.relu(self.first(x)))))))

    groups, pinned = channel_groups(program_of(Tied(), 3))
    assert not groups
    assert "shared.weight, which several operators use in different ways" in pinned[0].why


def test_bounds_shrink_with_their_channels_and_make_none() -> None:
    """Per neuron, behind the first layer; per channel, behind the second one."""
    program = program_of(
        randomised(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 1), nn.ReLU(), nn.Flatten(), nn.Linear(54, 2))), 1, 5, 5
    )
    edit = Edit(program)
    for node, shape in zip([node for node in edit.nodes if node.target == _aten.relu.default], [(4, 3, 3), (6, 1, 1)], strict=True):
        upper = edit.add_tensor(f"{node.name}.upper", torch.rand(shape, generator=torch.Generator().manual_seed(0)))
        lower = edit.add_tensor(f"{node.name}.lower", torch.zeros(())) if node.name == "relu" else None
        edit.replace(node, bounded := edit.call(BOUND.overload, (node, lower, upper, "clamp"), like=node), but_not={bounded})
    bounded_program = edit.done()
    groups, _ = channel_groups(bounded_program)
    assert {one.tensor.split(".")[1] for group in groups for one in group.makes} == {"weight", "bias"}
    keep = {"0": torch.tensor([True, False, False, True]), "2": torch.tensor([False, True, True, True, False, True])}
    removed = check_removal(bounded_program, (1, 5, 5), keep)
    kept = {name: removed.tensors[placeholder] for placeholder, name in removed.tensor_names.items()}
    full = {name: bounded_program.tensors[placeholder] for placeholder, name in bounded_program.tensor_names.items()}
    assert torch.equal(kept["relu.upper"], full["relu.upper"][keep["0"]]) and torch.equal(
        kept["relu_1.upper"], full["relu_1.upper"][keep["2"]]
    )
    assert kept["relu.lower"].shape == ()


def test_a_bound_above_zero_makes_no_zeros() -> None:
    edit = Edit(program_of(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), 2))
    node = next(node for node in edit.nodes if node.target == _aten.relu.default)
    lower, upper = edit.add_tensor("l", torch.tensor([0.0, 0.25, 0.0])), edit.add_tensor("u", torch.ones(()))
    edit.replace(node, new := edit.call(BOUND.overload, (node, lower, upper, "clamp"), like=node), but_not={new})
    _, pinned = channel_groups(edit.done())
    assert "makes 0.25 of a channel of zeros, and 2 (linear) reads that" in pinned[0].why


def test_wrong_masks_are_all_named_at_once() -> None:
    program = program_of(Perceptron(), 1, 5, 5)
    yes = torch.ones(16, dtype=torch.bool)
    with pytest.raises(ConfigError) as raised:
        remove_channels(program, {"one": ~yes, "conv": yes, "three": yes[:3], "four": yes, "two": torch.ones(8)})
    text = str(raised.value)
    for part in (
        "one: channels: none of them",
        "conv: torch.bool[16]",
        "three: channels: have to stay: they are an output",
        "four: channels: the program has no such",
        "two: torch.float32[8]",
    ):
        assert part in text


def test_a_smaller_program_compiles() -> None:
    program = program_of(randomised(Separable()), 3, 8, 8)
    removed = remove_channels(program, {"expand.0": torch.arange(10) < 3, "stem.0": torch.arange(6) > 2})
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    compiled = run_lowered(lower(removed, find_target("cpu")), removed, {"x": x.numpy()})
    expected = removed.run({"x": x})["output"]
    torch.testing.assert_close(torch.from_numpy(compiled["output"]), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
