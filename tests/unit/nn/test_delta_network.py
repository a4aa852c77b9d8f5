"""`DeltaNetwork`: what a per-frame network becomes, what it refuses, and that all its forms are one function."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effc.compiler import compile_model
from effc.errors import ConfigError, UnsupportedModelError, UsageError
from effc.frontends import load_program
from effc.nn import DeltaNetwork, SynapticOperations
from effc.runtime import Stream, load


class Net(nn.Module):
    """A residual network with all that the conversion knows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.norm1, self.relu1 = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.conv2, self.relu2 = nn.Conv2d(6, 6, 3, padding=1, groups=2), nn.SiLU()
        self.conv3, self.conv4 = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)  # one after the other: affine
        self.mean, self.drop, self.output = nn.AdaptiveAvgPool2d(1), nn.Dropout(), nn.Linear(6, 4)
        with torch.no_grad():
            self.train()(3 * torch.randn(40, 1, 8, 8) + 1)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu1(self.norm1(self.conv1(x))))
        x = torch.relu(self.conv4(self.conv3(self.relu2(self.conv2(x)))) + x)
        scores: Tensor = self.output(self.drop(torch.flatten(self.mean(x), 1)))
        return scores


def video(samples: int = 2, frames: int = 5, seed: int = 1) -> Tensor:
    """Half of the pixels stand still."""
    x = torch.randn(samples, frames, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    x[:, :, :, :4] = x[:, :1, :, :4]
    return x


def converted(**options: Any) -> DeltaNetwork:
    return DeltaNetwork(Net(), video().flatten(0, 1), **options)


def test_layers_biases_and_fan_outs() -> None:
    network = converted(granularity="channel")
    layers = network.layers
    assert list(layers) == ["input", "relu1", "relu2", "relu", "output"]
    assert [layer.sigma for layer in layers.values()] == [False, True, True, True, True]
    assert [layer.level for layer in layers.values()] == [1, 1, 1, 1, 0]
    shapes = {name: None if layer.bias is None else tuple(layer.bias.shape) for name, layer in layers.items()}
    # two padded convolutions in a row: what the first one's bias makes is less at the edges
    assert shapes == {"input": None, "relu1": (6, 1, 1), "relu2": (6, 1, 1), "relu": (6, 4, 4), "output": (4,)}
    assert not any(part.bias is not None for part in network.modules() if isinstance(part, nn.Conv2d | nn.Linear))
    products = {"conv1": 484 * 6 / 64, "conv2": 100 * 18 / (6 * 16), "conv3": 100 * 36 / (6 * 16)}  # 484, 100: kernel taps inside 8x8, 4x4
    wanted = [products["conv1"], products["conv2"], products["conv3"], 4, 0]
    assert [layer.fan_out for layer in layers.values()] == pytest.approx(wanted)


def test_with_small_steps_it_is_the_network_and_the_original_is_untouched() -> None:
    net, x = Net(), video()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    network = DeltaNetwork(net, x.flatten(0, 1), step=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(network(x), net(x.flatten(0, 1)).unflatten(0, (2, 5)), rtol=0, atol=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items()) and net.relu1.inplace


@pytest.mark.parametrize(
    ("granularity", "shapes"),
    [
        ("layer", [(), (), (), ()]),
        ("channel", [(), (6, 1, 1), (6, 1, 1), (6, 1, 1)]),
        ("neuron", [(), (6, 8, 8), (6, 4, 4), (6, 4, 4)]),
    ],
)
def test_steps_start_as_a_share_of_the_root_mean_square(granularity: Any, shapes: list[tuple[int, ...]]) -> None:
    layers = converted(step=0.5, granularity=granularity, steps={"relu2": 0.125}).layers
    thetas = {name: layer.theta for name, layer in layers.items() if layer.theta is not None}
    assert [tuple(theta.shape) for theta in thetas.values()] == shapes
    assert torch.equal(thetas["relu2"], torch.full(shapes[2], 0.125))
    assert thetas["input"].item() == pytest.approx(0.5 * video().square().mean().sqrt().item(), rel=1e-5)
    assert all(bool((theta > 0).all()) for theta in thetas.values())


@torch.no_grad()
def frame_by_frame(network: DeltaNetwork, x: Tensor) -> Tensor:
    step = network.delta_step()
    states: Any = step.zeros(x[:, 0])
    outputs = []
    for frame in x.unbind(1):
        output, *states = step(frame, *states).values()
        outputs.append(output)
    return torch.stack(outputs, 1)


@pytest.mark.parametrize("levels", [{}, {"input": 0}, {"input": 2}, {"relu2": 1, "input": 0}])
def test_step_sequence_and_dense_form_are_one_function(levels: Any) -> None:
    network, x = converted(levels=levels), video()
    with torch.no_grad():
        wanted = network(x)
        torch.testing.assert_close(frame_by_frame(network, x), wanted, rtol=0, atol=1e-6)
        if 2 in levels.values():
            with pytest.raises(UsageError, match=r"\['input'\] have level 2"):
                network.quantised_module()
            moved = x - x[:, :1]
            assert not torch.allclose(network(moved)[:, 1:], torch.zeros(()), atol=1e-3)  # what moves is seen
            torch.testing.assert_close(network(x[:, :1].expand_as(x))[:, 1:], network(torch.zeros_like(x))[:, 1:])  # what stands is not
        else:
            torch.testing.assert_close(network.quantised_module()(x.flatten(0, 1)).unflatten(0, (2, 5)), wanted, rtol=0, atol=1e-6)


def test_what_stands_still_makes_no_operations() -> None:
    network, x = converted(), video()
    with torch.no_grad(), SynapticOperations(network) as count:
        network(x[:, :1].expand_as(x))
    operations = count.total().reshape(2, 5)
    assert bool((operations[:, 0] > 0).all()) and bool((operations[:, 1:] == 0).all())


def test_both_exports_compile_and_stream_like_the_sequence(tmp_path: Any) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 3))
    x = video(samples=1)
    network = DeltaNetwork(net, x.flatten(0, 1))
    wanted = network(x).detach().numpy()
    step, dense = network.delta_step(), network.quantised_module()
    program = load_program(step, example_inputs=step.examples(x[:, 0]), states=step.states)
    assert program.interface.batch.symbolic, program.interface.batch.reason
    assert [state.output for state in program.interface.states][:3] == ["input.previous.next", "_1.sum.next", "_1.previous.next"]
    compile_model(step, tmp_path / "step", example_inputs=step.examples(x[:, 0]), states=step.states)
    compile_model(dense, tmp_path / "dense", example_inputs=(x[:, 0],), passes="delta{mode=quantised,scene-cut=1}")
    accumulating, skipping = Stream(load(tmp_path / "step")), Stream(load(tmp_path / "dense"))
    for t in range(x.shape[1]):
        for stream in (accumulating, skipping):
            np.testing.assert_allclose(stream.run({"frame": x[:, t].numpy()})["output"], wanted[:, t], rtol=0, atol=1e-5)
        assert (skipping.activity().share == 1.0) == (t == 0)  # the pass finds the roundings, and half of the frame stands still


