"""How far results may lie over operands: numbers for loops that can be counted by hand, and networks run in such an arena."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from effc.frontends import load_program
from effc.ir import Program
from effc.lowering import Lowered, lower
from effc.lowering.aliasing import distances
from effc.lowering.emit import kernels
from effc.lowering.kernels.code import allocated, choose, flat_function, integer, load, local, located, loop, sequence, store
from effc.targets import find_target
from tests.unit.lowering.c_on_host import needs_compiler, run

Body = Callable[[Any, Any], Any]


def distance(read: tuple[str, int], written: tuple[str, int], body: Body) -> int | None:
    """Of a kernel over one operand and one result; None where they may not overlap."""
    from tvm import tirx

    x, y = (tirx.decl_buffer((size,), dtype, name=name) for name, (dtype, size) in (("x", read), ("y", written)))
    function = kernels({"kernel": flat_function([x, y], body(x, y))})["kernel"].function
    sizes = [size * np.dtype(dtype).itemsize for dtype, size in (read, written)]
    return distances(function, sizes, [(0, 1)]).get((0, 1))


def cast(value: Any, dtype: str) -> Any:
    from tvm import tirx

    return tirx.Cast(dtype, value)


class TestDistances:
    def test_an_element_by_element_result_may_lie_where_its_operand_does(self) -> None:
        def body(x: Any, y: Any) -> Any:
            return loop(8, lambda i: loop(4, lambda j: store(y, load(x, [i * 4 + j]) + 1.0, [i * 4 + j])))

        assert distance(("float32", 32), ("float32", 32), body) == 0

    def test_a_window_needs_what_lies_in_front_of_its_middle(self) -> None:
        """Three rows high, over rows of 4 elements."""
        from tvm import tirx

        def body(x: Any, y: Any) -> Any:
            def row(i: Any) -> Any:
                first = tirx.max(i - 1, 0)
                last = tirx.min(i + 1, 7)

                def element(j: Any) -> Any:
                    total = local(1, "total", "int32")
                    adds = loop(last - first + 1, lambda k: store(total, load(total, [0]) + load(x, [(first + k) * 4 + j]), [0]))
                    return allocated([total], [store(total, integer(0), [0]), adds, store(y, load(total, [0]), [i * 4 + j])])

                return loop(4, element)

            return loop(8, row)

        # When y[i, 3] is written, up to 4 i + 4, x[i, 0] is the first that is still to be read; at y[i, 2], up to 4 i + 3, x[i - 1, 3].
        assert distance(("int32", 32), ("int32", 32), body) == 4 * 4

    def test_columns_outside_of_rows_share_the_last_element_only(self) -> None:
        def body(x: Any, y: Any) -> Any:
            return loop(4, lambda j: loop(8, lambda i: store(y, load(x, [i * 4]) + load(x, [i * 4 + 3]), [i * 4 + j])))

        assert distance(("float32", 32), ("float32", 32), body) == 31 * 4

    def test_a_result_of_twice_the_channels_ends_with_its_operand(self) -> None:
        """At the last but one result of the last pixel, 63 are written, and all 8 of the operand's are still to be read."""

        def body(x: Any, y: Any) -> Any:
            def pixel(p: Any) -> Any:
                return loop(16, lambda c: store(y, load(x, [p * 8]) + load(x, [p * 8 + 7]), [p * 16 + c]))

            return loop(4, pixel)

        assert distance(("int8", 32), ("int8", 64), body) == 63 - 24

    def test_wider_elements_run_ahead(self) -> None:
        def body(x: Any, y: Any) -> Any:
            return loop(16, lambda i: store(y, cast(load(x, [i]), "float32"), [i]))

        assert distance(("int8", 16), ("float32", 16), body) == 15 * 4 - 15
        assert distance(("int32", 16), ("float32", 16), body) is None, "compilers may reorder accesses of int32 and float"

    def test_what_is_read_before_the_first_store_may_lie_anywhere(self) -> None:
        def body(x: Any, y: Any) -> Any:
            total = local(1, "total")
            adds = loop(16, lambda i: store(total, load(total, [0]) + load(x, [i]), [0]))
            return allocated([total], [adds, loop(4, lambda i: store(y, load(total, [0]), [i]))])

        assert distance(("float32", 16), ("float32", 4), body) == -64

    def test_an_index_from_data_may_be_any(self) -> None:
        def body(x: Any, y: Any) -> Any:
            return loop(16, lambda i: store(y, load(x, [load(x, [i])]), [i]))

        assert distance(("int32", 16), ("int32", 16), body) == 15 * 4

    def test_variables_are_followed_but_not_through_what_changes_them(self) -> None:
        def body(x: Any, y: Any, moves: bool) -> Any:
            at = local(1, "at", "int32")

            def element(i: Any) -> Any:
                step = store(at, load(at, [0]) - 1, [0]) if moves else store(at, i, [0])
                return sequence([step, store(y, load(x, [load(at, [0])]), [i])])

            return allocated([at], [store(at, integer(16), [0]), loop(16, element)])

        assert distance(("int32", 16), ("int32", 16), lambda x, y: body(x, y, moves=False)) == 0
        assert distance(("int32", 16), ("int32", 16), lambda x, y: body(x, y, moves=True)) == 15 * 4

    def test_pointers_into_an_operand_and_branches(self) -> None:
        def body(x: Any, y: Any) -> Any:
            def element(i: Any) -> Any:
                near, statements = located(load(x, [i]), "near")
                return sequence([*statements, store(y, load(near, [2]), [i])])

            return loop(16, lambda i: choose(i < 14, element(i), store(y, integer(0), [i])))

        assert distance(("int32", 16), ("int32", 16), body) == -2 * 4

    def test_one_element(self) -> None:
        def body(x: Any, y: Any) -> Any:
            return sequence([store(y, integer(1), [0]), store(y, load(x, [0]), [0])])

        assert distance(("int32", 1), ("int32", 1), body) is None


