"""The array that faults are put into is the array that cycles, bytes and multiplications are counted on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.array_by_multiplier import Geometry
from effc.compiler.accelerator_counts import count_program
from effc.cost.accelerator import find_accelerator
from effc.cost.accelerator.event_driven import count_events
from effc.cost.accelerator.layers import products_of
from effc.data import Dataset
from effc.faultsim.accelerator import ArraySubject, for_array
from effc.faultsim.accelerator.faults import patterns
from effc.faultsim.accelerator.functional import Tally, run_on_array
from effc.faultsim.accelerator.gemms import gemms_of
from effc.faultsim.accelerator.places import layouts, mapping_of
from effc.faultsim.accelerator.work import Convolution
from effc.faultsim.images import BatchGroups
from effc.faultsim.spec import spec_of
from effc.frontends import load_program
from effc.ir import Program
from tests.unit.faultsim.accelerator.layers import convolution, operands
from tests.unit.faultsim.networks import digits, digits_data, injection


def array(rows: int, columns: int, width: Any) -> Any:
    found = find_accelerator("event-driven")
    skipping = found.skipping.model_copy(update={"zeros": width, "changes": width})
    return found.model_copy(update={"rows": rows, "columns": columns, "skipping": skipping})


class Mixed(nn.Module):
    """Plain, grouped, depthwise (two results a channel), strided, and one of a single place."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.grouped = nn.Conv2d(6, 9, 2, groups=3, bias=False)
        self.depthwise = nn.Conv2d(9, 18, 3, stride=2, padding=1, groups=9, bias=False)
        self.linear = nn.Linear(18 * 2 * 3, 7, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.depthwise(torch.relu(self.grouped(torch.relu(self.plain(x))))))
        return self.linear(x.flatten(1))


@pytest.fixture(scope="module")
def mixed() -> tuple[Program, Dataset]:
    torch.manual_seed(0)
    program = load_program(Mixed().eval(), example_inputs=(torch.zeros(2, 3, 4, 6),))
    data = Dataset({program.interface.inputs[0].name: np.random.default_rng(0).normal(size=(3, 3, 4, 6)).astype(np.float32)})
    return for_array(program, data), data


@pytest.mark.parametrize("width", ["element", 2, 4])
@pytest.mark.parametrize(("rows", "columns"), [(4, 3), (6, 2), (3, 16)])
def test_cores_of_faults_are_those_whose_cycles_count(mixed: tuple[Program, Dataset], rows: int, columns: int, width: Any) -> None:
    """The events of the outputs that one column of each core serves: the core that has most is the one that the cost model waits for."""
    program, data = mixed
    description = array(rows, columns, width)
    mapping, uneven = mapping_of(description), 0
    inputs: dict[str, list[Any]] = {}

    class Watching(torch.fx.Interpreter):
        def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
            if target in (torch.ops.effc.conv_integer.default, torch.ops.effc.matmul_integer.default):
                inputs.setdefault("all", []).append(args)
            return super().call_function(target, args, kwargs)

    frame = torch.from_numpy(data.inputs[program.interface.inputs[0].name][:1])
    Watching(program.exported.graph_module).run(*(program.tensors[name] for name in program.tensor_names), frame)
    for gemm, product, arguments in zip(gemms_of(program), products_of(program), inputs["all"], strict=True):
        given = gemm.operands(arguments)
        extents = gemm.extents(given.x, given.weights)
        live = mapping.live(given.x, extents, 1 if isinstance(gemm, Convolution) else -1)
        ks, served = torch.arange(extents.depth), torch.zeros(extents.groups, extents.channels, extents.positions, dtype=torch.int64)
        work = []
        for row in range(rows):
            for column in range(columns):
                mine = mapping.outputs(extents, row, column)
                served[mine.groups, mine.channels, mine.positions] += 1
                if column == 0:
                    work.append(int(gemm.gather_pairs(live, mine.groups, mine.positions, ks).sum()))
        assert (served == 1).all()
        events = count_events(product, (given.x != 0).reshape(1, *product.shape), description, mapping.skip or 1)
        assert (max(work), sum(work)) == (events.cycles, events.total), gemm.source
        uneven += max(work) > min(work)
    assert uneven  # else any dealing would do


