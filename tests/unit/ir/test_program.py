"""Programs, edits and the verifier: what a rewrite may rely on, and what must be caught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from effc.errors import DataError, InternalError
from effc.ir import Batch, Edit, Facts, Program, Provenance, State, ValueFacts, check, keyword_arguments, source_of, verify
from effc.ir.printing import format_program

aten = torch.ops.aten


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    exported = torch.export.export(Net().eval(), (torch.randn(2, 3, 5, 5),), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    return Program.from_exported(exported, Provenance("Net", "torch", "ab" * 32), batch=Batch(True), input_names=["image:0"])


def test_names_of_the_user_survive_and_shapes_say_batch(program: Program) -> None:
    assert [str(value) for value in program.interface.inputs] == ["image:0: float32[batch, 3, 5, 5]"]
    assert [str(value) for value in program.interface.outputs] == ["output: float32[batch, 2]"]
    assert [source_of(node) for node in program.nodes] == ["conv", "relu", "mean", "fc"]


def test_every_wrong_input_is_reported_at_once(program: Program) -> None:
    with pytest.raises(DataError) as caught:
        program.run({"image": torch.zeros(1), "image:0": torch.zeros(1, 3, 5, 6, dtype=torch.float64)})
    assert [problem.where for problem in caught.value.problems] == ["image", "image:0", "image:0"]
    assert "float64" in str(caught.value)
    assert "[1, 3, 5, 6]" in str(caught.value)


def with_bound(program: Program) -> Program:
    edit = Edit(program)
    relu = next(node for node in edit.nodes if node.target == aten.relu.default)
    lower, upper = edit.add_tensor("conv.bound", torch.zeros(())), edit.add_tensor("conv.bound", torch.tensor(0.125))
    bound = edit.call(torch.ops.effc.bound.default, (relu, lower, upper, "clamp"), like=relu)
    edit.replace(relu, bound, but_not={bound})
    return edit.done()


def test_an_edit_leaves_the_original_alone_and_the_result_runs_verifies_and_decomposes(program: Program) -> None:
    before = format_program(program)
    edited = with_bound(program)
    verify(edited)
    assert format_program(program) == before
    assert edited.tensor_names["p_conv_bound_1"] == "conv.bound_1"  # the name was taken
    x = torch.randn(3, 3, 5, 5)
    weight, bias = edited.tensors["p_fc_weight"], edited.tensors["p_fc_bias"]
    conv = torch.conv2d(x, edited.tensors["p_conv_weight"], edited.tensors["p_conv_bias"])
    expected = torch.nn.functional.linear(conv.clamp(0, 0.125).mean((2, 3)), weight, bias)
    torch.testing.assert_close(edited.run({"image:0": x})["output"], expected.detach(), rtol=0, atol=1e-6)
    sources = [node.meta.get("custom", {}).get("effc") for node in edited.exported.run_decompositions().graph.nodes]
    assert "conv" in sources  # the user's name survives decomposition


def test_no_tensor_stands_beneath_another_one(program: Program) -> None:
    """A module has no attributes of its own parameters: `conv.weight.scale` could not be loaded."""
    stored = next(iter(program.tensor_names.values()))
    edit = Edit(program)
    for number in range(2):
        scale = edit.add_tensor(f"{stored}.scale", torch.tensor(float(number)))
        last = edit.nodes[-1]
        edit.replace(last, edit.call(torch.ops.aten.mul.Tensor, (last, scale), like=last), but_not=set(edit.nodes[-1:]))
    assert {f"{stored}_scale", f"{stored}_scale_1"} <= set(edit.done().tensor_names.values())


def test_done_drops_what_nothing_uses(program: Program) -> None:
    edit = Edit(program.with_facts(Facts({"relu": ValueFacts(0, 1, 0.5, 8), "linear": ValueFacts(0, 1, 1.0, 8)})))
    relu = next(node for node in edit.nodes if node.target == aten.relu.default)
    edit.add_tensor("unused", torch.zeros(3))
    edit.replace(relu, relu.args[0])  # type: ignore[arg-type]
    result = edit.done()
    verify(result)
    assert "relu" not in {node.name for node in result.graph.nodes}
    assert set(result.facts.values) == {"linear"}
    assert all("unused" not in name for name in result.exported.state_dict)


def test_a_state_is_one_more_input_and_output(program: Program) -> None:
    edit = Edit(program)
    relu = next(node for node in edit.nodes if node.target == aten.relu.default)
    state = edit.add_state("before", like=relu)
    change = edit.call(aten.sub.Tensor, (relu, state), like=relu)
    edit.replace(relu, change, but_not={change})
    edit.write_state("before", relu)
    streaming = edit.done()
    verify(streaming)
    x = torch.randn(2, 3, 5, 5)
    result = streaming.run({"image:0": x, "before": torch.zeros(2, 4, 3, 3)})
    assert set(result) == {"output", "before_next"}
    torch.testing.assert_close(result["output"], program.run({"image:0": x})["output"])
    still = streaming.run({"image:0": x, "before": result["before_next"]})["output"]
    torch.testing.assert_close(still, program.tensors["p_fc_bias"].detach().expand(2, 2))


def dangling_state(program: Program) -> Program:
    return replace(program, interface=replace(program.interface, states=(State("image:0", "nowhere"),)))


def retargeted(program: Program, target: Callable[..., object]) -> Program:
    copy = Edit(program).done()
    next(node for node in copy.nodes if node.target == aten.relu.default).target = target
    return copy


def unknown_operator(program: Program) -> Program:
    return retargeted(program, torch.sin)


def in_place_operator(program: Program) -> Program:
    return retargeted(program, aten.relu_.default)


def wrong_shape(program: Program) -> Program:
    edit = Edit(program)
    node = next(node for node in edit.nodes if node.target == aten.mean.dim)
    node.args = (node.args[0], [2])
    return edit.done()


@pytest.mark.parametrize(
    ("broken", "finding"),
    [
        (dangling_state, "dangles"),
        (unknown_operator, "neither an ATen nor an effc operator"),
        (in_place_operator, "in place"),
        (wrong_shape, "recorded"),
    ],
)
def test_the_verifier_finds(broken: Callable[[Program], Program], finding: str, program: Program) -> None:
    assert check(program) == []
    with pytest.raises(InternalError) as caught:
        verify(broken(program))
    assert finding in str(caught.value)


def test_an_edit_that_leaves_an_invalid_graph_says_so(program: Program) -> None:
    edit = Edit(program)
    next(node for node in edit.nodes if node.target == aten.relu.default).target = aten.relu_.default
    with pytest.raises(InternalError, match="not a valid exported program"):
        edit.done()


def test_keyword_arguments_fill_in_defaults(program: Program) -> None:
    conv = next(node for node in program.nodes if node.target == aten.conv2d.default)
    arguments = keyword_arguments(conv)
    assert (arguments["stride"], arguments["padding"], arguments["groups"]) == ([1, 1], [0, 0], 1)


def test_the_text_of_a_program(program: Program) -> None:
    text = format_program(with_bound(program).with_pass("ranger"))
    assert text.splitlines()[:5] == [
        "program Net (torch, abababab)",
        "batch symbolic",
        "pass ranger",
        "",
        "input image:0: float32[batch, 3, 5, 5]",
    ]
    line = next(line for line in text.splitlines() if "effc.bound" in line)
    assert " ".join(line.split()) == (
        "%bound_default = effc.bound(%relu, conv.bound, conv.bound_1, mode='clamp') float32[batch, 4, 3, 3] # relu"
    )
