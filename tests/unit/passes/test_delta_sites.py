"""Which layers a network has for the pass `delta`, and which pixels of them may change."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from effc.errors import UnsupportedModelError
from effc.frontends import load_program
from effc.ir import Edit, Program
from effc.passes.delta_sites import Layer, find_network
from effc.passes.delta_windows import active_pixels, window
from tests.unit.passes.delta_networks import Mobile, Residual, program_of


def ops(layer: Layer) -> list[str]:
    return [str(node.target).split(".")[1] for node in layer.nodes]


def described(program: Program) -> list[tuple[list[str], str, list[str], bool]]:
    network = find_network(program)
    labels = {layer.node: layer.label for layer in network.layers} | {network.frame.node: "frame"}
    return [(ops(layer), layer.label, [labels[one] for one in layer.reads], layer.sparse) for layer in network.layers]


def test_layers_of_a_residual_network_end_where_kernels_end() -> None:
    program = program_of(Residual(), torch.randn(2, 3, 12, 12))
    assert described(program) == [
        (["conv2d", "batch_norm", "relu"], "stem", ["frame"], True),
        (["conv2d", "relu"], "a", ["stem"], True),
        (["conv2d", "add", "relu"], "b", ["a", "stem"], True),
        (["conv2d", "relu"], "c", ["b"], True),
        (["conv2d"], "d", ["c"], True),  # an add of two convolutions belongs to the later one
        (["conv2d", "add", "relu"], "short", ["b", "d"], True),
    ]
    network = find_network(program)
    assert [layer.feeds for layer in network.layers] == [True, True, True, True, True, False]


def test_layers_of_a_mobile_network() -> None:
    program = program_of(Mobile(), torch.randn(2, 3, 12, 12))
    assert described(program) == [
        (["conv2d", "sigmoid", "mul"], "stem", ["frame"], True),
        (["conv2d", "hardswish"], "depth", ["stem"], True),
        (["conv2d"], "point", ["depth"], True),
        (["mul"], "mul_1", ["point"], False),  # its gate changes with every frame
        (["conv2d", "relu"], "after", ["mul_1"], True),
        (["max_pool2d"], "max_pool2d", ["after"], True),
        (["upsample_nearest2d"], "upsample_nearest2d", ["max_pool2d"], True),
        (["cat"], "cat", ["stem", "upsample_nearest2d"], True),
        (["conv2d"], "last", ["cat"], True),
    ]
    network = find_network(program)
    assert "reads sigmoid_1" in network.layers[3].why_dense
    assert [layer.kind for layer in network.layers][:4] == ["convolution", "depthwise", "convolution", "elementwise"]
    left = {str(node.target).split(".")[1]: why for node, why in network.left}
    assert left == {"adaptive_avg_pool2d": "stays dense: its result is one pixel", "conv2d": "stays dense: its result is one pixel"}


def test_a_value_with_several_readers_is_one_site_and_pads_belong_to_convolutions() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, 2), nn.Conv2d(4, 4, 1, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.a(F.pad(x, (0, 1, 0, 1)))
            return self.b(F.pad(y, (0, 1, 0, 1))), torch.relu(self.c(torch.relu(y)))

    assert described(program_of(Net(), torch.randn(2, 3, 8, 8))) == [
        (["pad", "conv2d"], "a", ["frame"], True),
        (["pad", "conv2d"], "b", ["a"], True),
        (["relu"], "relu", ["a"], True),
        (["conv2d", "relu"], "c", ["relu"], True),
    ]


def test_the_frame_of_an_nhwc_model_is_behind_its_permutation() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    program = program_of(Net(), torch.randn(2, 8, 8, 3))
    network = find_network(program)
    assert (network.frame.node.name, network.frame.input) == ("permute", program.interface.inputs[0].name)
    assert described(program) == [(["conv2d"], "conv", ["frame"], True)]


def test_trained_files_are_all_sites() -> None:
    program = load_program("examples/digits.onnx")
    network = find_network(program)
    assert network.layers and all(layer.sparse for layer in network.layers)


def test_movements_are_no_sites_and_who_reads_one_in_place_reads_the_image() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = nn.Conv2d(3, 8, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 1)

        def forward(self, x: Tensor) -> Tensor:
            a = torch.relu(self.a(x))
            left, right = a[:, :4], a[:, 4:]
            y = torch.cat([left, self.b(right)], 1)
            shuffled = y.reshape(-1, 2, 4, 6, 6).transpose(1, 2).reshape(-1, 8, 6, 6)
            return self.c(shuffled) + self.d(y.transpose(2, 3))

    program = program_of(Net(), torch.randn(2, 3, 8, 8))
    assert described(program) == [
        (["conv2d", "relu"], "a", ["frame"], True),
        (["conv2d"], "b", ["a"], True),
        (["cat"], "cat", ["a", "b"], True),
    ]
    layers = find_network(program).by_name
    moved = torch.zeros(1, 1, 6, 6, dtype=torch.bool)
    moved[0, 0, 2, 3] = True
    active = active_pixels(layers["conv2d_1"], {next(iter(layers["conv2d_1"].reads)): moved}, {})
    assert active is not None and int(active.sum()) == 9 and bool(active[0, 0, 1:4, 2:5].all())
    # Rows and columns that change places have a state of their own where nothing else reads the image, else none.
    turned = program_of(nn.Sequential(nn.Conv2d(3, 4, 1), Turned(), nn.Conv2d(4, 4, 1)), torch.randn(2, 3, 8, 8))
    assert [(names, sparse) for names, _, _, sparse in described(turned)] == [
        (["conv2d"], True),
        (["transpose"], False),
        (["conv2d"], True),
    ]


class Turned(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(2, 3)


def test_all_that_stands_in_the_way_is_said_at_once() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
            return self.conv(x) + self.conv(y) + z

    with pytest.raises(UnsupportedModelError) as caught:
        find_network(program_of(Net(), torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), torch.randn(2, 1, 1, 1)))
    assert [problem.where for problem in caught.value.problems] == ["z", "x", "y"]
    with pytest.raises(UnsupportedModelError, match="no 2-D convolution reads it"):
        find_network(program_of(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.randn(2, 3, 2, 2)))
    with pytest.raises(UnsupportedModelError, match="its batch is fixed at 2"):
        find_network(program_of(nn.Conv2d(3, 4, 1), torch.randn(2, 3, 4, 4), symbolic=False))
    with pytest.raises(UnsupportedModelError, match="is no float32"):
        find_network(program_of(nn.Conv2d(3, 4, 1).half(), torch.randn(2, 3, 4, 4).half()))
    with pytest.raises(UnsupportedModelError, match="has no axis of frames in front") as caught:
        find_network(program_of(Total(), torch.randn(2, 3, 4, 4)))
    assert [problem.where for problem in caught.value.problems] == ["output_1"]
    edit = Edit(program_of(nn.Conv2d(3, 3, 1), torch.randn(2, 3, 4, 4)))
    edit.add_state("h", edit.nodes[-1])
    edit.write_state("h", edit.nodes[-1])
    with pytest.raises(UnsupportedModelError, match="has states of its own"):
        find_network(edit.done())


class Total(nn.Conv2d):
    """Also gives a number, and one that is the same for all frames."""

    def __init__(self) -> None:
        super().__init__(3, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        y = super().forward(x)
        return y, y.sum(), self.weight.sum()


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@settings(max_examples=60, deadline=None)
@given(pairs(1, 4), pairs(1, 3), pairs(0, 4), pairs(1, 3), st.integers(0, 2**32 - 1))
def test_windows_are_those_of_a_convolution_with_ones(
    kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int], seed: int
) -> None:
    mask = torch.rand(2, 1, 13, 11, generator=torch.Generator().manual_seed(seed)) < 0.1
    expected = F.conv2d(mask.float(), torch.ones(1, 1, *kernel), None, stride, padding, dilation) > 0
    found = window(mask, kernel, stride, padding, dilation, (expected.shape[2], expected.shape[3]))
    assert torch.equal(found, expected)
