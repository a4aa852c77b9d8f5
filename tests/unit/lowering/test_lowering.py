"""Program -> machine code on this machine, against torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from effc.errors import UnsupportedModelError
from effc.frontends import load_program
from effc.ir import Batch, Program, Provenance
from effc.lowering import Lowered, lower, run_lowered
from effc.lowering.arena import Lifetime, place
from effc.targets import find_target


def program_of(net: nn.Module, *inputs: Tensor, batch: bool = False) -> Program:
    dimension = torch.export.Dim("batch", min=1)
    shapes = tuple({0: dimension} for _ in inputs) if batch else None
    exported = torch.export.export(net.eval(), inputs, dynamic_shapes=shapes)
    return Program.from_exported(exported, Provenance("net", "torch", "0"), batch=Batch(batch))


def lowered_equals_torch(net: nn.Module, *inputs: Tensor, tolerance: float = 1e-5) -> Lowered:
    program = program_of(net, *inputs)
    lowered = lower(program, find_target("cpu"))
    given_inputs = {value.name: x for value, x in zip(program.interface.inputs, inputs, strict=True)}
    outputs = run_lowered(lowered, program, {name: x.numpy() for name, x in given_inputs.items()})
    for name, result in program.run(given_inputs).items():
        expected = result.detach()
        assert outputs[name].dtype == expected.numpy().dtype
        np.testing.assert_allclose(outputs[name], expected.numpy(), rtol=0, atol=tolerance * max(1e-30, float(expected.abs().max())))
    return lowered


class Function(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


class Branches(nn.Module):
    """Convolutions whose layout moves behind what follows them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Linear(8 * 4 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.last(nn.functional.max_pool2d(self.second(x) + x, 2).flatten(1))


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda x: x[-1], id="last-row"),
        pytest.param(lambda x: x[:, -2], id="column-from-the-end"),
        pytest.param(lambda x: x[[-1, 0, -2]], id="index-tensor"),
        pytest.param(lambda x: x[..., torch.tensor([[-1, 2], [0, -3]])], id="matrix-of-indices"),
        pytest.param(lambda x: x[:, torch.where(x[0] > 0, -1, 1)], id="indices-from-data"),
    ],
)
def test_negative_indices_count_from_the_end(function: Any) -> None:
    """TVM's importer alone reads foreign memory here, without an error."""
    generator = torch.Generator().manual_seed(0)
    lowered_equals_torch(Function(function), torch.randn(4, 5, generator=generator), tolerance=0)


def test_an_index_out_of_range_stays_inside_the_table() -> None:
    net = nn.Embedding(4, 2)
    program = program_of(net, torch.tensor([0, 3]))
    outputs = run_lowered(lower(program, find_target("cpu")), program, {program.interface.inputs[0].name: np.array([99, 4])})
    np.testing.assert_array_equal(outputs["output"], np.stack([net.weight[3].detach().numpy()] * 2))


def test_outputs_that_are_inputs_parameters_or_each_other() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.arange(3.0))

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            y = x * 2
            return y, y, x, self.weight, y.reshape(3, 2), y + 1

    lowered = lowered_equals_torch(Net(), torch.arange(6.0).reshape(2, 3), tolerance=0)
    assert lowered.plan is not None
    assert [buffer.name for buffer in lowered.plan.in_room("output")] == ["output", *(f"output_{i}" for i in range(1, 6))]


def test_stored_weights_are_computed_once_and_remember_their_source() -> None:
    lowered = lowered_equals_torch(nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 2)), torch.randn(2, 5))
    sources = {source.name: source for source in lowered.sources.values()}
    assert {name: source.kind for name, source in sources.items()} == {
        "0.weight": "packed",
        "0.bias": "same",
        "1.weight": "packed",
        "1.bias": "same",
    }
    lanes = find_target("cpu").lanes
    assert (sources["0.weight"].permutation, sources["0.weight"].blocks) == ((0, 1), ((0, lanes),))  # [outputs / lanes][inputs][lanes]
    assert {tuple(array.shape) for array in lowered.parameters.values()} == {(1, 5, lanes), (3,), (1, 3, lanes), (2,)}
    assert lowered.plan is not None
    assert {"0", "1"} <= {source for step in lowered.plan.steps for source in step.sources}
    assert sum(step.macs for step in lowered.plan.steps) == 2 * (5 * 3 + 3 * 2)


