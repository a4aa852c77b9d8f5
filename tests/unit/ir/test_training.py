"""Programs train, and the result goes back into a program."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from effc.errors import InternalError
from effc.frontends import load_program
from effc.ir import Batch, Edit, Program, Provenance
from effc.ir.ops.bound import BOUND


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop, self.last = nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(torch.relu(self.norm(self.first(x)))))


@pytest.fixture
def program() -> Program:
    torch.manual_seed(0)
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    exported = torch.export.export(Net().eval(), (torch.zeros(2, 3),), dynamic_shapes=shapes)
    return Program.from_exported(exported, Provenance("net", "torch", "0"), batch=Batch(True))


def bounded(program: Program) -> Program:
    """A bound of [0, 0.1] behind the activation."""
    edit = Edit(program)
    relu = next(node for node in edit.nodes if node.target == torch.ops.aten.relu.default)
    lower = edit.add_tensor("bound.lower", torch.tensor(0.0))
    upper = edit.add_tensor("bound.upper", torch.tensor(0.1))
    new = edit.call(BOUND.overload, (relu, lower, upper, "clamp"), like=relu)
    edit.replace(relu, new, but_not={new})
    return edit.done()


def outputs(program: Program, x: Tensor) -> Tensor:
    return program.run({program.interface.inputs[0].name: x})["output"]


def test_training_lowers_the_loss_and_the_result_is_a_program(program: Program) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 3, generator=generator)
    y = (x.sum(1) > 0).long()
    before = bounded(program)
    module = before.trainable()
    torch.testing.assert_close(module(x), outputs(before, x))
    module.train()
    torch.manual_seed(2)
    assert not torch.equal(module(x), module(x))  # dropout draws anew
    optimiser = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(module(x), y)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    module.eval()
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    after = before.with_parameters(module.source_state())
    torch.testing.assert_close(outputs(after, x), module(x).detach())
    upper = next(placeholder for placeholder, name in after.tensor_names.items() if name == "bound.upper")
    assert after.tensors[upper] > 0.1  # the gradient reached the bound, which held the network back
    assert outputs(before, x).equal(outputs(before, x)) and before.tensors[upper] == torch.tensor(0.1)


@pytest.mark.parametrize("mode", ["frozen", "train"])
def test_batch_norm_moves_only_where_it_trains(program: Program, mode: str) -> None:
    module = program.trainable(mode).train()  # type: ignore[arg-type]
    state = module.source_state()
    module(torch.randn(32, 3) * 5 + 2)
    moved = not torch.equal(module.source_state()["norm.running_mean"], state["norm.running_mean"])
    assert moved == (mode == "train")


def test_batch_norm_trains_where_an_exporter_wrote_momentum_0() -> None:
    """With 0 the statistics stay those of the imported weights, and what was trained is lost in evaluation mode."""
    program = load_program("examples/digits.onnx")
    assert [node.args[6] for node in program.nodes if node.target == torch.ops.aten.batch_norm.default] == [0.0, 0.0, 0.0]
    module = program.trainable("train").train()
    before = module.source_state()["norm1.running_mean"]
    module(torch.rand(32, 1, 8, 8))
    assert not torch.equal(module.source_state()["norm1.running_mean"], before)


def test_parameters_that_do_not_fit_are_all_named(program: Program) -> None:
    with pytest.raises(InternalError) as caught:
        program.with_parameters({"first.weight": torch.zeros(3, 8), "nothing": torch.zeros(1), "last.bias": torch.zeros(2).double()})
    assert {problem.where for problem in caught.value.problems} == {"first.weight", "nothing", "last.bias"}


class Clashing(nn.Module):
    """Names that are one without dots."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.ParameterDict({"b": nn.Parameter(torch.tensor([2.0, 3.0]))})
        self.a__b = nn.Parameter(torch.tensor([5.0, 7.0]))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.a["b"] + self.a__b


def test_names_that_are_alike_without_dots_stay_apart() -> None:
    before = load_program(Clashing().eval(), example_inputs=[torch.zeros(2, 2)])
    module, x = before.trainable(), torch.randn(4, 2)
    assert torch.equal(module(x), outputs(before, x))
    assert len(set(module.own_names.values())) == 2
    assert torch.equal(outputs(before.with_parameters(module.source_state()), x), outputs(before, x))
