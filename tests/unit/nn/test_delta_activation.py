"""`DeltaActivation`: values by hand, the flipped gradient, and that nothing drifts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from effc.errors import ConfigError, UsageError
from effc.nn import DeltaActivation
from effc.nn.delta_activation import quantise

FRAMES = torch.tensor([[[1.0, -1.0], [0.3, 0.5], [0.1, 2.0]]])  # (1, 3, 2): as deltas they sum to [1, -1], [1.3, -.5], [1.4, 1.5]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Ten thousand small frames: threads would wait for each other longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def layer(**options: Any) -> DeltaActivation:
    """Steps of 0.5 and 1; biases of 0.25 and 0."""
    return DeltaActivation(nn.ReLU(), torch.tensor([0.5, 1.0]), bias=torch.tensor([0.25, 0.0]), **options)


@pytest.mark.parametrize(
    ("options", "expected"),
    [  # relu(Z + b) is [1.25, 0], [1.55, 0], [1.65, 1.5]; in codes [2 (a half goes to even), 0], [3, 0], [3, 2 (likewise)]
        ({}, [[1.0, 0.0], [0.5, 0.0], [0.0, 2.0]]),
        ({"level": 0}, [[1.0, 0.0], [1.5, 0.0], [1.5, 2.0]]),
        ({"level": 2}, [[0.0, 0.0], [0.5, 0.0], [0.0, 2.0]]),
        # of frames: relu(x + b) is [1.25, 0], [0.55, 0.5], [0.35, 2]; codes [2, 0], [1, 0], [1, 2]
        ({"sigma": False}, [[1.0, 0.0], [-0.5, 0.0], [0.0, 2.0]]),
        ({"sigma": False, "level": 0}, [[1.0, 0.0], [0.5, 0.0], [0.5, 2.0]]),
    ],
)
def test_values_by_hand_and_frame_by_frame(options: dict[str, Any], expected: list[list[float]]) -> None:
    made = layer(**options)
    passed = made(FRAMES)
    torch.testing.assert_close(passed, torch.tensor([expected]), rtol=0, atol=1e-6)
    kinds = {"sum": torch.zeros(1, 2), "previous": torch.zeros(1, 2), "started": torch.zeros(1, dtype=torch.int32)}
    states = tuple(kinds[name] for name in made.state_names)
    for t in range(3):
        frame, states = made.advance(FRAMES[:, t], states)
        assert torch.equal(frame, passed[:, t])
    assert made.state_names == ("sum",) * made.sigma + ("previous",) * (made.level > 0) + ("started",) * (made.level == 2)


def test_the_first_frame_is_no_part_of_loss_and_density_and_the_loss_is_weighted_by_fan_out() -> None:
    made = layer(fan_out=9.0)
    passed = made(FRAMES)  # after the first frame: 0.5, 0, 0, 2
    assert made.sparsity(passed).item() == pytest.approx(9 * 2.5 / 4) and made.density(passed).item() == 0.5
    background = torch.tensor([[[50.0, 70.0], [0.0, 0.0]]])  # nothing moves
    assert made.sparsity(made(background)).item() == 0.0 == made.density(made(background)).item()
    assert made.sparsity(made(FRAMES[:, :1])).item() == 0.0 == made.density(made(FRAMES[:, :1])).item()
    without = layer(fan_out=9.0, level=0)
    assert without.sparsity(without(FRAMES)).item() == pytest.approx(9 * 6.0 / 6)  # no deltas: all frames count


def test_the_gradient_of_the_step_is_flipped_and_that_of_x_goes_straight_through() -> None:
    x = torch.tensor([[0.6, -1.3], [2.2, 0.4]], dtype=torch.float64, requires_grad=True)
    theta = torch.tensor([0.5, -1.0], dtype=torch.float64, requires_grad=True)  # steps 0.5 and 1: codes [1, -1], [4, 0]
    outer = torch.tensor([[2.0, 3.0], [5.0, 7.0]], dtype=torch.float64)
    y = quantise(x, theta)
    assert y.tolist() == [[0.5, -1.0], [2.0, 0.0]]
    y.backward(outer)
    assert x.grad is not None and torch.equal(x.grad, outer)
    assert theta.grad is not None and theta.grad.tolist() == [-(1 * 2 + 4 * 5), -(-1 * 3) * -1]  # -sign(theta) * sum(codes * dy)
    for shape in ((), (2, 1, 1), (2, 3, 3)):
        shared = torch.full(shape, 0.5, requires_grad=True)
        quantise(torch.ones(4, 2, 3, 3), shared).sum().backward()
        assert shared.grad is not None and shared.grad.shape == shape and shared.grad.sum().item() == -2 * 4 * 18


def test_the_sparsity_loss_makes_steps_grow_and_the_loss_of_the_task_makes_them_shrink() -> None:
    def gradient(of: str) -> float:
        made = DeltaActivation(None, 0.5, sigma=False)
        passed = made(torch.tensor([[[0.0], [2.0], [5.0]]]))
        loss = made.sparsity(passed) if of == "sparsity" else (passed.cumsum(1) - 6.0).square().sum()  # the task wants more than it gets
        loss.backward()
        assert made.theta is not None and made.theta.grad is not None
        return made.theta.grad.item()

    assert gradient("sparsity") < 0 < gradient("task")  # descent goes the other way


def walk(frames: int, seed: int = 0) -> Tensor:
    """(1, T, 1, 6, 6): a random walk in steps of 1/8, as a video of it would be exact in float32."""
    moves = torch.randint(-1, 2, (1, frames, 1, 6, 6), generator=torch.Generator().manual_seed(seed))
    return moves.cumsum(1).float() / 8


def two_layers(dtype: torch.dtype, exact: bool) -> tuple[nn.Conv2d, list[DeltaActivation]]:
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 4, 3, padding=1, bias=False)
    steps = (0.25, 0.5) if exact else (0.23, 0.41)
    bias = torch.tensor([0.5, -0.25, 0.0, 1.0]).reshape(4, 1, 1) if exact else torch.randn(4, 1, 1)
    with torch.no_grad():
        if exact:
            conv.weight.copy_((conv.weight * 64).round() / 8)
    made = [DeltaActivation(None, steps[0], sigma=False), DeltaActivation(nn.ReLU(), steps[1], bias=bias)]
    return conv.to(dtype), [one.to(dtype).eval() for one in made]


@torch.no_grad()
def streamed(video: Tensor, exact: bool, advance: Any = None) -> tuple[Tensor, Tensor]:
    """The sums of the second layer's deltas, and its dense form, for each frame."""
    conv, (first, second) = two_layers(video.dtype, exact)
    one, two = (torch.zeros(1, 1, 6, 6, dtype=video.dtype),), (torch.zeros(1, 4, 6, 6, dtype=video.dtype),) * 2
    total, sums, dense = torch.zeros_like(two[0]), [], []
    for frame in video.unbind(1):
        moved, one = (advance or first.advance)(frame, one)
        passed, two = second.advance(conv(moved), two)
        total = total + passed
        sums.append(total)
        dense.append(second.dense(conv(first.dense(frame))))
    return torch.stack(sums, 1), torch.stack(dense, 1)


