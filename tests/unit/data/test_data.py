"""Reading data: what fits, and everything that does not, at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effc.data import Dataset, Preprocess, load_dataset
from effc.errors import ConfigError, DataError


@dataclass(frozen=True)
class Spec:
    name: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"


IMAGE = Spec("image", ("batch", 2, 2))


def test_npz_and_npy_with_and_without_names(tmp_path: Path) -> None:
    x, y = np.arange(12, dtype=np.float32).reshape(3, 2, 2), np.array([2, 0, 1], np.int32)
    np.savez(tmp_path / "x.npz", x=x, y=y)
    np.savez(tmp_path / "named.npz", image=x)
    np.save(tmp_path / "x.npy", x)
    loaded = load_dataset(tmp_path / "x.npz", [IMAGE], need_labels=True)
    assert loaded.labels is not None and loaded.labels.tolist() == [2, 0, 1] and loaded.labels.dtype == np.int64
    for name in ("named.npz", "x.npy"):
        assert np.array_equal(load_dataset(tmp_path / name, [IMAGE]).inputs["image"], x)
    assert load_dataset(tmp_path / "named.npz", [IMAGE]).sha256 == load_dataset(tmp_path / "x.npy", [IMAGE]).sha256


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    bad = np.zeros((3, 2, 2), np.float32)
    bad[1, 0, 0] = np.nan
    np.savez(tmp_path / "bad.npz", image=bad, other=np.zeros((3, 5)), spare=bad, y=np.array([0.5, 1, 2]))
    with pytest.raises(DataError) as caught:
        load_dataset(tmp_path / "bad.npz", [IMAGE, Spec("other", ("batch", 4)), Spec("third", ("batch",))])
    text = str(caught.value)
    for part in ("1 samples: hold NaN or infinity, the first at index 1", "shape [3, 5]", "dtype float64", "third", "spare", "integers"):
        assert part in text
    (tmp_path / "cut.npz").write_bytes((tmp_path / "bad.npz").read_bytes()[:60])
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name in ("missing.npz", "cut.npz", "object.npy"):
        with pytest.raises(DataError, match=name):
            load_dataset(tmp_path / name, [IMAGE])


def test_a_fixed_batch_takes_whole_units(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((6, 3), np.float32))
    units = load_dataset(tmp_path / "x.npy", [Spec("x", (2, 3))])
    assert [len(part) for part in units.batches(5)] == [2, 2, 2]
    with pytest.raises(DataError, match="6 samples: the program takes 4 at a time"):
        load_dataset(tmp_path / "x.npy", [Spec("x", (4, 3))])


def test_folders_of_images_are_classes(tmp_path: Path) -> None:
    for label, colour in (("b", (255, 0, 0)), ("a", (0, 0, 255))):
        (tmp_path / label).mkdir()
        Image.new("RGB", (8, 4), colour).save(tmp_path / label / "one.png")
    steps = Preprocess.parse("size=2x3, mean=0.5;0;0, std=0.5, layout=nhwc, range=0..1")
    loaded = load_dataset(tmp_path, [Spec("x", ("batch", 2, 3, 3))], preprocess=steps)
    assert loaded.labels is not None and loaded.labels.tolist() == [0, 1]
    np.testing.assert_allclose(loaded.inputs["x"][1, 0, 0], [1.0, 0.0, 0.0])
    assert Preprocess.from_json(steps.as_json()) == steps
    (tmp_path / "a" / "two.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"two\.png"):
        load_dataset(tmp_path, [Spec("x", ("batch", 2, 3, 3))], preprocess=steps)
    with pytest.raises(ConfigError) as caught:
        Preprocess.parse("sise=3,std=0,layout=hw,range=1,mean=1;2")
    assert len(caught.value.problems) == 5


def test_parts_are_disjoint_seeded_and_of_all_classes() -> None:
    labels = np.repeat(np.arange(4), 25)
    data = Dataset({"x": np.arange(100)[:, None]}, labels)
    fit, selection = data.split(0.8, 7)
    assert sorted([*fit.inputs["x"][:, 0], *selection.inputs["x"][:, 0]]) == list(range(100))
    assert selection.labels is not None and np.bincount(selection.labels).tolist() == [5, 5, 5, 5]
    assert data.split(0.8, 7)[0].sha256 == fit.sha256 != data.split(0.8, 8)[0].sha256
    assert len(data.take(1).split(0.8, 0)[1]) == 1
