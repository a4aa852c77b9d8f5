"""Products that skip the rows of zero inputs: the same results, no row read that is not needed, dense where it does not pay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effc.cost.skipping import counted, skipping, union_density
from effc.cost.tiles import register_tile
from effc.ir import Batch, Program, Provenance, ValueFacts
from effc.lowering import Lowered, lower, run_lowered
from effc.targets import Target, find_target
from effc.targets.rates import STANDARD, Level, Rates
from tests.unit.lowering import c_on_host
from tests.unit.lowering.c_on_host import needs_compiler
from tests.unit.lowering.functions_of_torch import TARGETS, families, normal

ALWAYS = Rates(Level(1e-9, 1e9, 0.0), Level(1e-9, 1e9, 0.0), 0.0)
NEVER = Rates(Level(1e9, 1e-9, 0.0), Level(1e9, 1e-9, 0.0), 0.0)


def with_zeros(x: Tensor, density: float) -> Tensor:
    keep = torch.rand(x.shape, generator=torch.Generator().manual_seed(7)) < density
    return torch.where(keep, x, torch.zeros(()))


def program_of(module: nn.Module, inputs: Sequence[Tensor], density: float) -> Program:
    """A program whose first input is known to be as dense as this."""
    names = [f"x{index}" for index in range(len(inputs))]
    exported = torch.export.export(module.eval(), tuple(inputs))
    program = Program.from_exported(exported, Provenance("case", "torch", "0"), batch=Batch(False), input_names=names)
    first = next(iter(program.input_nodes.values())).name
    return program.with_facts(program.facts.with_values({first: ValueFacts(-1.0, 1.0, density, 1)}))


def compiled(module: nn.Module, inputs: Sequence[Tensor], target: Target, rates: Rates, density: float = 0.5) -> tuple[Lowered, np.ndarray]:
    program = program_of(module, inputs, density)
    lowered = lower(program, replace(target, runs_here=True, rates=rates))
    outputs = run_lowered(lowered, program, {f"x{index}": x.numpy() for index, x in enumerate(inputs)})
    return lowered, next(iter(outputs.values()))


def near(got: np.ndarray, wanted: Tensor) -> None:
    array = wanted.detach().numpy()
    np.testing.assert_allclose(got, array, rtol=0, atol=2e-6 * max(1e-30, float(np.abs(array).max())))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@pytest.mark.parametrize(("depth", "columns", "rows"), [(1, 1, 1), (3, 17, 1), (300, 1, 2), (257, 1030, 1), (64, 3000, 3), (37, 1024, 8)])
def test_products_of_any_size(target: Target, depth: int, columns: int, rows: int) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(depth, columns), normal(rows, depth)
    program = program_of(layer, [x], 0.5)
    lowered = lower(program, replace(target, runs_here=True, rates=ALWAYS))
    assert families(lowered) == ["skipping"]
    for density in (0.0, 0.3, 1.0):
        given = with_zeros(x, density)
        (got,) = run_lowered(lowered, program, {"x0": given.numpy()}).values()
        near(got, layer(given))


def test_what_is_fused_behind_a_product_and_around_it() -> None:
    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(48, 96), nn.Linear(96, 48, bias=False)

        def forward(self, x: Tensor, residual: Tensor) -> Tensor:
            return residual + self.down(torch.relu(self.up(x)))

    block, x, residual = Block(), with_zeros(normal(1, 2, 48), 0.4), normal(1, 2, 48, seed=1)
    lowered, got = compiled(block, [x, residual], find_target("cpu"), ALWAYS)
    assert families(lowered) == ["skipping", "matmul"]  # nothing is known of the zeros behind the ReLU
    near(got, block(x, residual))


def test_rows_of_zeros_are_not_read() -> None:
    """Weights that would make NaN of any sum they enter stand in the rows whose inputs are zero."""
    torch.manual_seed(0)
    layer = nn.Linear(90, 130)
    x = with_zeros(normal(2, 90), 0.2)
    with torch.no_grad():
        layer.weight[:, (x == 0).all(0)] = torch.nan
    _, got = compiled(layer, [x], find_target("cpu"), ALWAYS)
    assert np.isfinite(got).all()
    near(got, torch.nn.functional.linear(x, torch.nan_to_num(layer.weight), layer.bias))


def test_the_order_of_the_index_list_changes_the_rounding_only() -> None:
    torch.manual_seed(0)
    layer, shuffled, order = nn.Linear(200, 64), nn.Linear(200, 64), torch.randperm(200)
    with torch.no_grad():
        shuffled.weight.copy_(layer.weight[:, order])
        shuffled.bias.copy_(layer.bias)
    x = with_zeros(normal(1, 200), 0.5)
    _, first = compiled(layer, [x], find_target("cpu"), ALWAYS)
    _, second = compiled(shuffled, [x[:, order]], find_target("cpu"), ALWAYS)
    near(second, torch.from_numpy(first))


def test_dense_where_it_is_predicted_to_be_faster_and_the_plan_says_so() -> None:
    layer, x = nn.Linear(64, 64), normal(1, 64)
    lowered, _ = compiled(layer, [x], find_target("cpu"), NEVER)
    assert lowered.plan is not None
    (step,) = lowered.plan.steps
    assert step.family == "matmul"
    assert "density 50%: skipping" in step.note
    assert "predicted" in step.note


def test_the_prediction() -> None:
    target = replace(find_target("cpu"), l2=1 << 20, rates=Rates(Level(20.0, 16.0, 2.0), Level(50.0, 40.0, 1.0), 0.5, 2))
    half = skipping(target, rows=1, depth=1000, columns=2000, density=0.5, stored=1 << 30)
    assert half.dense == pytest.approx(8e6 / 20)
    assert half.skipping == pytest.approx(0.5 * 1000 + 500 * (2.0 + 8000 / 16))
    assert half.pays
    four = skipping(target, rows=4, depth=1000, columns=2000, density=0.5, stored=1 << 30)
    assert four.read == union_density(0.5, 4) == 1 - 0.5**4
    assert not four.pays
    cached = skipping(target, rows=1, depth=1000, columns=200, density=0.5, stored=1 << 21)
    assert cached.dense == pytest.approx(8e5 / 50)
    assert not skipping(target, rows=9, depth=1000, columns=2000, density=0.01, stored=1 << 30).pays
    assert STANDARD.threads == 0


class Gated(nn.Module):
    """A gate that is known before the product that it multiplies."""

    def __init__(self, width: int, hidden: int, *, bias: bool = False) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(0.02))  # behind the multiplication: of zero it makes zero
        self.gate, self.up, self.down = nn.Linear(width, hidden), nn.Linear(width, hidden, bias=bias), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.nn.functional.silu(torch.ops.effc.statistical_top_k(self.gate(x), 0.8, "hard"))
        return self.down(torch.ops.effc.sparsify(gate * self.up(x), self.threshold, "magnitude"))


def gated(width: int, hidden: int, rows: int, *, bias: bool = False) -> tuple[Gated, Program, Tensor]:
    torch.manual_seed(0)
    module, x = Gated(width, hidden, bias=bias).eval(), normal(rows, width)
    program = Program.from_exported(
        torch.export.export(module, (x,)), Provenance("case", "torch", "0"), batch=Batch(False), input_names=["x"]
    )
    (top,) = (node.name for node in program.nodes if "statistical" in str(node.target))
    return module, program.with_facts(program.facts.with_values({top: ValueFacts(-1.0, 1.0, 0.2, 1)})), x


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@pytest.mark.parametrize(
    ("width", "hidden", "rows"),
    [(1, 5, 1), pytest.param(40, 70, 1, marks=pytest.mark.slow), (33, 300, 2), pytest.param(16, 64, 4, marks=pytest.mark.slow)],
)
def test_a_gate_says_which_results_are_computed(target: Target, width: int, hidden: int, rows: int) -> None:
    for bias in (False, True):
        module, program, x = gated(width, hidden, rows, bias=bias)
        lowered = lower(program, replace(target, runs_here=True, rates=ALWAYS))
        assert [family for family in families(lowered) if family != "rows"] == ["matmul", "masked", "skipping"]
        (got,) = run_lowered(lowered, program, {"x": x.numpy()}).values()
        near(got, module(x))


def test_what_a_gate_leaves_out_is_not_read() -> None:
    module, program, x = gated(40, 70, 1)
    with torch.no_grad():
        closed = torch.ops.effc.statistical_top_k(module.gate(x), 0.8, "hard")[0] == 0
        wanted = module(x)
        module.up.weight[closed] = torch.nan
    broken = replace(program, exported=torch.export.export(module, (x,)))
    (got,) = run_lowered(lower(broken, replace(find_target("cpu"), rates=ALWAYS)), broken, {"x": x.numpy()}).values()
    assert closed.sum() > 35
    near(got, wanted)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@pytest.mark.parametrize("rows", [1, 3])
def test_nan_is_no_zero_and_minus_zero_is_one(target: Target, rows: int) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(60, 70), with_zeros(normal(rows, 60), 0.3)
    x[0, 7], x[:, 9] = torch.nan, -0.0
    with torch.no_grad():
        layer.weight[:, 9] = torch.inf  # never read: minus zero is a zero
    _, got = compiled(layer, [x], target, ALWAYS)
    assert np.isnan(got[0]).all() and np.isfinite(got[1:]).all()
    _, program, x = gated(20, 30, rows)
    x[0, 3] = torch.nan
    (got,) = run_lowered(lower(program, replace(target, runs_here=True, rates=ALWAYS)), program, {"x": x.numpy()}).values()
    assert np.isnan(got[0]).all() and np.isfinite(got[1:]).all()


@needs_compiler
@pytest.mark.parametrize(("rows", "depth", "columns"), [(1, 90, 13), (3, 37, 8), (2, 5, 3)])
def test_small_kernels_pass_over_zero_inputs_and_keep_every_bit(rows: int, depth: int, columns: int) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(depth, columns), with_zeros(normal(rows, depth), 0.3)
    x[0, 0], x[-1, 1] = torch.nan, -0.0
    dense, sparse = (c_on_host.lowered(program_of(layer, [x], density)) for density in (1.0, 0.2))
    assert [families(dense), families(sparse)] == [["matmul"], ["skipping"]]
    (whole,), (got,) = (c_on_host.run(code, {"x0": x.numpy()}).values() for code in (dense, sparse))
    np.testing.assert_array_equal(got.view(np.int32), whole.view(np.int32))
    with torch.no_grad():  # such weights would make NaN of any sum they enter
        layer.weight[:, (x == 0).all(0)] = torch.nan
    (passed,) = c_on_host.run(c_on_host.lowered(program_of(layer, [x], 0.2)), {"x0": x.numpy()}).values()
    np.testing.assert_array_equal(passed.view(np.int32), whole.view(np.int32))


def test_small_kernels_are_counted() -> None:
    size = {"rows": 1, "depth": 100, "columns": 16, "stored": 0}
    found = skipping(find_target("cortex-m4"), density=0.5, **size)
    assert found.pays
    assert "2,800 instructions, dense 3,800" in found.why  # 200 steps of 6 + 8, or of 3 + 16
    assert not skipping(find_target("cortex-m4"), density=0.9, **size).pays
    assert not skipping(find_target("cortex-m4"), density=0.4, **{**size, "columns": 1}).pays  # a test for each multiply-add
    for columns, tile, most in ((9, 5, 0.7), (10, 5, 0.7), (12, 6, 0.75), (13, 7, 0.785), (16, 8, 0.812)):  # the tiles of the kernel
        pays = [counted(1, 100, columns, most + off).pays for off in (-0.01, 0.01)]
        assert pays == [True, False] and register_tile(columns, "float32") == tile
    layer, x = nn.Linear(20, 9), normal(1, 20)
    chosen = [families(c_on_host.lowered(program_of(layer, [x], density))) for density in (0.69, 0.71)]
    assert chosen == [["skipping"], ["matmul"]]
