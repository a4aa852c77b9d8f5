"""examples/train_moving_digits: its videos are what it says, its drawing is a drawing, and (slow) a quick run keeps the claims."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from examples import moving_digits, train_moving_digits
from examples.moving_digits_svg import Point, draw

from benchmarks.harness import Options


def test_videos_hold_still_but_for_noise_and_the_digit_and_are_what_the_seed_says() -> None:
    train, test = moving_digits.load(seed=1, per_image=1)
    assert train.x.shape == (1347, 10, 1, 32, 32) and test.x.shape == (450, 10, 1, 32, 32) and train.x.dtype == torch.float32
    moved = (test.x[:, 1:] - test.x[:, :-1]).abs() > 0.1  # twelve standard deviations of the noise
    assert 0.02 < moved.float().mean().item() < 2 * (14 / 32) ** 2  # at most where the digit is and was
    assert np.bincount(test.y.numpy()).min() >= 43  # stratified
    again, _ = moving_digits.load(seed=1, per_image=1)
    assert torch.equal(train.x, again.x)
    assert not torch.equal(train.x, moving_digits.load(seed=2, per_image=1)[0].x)


def test_paths_bounce_and_stay_inside() -> None:
    paths = moving_digits._paths(500, np.random.default_rng(0))
    assert paths.min() == 0 and paths.max() == 32 - 14
    steps = np.abs(np.diff(paths, axis=1))
    assert steps.max() <= 3 and np.hypot(*np.moveaxis(steps, -1, 0)).mean() == pytest.approx(1.4, abs=0.2)


def test_the_drawing_is_well_formed_and_shows_every_network() -> None:
    points = [Point(None, 350_000, 0.98, [0.97, 0.99]), Point(0.0, 130_000, 0.981, [0.981]), Point(0.01, 90_000, 0.975, [0.97, 0.98])]
    root = ElementTree.fromstring(draw(points))
    assert len(root.findall("{*}circle")) == 3 and {"ReLU", "0", "0.01"} <= {text.text for text in root.findall("{*}text")}


@pytest.mark.slow
def test_a_quick_run_keeps_the_claims() -> None:
    outcome = train_moving_digits.measure(Options(quick=True, threads=2))
    assert [row["model"] for row in outcome.rows] == ["ReLU", "delta, rate 0.01"]
    assert all(claim.holds for claim in outcome.claims), outcome.claims
