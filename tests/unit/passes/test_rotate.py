"""Rotate: exact, diagonal, its cost counted; and what it is for: WINA's choice errs less behind it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from effc.ir import Program
from effc.passes.linear_sites import is_rotation, linear_sites
from tests.unit.passes.sparse_networks import GatedMlp, Language, data_for, program_of, rewritten


class Narrow(nn.Module):
    """A layer whose inputs do the same things: a product of rank 4 and a little noise."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(16, 96), nn.Linear(96, 2)
        with torch.no_grad():
            self.layer.weight.copy_(torch.randn(96, 4) @ torch.randn(4, 16) + 0.02 * torch.randn(96, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x))


def outputs(program: Program, x: Tensor) -> Tensor:
    return next(iter(program.run({program.interface.inputs[0].name: x}).values()))


def test_outputs_stay_and_what_inputs_add_is_independent() -> None:
    torch.manual_seed(0)
    program = program_of(Language(), 5, 16)
    result, context = rewritten("rotate", program)
    x = torch.from_numpy(next(iter(data_for(program, 32, 0).inputs.values())))
    expected = outputs(program, x)
    assert (outputs(result, x) - expected).abs().max() <= 5e-6 * expected.abs().max()
    sites = linear_sites(result)
    turns = [site for site in sites if is_rotation(site)]
    assert [site.label for site in turns] == ["blocks.0.mlp.gate.rotation", "blocks.1.mlp.gate.rotation"]
    for turn in turns:
        torch.testing.assert_close(turn.weight @ turn.weight.T, torch.eye(16), atol=1e-5, rtol=0)
        behind = [site for site in sites if site.input is turn.node]
        assert [site.source.split(".")[-1] for site in behind] == ["gate", "up"]
        product = sum((site.weight.T @ site.weight for site in behind), torch.zeros(16, 16))
        assert (product - product.diag().diag()).abs().max() <= 1e-5 * product.max()
    told = {one.site: one for one in context.decisions}
    assert told["blocks.0.mlp.up"].done and told["blocks.0.mlp.up"].why.endswith(
        "adds 1.0 kB of weights for 5.1 kB of blocks.0.mlp.gate and blocks.0.mlp.up"
    )
    assert "over max-cost 0.25: it would add 6.4 kB of weights for 2.6 kB of blocks.0.mlp.down" in told["blocks.0.mlp.down"].why
    assert not told["blocks.0.attention.q"].done and not told["head"].done


def test_a_rotation_stays_dense_and_a_second_run_adds_none() -> None:
    torch.manual_seed(0)
    program = program_of(nn.Sequential(GatedMlp(), nn.Linear(16, 4)), 16)
    once, _ = rewritten("rotate", program)
    twice, context = rewritten("rotate", once)
    assert [node.target for node in twice.nodes] == [node.target for node in once.nodes]
    assert sum("rotated already" in one.why for one in context.decisions) == 2
    _, context = rewritten("wina", once)
    assert [one.done for one in context.decisions if "is a rotation: stays dense" in one.why] == [False]


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.7])
def test_wina_errs_less_behind_it(sparsity: float) -> None:
    torch.manual_seed(0)
    program = program_of(Narrow(), 16)
    x = torch.from_numpy(next(iter(data_for(program, 256, 5).inputs.values())))
    dense, errors = outputs(program, x), {}
    for spec in ("wina", "rotate,wina"):
        result, _ = rewritten(f"{spec}{{sparsity={sparsity},allocation=uniform}}", program)
        errors[spec] = float((outputs(result, x) - dense).square().sum())
    assert errors["rotate,wina"] < 0.5 * errors["wina"]
