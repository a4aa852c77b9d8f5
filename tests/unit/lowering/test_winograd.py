"""Winograd's convolution: the numbers of torch for every shape, however tiles meet edges, vectors and chunks; and when it is taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from effc.ir import Batch, Program, Provenance
from effc.lowering import Lowered, lower, run_lowered
from effc.lowering.kernels import Options, winograd
from effc.lowering.kernels.conv import Convolution
from effc.lowering.kernels.options import Winograd
from effc.lowering.kernels.winograd_transforms import F2, F4, Form, transformed_inputs, transformed_results, transformed_weights
from effc.targets import Target, find_target
from tests.unit.lowering.functions_of_torch import TARGETS, normal

FORMS = [F2, F4]
SERVER = replace(find_target("x86-64-v4"), l2=2 << 20)  # the machine that the model was measured on


class Several(nn.Module):
    """Layers side by side, each with an input of its own: one compilation for all."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        return [layer(x) for layer, x in zip(self.layers, inputs, strict=True)]


def compiled(layers: Sequence[nn.Module], inputs: Sequence[Tensor], target: Target, option: Winograd) -> tuple[Lowered, list[np.ndarray]]:
    """The code of layers, and what it gives."""
    exported = torch.export.export(Several(layers).eval(), (*inputs,))
    program = Program.from_exported(exported, Provenance("net", "torch", "0"), batch=Batch(False))
    lowered = lower(program, replace(target, runs_here=True), options=Options(winograd=option))
    arrays = {value.name: x.numpy() for value, x in zip(program.interface.inputs, inputs, strict=True)}
    return lowered, list(run_lowered(lowered, program, arrays).values())


def check(layers: Sequence[nn.Module], inputs: Sequence[Tensor], target: Target, option: Winograd, tolerance: float = 5e-6) -> Lowered:
    """Compiled layers give what torch gives in float64, to `tolerance` of the largest magnitude; returns the code."""
    lowered, outputs = compiled(layers, inputs, target, option)
    for number, (layer, x, value) in enumerate(zip(layers, inputs, outputs, strict=True)):
        with torch.no_grad():
            wanted = layer.double()(x.double()).numpy()
        layer.float()
        largest = float(np.abs(wanted).max())
        np.testing.assert_allclose(value, wanted, rtol=0, atol=tolerance * largest, err_msg=f"{number} {layer} {tuple(x.shape)}")
    return lowered


def families(lowered: Lowered) -> list[str]:
    """The families of the kernels that multiply, in order."""
    assert lowered.plan is not None
    return [step.family for step in lowered.plan.steps if step.macs]


def layer(channels: int, features: int, padding: Any = 1, **options: Any) -> nn.Conv2d:
    torch.manual_seed(channels)
    return nn.Conv2d(channels, features, options.pop("window", 3), padding=padding, **options)


def padded(before: tuple[int, int], after: tuple[int, int], conv: nn.Module) -> nn.Module:
    """A layer with padding that is not the same on both sides; (rows, columns)."""
    return nn.Sequential(nn.ZeroPad2d((before[1], after[1], before[0], after[0])), conv)


# ---- the mathematics -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_matrices_make_a_correlation(form: Form) -> None:
    rng = np.random.default_rng(0)
    d, g = rng.standard_normal(form.alpha), rng.standard_normal(3)
    inputs, weights, results = form.matrices()
    np.testing.assert_allclose(results @ ((weights @ g) * (inputs @ d)), np.correlate(d, g, "valid"), rtol=1e-12)
    for matrix in (inputs, results):  # the kernel's constants: nothing is lost where they become float32
        np.testing.assert_array_equal(matrix, matrix.astype(np.float32))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_transforms_of_arrays_make_a_convolution(form: Form) -> None:
    pieces, weight = normal(2, form.alpha, form.alpha, 5).double().numpy(), normal(3, 3, 3, 5, seed=1).numpy()
    got = transformed_results(form, transformed_inputs(form, pieces) @ transformed_weights(form, weight))
    wanted = F.conv2d(torch.from_numpy(pieces).permute(0, 3, 1, 2), torch.from_numpy(weight).double().permute(0, 3, 1, 2))
    np.testing.assert_allclose(got, wanted.permute(0, 2, 3, 1).numpy(), atol=1e-5)


# ---- the kernel ----------------------------------------------------------------------------------------------------------------

