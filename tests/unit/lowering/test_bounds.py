"""Bounds in compiled code and in ONNX: inside of the kernel of what they bound, for one bound a layer, a channel and a neuron."""

from __future__ import annotations

import functools
import math

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from effc.frontends import load_program
from effc.ir import Edit, Program
from effc.ir.ops.bound import BOUND
from effc.lowering import lower, run_lowered
from effc.lowering.kernels.options import Options
from effc.lowering.onnx import export_onnx
from effc.targets import find_target

DIRECT = Options(winograd="off")  # whose sums of inputs overflow where the convolution itself does not
INF, NAN = math.inf, math.nan


class Net(nn.Module):
    """A bound can stand behind convolutions of two kinds, a residual sum, in front of a pool, and behind a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.wide, self.hidden, self.head = nn.Conv2d(16, 16, 1), nn.Linear(16 * 4 * 4, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = F.relu(self.wide(F.relu(self.deep(x))) + x)
        result: Tensor = self.head(F.relu(self.hidden(F.max_pool2d(y, 2).flatten(1))))
        return result


@functools.cache
def plain() -> Program:
    torch.manual_seed(0)
    return load_program(Net().eval(), example_inputs=(torch.randn(2, 3, 8, 8),))


@functools.cache
def unbounded_kernels() -> tuple[str, ...]:
    lowered = lower(plain(), find_target("cpu"), options=DIRECT)
    assert lowered.plan is not None
    return tuple(step.family for step in lowered.plan.steps)


def bounded(kind: str, mode: str) -> Program:
    """The network with bounds behind every ReLU that cut into what it computes."""
    generator = torch.Generator().manual_seed(1)
    edit = Edit(plain())
    for node in edit.nodes:
        if node.target == torch.ops.aten.relu.default:
            sizes = [int(size) for size in node.meta["val"].shape[1:]]
            shape = {"layer": [], "channel": [sizes[0], *[1] * (len(sizes) - 1)], "neuron": sizes}[kind]
            upper = edit.add_tensor(f"{node.name}.upper", torch.rand(shape, generator=generator) * 0.5 + 0.1)
            new = edit.call(BOUND.overload, (node, None, upper, mode), like=node)
            edit.replace(node, new, but_not={new})
    return edit.done()


def images(batch: int) -> Tensor:
    """Some of them with faults in them."""
    x = torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(batch))
    x[0, 0, 0, 0], x[-1, 1, 3, 4], x[0, 2, 7, 7] = NAN, INF, -3e38
    return x


@pytest.mark.parametrize(("mode", "batch"), [("clamp", 1), ("zero", 3)])
@pytest.mark.parametrize("kind", ["layer", "channel", "neuron"])
def test_a_bound_is_computed_where_its_activation_is(kind: str, mode: str, batch: int) -> None:
    program, name = bounded(kind, mode), plain().interface.inputs[0].name
    assert sum(node.target == BOUND.overload for node in program.nodes) == 4
    lowered = lower(program, find_target("cpu"), batch=batch, options=DIRECT)
    assert lowered.plan is not None
    assert tuple(step.family for step in lowered.plan.steps) == unbounded_kernels()
    x = images(batch)
    expected = program.run({name: x})["output"].numpy()
    actual = run_lowered(lowered, program, {name: x.numpy()})["output"]
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    # Faults are put where source elements are stored: each bound is still there as such, moved at most.
    sources = {source.name: source for source in lowered.sources.values() if source.name.endswith(".upper")}
    assert len(sources) == 4
    moved = {"permutation"} if kind == "neuron" else set()
    assert {source.kind for source in sources.values()} == {"same"} | moved


class Alone(nn.Module):
    """A bound, with each upper end for each of some values."""

    def __init__(self, mode: str, lower_too: bool) -> None:
        super().__init__()
        self.mode = mode
        self.register_buffer("upper", torch.tensor([NAN, INF, -INF, -1.0, -0.0, 0.0, 2.0])[:, None])
        self.register_buffer("lower", torch.tensor([-0.5, NAN, 0.5, -1.0, -INF, INF, -0.0])[:, None] if lower_too else None)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = BOUND.overload(x, self.lower, self.upper, self.mode)
        return result


@pytest.mark.parametrize(
    ("mode", "lower_too"),
    [("clamp", False), ("zero", True), *(pytest.param(*one, marks=pytest.mark.slow) for one in (("clamp", True), ("zero", False)))],
)
def test_faulty_bounds_mean_the_same_in_compiled_code_and_in_onnxruntime(mode: str, lower_too: bool) -> None:
    x = torch.tensor([NAN, INF, -INF, 3.0, 2.0, 0.5, 0.0, -0.0, -0.5, -1.0, -3e38]).expand(1, 7, 11).clone()
    program = load_program(Alone(mode, lower_too).eval(), example_inputs=(x,))
    expected = program.run({"x": x})["output"].numpy()
    compiled = run_lowered(lower(program, find_target("cpu")), program, {"x": x.numpy()})["output"]
    (written,) = onnxruntime.InferenceSession(export_onnx(program)).run(None, {"x": x.numpy()})
    np.testing.assert_array_equal(compiled, expected)
    np.testing.assert_array_equal(written, expected)


def test_onnxruntime_computes_the_same_and_a_lower_bound_makes_another_function() -> None:
    program, name = bounded("neuron", "zero"), plain().interface.inputs[0].name
    edit = Edit(program)
    node = next(node for node in edit.nodes if node.target == BOUND.overload)
    node.args = (node.args[0], edit.add_tensor("lower", torch.tensor(0.1)), *node.args[2:])
    mixed = edit.done()
    data = export_onnx(mixed)
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model)
    assert {function.name: len(function.input) for function in model.functions} == {"bound_zero": 3, "bound_no_lower_zero": 2}
    session = onnxruntime.InferenceSession(data)
    for batch in (1, 3):
        x = images(batch)
        expected = mixed.run({name: x})["output"].numpy()
        (actual,) = session.run(None, {name: x.numpy()})
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