class Residual(nn.Module):
    """Every way of sharing: a pointwise convolution that widens, depthwise, an addition, a pool, a copy of a flattened map."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 5, 3, padding=1)
        self.wider = nn.Conv2d(5, 10, 1)
        self.each = nn.Conv2d(10, 10, 3, padding=1, groups=10)
        self.smaller = nn.Conv2d(10, 7, 3, stride=2, padding=1)
        self.second = nn.Conv2d(7, 7, 3, padding=1)
        self.end = nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.smaller(torch.relu(self.each(torch.relu(self.wider(self.first(x)))))))
        x = torch.relu(x + self.second(torch.relu(self.second(x))))
        return self.end(nn.functional.max_pool2d(x, 2).mean((2, 3)))


@pytest.fixture(scope="module")
def network() -> tuple[Program, Lowered, torch.Tensor, torch.Tensor]:
    torch.manual_seed(5)
    model, x = Residual().eval(), torch.randn(1, 2, 13, 11)
    program = load_program(model, example_inputs=(x,))
    with torch.no_grad():
        return program, lower(program, find_target("c99")), x, model(x)


class TestWholePlans:
    def test_results_lie_over_operands(self, network: tuple[Program, Lowered, torch.Tensor, torch.Tensor]) -> None:
        plan = network[1].plan
        assert plan is not None
        arena = plan.in_room("arena")
        busiest = max(sum(one.size for one in arena if one.first <= step <= one.last) for step in range(len(plan.steps)))
        assert plan.arena_bytes < 0.8 * busiest
        assert all(one.offset % 8 == 0 and one.offset + one.size <= plan.arena_bytes for one in arena)
        for one in arena:
            for other in arena:
                apart = one.offset + one.size <= other.offset or other.offset + other.size <= one.offset
                together = min(one.last, other.last) - max(one.first, other.first)
                if one is not other and together >= 0 and not apart:
                    step = plan.steps[max(one.first, other.first)]
                    read, written = (one, other) if one.first < other.first else (other, one)
                    assert together == 0 and read.name in step.reads and written.name in step.writes

    @needs_compiler
    def test_the_program_computes_what_it_did(self, network: tuple[Program, Lowered, torch.Tensor, torch.Tensor]) -> None:
        program, code, x, expected = network
        (found,) = run(code, {program.interface.inputs[0].name: x.numpy()}).values()
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-6)
