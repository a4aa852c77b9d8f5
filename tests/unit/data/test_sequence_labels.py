"""Labels of sequences: integers (N, T) beside labels (N,)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from effc.data import Dataset, load_dataset
from effc.errors import DataError


@dataclass(frozen=True)
class Spec:
    name: str = "tokens"
    shape: tuple[int | str, ...] = ("batch", 3)
    dtype: str = "int64"


TOKENS = np.arange(12).reshape(4, 3)


def test_a_label_a_position_is_read_and_parted(tmp_path: Path) -> None:
    labels = TOKENS.astype(np.int32) - 1
    labels[0, 0] = -100
    np.savez(tmp_path / "text.npz", tokens=TOKENS, y=labels)
    data = load_dataset(tmp_path / "text.npz", [Spec()], need_labels=True)
    assert data.labels is not None and data.labels.dtype == np.int64 and data.labels.tolist() == labels.tolist()
    fit, held = data.split(0.5, 0)
    assert fit.labels is not None and held.labels is not None
    for part in (fit, held):
        assert part.labels is not None and part.labels.shape == (2, 3)
        assert np.array_equal(part.labels[:, 1:], part.inputs["tokens"][:, 1:] - 1)
    assert fit.sha256 != Dataset(fit.inputs, fit.labels + 1).sha256


@pytest.mark.parametrize(
    "labels", [np.zeros((4, 3)), np.zeros((4, 3, 1), np.int64), np.zeros((4, 0), np.int64), np.zeros((3, 3), np.int64)]
)
def test_other_labels_are_refused(labels: object, tmp_path: Path) -> None:
    np.savez(tmp_path / "text.npz", tokens=TOKENS, y=labels)
    with pytest.raises(DataError, match=r"y: .*(expected integers \[N\], or \[N, T\] for sequences|3 rows of labels: for 4 samples)"):
        load_dataset(tmp_path / "text.npz", [Spec()])
