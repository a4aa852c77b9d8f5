"""The table, the spec text, the order, and each pass on the graph that it is made for."""

from __future__ import annotations

import dataclasses
import importlib
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effc.data import Dataset
from effc.errors import ConfigError, DataError, InternalError, PassError
from effc.frontends import load_program
from effc.ir import Batch, Program, Provenance
from effc.ir.ops.bound import BOUND
from effc.passes import PASSES, Context, Pass, Pipeline, format_pass, parse_passes

_aten = torch.ops.aten


def program_of(net: nn.Module, *inputs: Tensor) -> Program:
    dimension = torch.export.Dim("batch", min=1)
    exported = torch.export.export(net.eval(), inputs, dynamic_shapes=tuple({0: dimension} for _ in inputs))
    return Program.from_exported(exported, Provenance("net", "torch", "0"), batch=Batch(True))


def data_for(program: Program, samples: int = 16, seed: int = 0) -> Dataset:
    generator = np.random.default_rng(seed)
    shapes = {value.name: value.at_batch(samples) for value in program.interface.inputs}
    return Dataset({name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()})


def run(program: Program, data: Dataset) -> Tensor:
    return next(iter(program.run({name: torch.from_numpy(array) for name, array in data.inputs.items()}).values()))


def apply(spec: str, program: Program, data: Dataset | None = None) -> tuple[Program, Context]:
    context = Context(fit=data)
    return Pipeline(parse_passes(spec))(program, context), context


def targets(program: Program) -> list[Any]:
    return [node.target for node in program.nodes]


# ---- the table and the text --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PASSES, ids=lambda kind: kind.name)
def test_names_agree_and_everything_is_said(kind: type[Pass]) -> None:
    words = kind.name.split("-")
    assert kind.__name__ == "".join(word.capitalize() for word in words)
    assert kind.__module__ == f"effc.passes.{'_'.join(words)}"
    document = importlib.import_module(kind.__module__).__doc__ or ""
    assert "before:" in document and "after:" in document and re.search(r"[Nn]ot |not fire", document)
    assert dataclasses.fields(kind) == () or kind.__doc__
    assert kind.exact or kind.tolerance == 0
    assert parse_passes(format_pass(kind())) == (kind(),)


@dataclasses.dataclass(frozen=True)
class Sample(Pass):
    name = "sample"
    exact = True
    ratio: float = 0.5
    count: int = 1
    names: tuple[str, ...] = ()
    fast: bool = False

    def run(self, program: Program, context: Context) -> Program:
        return program


def test_the_text_of_options_parses_back(monkeypatch: pytest.MonkeyPatch) -> None:
    import effc.passes

    monkeypatch.setattr(effc.passes, "PASSES", (*PASSES, Sample))
    pass_ = Sample(ratio=1e-7, count=3, names=("a", "b.c"), fast=True)
    assert format_pass(pass_) == "sample{ratio=1e-07,count=3,names=[a;b.c],fast=true}"
    assert parse_passes(f" {format_pass(pass_)} , ranger") == (pass_, parse_passes("ranger")[0])
    with pytest.raises(ConfigError) as caught:
        parse_passes("rangr, sample{ratio=x, hurry=1}, sample{count=1.5}, sample{count=2,}, }")
    assert len(caught.value.problems) == 6
    assert "did you mean ranger?" in str(caught.value)


@pytest.mark.parametrize("text", ["ranger,,ranger", "ranger,", ",ranger", " , "])
def test_a_pass_that_is_not_there_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="a comma is at the end or doubled"):
        parse_passes(text)
    assert parse_passes("") == parse_passes(" \n") == ()


def test_the_order_is_checked_before_any_work() -> None:
    first = dataclasses.make_dataclass("First", [], bases=(Sample,), frozen=True)
    first.name = "first"
    second = dataclasses.make_dataclass("Second", [], bases=(Sample,), frozen=True)
    second.name, second.after = "second", (first,)
    Pipeline([first(), second()])
    with pytest.raises(ConfigError, match="put first first"):
        Pipeline([second(), first()])


def test_a_failing_pass_is_named_with_those_before_it() -> None:
    class Broken(Sample):
        name = "broken"

        def run(self, program: Program, context: Context) -> Program:
            raise KeyError("nothing there")

    with pytest.raises(PassError, match=r"pass broken failed: KeyError: 'nothing there' \(passes before it: eliminate-dead\)"):
        Pipeline([*parse_passes("eliminate-dead"), Broken()])(program_of(nn.ReLU(), torch.randn(2, 3)), Context())
    assert issubclass(PassError, InternalError)


# ---- eliminate-dead and fold-constants ---------------------------------------------------------------------------------------


