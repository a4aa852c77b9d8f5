"""`half-weights`: what is stored in 16 bits, what is left alone and why, and that compiled code keeps it so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effc.errors import ConfigError
from effc.ir import Program
from effc.lowering import lower, run_lowered
from effc.passes import Context, Pipeline, parse_passes
from effc.targets import find_target
from tests.unit.passes.sparse_networks import GatedMlp, program_of


def rewritten(program: Program, passes: str) -> tuple[Program, Context]:
    context = Context()
    return Pipeline(parse_passes(passes))(program, context), context


def weights_in(program: Program, dtype: torch.dtype) -> int:
    return sum(tensor.dtype == dtype and tensor.ndim == 2 for tensor in program.tensors.values())


@pytest.mark.parametrize(("dtype", "precision"), [("bfloat16", 2.0**-8), ("float16", 2.0**-11)])
def test_matrices_are_rounded_once_and_kept_so_by_compiled_code(dtype: str, precision: float) -> None:
    torch.manual_seed(0)
    program = program_of(GatedMlp(), 16)
    result, context = rewritten(program, f"half-weights{{dtype={dtype}}}")
    half = getattr(torch, dtype)
    assert weights_in(result, half) == 3
    assert weights_in(result, torch.float32) == 0
    assert [decision.done for decision in context.decisions] == [True] * 3
    for name, before in program.tensors.items():
        after = next(value for other, value in result.tensors.items() if other.startswith(name))
        assert torch.equal(after, before.detach().to(half))
    (value,) = program.interface.inputs
    x = torch.randn(2, 16, generator=torch.Generator().manual_seed(1))
    (wanted,), (got,) = program.run({value.name: x}).values(), result.run({value.name: x}).values()
    assert 0 < float((got - wanted).abs().max() / wanted.abs().max()) < 4 * precision
    lowered = lower(result, find_target("cpu"), batch=2)
    assert {array.dtype.name for array in lowered.parameters.values()} == {dtype}
    (compiled,) = run_lowered(lowered, result, {value.name: x.numpy()}).values()
    np.testing.assert_allclose(compiled, got.detach().numpy(), rtol=0, atol=1e-5 * float(got.abs().max()))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.inner = nn.Linear(4, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return nn.functional.linear(self.inner(self.embedding(ids)), self.embedding.weight)


def test_an_embedding_that_is_also_the_head_is_left_alone() -> None:
    from effc.frontends import load_program

    program = load_program(Tied(), example_inputs=(torch.zeros(1, 3, dtype=torch.int64),))
    result, context = rewritten(program, "half-weights")
    assert weights_in(result, torch.bfloat16) == 1
    assert any("would be stored twice" in decision.why for decision in context.decisions)


def test_what_float16_cannot_hold_stays_float32() -> None:
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight[0, 0] = 1e5
    program = program_of(layer, 3)
    result, context = rewritten(program, "half-weights{dtype=float16}")
    assert weights_in(result, torch.float32) == 1
    assert "beyond the range of float16" in context.decisions[0].why


def test_it_comes_after_passes_that_look_at_weights() -> None:
    with pytest.raises(ConfigError, match="wrong order"):
        Pipeline(parse_passes("half-weights,wina"))
