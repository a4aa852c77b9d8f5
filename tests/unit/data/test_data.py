"""Reading data: what fits, and everything that does not, at once."""

from __future__ import annotations

import tracemalloc
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effc.data import Dataset, Preprocess, load_dataset
from effc.errors import ConfigError, DataError, LimitError


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
    for part in ("1 sample: holds NaN or infinity, the first at index 1", "shape [3, 5]", "dtype float64", "third", "spare", "integers"):
        assert part in text
    (tmp_path / "cut.npz").write_bytes((tmp_path / "bad.npz").read_bytes()[:60])
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name in ("missing.npz", "cut.npz", "object.npy"):
        with pytest.raises(DataError, match=name):
            load_dataset(tmp_path / name, [IMAGE])


def test_one_array_too_many_is_the_only_problem(tmp_path: Path) -> None:
    x = np.zeros((3, 2, 2), np.float32)
    np.savez(tmp_path / "more.npz", x=x, y=np.arange(3), z=x)
    with pytest.raises(DataError) as caught:
        load_dataset(tmp_path / "more.npz", [IMAGE])
    assert [problem.where for problem in caught.value.problems] == ["z"]


def test_only_arrays_that_fit_are_read_and_only_within_the_limit(tmp_path: Path) -> None:
    """A small file that unpacks to much: in an array that nobody wants, in one of a wrong shape, in one that fits."""
    large = np.zeros((1 << 23, 2, 2), np.float32)  # 128 MiB
    cases = {
        "unwanted": ({"image": large[:1], "z": large}, DataError, "no such input"),
        "shape": ({"image": large.reshape(-1, 4)}, DataError, "expected"),
        "dtype": ({"image": large[:, :1].view(np.float64)}, DataError, "expected"),
        "large": ({"image": large}, LimitError, f"--limit data_bytes={large.nbytes}"),
    }
    for name, (arrays, _, _) in cases.items():
        np.savez_compressed(tmp_path / f"{name}.npz", **arrays)
    np.save(tmp_path / "large.npy", large)
    del large, arrays
    files = [(f"{name}.npz", kind, text) for name, (_, kind, text) in cases.items()] + [("large.npy", LimitError, "data_bytes=134217728")]
    cases.clear()
    for name, kind, text in files:
        tracemalloc.start()
        try:
            with pytest.raises(kind) as caught:
                load_dataset(tmp_path / name, [IMAGE], max_bytes=100 << 20)
            assert tracemalloc.get_traced_memory()[1] < 5_000_000, name
        finally:
            tracemalloc.stop()
        assert text in str(caught.value), name
        assert caught.value.exit_code == (4 if kind is LimitError else 2)
    assert len(load_dataset(tmp_path / "large.npy", [IMAGE], max_bytes=128 << 20)) == 1 << 23


def test_headers_that_lie_and_damaged_members_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 2, 2), np.float32))
    honest = (tmp_path / "x.npy").read_bytes()
    lie = honest.replace(b"(3,", b"(9,")
    members = {"lies.npz": lie, "no_array.npz": b"plain text", "pickled.npz": b"\x93NUMPY\x01\x00" + honest[8:].replace(b"<f4", b"|O ")}
    for name, content in members.items():
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("image.npy", content)
    with zipfile.ZipFile(tmp_path / "odd.npz", "w") as archive:
        archive.writestr("image.npy", honest)
        archive.writestr("readme.txt", "hello")
    np.savez_compressed(tmp_path / "broken.npz", image=np.random.default_rng(0).random((99, 2, 2)).astype(np.float32))
    broken = bytearray((tmp_path / "broken.npz").read_bytes())
    broken[len(broken) // 2] ^= 255
    (tmp_path / "broken.npz").write_bytes(bytes(broken))
    (tmp_path / "short.npy").write_bytes(honest[:-1])
    (tmp_path / "lies.npy").write_bytes(lie)
    for name in (*members, "odd.npz", "broken.npz", "short.npy", "lies.npy"):
        with pytest.raises(DataError, match=name):
            load_dataset(tmp_path / name, [IMAGE])


def test_memory_that_is_not_there_is_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 2, 2), np.float32))

    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(np.lib.format, "read_array", exhausted)
    with pytest.raises(LimitError, match="no memory for the 48 bytes"):
        load_dataset(tmp_path / "x.npy", [IMAGE])