def test_outputs_keep_their_structure() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.box, self.score = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 4, 1), nn.Conv2d(2, 1, 1)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            x = torch.relu(self.body(x))
            return {"box": self.box(x), "score": torch.relu(self.score(x))}

    x = video()
    network = DeltaNetwork(Heads(), x.flatten(0, 1))
    result = network(x)
    assert {name: tuple(value.shape) for name, value in result.items()} == {"box": (2, 5, 4, 6, 6), "score": (2, 5, 1, 6, 6)}
    step = network.delta_step()
    assert list(step(*step.examples(x[:, 0])))[:2] == ["box", "score"]
    assert bool((result["score"] >= 0).all())  # values, not deltas


class Broken(nn.Module):
    """Much that cannot be."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.softmax, self.conv = nn.BatchNorm2d(1), nn.Softmax(1), nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.softmax(self.conv(self.norm(x)) + 1.0)
        return operator.mul(x, x)


def test_what_is_not_affine_is_refused_all_at_once() -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        DeltaNetwork(Broken().eval(), torch.rand(2, 1, 4, 4))
    assert [problem.where for problem in caught.value.problems] == ["norm", "add", "softmax", "mul"]


def test_a_module_that_mixes_frames_is_refused() -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) + torch.mean(x, 0, True)

    with pytest.raises(UsageError, match="depends on the other frames"):
        DeltaNetwork(Mixing(), video().flatten(0, 1))


@pytest.mark.parametrize("options", [{"step": 0.0}, {"granularity": "pixel"}, {"levels": {"nothing": 1}}, {"steps": {"output": 1.0}}])
def test_arguments_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="DeltaNetwork: "):
        converted(**options)


def test_deltas_and_values_are_not_added() -> None:
    with pytest.raises(UnsupportedModelError, match="levels do not go together"):
        converted(levels={"relu2": 0})  # added to the pooled deltas of relu1
