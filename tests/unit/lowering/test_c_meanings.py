"""What C leaves undefined or to its libraries means in the C sources what it does in torch. Arrays stay off the stack."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effc.errors import UnsupportedModelError
from effc.ir import Batch, Program, Provenance
from effc.lowering.emit import MICROCONTROLLER_STACK
from tests.unit.lowering.c_on_host import Array, lowered, needs_compiler, run
from tests.unit.lowering.test_operator_meanings import ELEMENTWISE, ODD, Several

INF = math.inf
BEYOND = [math.nan, INF, -INF, 3e9, -3e9, 1e20, -1e20, 300.0, -300.0, -1.0, 7e4, 128.5, -128.9, 255.9, 2.0**31, -(2.0**31), 2.0**32, 1e19]
WHOLE = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool)


def program_of(net: nn.Module, *inputs: Tensor) -> Program:
    names = [f"x{index}" for index in range(len(inputs))]
    exported = torch.export.export(net.eval(), inputs)
    return Program.from_exported(exported, Provenance("net", "torch", "0"), batch=Batch(False), input_names=names)


def computed(net: nn.Module, *inputs: Tensor) -> list[Array]:
    program = program_of(net, *inputs)
    got = run(lowered(program), {f"x{index}": one.numpy() for index, one in enumerate(inputs)})
    return [got[value.name].reshape(value.shape) for value in program.interface.outputs]


@needs_compiler
def test_nan_and_infinity_go_where_torch_lets_them_go() -> None:
    functions = {**ELEMENTWISE, "gelu by tanh": lambda x: F.gelu(x, approximate="tanh")}
    results = computed(Several(list(functions.values())), ODD)
    wrong = []
    for (name, function), result in zip(functions.items(), results, strict=True):
        if not np.allclose(result, function(ODD).numpy(), rtol=1e-5, atol=1e-6, equal_nan=True):
            wrong.append((name, result, function(ODD)))
    assert not wrong


@needs_compiler
def test_gelu_of_infinity_is_its_limit() -> None:
    """As in onnxruntime, and in torch for float64; in float32, torch's vectors make NaN of it."""
    x = torch.tensor([[INF, -INF, math.nan, 1e30, -200.0, 1.0]])
    (got,) = computed(nn.GELU(), x)
    np.testing.assert_allclose(got, F.gelu(x.double()).numpy(), rtol=1e-6)


@needs_compiler
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_numbers_that_do_not_fit_into_integers_become_what_torch_makes_of_them(kind: torch.dtype) -> None:
    x = torch.tensor([BEYOND], dtype=kind)
    for dtype, got in zip(WHOLE, computed(Several([lambda x, to=to: x.to(to) for to in WHOLE]), x), strict=True):
        assert got.tolist() == x.to(dtype).tolist(), dtype


@needs_compiler
def test_casts_to_unsigned_integers_that_are_wider_than_bytes() -> None:
    for dtype, numbers in ((torch.uint16, BEYOND), (torch.uint64, BEYOND), (torch.uint32, [0.0, 0.9, 128.5, 7e4, 3e9, 2.0**31])):
        x = torch.tensor([numbers])
        (got,) = computed(Several([lambda x, to=dtype: x.to(to)]), x)
        assert got.tolist() == x.to(dtype).tolist(), dtype


class Chain(nn.Module):
    """Activations that need their operands several times."""

    def forward(self, x: Tensor) -> Tensor:
        for function in (F.gelu, F.mish, F.silu, torch.tanh, F.elu, F.mish, F.gelu):
            x = function(x)
        return torch.softmax(x, -1) + x


@needs_compiler
def test_what_a_kernel_computes_in_between_lies_in_the_arena() -> None:
    x = torch.linspace(-3, 3, 200)[None]
    code = lowered(program_of(Chain(), x))
    sizes = {"float": 4, "double": 8, "int32_t": 4, "int64_t": 8}
    arrays = [found for one in code.functions for found in re.findall(r"^ +(\w+) \w+\[(\d+)\];", one.text, re.MULTILINE)]
    assert all(sizes.get(kind, 1) * int(count) <= MICROCONTROLLER_STACK for kind, count in arrays), arrays
    assert code.plan is not None and code.plan.arena_bytes >= 800
    (got,) = run(code, {"x0": x.numpy()}).values()
    np.testing.assert_allclose(got, Chain()(x).numpy(), rtol=1e-4, atol=1e-6)


class Half(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(4, 4) for _ in range(9)))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.layers(x) + y, torch.relu(x)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused_in_a_line_for_all_inputs_and_outputs(kind: torch.dtype) -> None:
    program = program_of(Half().to(kind), torch.zeros(1, 4, dtype=kind), torch.zeros(1, 4, dtype=kind))
    with pytest.raises(UnsupportedModelError) as caught:
        lowered(program)
    borders, *within = caught.value.problems
    assert borders.where.split(", ") == ["x0", "x1", *(value.name for value in program.interface.outputs)]
    assert str(borders).endswith(f"C99 has no type for {str(kind)[6:]}; convert the model to float32")
    assert len(within) == (1 if kind == torch.float16 else 0) and len(str(caught.value)) < 400