def test_what_has_no_effect_goes_and_the_rest_stays() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(3, 3), nn.Parameter(torch.ones(7))
            self.dropout = nn.Dropout()

        def forward(self, x: Tensor) -> Tensor:
            x.exp()
            return self.dropout(self.used(x.to(torch.float32)).clone()).reshape(-1, 3).to(torch.float64)

    program = load_program(Net().eval(), example_inputs=(torch.randn(2, 3),))
    result, _ = apply("eliminate-dead", program)
    assert targets(result)[-1] == _aten.to.dtype and _aten.linear.default in targets(result)
    assert not {_aten.dropout.default, _aten.clone.default, _aten.exp.default} & set(targets(result))
    assert "unused" not in result.tensor_names.values()
    data = data_for(program)
    assert torch.equal(run(result, data), run(program, data))


def test_what_depends_on_no_input_is_computed_once() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.table = nn.Parameter(torch.tensor(3.0)), nn.Parameter(torch.randn(1, 1))

        def forward(self, x: Tensor) -> Tensor:
            big = self.table.expand(700, 700).exp()
            return x * (self.scale * torch.arange(4.0)).sqrt() + big.sum() + torch.rand(4) * 0

    program = program_of(Net(), torch.randn(2, 4))
    result, context = apply("fold-constants", program)
    data = data_for(program)
    torch.manual_seed(0)
    expected = run(program, data)
    torch.manual_seed(0)
    assert torch.equal(run(result, data), expected)
    assert _aten.sqrt.default not in targets(result) and _aten.arange.default not in targets(result)
    assert _aten.rand.default in targets(result)  # random numbers stay random
    assert _aten.exp.default in targets(result)  # 1.9 MB would be stored in place of four bytes
    assert any(not decision.done and "instead of computed" in decision.why for decision in context.decisions)


# ---- fold-batch-norm ---------------------------------------------------------------------------------------------------------


def _randomised(net: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean = torch.randn(module.num_features, generator=generator)
            module.running_var = torch.rand(module.num_features, generator=generator) + 0.1
            if module.affine:
                nn.init.normal_(module.weight, generator=generator)
                nn.init.normal_(module.bias, generator=generator)
    return net


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        pytest.param(nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)), (3, 5, 5), id="conv2d"),
        pytest.param(nn.Sequential(nn.Conv2d(4, 6, 3, groups=2, padding="same"), nn.BatchNorm2d(6, affine=False)), (4, 5, 5), id="groups"),
        pytest.param(nn.Sequential(nn.Conv1d(3, 1, 1), nn.BatchNorm1d(1)), (3, 1), id="conv1d-one-channel"),
        pytest.param(nn.Sequential(nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), nn.BatchNorm2d(6)), (4, 3, 3), id="transposed-groups"),
        pytest.param(nn.Sequential(nn.Linear(5, 7, bias=False), nn.BatchNorm1d(7)), (5,), id="linear"),
    ],
)
def test_batch_norm_folds_into_every_kind_of_layer(net: nn.Module, shape: tuple[int, ...]) -> None:
    program = program_of(_randomised(net), torch.randn(2, *shape))
    result, context = apply("fold-batch-norm", program)
    assert _aten.batch_norm.default not in targets(result)
    assert [decision.done for decision in context.decisions] == [True]
    data = data_for(program)
    expected = run(program, data)
    assert (run(result, data) - expected).abs().max() <= 2e-6 * expected.abs().max()


def test_batch_norm_that_must_stay_stays_and_says_why() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.first, self.broken = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.BatchNorm2d(2), nn.BatchNorm2d(2)
            self.last = nn.Conv2d(2, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(self.first(x))
            return self.broken(self.last(self.norm(y) + y))

    net = Net()
    net.broken.running_var = torch.tensor([-1.0, 1.0])
    _, context = apply("fold-batch-norm", program_of(net, torch.randn(2, 2, 3, 3)))
    assert [decision.done for decision in context.decisions] == [False, False, False]
    reasons = " | ".join(decision.why for decision in context.decisions)
    assert "no convolution" in reasons and "other users" in reasons and "not finite" in reasons


def test_a_weight_that_others_read_is_left_to_them() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(x)) + self.conv(self.conv(x))

    program = program_of(_randomised(Net()), torch.randn(2, 2, 3, 3))
    result, _ = apply("fold-batch-norm", program)
    data = data_for(program)
    torch.testing.assert_close(run(result, data), run(program, data), rtol=0, atol=1e-5)
    assert {"conv.weight", "norm.running_mean"} & set(result.tensor_names.values()) == {"conv.weight"}


# ---- ranger ------------------------------------------------------------------------------------------------------------------