def test_integer_codes_are_exact_after_10_000_frames() -> None:
    sums, dense = streamed(walk(10_000), exact=True)
    assert torch.equal(sums, dense)
    codes = (sums / 0.5).to(torch.int64)
    assert torch.equal(codes.to(torch.float32) * 0.5, dense) and int((codes[:, 1:] != codes[:, :-1]).any(-1).sum()) > 10_000


def test_float32_sums_round_off_by_parts_in_a_million() -> None:
    """A sum that rounded to the other side of a step makes a code differ by one; sums themselves stay together."""
    conv, (first, _) = two_layers(torch.float32, exact=False)
    video = walk(10_000)
    with torch.no_grad():
        passed = first(video)
        total = torch.zeros(1, 4, 6, 6)
        for delta in conv(passed.flatten(0, 1)).unsqueeze(0).unbind(1):
            total += delta
        wanted = conv.double()(first.double().dense(video[:, -1].double()))
    assert float((total - wanted).abs().max() / wanted.abs().max()) < 1e-5
    sums, dense = streamed(video, exact=False)
    apart = (sums - dense).abs()
    assert float(apart.max()) <= 0.41 * 1.001 and float((apart > 0.2).double().mean()) < 1e-4


def test_a_variant_that_loses_what_it_did_not_pass_on_drifts() -> None:
    """Level crossing against the frame before: what stays under the step is forgotten. Quantised deltas have no such form."""

    def forgetful(frame: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        delta = frame - states[0]
        return torch.round(delta / 0.25) * 0.25, (frame,)  # moves of 1/8 round to 0

    sums, dense = streamed(walk(200), True, forgetful)
    assert not torch.equal(sums, dense) and float((sums[:, -1] - dense[:, -1]).abs().max()) > 1.0


def test_a_pool_stands_between_quantisation_and_delta() -> None:
    x = torch.randn(2, 5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    made = DeltaActivation(nn.ReLU(), 0.3, pool=nn.MaxPool2d(2), sigma=False)
    wanted = nn.functional.max_pool2d(torch.round(x.relu().flatten(0, 1) / 0.3) * 0.3, 2).unflatten(0, (2, 5))
    torch.testing.assert_close(made(x).cumsum(1), wanted, rtol=0, atol=1e-6)


def test_frozen_it_computes_the_same_and_holds_the_step_itself() -> None:
    made = layer()
    with torch.no_grad():
        made.theta.neg_()  # type: ignore[union-attr]
    before = made(FRAMES)
    made.freeze()
    assert made.theta is not None and made.theta.tolist() == [0.5, 1.0] == made.step.tolist()  # type: ignore[union-attr]
    assert torch.equal(made(FRAMES), before) and not any(one.requires_grad for one in made.parameters())


def test_a_step_that_trains_through_zero_divides_by_no_zero() -> None:
    theta = torch.zeros((), requires_grad=True)
    y = quantise(torch.tensor([[1.0, -3.0]]), theta)
    y.abs().sum().backward()
    assert y.tolist() == [[1.0, -3.0]] and theta.grad is not None and math.isfinite(theta.grad.item())


@pytest.mark.parametrize("options", [{"level": 3}, {"step": 0.0}, {"step": torch.tensor([1, 2])}, {"fan_out": -1.0}, {"step": math.inf}])
def test_arguments_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="DeltaActivation: "):
        DeltaActivation(nn.ReLU(), **options)


def test_frames_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match=r"bias has the shape \[2\], a frame \[3\]"):
        layer()(torch.zeros(1, 4, 3))
    for x in (torch.zeros(3), torch.zeros(2, 0, 2)):
        with pytest.raises(UsageError, match="a sequence"):
            layer()(x)