def test_multiplications_of_an_execution_are_those_of_the_model_and_so_are_cycles() -> None:
    """Layer by layer, on the int8 digits network: zeros in each image, changes from one to the next; and cycles of the busiest cores."""
    program, data = for_array(digits().program, digits_data(64)), digits_data(6)
    description, images = find_accelerator("event-driven"), torch.from_numpy(digits_data(6).inputs["image"])
    counted = count_program(program, description, data)
    zeros, delta, first = Tally(), Tally(), Tally()
    mapping, frames = mapping_of(description), [[images[index : index + 1]] for index in range(6)]
    run_on_array(program, mapping, "zero-skipping", frames, zeros)
    run_on_array(program, mapping, "delta", frames, delta)
    run_on_array(program, mapping, "delta", frames[:1], first)
    for product, counts in zip(products_of(program), counted.layers, strict=True):
        assert zeros.multiplications[product.name] == round(6 * counts.events["zeros"].macs) > 0
        assert zeros.cycles[product.name] == round(6 * counts.events["zeros"].cycles) > 0
        assert delta.cycles[product.name] - first.cycles[product.name] == round(5 * counts.events["delta"].cycles) > 0
        changed = delta.multiplications[product.name] - first.multiplications[product.name]  # the first frame has none before it
        assert changed == round(5 * counts.events["delta"].macs) > 0


def test_layers_have_one_name() -> None:
    program = for_array(digits().program, digits_data(64))
    names = [gemm.source for gemm in gemms_of(program)]
    assert names == [product.name for product in products_of(program)] == [product.name for product in products_of(digits().program)]
    assert (names[0], names[-1]) == ("stem", "classifier")


def test_a_stuck_weight_that_stays_is_in_one_layer_and_one_that_goes_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 15,248 weights; with one word less they come and go, by turns of halves, and the first word holds weights of three layers."""
    program, systolic = for_array(digits().program, digits_data(64)), find_accelerator("systolic-32x32")
    spec = spec_of({"where": "sram-weight", "effect": "stuck-at-1", "accelerator": "x"})
    images = BatchGroups(digits_data(2), ["image"], images=None, per_fault=None, batch=2, seed=0)
    for room, layers in ((15248, 1), (15247, 3)):
        description = systolic.model_copy(update={"sram": systolic.sram.model_copy(update={"weights": room})})
        subject = ArraySubject(program, "digits", description)
        memory = layouts(program, subject.products, description)["sram-weight"]
        assert sum(bool(memory.elements(index, 0)) for index in range(4)) == layers
        faulty: set[str] = set()

        def noticed(fault: Any, product: Any, *rest: Any, faulty: set[str] = faulty) -> Any:
            faulty.add(product.name)
            return patterns(fault, product, *rest)

        monkeypatch.setattr("effc.faultsim.accelerator.engine.patterns", noticed)
        (record,) = subject.engine(spec, subject.sites(spec), images).run([injection([0], [0], [6])])
        assert (len(faulty), record.flips) == (layers, 1)


def test_blocks_of_channels_stay_inside_of_a_group() -> None:
    """Two groups of three channels, two together: a number in the first group's last channel wakes nothing in the second group."""
    words = np.zeros((1, 6, 1, 1), np.int64)
    words[0, 2] = 1
    gemm = convolution(Geometry((1, 1), (0, 0, 0, 0), (1, 1), 2))
    given = operands(gemm, words, np.ones((4, 3, 1, 1), np.int64))
    mapping = mapping_of(array(2, 2, 2))
    live = mapping.live(given.x, gemm.extents(given.x, given.weights), 1)
    assert live.flatten().tolist() == [0, 0, 1, 0, 0, 0]
