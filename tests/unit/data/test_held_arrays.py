"""Arrays in memory: the same rules as for files, and messages that never hold their elements."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effc.data import HeldArrays, load_dataset
from effc.errors import DataError


@dataclass(frozen=True)
class Spec:
    name: str
    shape: tuple[int | str, ...] = ("batch", 3)
    dtype: str = "float32"


ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)
LABELS = [0, 1, 0, 1]


TENSOR = torch.from_numpy(ROWS)


@pytest.mark.parametrize("given", [ROWS, {"image": ROWS}, {"x": ROWS}, TENSOR, {"image": torch.nn.Parameter(TENSOR)}])
def test_what_an_array_or_a_mapping_gives(given: Any) -> None:
    data = load_dataset(HeldArrays(given), [Spec("image")])
    np.testing.assert_array_equal(data.inputs["image"], ROWS)
    assert data.labels is None


def test_the_same_arrays_from_memory_and_from_a_file_are_the_same_data(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", image=ROWS, y=LABELS)
    held = load_dataset(HeldArrays({"image": ROWS.astype(">f4"), "y": LABELS}), [Spec("image")])
    assert held.sha256 == load_dataset(tmp_path / "d.npz", [Spec("image")]).sha256


def test_everything_wrong_is_said_at_once_without_elements() -> None:
    wrong = {"image": ROWS.astype(float), "y": np.zeros((2, 2, 2), int), "mask": np.full(3, 77.25)}
    with pytest.raises(DataError) as caught:
        load_dataset(HeldArrays(wrong, "data"), [Spec("image"), Spec("other")])
    text = str(caught.value)
    assert text.startswith("data does not fit the program")
    for part in ("dtype float64", "mask", "no such input", "other", "is missing", "int64[2, 2, 2]"):
        assert part in text
    assert "77.25" not in text
    with pytest.raises(DataError, match=r"it is one array, and the program has 2 inputs; give a mapping with the arrays image, other"):
        load_dataset(HeldArrays(ROWS), [Spec("image"), Spec("other")])


@pytest.mark.parametrize("given", [{"image": "m.npz"}, {"image": object()}, {"image": [[1], [1, 2]]}, {"image": None}, object()])
def test_what_is_no_array_of_numbers_is_refused(given: Any) -> None:
    with pytest.raises(DataError, match="is no array of numbers"):
        HeldArrays(given)


def test_a_pair_is_told_how_labels_are_given() -> None:
    with pytest.raises(DataError, match=r"a tuple is neither.*labels under 'y'"):
        HeldArrays((ROWS, LABELS))