class Branches(nn.Module):
    """Every kind of follower: max pool, padded average, concatenation, reshape, transpose, upsampling; one half-bounded concatenation."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.relu(x) + 1, torch.tanh(x)
        pooled = torch.nn.functional.max_pool2d(torch.relu(x), 2)
        mean = torch.nn.functional.avg_pool2d(torch.sigmoid(x), 2, padding=1)[..., 1:, 1:]
        tall = torch.nn.functional.interpolate(torch.nn.functional.max_pool2d(b, 2).transpose(2, 3), scale_factor=1, mode="nearest")
        joined = torch.cat([pooled, tall], 1)
        half = torch.cat([a, b], 1)
        return joined.flatten(1).sum(1, keepdim=True) + half.flatten(1).sum(1, keepdim=True) + mean.flatten(1).sum(1, keepdim=True)


def test_ranger_bounds_activations_and_what_follows_them() -> None:
    program = program_of(Branches(), torch.randn(2, 1, 4, 4))
    data = data_for(program, 32)
    result, context = apply("ranger", program, data)
    bounded = [node.args[0] for node in result.nodes if node.target == BOUND.overload]
    moved = ("transpose", "upsample_nearest2d", "slice", "slice", "flatten")
    kinds = sorted(str(node.target).split(".")[1] for node in bounded)
    assert kinds == sorted(["relu", "tanh", "relu", "sigmoid", "max_pool2d", "max_pool2d", "avg_pool2d", "cat", "flatten", *moved])
    assert torch.equal(run(result, data), run(program, data))  # the profiled data are inside their own range
    bounds = {name: result.tensors[placeholder].item() for placeholder, name in result.tensor_names.items()}
    x = torch.from_numpy(data.inputs[program.interface.inputs[0].name])
    by_op = {}
    for node in bounded:
        (bound,) = node.users
        by_op[str(node.target).split(".")[1]] = [bounds[result.tensor_names[side.name]] for side in bound.args[1:3]]
    assert by_op["tanh"] == [float(torch.tanh(x).min()), float(torch.tanh(x).max())]
    assert by_op["avg_pool2d"] == [0.0, float(torch.sigmoid(x).max())]  # zero padding can pull an average down to zero
    assert by_op["cat"] == [float(torch.tanh(x).min()), max(float(x.max()), float(torch.tanh(x).max()))]
    assert any("only 1 of its 2 inputs" in decision.why for decision in context.decisions)


def test_ranger_stops_a_fault_and_runs_twice_without_change() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    program = program_of(net, torch.randn(2, 4))
    data = data_for(program)
    once, _ = apply("ranger", program, data)
    twice, _ = apply("ranger", once, data)
    assert targets(twice) == targets(once)
    for fault in (1e30, float("inf"), float("nan")):
        damaged = {name: value.clone() for name, value in once.tensors.items()}
        broken = next(name for name, source in once.tensor_names.items() if source == "0.weight")
        damaged[broken][0, 0] = fault
        with torch.no_grad():
            stored = [damaged[name] for name in once.tensor_names]
            outputs = once.exported.graph_module(*stored, *map(torch.from_numpy, data.inputs.values()))
        assert torch.isfinite(outputs[0]).all()
        assert (outputs[0] - run(once, data)).abs().max() < 10


def test_ranger_needs_sound_data() -> None:
    program = program_of(nn.Sequential(nn.Linear(4, 8), nn.ReLU()), torch.randn(2, 4))
    with pytest.raises(DataError, match="--data"):
        apply("ranger", program)
    with torch.no_grad():
        program.tensors[next(iter(program.tensors))].fill_(1.0)
    huge = Dataset({program.interface.inputs[0].name: np.full((2, 4), 3e38, np.float32)})
    with pytest.raises(DataError, match="NaN or infinite"):
        apply("ranger", program, huge)


def test_a_range_on_one_sample_is_said_in_the_singular() -> None:
    program = program_of(nn.ReLU(), torch.randn(2, 3))
    context = Context(fit=data_for(program, 1))
    Pipeline(parse_passes("ranger"))(program, context)
    assert context.decisions[0].why.endswith("its range on 1 sample")


class SplitWeights(nn.Module):
    """Parts of a stored tensor, as the import of a recurrent layer makes them to put its gates in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(12.0).reshape(6, 2))

    def forward(self, x: Tensor) -> Tensor:
        one, two, three = self.weight.split(2)
        return torch.nn.functional.linear(x, torch.cat([three, one, two]))


def test_parts_of_stored_tensors_are_folded() -> None:
    program = load_program(SplitWeights(), example_inputs=[torch.ones(1, 2)])
    folded, _ = apply("fold-constants", program)
    assert [str(node.target) for node in folded.nodes] == ["aten.linear.default"]
    (stored,) = folded.tensors.values()
    assert stored.tolist() == [[8, 9], [10, 11], [0, 1], [2, 3], [4, 5], [6, 7]]