class Limited(nn.Module):
    """Choices and extremes behind a convolution, of one image: axes of one element are no broadcast."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.register_buffer("limit", torch.linspace(0.1, 0.8, 8)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        y = torch.minimum(self.conv(x), self.limit)
        return torch.where(torch.isnan(y), 0.0, torch.where(y > -0.3, y, self.limit))


def test_choices_and_extremes_are_fused_behind_a_convolution() -> None:
    lowered = lowered_equals_torch(Limited(), torch.randn(1, 3, 9, 9))
    assert lowered.plan is not None
    assert [step.family for step in lowered.plan.steps if step.family != "elementwise"] == ["conv"]
    assert [len(step.sources) > 4 for step in lowered.plan.steps if step.family == "conv"] == [True]


def test_a_step_knows_the_nodes_behind_it_wherever_transpositions_went() -> None:
    lowered = lowered_equals_torch(Branches(), torch.randn(1, 3, 9, 9))
    assert lowered.plan is not None
    named = {step.family: step.sources for step in lowered.plan.steps if step.family != "elementwise"}
    assert named == {"conv": ("first", "relu"), "depthwise": ("second", "add"), "pool": ("max_pool2d_with_indices",), "matmul": ("last",)}


def test_what_does_not_plan_runs_on_the_virtual_machine_and_says_so() -> None:
    lowered = lowered_equals_torch(Function(lambda x: torch.topk(x, 3).values * 2), torch.randn(2, 9))
    assert lowered.plan is None
    assert "virtual machine" in lowered.notes[0]


def test_everything_that_cannot_be_lowered_is_listed() -> None:
    net = Function(lambda x: torch.special.bessel_j0(x) + torch.special.i1(x) + torch.relu(x))
    with pytest.raises(UnsupportedModelError) as caught:
        lower(program_of(net, torch.randn(3)), find_target("cpu"))
    assert sorted(problem.what for problem in caught.value.problems) == ["aten.special_bessel_j0.default", "aten.special_i1.default"]


def test_the_digits_network_at_several_batches_and_twice_the_same() -> None:
    program = load_program("examples/digits.onnx")
    images = np.load("examples/digits_test.npz")["x"][:4]
    expected = program.run({"image": torch.from_numpy(images)})["logits"].numpy()
    for batch in (1, 4):
        lowered = lower(program, find_target("cpu"), batch=batch)
        rows = [run_lowered(lowered, program, {"image": images[i : i + batch]})["logits"] for i in range(0, 4, batch)]
        np.testing.assert_allclose(np.concatenate(rows), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    again = lower(program, find_target("cpu"), batch=4)
    assert again.code == lowered.code
    assert again.plan == lowered.plan


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 20), st.integers(0, 5)), min_size=1, max_size=40))
def test_buffers_that_live_together_lie_apart(items: list[tuple[int, int, int]]) -> None:
    lifetimes = [Lifetime(str(index), size, first, first + length) for index, (size, first, length) in enumerate(items)]
    offsets, total = place(lifetimes)
    for index, one in enumerate(lifetimes):
        assert offsets[one.name] % 64 == 0
        assert offsets[one.name] + one.size <= total
        for other in lifetimes[index + 1 :]:
            if one.first <= other.last and other.first <= one.last:
                assert offsets[one.name] + one.size <= offsets[other.name] or offsets[other.name] + other.size <= offsets[one.name]
    crowded = max(sum(one.size for one in lifetimes if one.first <= step <= one.last) for step in range(26))
    assert crowded <= total <= sum(-(-one.size // 64) * 64 for one in lifetimes)


def test_results_have_the_dtype_that_torch_gives() -> None:
    """TVM's importer computes half-precision attention in float32 and says nothing: the result would overrun its buffer."""

    def attention(x: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x)

    lowered_equals_torch(Function(attention), torch.randn(2, 3, 4, 8).half(), tolerance=2e-3)


@pytest.mark.parametrize("keep", [True, False])
def test_extremes_of_infinities_and_nan(keep: bool) -> None:
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([[[-inf, -inf], [1.0, nan]], [[inf, 2.0], [-inf, 3.0]]])

    def extremes(x: Tensor) -> tuple[Tensor, ...]:
        return x.amax(-1, keepdim=keep), x.amin((0, 2), keepdim=keep), x[:, 0].amax()

    program = program_of(Function(extremes), x)
    outputs = run_lowered(lower(program, find_target("cpu")), program, {program.interface.inputs[0].name: x.numpy()})
    for name, expected in program.run({program.interface.inputs[0].name: x}).items():
        np.testing.assert_array_equal(outputs[name], expected.numpy())


def test_not_a_number_is_found() -> None:
    """TVM simplifies x != x, which is how torch spells isnan, to false."""
    x = torch.tensor([1.0, float("nan"), float("inf")])
    lowered_equals_torch(Function(lambda x: (torch.isnan(x).float(), (torch.isnan(x) | (x > 1)).int())), x)


def test_kernels_that_share_memory_are_not_reordered() -> None:
    """Inlined into the entry, these were: TVM tells LLVM that buffers never alias, but the arena is used again."""

    def loss(x: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        return nn.functional.nll_loss(x, target, weight)

    generator = torch.Generator().manual_seed(0)
    x, weight = torch.rand(3, 5, 2, generator=generator), torch.rand(5, generator=generator)
    lowered_equals_torch(Function(loss), x, torch.tensor([[0, 1], [2, 3], [4, 0]]), weight)
