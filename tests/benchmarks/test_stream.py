"""What the streaming benchmark judges by: detections and their agreement, errors, the baseline that holds frames, the clips."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks import clips
from benchmarks.detections import agreement, faces, overlaps
from benchmarks.stream_errors import frame_errors, held, spread


def boxes(*corners: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(corners, np.float32).reshape(-1, 4)


def test_overlaps_of_boxes() -> None:
    found = overlaps(boxes((0, 0, 2, 2), (1, 1, 1, 1)), boxes((0, 0, 2, 2), (1, 0, 3, 2), (5, 5, 6, 6)))
    np.testing.assert_allclose(found, [[1, 1 / 3, 0], [0, 0, 0]], rtol=1e-6)


def test_a_face_is_the_best_of_its_neighbours() -> None:
    scores = np.array([0.6, 0.9, 0.5, 0.8], np.float32)
    places = boxes((0, 0, 1, 1), (0.1, 0, 1.1, 1), (0, 0, 1, 1), (5, 5, 6, 6))
    found = faces({"scores": np.stack([1 - scores, scores], 1)[None], "boxes": places[None]})
    np.testing.assert_array_equal(found, places[[1, 3]])  # the first overlaps a better one, the third is not above 0.5
    assert faces({"scores": np.zeros((1, 4, 2), np.float32), "boxes": places[None]}).shape == (0, 4)


def test_agreement_counts_each_face_once() -> None:
    one, near, far = (0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 1.0, 0.95), (0.0, 0.0, 1.0, 0.8)
    found = agreement([(boxes(one, near), boxes(one)), (boxes(far), boxes(one)), (boxes(), boxes()), (boxes(near), boxes(one))])
    assert (found.found, found.missed, found.invented) == (2, 1, 2)
    assert found.f1 == 4 / 7
    assert math.isnan(agreement([(boxes(), boxes())]).f1)  # nothing to find is no evidence


def test_errors_are_of_the_largest_value_of_a_clip() -> None:
    dense = [{"a": np.array([1.0, -4.0]), "b": np.array([0.1])}, {"a": np.array([2.0, 1.0]), "b": np.array([0.2])}]
    got = [{"a": np.array([1.0, -4.0]), "b": np.array([0.1])}, {"a": np.array([2.0, 2.0]), "b": np.array([0.1])}]
    found = spread(got, dense)
    assert found.most == 0.5 and found.mean == 0.25  # of b: 0.1 of 0.2 in one of two frames; of a, 1 of 4 in one of four values
    assert frame_errors(got, dense) == [0.0, 0.5]
    got[0]["a"][0] = np.nan
    assert all(math.isnan(value) for value in (spread(got, dense).most, spread(got, dense).mean, frame_errors(got, dense)[0]))


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (1.0, [0, 1, 2, 3, 4, 5, 6, 7]),
        (0.5, [0, 0, 2, 2, 4, 4, 6, 6]),
        (0.2, [0, 0, 0, 0, 0, 5, 5, 5]),
        (0.75, [0, 0, 2, 3, 4, 4, 6, 7]),
        (0.0, [0] * 8),
    ],
)
def test_holding_frames_does_the_share_of_the_work(share: float, shown: list[int]) -> None:
    frames = [{"y": np.array([t])} for t in range(8)]
    assert [int(frame["y"][0]) for frame in held(frames, share)] == shown
    many = held([{"y": np.array([t])} for t in range(1001)], share)
    assert len({int(frame["y"][0]) for frame in many}) == 1 + round(1000 * share)


@pytest.mark.skipif(bool(clips.missing("street")), reason=clips.missing("street") or "it is there")
def test_clips_change_as_they_say() -> None:
    street = clips.clip("street", 8)
    assert street.shape == (8, 3, *clips.SIZE) and street.dtype == np.float32 and street.min() >= 0 and street.max() <= 255

    def changed(frames: np.ndarray, by: float = 0.0) -> float:
        return float((np.abs(np.diff(frames, axis=0)).max(1) > by).mean())

    assert 0.05 < changed(street) < 0.3 and changed(street, 4.0) < 0.06
    assert min(changed(clips.noisy(street, 1)), changed(clips.clip("pan", 8))) > 0.95
    noise = clips.noisy(street, 2) - street
    inside = (street > 10) & (street < 245)  # the rest was cut off at 0 and 255
    assert abs(float(noise[inside].mean())) < 0.01 and abs(float(noise[inside].std()) - 2) < 0.01
    np.testing.assert_array_equal(clips.noisy(street, 2), clips.noisy(street, 2))


@pytest.mark.skipif(bool(clips.missing("face")), reason=clips.missing("face") or "it is there")
def test_the_face_is_laid_over_the_street_and_moves() -> None:
    street, found = clips.street(3), clips.face(3)
    covered = (street != found).any(1)
    assert 0.04 < covered.mean() < 0.15
    rows, columns = (np.array([np.nonzero(frame)[axis].mean() for frame in covered]) for axis in (0, 1))
    assert 0.1 < np.hypot(np.diff(rows), np.diff(columns)).max() < 3.5
