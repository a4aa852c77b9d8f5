"""What patterns of a package meet: a part, stored tensors, what checks refuse; and the example of docs/extending.md."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.lowering import lower, relax_text, run_lowered
from effc.lowering.extensions import is_stored
from effc.targets import find_target
from tests.unit.lowering.foreign_targets import TARGET, program_of, steps_of
from tests.unit.targets.extension_packages import Install

ROOT = Path(__file__).resolve().parents[3]
# Takes additions behind a matrix product, with a ReLU or without, of one row of four; {check} is what the check returns.
PRODUCTS = """
from effc.lowering.extensions import ExternalCode, Hooks, is_stored
SEEN = []
def check(context):
    a = context.annotated_expr
    return {check}
def patterns(target):
    from tvm.relax.dpl import is_op, wildcard
    x, w, b = wildcard(), wildcard(), wildcard()
    total = is_op("relax.add")(is_op("relax.matmul")(x, w), b)
    parts = dict(x=x, w=w, b=b)
    return [("acme.relu", is_op("relax.nn.relu")(total), parts, check), ("acme.total", total, parts, check)]
def codegen(composites, target):
    SEEN.extend(composites)
    return ExternalCode({{"a.c": "#include <stdint.h>\\n" + "".join(map(function, composites))}})
def function(one):
    product, add, relu = (one.call(name) for name in ("relax.matmul", "relax.add", "relax.nn.relu"))
    x, w = map(one.place, product.args)
    (b,) = (one.place(operand) for operand in add.args if one.place(operand) >= 0)
    values = [(add, "sum"), (relu, "sum > 0 ? sum : 0")]
    stores = "".join("out%d[c] = %s; " % (one.result(call), value) for call, value in values if call is not None and one.result(call) >= 0)
    loop = "for (int k = 0; k < 4; ++k) sum += in%d[k] * in%d[4 * k + c];" % (x, w)
    return one.prototype + "{{ for (int c = 0; c < 4; ++c) {{ float sum = in%d[c]; %s %s }} return 0; }}" % (b, loop, stores)
HOOKS = Hooks(patterns=patterns, codegen=codegen)
"""


class Products(nn.Module):
    """A bias, a residual of a bias's shape that is also the left operand, and a sum that is read before and after its ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = functional.relu(self.second(x) + x)
        x = self.third(x)
        return torch.softmax(functional.relu(x), -1) + torch.sin(x)


def products_extension(install: Install, check: str) -> Any:
    """The module of the package."""
    module = install("acme", TARGET.format(name="acme", base="cpu", runs=True) + PRODUCTS.format(check=check))
    return importlib.import_module(module)


def test_a_part_says_what_its_arguments_and_results_are(install: Install) -> None:
    module = products_extension(install, "True")
    torch.manual_seed(0)
    net, x = Products(), torch.randn(1, 4)
    program = program_of(net, x)
    lowered = lower(program, find_target("acme"))
    found = {one.symbol: one for one in module.SEEN}
    residual, last, first = (found[f"effc_acme_{index}"] for index in range(3))
    # The residual is the product's left operand, and one argument with it; the sum behind `third` is a result beside its ReLU.
    assert residual.prototype == "int32_t effc_acme_0(const float *in0, const float *in1, float *out0)"
    assert residual.stored == (False, True) and residual.place(residual.call("relax.matmul").args[0]) == 0
    assert {residual.place(operand) for operand in residual.call("relax.add").args} == {0, -1}
    assert first.stored == (False, True, True) and len(first.outputs) == 1
    assert last.prototype == "int32_t effc_acme_1(const float *in0, const float *in1, const float *in2, float *out0, float *out1)"
    assert {last.result(last.call("relax.add")), last.result(last.call("relax.nn.relu"))} == {0, 1}
    assert last.result(last.call("relax.matmul")) == -1 and last.call("relax.nn.conv2d") is None
    (got,) = run_lowered(lowered, program, {"x": x.numpy()}).values()
    np.testing.assert_allclose(got, net(x).detach().numpy(), rtol=0, atol=1e-6)


def test_a_check_tells_stored_tensors_and_what_it_refuses_is_counted(install: Install) -> None:
    program = program_of(Products(), torch.randn(1, 4))
    products_extension(install, "is_stored(a['w']) and is_stored(a['b']) and not is_stored(a['x'])")
    lowered = lower(program, find_target("acme"))
    assert [step.sources for step in steps_of(lowered, "acme")] == [("first",), ("third", "relu_1")]  # the residual is no bias
    with pytest.raises(RuntimeError, match="inside the check of a pattern"):
        is_stored(None)


def test_where_checks_refuse_everything_the_report_says_so(install: Install) -> None:
    products_extension(install, "is_stored(a['x'])")
    (note,) = lower(program_of(Products(), torch.randn(1, 4)), find_target("acme")).notes
    assert note == (
        "acme (acme 1.0) computes nothing: 2 parts matched its pattern acme.relu, 3 parts matched its pattern acme.total, "
        "and their checks refused them"
    )


def test_what_is_read_before_and_after_relu_is_not_the_librarys(toy: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(2, 3, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return functional.relu(x) - torch.sin(x)

    net, x = Net(), torch.randn(1, 2, 5, 5)
    program = program_of(net, x)
    lowered = lower(program, find_target(toy))
    assert [step.note for step in steps_of(lowered, toy)] == ["toy_conv2d, 3x3 on 5x5"]
    (got,) = run_lowered(lowered, program, {"x": x.numpy()}).values()
    np.testing.assert_allclose(got, net(x).detach().numpy(), rtol=0, atol=1e-5)


def test_the_example_of_the_documentation_computes_matrix_products(install: Install, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    package, hooks = (re.search(rf"`acme_npu/{name}`.*?```python\n(.*?)```", text, re.S) for name in ("__init__.py", "hooks.py"))
    assert package is not None and hooks is not None
    folder = tmp_path / "site" / "acme_npu"
    folder.mkdir()
    (folder / "__init__.py").write_text(package[1])
    (folder / "hooks.py").write_text(hooks[1])
    install("acme-npu", value="acme_npu:EXTENSION")
    torch.manual_seed(0)
    net, x = Products(), torch.randn(3, 4)
    program = program_of(net, x)
    lowered = lower(program, find_target("acme-npu"))
    taken = steps_of(lowered, "acme-npu")
    assert [step.sources for step in taken] == [("first",), ("second",), ("third",)]
    assert [step.note for step in taken] == ["acme_dense, 3x4 by 4"] * 3
    (got,) = run_lowered(lowered, program, {"x": x.numpy()}).values()
    np.testing.assert_allclose(got, net(x).detach().numpy(), rtol=0, atol=1e-6)


def test_the_program_that_patterns_meet_can_be_read() -> None:
    text = relax_text(program_of(Products(), torch.randn(1, 4)))
    assert len(re.findall(r"= R\.matmul\(", text)) == 3 and len(re.findall(r"= R\.add\(", text)) == 4