def test_arrays_of_the_other_byte_order_are_the_same_numbers(tmp_path: Path) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    np.save(tmp_path / "x.npy", x.astype(">f4"))
    read = load_dataset(tmp_path / "x.npy", [IMAGE]).inputs["image"]
    assert read.dtype == np.dtype(np.float32) and read.dtype.isnative
    np.testing.assert_array_equal(read, x)


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


def test_a_wrong_name_for_labels_is_told_the_right_one(tmp_path: Path) -> None:
    x = np.zeros((3, 2, 2), np.float32)
    for name in ("label", "labels", "target", "Y"):
        np.savez(tmp_path / "data.npz", x=x, **{name: np.arange(3)})
        with pytest.raises(DataError, match=f"{name}: array: no such input; labels go under 'y'"):
            load_dataset(tmp_path / "data.npz", [IMAGE])


def test_an_input_called_y_leaves_labels_to_labels(tmp_path: Path) -> None:
    inputs = [Spec("x", ("batch", 2)), Spec("y", ("batch", 2))]
    x = np.zeros((3, 2), np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=x + 1, labels=np.arange(3))
    loaded = load_dataset(tmp_path / "data.npz", inputs, need_labels=True)
    assert loaded.inputs["y"].max() == 1 and loaded.labels is not None and loaded.labels.tolist() == [0, 1, 2]
    np.savez(tmp_path / "data.npz", x=x, y=x, target=np.arange(3))
    with pytest.raises(DataError, match="labels go under 'labels': y is an input of this program"):
        load_dataset(tmp_path / "data.npz", inputs)


def test_one_array_for_two_inputs_asks_for_both_by_name(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 2, 2), np.float32))
    with pytest.raises(DataError, match=r"one array, and the program has 2 inputs; give an \.npz with the arrays image, scale"):
        load_dataset(tmp_path / "x.npy", [IMAGE, Spec("scale", ("batch",))])


def test_preprocessing_is_read_as_people_write_it() -> None:
    expected = Preprocess((16, 16), (0.5, 0.4, 0.3), (0.2,), "nhwc")
    for text in ("size=16,mean=0.5;0.4;0.3,std=0.2,layout=nhwc", "Size = 16, MEAN=0.5:0.4:0.3, std = 0.2, layout=NHWC"):
        assert Preprocess.parse(text) == expected
    with pytest.raises(ConfigError, match=r"0\.4: is a number without a name; .*mean=0\.485;0\.456;0\.406"):
        Preprocess.parse("size=16,mean=0.5,0.4,0.3")
    for text, why in (("size=big", "'big' is no number"), ("mean=nan", "not finite"), ("size=1.5", "height x width")):
        with pytest.raises(ConfigError, match=why):
            Preprocess.parse(text)


def test_range_comes_first_and_mean_and_std_are_in_its_units() -> None:
    steps = Preprocess.parse("range=0..255,mean=100,std=10,channels=1")
    assert steps.apply(np.full((1, 1, 1), 130, np.uint8)).item() == pytest.approx(3)


def test_a_clip_is_divided_at_one_point_in_time() -> None:
    data = Dataset({"x": np.arange(12)[:, None]}, unit=2)
    fit, selection = data.split(0.8, seed=0, in_order=True)
    assert fit.inputs["x"].ravel().tolist() == list(range(10))
    assert selection.inputs["x"].ravel().tolist() == [10, 11]
    few, rest = data.part(slice(0, 4)).split(1.0, seed=0, in_order=True)
    assert (len(few), len(rest)) == (2, 2)
