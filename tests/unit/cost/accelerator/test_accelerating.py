"""Counting on data: zeros and changes of what layers read, of float and quantised programs, of images, clips and streams."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from effc.compiler.accelerating import model_program
from effc.cost.accelerator import find_accelerator
from effc.cost.accelerator.description import Skipping
from effc.data import Dataset
from effc.errors import UnsupportedModelError
from effc.frontends import load_program
from effc.ir import Edit, Program
from effc.passes import Context
from effc.passes.delta import Delta

EVENTS, DENSE = find_accelerator("event-driven"), find_accelerator("systolic-32x32")


class Small(nn.Module):
    """Two convolutions with a rectifier between, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 3, stride=2)
        self.linear = nn.Linear(54, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.linear(self.second(torch.relu(self.first(x))).flatten(1))
        return result


@pytest.fixture(scope="module")
def small() -> Program:
    torch.manual_seed(3)
    return load_program(Small().eval(), example_inputs=[torch.zeros(2, 3, 8, 8)])


def images(count: int, seed: int = 0) -> Dataset:
    return Dataset({"x": np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)})


def reference(program: Program, data: Dataset) -> list[torch.Tensor]:
    """The inputs of the three layers, all samples."""
    module = program.exported.module()
    seen: list[torch.Tensor] = []

    class See(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            if str(n.target).startswith(("aten.conv2d", "aten.linear")):
                seen.append(self.map_nodes_to_values(n.args[0], n))  # type: ignore[arg-type]
            return super().run_node(n)

    See(module).run(torch.from_numpy(data.inputs["x"]))
    return seen


def test_shares_and_work_are_those_of_the_values(small: Program) -> None:
    data = images(70)  # more than one batch, the last one smaller
    found = model_program(small, EVENTS, data)
    assert found.samples == 70 and [layer.name for layer in found.layers] == ["first", "second", "linear"]
    for layer, value in zip(found.layers, reference(small, data), strict=True):
        assert layer.nonzero == pytest.approx(float((value != 0).double().mean()))
        assert layer.changed == pytest.approx(float((value[1:] != value[:-1]).double().mean()))
    second = reference(small, data)[1]
    ones = torch.ones((1, 8, 3, 3), dtype=torch.float64)
    taps = torch.nn.functional.conv2d((second != 0).double(), ones, stride=2)
    assert found.layers[1].costs["zeros"].macs == pytest.approx(float(taps.sum()) * 6 / 70)
    assert 0.3 < (found.layers[1].nonzero or 0) < 0.7, "the rectifier makes zeros, or this test tests nothing"


def test_a_still_clip_has_no_changes(small: Program) -> None:
    still = Dataset({"x": np.repeat(images(1).inputs["x"], 5, axis=0)})
    found = model_program(small, EVENTS, still)
    assert [layer.changed for layer in found.layers] == [0, 0, 0]
    assert found.total("delta").macs == 0 < found.total("zeros").macs


def test_without_data_or_with_one_sample_it_says_so(small: Program) -> None:
    none = model_program(small, EVENTS)
    assert "density 1" in none.notes[0] and none.total("zeros").macs == none.total("delta").macs == none.total("dense").macs
    one = model_program(small, EVENTS, images(1))
    assert "One sample" in one.notes[0] and one.layers[1].changed is None and one.total("delta").macs == one.total("dense").macs
    assert one.total("zeros").macs < one.total("dense").macs


def test_blocks_of_channels_are_events_where_any_is(small: Program) -> None:
    blocks = EVENTS.model_copy(update={"skipping": Skipping(zeros=4, changes=4)})
    wide, single = (model_program(small, one, images(6)) for one in (blocks, EVENTS))
    assert single.total("zeros").macs < wide.total("zeros").macs <= wide.total("dense").macs
    assert [layer.nonzero for layer in wide.layers] == [layer.nonzero for layer in single.layers]
    assert wide.ideal("zeros") == single.ideal("zeros") == single.total("zeros").macs


def test_a_stream_counts_what_its_truncates_let_through() -> None:
    """A pixel that moves by less than the threshold is no event, neither where it is read nor behind."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.second(torch.relu(self.first(x)))
            return result

    torch.manual_seed(3)
    program = load_program(Net().eval(), example_inputs=[torch.zeros(1, 3, 8, 8)])
    clip = np.repeat(images(1).inputs["x"], 4, axis=0)
    clip[1:, :, 2, 2] += 1e-4  # under the threshold
    clip[2:, :, 5, 5] += 5.0  # over it: one pixel of 64 in one of three steps
    data = Dataset({"x": clip})
    plain = model_program(program, EVENTS, data)
    assert plain.layers[0].changed == pytest.approx(2 / 64 / 3)
    stream = Delta(mode="truncate", threshold=0.01, dense="never")(program, Context(fit=data))
    found = model_program(stream, EVENTS, data)
    assert found.layers[0].changed == pytest.approx(1 / 64 / 3)
    assert any("threshold counts as unchanged" in note for note in found.notes)
    assert 0 < (found.layers[1].changed or 0) <= 9 / 64 / 3 < 1


def test_zeros_of_quantised_inputs_are_their_zero_point() -> None:
    program = load_program(nn.Conv2d(2, 3, 1, bias=False).eval(), example_inputs=[torch.zeros(1, 2, 4, 4)])
    (conv,) = (node for node in program.nodes if "conv2d" in str(node.target))
    edit = Edit(program)
    node = edit.node(conv.name)
    place = next(one for one in edit.graph.nodes if one.op == "call_function")
    tensors = {
        "x": torch.tensor(7, dtype=torch.int8),
        "w": torch.zeros(1, dtype=torch.int8),
        "weight": torch.ones(3, 2, 1, 1, dtype=torch.int8),
    }
    zero, w_zero, weight = (edit.add_tensor(f"{name}_stored", value, kind="buffer") for name, value in tensors.items())
    integers = edit.call(torch.ops.aten._to_copy.default, (node.args[0],), {"dtype": torch.int8}, like=node, before=place)
    sums = edit.call(
        torch.ops.effc.conv_integer.default, (integers, weight, zero, w_zero, [1, 1], [0, 0, 0, 0], [1, 1], 1), like=node, before=node
    )
    back = edit.call(torch.ops.aten._to_copy.default, (sums,), {"dtype": torch.float32}, like=node, before=node)
    edit.replace(node, back)
    values = np.zeros((1, 2, 4, 4), np.float32)
    values[0, :, 0] = 7  # 8 of 32 are the zero point
    found = model_program(edit.done(), EVENTS, Dataset({program.interface.inputs[0].name: values}))
    (layer,) = found.layers
    assert layer.op == "conv_integer" and layer.nonzero == 0.75


def test_nothing_to_do_for_an_array() -> None:
    program = load_program(nn.ReLU(), example_inputs=[torch.zeros(2, 3)])
    with pytest.raises(UnsupportedModelError, match="no convolution"):
        model_program(program, DENSE)