CASES: list[tuple[nn.Module, Tensor]] = [
    (layer(1, 1), normal(1, 1, 1, 1)),
    (layer(3, 5, 0), normal(1, 3, 3, 3)),
    (layer(16, 16), normal(1, 16, 2, 3)),
    (layer(7, 31, 2), normal(3, 7, 5, 4)),
    (layer(17, 33), normal(2, 17, 15, 17)),
    (layer(32, 15, 0), normal(1, 32, 9, 6)),
    (layer(40, 70), normal(1, 40, 14, 14)),
    (layer(5, 8, (0, 2)), normal(1, 5, 8, 11)),
    (layer(24, 48, (1, 0), bias=False), normal(2, 24, 1, 16)),
    (layer(13, 4, (2, 1)), normal(1, 13, 13, 1)),
    (padded((0, 1), (2, 0), layer(9, 20, 0)), normal(1, 9, 7, 10)),
    (padded((2, 0), (1, 2), layer(33, 17, 0)), normal(2, 33, 12, 5)),
    (padded((5, 6), (7, 4), layer(6, 10, 0)), normal(1, 6, 3, 4)),  # tiles that lie in the padding as a whole
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@pytest.mark.parametrize("form", [pytest.param(F2, marks=pytest.mark.slow), F4], ids=lambda form: form.name)
def test_convolutions_of_every_shape(form: Form, target: Target) -> None:
    layers, inputs = zip(*CASES, strict=True)
    assert families(check(layers, inputs, target, form.name)) == ["winograd"] * len(CASES)


@settings(max_examples=5, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
@given(st.data())
def test_random_convolutions(data: st.DataObject) -> None:
    def draw(least: int, most: int) -> int:
        return data.draw(st.integers(least, most))

    layers, inputs = [], []
    for _ in range(3):
        before, after = (draw(0, 2), draw(0, 2)), (draw(0, 2), draw(0, 2))
        sizes = [max(draw(1, 17), 3 - a - b) for a, b in zip(before, after, strict=True)]
        channels = draw(1, 40)
        layers.append(padded(before, after, layer(channels, draw(1, 80), 0)))
        inputs.append(normal(draw(1, 3), channels, *sizes))
    form = data.draw(st.sampled_from(FORMS))
    assert families(check(layers, inputs, data.draw(st.sampled_from(TARGETS)), form.name)) == ["winograd"] * 3


MORE_CUTS = [pytest.param(*cut, marks=pytest.mark.slow) for cut in ((1, 0), (5, 0), (4, 3), (23, 2), (35, 1))]


@pytest.mark.parametrize(("chunk", "tasks"), [(6, 7), (2, 16), (100, 0), *MORE_CUTS])
def test_however_tiles_are_cut(chunk: int, tasks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """35 tiles: chunks that end behind the last tile, tasks with fewer chunks than others, tasks without any."""

    def cuts(tiles: int) -> Iterator[tuple[int, int]]:
        yield chunk, tasks

    monkeypatch.setattr(winograd, "_cuts", cuts)
    winograd._best.cache_clear()
    try:
        assert families(check([layer(20, 37)], [normal(1, 20, 18, 27)], TARGETS[0], "f4")) == ["winograd"]
    finally:
        winograd._best.cache_clear()


class Block(nn.Module):
    """A convolution and all that is fused behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = layer(20, 20, bias=False), nn.BatchNorm2d(20)
        self.norm.running_mean = torch.linspace(-1, 1, 20)
        self.norm.running_var = torch.linspace(0.5, 2, 20)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x)) + x)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@pytest.mark.parametrize("form", [pytest.param(F2, marks=pytest.mark.slow), F4], ids=lambda form: form.name)
def test_what_is_fused_behind(form: Form, target: Target) -> None:
    lowered = check([Block()], [normal(2, 20, 9, 10)], target, form.name)
    assert lowered.plan is not None
    assert [step.family for step in lowered.plan.steps if step.macs] == ["winograd"]
    assert len(lowered.plan.steps) == 3  # to channels last, the convolution with all that follows it, and back


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_what_is_no_number_stays_near_its_window(form: Form) -> None:
    """It reaches every position that it reaches in torch, and no position of another tile."""
    conv, x = layer(8, 16), normal(2, 8, 16, 16)
    x[0, 3, 6, 9], x[1, 2, 15, 0] = float("nan"), float("inf")
    (value,) = compiled([conv], [x], TARGETS[0], form.name)[1]
    with torch.no_grad():
        wanted = conv(x).numpy()
    m = form.outputs
    bad = ~np.isfinite(wanted)
    tiles = bad.reshape(2, 16, 16 // m, m, 16 // m, m).any(axis=(3, 5)).repeat(m, axis=2).repeat(m, axis=3)
    assert not np.isfinite(value[bad]).any()
    np.testing.assert_allclose(value[~tiles], wanted[~tiles], atol=1e-5)


# ---- the choice ----------------------------------------------------------------------------------------------------------------


def test_other_convolutions_stay_what_they_are() -> None:
    x = normal(1, 64, 16, 16)
    others = [
        layer(64, 64, stride=2),
        layer(64, 64, 2, dilation=2),
        layer(64, 64, groups=2),
        layer(64, 64, 2, window=5),
        layer(64, 64, (1, 0), window=(3, 1)),
    ]
    assert "winograd" not in families(check(others, [x] * len(others), TARGETS[0], "f2"))


def test_a_window_of_three_that_stays_direct_says_why() -> None:
    lowered = check([layer(64, 64, stride=2), layer(1, 64)], [normal(1, 64, 28, 28), normal(1, 1, 28, 28)], TARGETS[0], "auto")
    assert lowered.plan is not None
    strided, small = (step.note.split("; ")[1:] for step in lowered.plan.steps if step.macs)
    assert strided == ["not Winograd: it is for stride 1, without dilation and groups"]
    assert small == ["not Winograd: by the model it is not faster here"]


@pytest.mark.parametrize(("option", "family"), [("off", "conv"), ("auto", "winograd"), ("f2", "winograd"), ("f4", "winograd")])
def test_options(option: Winograd, family: str) -> None:
    assert families(check([layer(64, 64)], [normal(1, 64, 28, 28)], TARGETS[0], option)) == [family]


# (channels, features, size) -> what was fastest on that machine, inside of ResNet-18 and VGG-16, on one thread
MEASURED: dict[tuple[int, int, int], Form | None] = {
    (3, 64, 224): None,
    (64, 64, 224): F4,
    (64, 128, 112): F4,
    (128, 128, 112): F4,
    (256, 256, 56): F4,
    (512, 512, 28): F4,
    (512, 512, 14): F2,
    (64, 64, 56): F4,
    (128, 128, 28): F4,
    (256, 256, 14): F2,
    (512, 512, 7): None,
    (16, 16, 32): F4,
    (32, 32, 16): F4,
}


@pytest.mark.parametrize("sizes", MEASURED, ids=str)
def test_the_model_chooses_what_was_measured(sizes: tuple[int, int, int]) -> None:
    channels, features, size = sizes
    ones, both = (1, 1), (size, size)
    conv = Convolution(None, 1, 1, both, both, (3, 3), ones, ones, ones, channels, features, 1)
    works = winograd._wanted(conv, "auto", SERVER)
    assert (works[0].form if works else None) == MEASURED[sizes]


def error_of(conv: nn.Conv2d, form: Form) -> float:
    return winograd.measured_error(form, conv.weight.detach().permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_the_measured_error_is_the_kernels(form: Form) -> None:
    conv, x = layer(128, 64, bias=False), normal(1, 128, 20, 20)
    (value,) = compiled([conv], [x], TARGETS[0], form.name)[1]
    measured = error_of(conv, form)
    with torch.no_grad():
        wanted = conv.double()(x.double()).numpy()
    actual = np.abs(value - wanted).max() / np.abs(wanted).max()
    assert measured / 3 < actual < measured * 3


def test_a_layer_that_is_not_exact_enough_stays_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is for each layer's own weights; layers within it share a kernel."""
    exact, scaled, other = (layer(32, 32, bias=False) for _ in range(3))
    with torch.no_grad():
        exact.weight *= torch.eye(3)[1].outer(torch.eye(3)[1])  # only the middle of the window: nothing cancels
        scaled.weight.copy_(exact.weight / 2)
    assert error_of(exact, F4) == error_of(scaled, F4) < error_of(other, F4) / 2
    monkeypatch.setattr(winograd, "BOUND", error_of(other, F4) / 2)
    lowered = check([exact, other, scaled], [normal(1, 32, 16, 16)] * 3, TARGETS[0], "f4")
    assert lowered.plan is not None
    assert families(lowered) == ["winograd", "conv", "winograd"]
    assert len({step.kernel for step in lowered.plan.steps if step.family == "winograd"}) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_weights_that_are_no_numbers_or_overflow_stay_direct(value: float) -> None:
    conv = layer(32, 32, bias=False)
    with torch.no_grad():
        conv.weight[3, 4, 1, 1] = value
    lowered, (result,) = compiled([conv], [normal(1, 32, 16, 16)], TARGETS[0], "f4")
    with torch.no_grad():
        wanted = conv(normal(1, 32, 16, 16)).numpy()
    assert families(lowered) == ["conv"]
    np.testing.assert_array_equal(np.isnan(result), np.isnan(wanted))


def test_an_error_of_weights_that_are_zero() -> None:
    assert winograd.measured_error(F4, np.zeros((4, 3, 3, 2), np.float32)) == 0.0
