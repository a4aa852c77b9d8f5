"""Activations that exporters write as several operators, and what ranger does about them and about what follows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from effc.data import Dataset
from effc.frontends import load_program
from effc.ir import Program
from effc.ir.ops.bound import BOUND
from effc.passes import Context, Pipeline, parse_passes
from effc.passes.activations import composed_activations

F = nn.functional


class Net(nn.Module):
    """A layer, a function, a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.function, self.last = nn.Linear(6, 6), function, nn.LazyLinear(2)

    def forward(self, x: Tensor) -> Any:
        return self.last(self.function(self.first(x)))


def program_of(function: Callable[[Tensor], Tensor]) -> Program:
    torch.manual_seed(0)
    net = Net(function).eval()
    net(torch.zeros(2, 6))
    return load_program(net, example_inputs=(torch.randn(2, 6),))


def ranger(program: Program) -> tuple[Program, Context, Dataset]:
    data = Dataset({"x": np.random.default_rng(0).standard_normal((32, 6)).astype(np.float32) * 3})
    context = Context(fit=data)
    return Pipeline(parse_passes("ranger"))(program, context), context, data


ERF = math.sqrt(2.0)
TANH = math.sqrt(2 / math.pi)
COMPOSED: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "silu": ("SiLU", lambda x: x * torch.sigmoid(x)),
    "silu, turned": ("SiLU", lambda x: torch.sigmoid(x) * x),
    "silu of a scaled value": ("SiLU", lambda x: _silu(x * 2)),
    "silu of a product": ("SiLU", lambda x: _silu(x * torch.cos(x))),
    "quick gelu": ("quick GELU", lambda x: x * torch.sigmoid(1.702 * x)),
    "erf, half last": ("GELU", lambda x: (x * (torch.erf(x / ERF) + 1.0)) * 0.5),
    "erf, half first": ("GELU", lambda x: 0.5 * x * (1.0 + torch.erf(x / ERF))),
    "erf, half at the gate": ("GELU", lambda x: x * (0.5 * (1.0 + torch.erf(x * math.sqrt(0.5))))),
    "erf, half inside the gate": ("GELU", lambda x: x * (0.5 + 0.5 * torch.erf(x / ERF))),
    "erf of a sum": ("GELU", lambda x: _gelu(x + 3)),
    "tanh gelu": ("tanh GELU", lambda x: 0.5 * x * (1 + torch.tanh(TANH * (x + 0.044715 * x**3)))),
    "hardsigmoid": ("hard-swish", lambda x: x * F.hardsigmoid(x)),
    "clamp": ("hard-swish", lambda x: x * torch.clamp(x + 3, 0, 6) / 6),
    "relu6": ("hard-swish", lambda x: x * (F.relu6(x + 3) / 6)),
    "unit clamp": ("hard-swish", lambda x: torch.clamp(x / 6 + 0.5, 0, 1) * x),
    "mish": ("Mish", lambda x: x * torch.tanh(F.softplus(x))),
}


def _silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def _gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / ERF))


@pytest.mark.parametrize("form", COMPOSED)
def test_a_composed_activation_is_bounded_at_its_result(form: str) -> None:
    kind, function = COMPOSED[form]
    program = program_of(function)
    found = composed_activations(program)
    assert list(found.values()) == [kind]
    result, context, data = ranger(program)
    (decision,) = (one for one in context.decisions if f"({kind} in several operators)" in one.why)
    assert decision.done
    name = next(iter(found))
    (bound,) = (node for node in result.nodes if node.target == BOUND.overload and node.args[0].name == name)
    hidden = function(nn.functional.linear(torch.from_numpy(data.inputs["x"]), *(p for p in _first_layer(program))))
    sides = [result.tensors[side.name].item() for side in bound.args[1:3]]
    assert sides == pytest.approx([float(hidden.min()), float(hidden.max())], rel=1e-4, abs=1e-6)
    again, context, _ = ranger(result)
    assert [node.target for node in again.nodes] == [node.target for node in result.nodes]
    assert not any(one.done for one in context.decisions)


def _first_layer(program: Program) -> tuple[Tensor, Tensor]:
    by_name = {source: program.tensors[name].detach() for name, source in program.tensor_names.items()}
    return by_name["first.weight"], by_name["first.bias"]


@pytest.mark.parametrize("order", ["(x * (1 + erf)) / 2", "(x / 2) * (1 + erf)"])
def test_the_constants_of_an_onnx_file_are_read(tmp_path: Path, order: str) -> None:
    """There they are stored tensors."""
    stored = {"root": np.float32(ERF), "one": np.float32([1.0]), "half": np.float32(0.5)}
    parts = ["x", "gate", "half"] if order.startswith("(x *") else ["x", "half", "gate"]
    nodes = [
        helper.make_node("Div", ["x", "root"], ["scaled"]),
        helper.make_node("Erf", ["scaled"], ["erf"]),
        helper.make_node("Add", ["erf", "one"], ["gate"]),
        helper.make_node("Mul", parts[:2], ["product"]),
        helper.make_node("Mul", ["product", parts[2]], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 6]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [numpy_helper.from_array(np.asarray(v), k) for k, v in stored.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "gelu.onnx")
    program = load_program(tmp_path / "gelu.onnx")
    assert composed_activations(program) == {program.nodes[-1].name: "GELU"}


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * torch.sigmoid(x + 1),
        lambda x: x * torch.sigmoid(torch.flip(x, [1])),
        lambda x: x * (1 + torch.erf(x / ERF)),
        lambda x: x * torch.clamp(x + 2, 0, 6) / 6,
        lambda x: x * torch.clamp(x + 3, 0, 6),
        lambda x: x * F.relu(x + 3) / 6,
    ],
)
def test_what_only_looks_like_one_is_none(function: Callable[[Tensor], Tensor]) -> None:
    assert composed_activations(program_of(function)) == {}


class Followers(nn.Module):
    """Behind activations: slices, parts, pads with a number and with copies, and an operator of unknown effect."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = (torch.relu(x) + 0.0).relu().chunk(2, 1)
        padded = F.pad(torch.sigmoid(a)[:, :2], (1, 1), value=-2.0)
        copied = F.pad(torch.sigmoid(b)[None], (1, 1), mode="replicate")[0]
        sorted_ = torch.sort(torch.sigmoid(b), 1).values
        return padded.sum(1, keepdim=True) + copied.sum(1, keepdim=True) + torch.cumsum(sorted_, 1)[:, :1] + a.floor().sum(1, keepdim=True)


def test_slices_and_pads_follow_and_the_log_says_where_a_chain_stops() -> None:
    program = load_program(Followers(), example_inputs=(torch.randn(2, 6),))
    result, context, data = ranger(program)
    bounded = {node.args[0].name.split("_")[0] for node in result.nodes if node.target == BOUND.overload}
    assert {"slice", "pad", "getitem"} <= bounded
    values = {"x": torch.from_numpy(data.inputs["x"])}
    for left, right in itertools.zip_longest(program.run(values).values(), result.run(values).values()):
        torch.testing.assert_close(left, right)
    padded = [one for one in context.decisions if one.op == "aten.pad" and one.done]
    assert sorted("[-2," in one.why for one in padded) == [False, True]
    stops = [one.op for one in context.decisions if "how it changes a range is not known" in one.why]
    assert stops == ["aten.sort", "aten.floor"]
