"""Quantisation after training for an array: scales, words, what stays in float, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effc.data import Dataset
from effc.errors import ConfigError, DataError
from effc.faultsim.accelerator.quantised import PASS, for_array
from effc.faultsim.sites import operator_name
from effc.frontends import load_program
from effc.ir.storage import load_program_bytes, save_program
from tests.unit.faultsim.networks import digits, digits_data


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2)
        self.linear = nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.relu(self.conv(x)).mean((2, 3)))


def small(seed: int = 0):
    torch.manual_seed(seed)
    module = Small().eval()
    with torch.no_grad():
        module.conv.weight[3] = 0  # a channel without weights
    data = Dataset({"x": np.random.default_rng(0).normal(size=(10, 2, 6, 6)).astype(np.float32)}, None)
    return module, load_program(module, example_inputs=(torch.zeros(2, 2, 6, 6),)), data


def test_equals_the_scheme_written_out() -> None:
    module, program, data = small()
    x = torch.from_numpy(data.inputs["x"])
    quantised = for_array(program, data)

    def product(value: Tensor, weight: Tensor, operator) -> Tensor:
        x_scale = (value.abs().max() / 127).float()
        top = weight.reshape(len(weight), -1).abs().amax(1)
        w_scale = torch.where(top > 0, top / 127, 1.0)
        shape = [-1, *[1] * (weight.dim() - 1)]
        words = (weight / w_scale.reshape(shape)).round()
        sums = operator((value / x_scale).round().clamp(-128, 127).double(), words.double())
        return sums.float() * (x_scale * w_scale).reshape([1, -1, *[1] * (sums.dim() - 2)])

    with torch.no_grad():
        hidden = product(x, module.conv.weight, lambda a, b: torch.conv2d(a, b, None, 2, 1, 1, 2)) + module.conv.bias[:, None, None]
        hidden_float = module.conv(x)
        # the second scale comes from the float program, as calibration runs that one
        pooled, ranged = torch.relu(hidden).mean((2, 3)), torch.relu(hidden_float).mean((2, 3))
        x_scale, w_scale = (ranged.abs().max() / 127).float(), module.linear.weight.abs().amax(1) / 127
        words = (module.linear.weight / w_scale[:, None]).round()
        expected = ((pooled / x_scale).round().clamp(-128, 127).double() @ words.double().t()).float() * (x_scale * w_scale)
        assert torch.equal(quantised.call(x)[0], expected)
    assert quantised.provenance.passes[-1] == PASS
    assert quantised.interface == program.interface
    assert [operator_name(node) for node in quantised.nodes if "integer" in operator_name(node)] == ["conv_integer", "matmul_integer"]


def test_survives_the_disk_and_keeps_its_accuracy() -> None:
    data = digits_data(200)
    quantised = for_array(digits().program, digits_data(64))
    again = load_program_bytes(save_program(quantised))
    images = torch.from_numpy(data.inputs["image"])
    assert torch.equal(again.call(images)[0], quantised.call(images)[0])
    right = (quantised.call(images)[0].argmax(1).numpy() == data.labels).mean()
    assert right >= (digits().program.call(images)[0].argmax(1).numpy() == data.labels).mean() - 0.01


def test_refusals() -> None:
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ x.transpose(1, 2) + torch.bmm(x, x.transpose(1, 2))

    program = load_program(Attention().eval(), example_inputs=(torch.zeros(2, 3, 4),))
    with pytest.raises(ConfigError, match="cannot be quantised") as caught:
        for_array(program, Dataset({"x": np.zeros((2, 3, 4), np.float32)}, None))
    assert [problem.what for problem in caught.value.problems] == ["matmul", "bmm"]

    class Unbatched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(2, 3, 3), nn.Linear(48, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(self.conv(x[0]).flatten())[None]

    program = load_program(Unbatched().eval(), example_inputs=(torch.zeros(1, 2, 6, 6),))
    with pytest.raises(ConfigError, match="cannot be quantised") as caught:
        for_array(program, Dataset({"x": np.zeros((1, 2, 6, 6), np.float32)}, None))
    assert [(one.where, one.what, one.why) for one in caught.value.problems] == [
        ("conv", "conv2d", "its input has no axis for a batch"),
        ("linear", "linear", "its input has no axis for a batch"),
    ]
    _, program, data = small()
    data.inputs["x"][3, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="no range") as wild:
        for_array(program, data)
    assert len(wild.value.problems) == 2  # the NaN reaches both products
    with pytest.raises(ConfigError, match="nothing that an array"):
        for_array(for_array(digits().program, digits_data(8)), digits_data(8))
