"""Three ways to execute an integer network give the bits of effc's integer operators; work is counted as by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.harness import data_file
from effc.errors import ConfigError
from effc.faultsim.accelerator.functional import MODES, Tally, run_on_array
from effc.faultsim.accelerator.gemms import gemms_of
from effc.faultsim.accelerator.mapping import Mapping
from effc.faultsim.accelerator.quantised import for_array
from effc.frontends import load_program
from effc.ir import Program
from tests.unit.faultsim.networks import digits, digits_data

INT8 = ("ad_autoencoder", "kws", "resnet8", "vww")


def frames(program: Program, count: int) -> list[torch.Tensor]:
    """A clip in which a tenth of the numbers change from frame to frame."""
    draw = torch.Generator().manual_seed(0)
    shape = [1, *map(int, program.interface.inputs[0].shape[1:])]
    clip = [torch.rand(shape, generator=draw) * 255]
    for _ in range(count - 1):
        moved = torch.rand(shape, generator=draw) < 0.1
        clip.append(torch.where(moved, torch.rand(shape, generator=draw) * 255, clip[-1]))
    return clip


@pytest.mark.parametrize("name", INT8)
def test_imported_int8_networks_bit_for_bit(name: str) -> None:
    path = data_file(f"onnx/mlperf_tiny_{name}_int8qdq.onnx")
    if path is None:
        pytest.skip(f"$EFFC_DATA has no mlperf_tiny_{name}_int8qdq.onnx")
    program = load_program(path, check_import=False)
    clip = frames(program, 2)
    expected = [program.call(frame)[0] for frame in clip]
    work: dict[str, int] = {}
    for mode in MODES:
        tally = Tally()
        outputs = run_on_array(program, Mapping(24, 20, "weight-stationary"), mode, [[frame] for frame in clip], tally)
        assert all(torch.equal(found, truth) for (found,), truth in zip(outputs, expected, strict=True)), mode
        work[mode] = sum(tally.multiplications.values())
    assert work["zero-skipping"] < work["dense"]


def test_a_quantised_network_on_every_array() -> None:
    program = for_array(digits().program, digits_data(64))
    images = torch.from_numpy(digits_data(5).inputs["image"])
    expected = program.call(images)[0]
    for dataflow in ("weight-stationary", "output-stationary", "input-stationary", "event-driven"):
        for mode in MODES:
            ((found,),) = run_on_array(program, Mapping(7, 3, dataflow), mode, [[images]])
            assert torch.equal(found, expected), (dataflow, mode)


def test_multiplications_are_those_of_a_loop() -> None:
    """Events of the first convolution by a loop over pixels and taps; frames that stand still have none."""
    program = for_array(digits().program, digits_data(64))
    image = torch.from_numpy(digits_data(1).inputs["image"])
    first = next(one for one in gemms_of(program))
    node = next(node for node in program.nodes if node.name == first.name)
    weights = program.tensors[node.args[1].name]
    scale = float(program.tensors[node.args[0].args[1].name])
    pixels = (image[0] / scale).round().numpy()
    (channels, height, width), kernel, (stride, pad) = pixels.shape, weights.shape[2], (first.stride[0], first.padding[0])
    fan_out = 0
    for _, y, x in np.argwhere(pixels != 0):
        for ky in range(kernel):
            for kx in range(kernel):
                top, left = y + pad - ky, x + pad - kx
                size = ((height + 2 * pad - kernel) // stride + 1, (width + 2 * pad - kernel) // stride + 1)
                inside = top % stride == 0 and left % stride == 0 and 0 <= top // stride < size[0] and 0 <= left // stride < size[1]
                fan_out += inside * len(weights)
    still, skipping, dense = Tally(), Tally(), Tally()
    array = Mapping(8, 8, "event-driven", 1)
    run_on_array(program, array, "zero-skipping", [[image]], skipping)
    run_on_array(program, array, "delta", [[image], [image], [image]], still)
    run_on_array(program, array, "dense", [[image]], dense)
    assert skipping.multiplications[first.source] == still.multiplications[first.source] == fan_out > 0
    assert still == skipping  # the second and third frame cost nothing, in any layer
    assert dense.multiplications[first.source] == size[0] * size[1] * channels * kernel**2 * len(weights)


def test_sums_wrap_around_like_int32() -> None:
    """2^17 products of 127 * 127 leave int32: the array's sums are modulo 2^32, as effc's operators' are."""

    class Long(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("zero", torch.zeros((), dtype=torch.int8))
            self.register_buffer("weights", torch.full((2**18, 2), 127, dtype=torch.int8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q = torch.ops.effc.quantize_linear(x, torch.ones(()), self.zero, 0)
            return torch.ops.effc.matmul_integer(q, self.weights, self.zero, self.zero).to(torch.float32)

    program = load_program(Long().eval(), example_inputs=(torch.ones(2, 2**18),))
    x = torch.full((1, 2**18), 127.0)
    wrapped = (2**18 * 127 * 127 + 2**31) % 2**32 - 2**31
    assert wrapped != 2**18 * 127 * 127
    for mode in MODES:
        ((found,),) = run_on_array(program, Mapping(1024, 4, "weight-stationary"), mode, [[x]])
        assert found.tolist() == [[float(np.float32(wrapped))] * 2], mode


def test_what_an_array_cannot_do_is_said_at_once() -> None:
    with pytest.raises(ConfigError, match="cannot do all products") as caught:
        gemms_of(digits().program)
    assert len(caught.value.problems) == sum(node.target in PRODUCTS for node in digits().program.nodes)
    with pytest.raises(ConfigError, match=r"'sparse'.*dense, zero-skipping, delta"):
        run_on_array(for_array(digits().program, digits_data(8)), Mapping(4, 4, "event-driven"), "sparse", [])  # type: ignore[arg-type]


PRODUCTS = (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)
