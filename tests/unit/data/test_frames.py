"""Frames in order out of arrays: one at a time, checked before the first and at each."""

from __future__ import annotations

import tracemalloc
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effc.data import Preprocess, open_frames
from effc.data.arrays import ArrayFile
from effc.errors import ConfigError, DataError


@dataclass(frozen=True)
class Spec:
    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


X, GAIN = Spec("image", (1, 2, 3)), Spec("gain", (2,))


def clip(count: int) -> np.ndarray[Any, Any]:
    return np.arange(count * 6, dtype=np.float32).reshape(count, 2, 3)


def test_frames_come_in_order(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "one.npz", x=clip(5), y=np.zeros(5, np.int64))
    np.savez(tmp_path / "two.npz", image=clip(5), gain=np.array([2, 3], np.float32))
    np.save(tmp_path / "clip.npy", clip(5).astype(">f4"))
    for name, specs in (("one.npz", [X]), ("two.npz", [X, GAIN]), ("clip.npy", [X])):
        with open_frames(str(tmp_path / name), specs) as source:
            assert (source.count, source.live) == (5, False)
            frames = list(source)
        assert [list(frame) for frame in frames] == [[spec.name for spec in specs]] * 5
        assert all(frame["image"].shape == (1, 2, 3) and frame["image"].dtype == np.float32 for frame in frames)
        assert np.array_equal(np.concatenate([frame["image"] for frame in frames]), clip(5))
    with open_frames(str(tmp_path / "two.npz"), [X, GAIN]) as source:
        assert all(np.array_equal(frame["gain"], [2, 3]) for frame in source)


def test_a_long_clip_is_never_in_memory(tmp_path: Path) -> None:
    """40 MB of zeros in a small file."""
    described = {"descr": "<f4", "fortran_order": False, "shape": (100, 100, 1000)}
    with zipfile.ZipFile(tmp_path / "long.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, described)
        for _ in range(100):
            member.write(bytes(400_000))
    tracemalloc.start()
    with open_frames(str(tmp_path / "long.npz"), [Spec("x", (1, 100, 1000))], max_bytes=1_000_000) as source:
        assert sum(1 for _ in source) == 100
    assert tracemalloc.get_traced_memory()[1] < 8_000_000
    tracemalloc.stop()


def test_all_that_does_not_fit_is_said_before_the_first_frame(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", image=np.zeros((4, 3, 2)), other=np.zeros(2))
    with pytest.raises(DataError, match="does not fit") as caught:
        open_frames(str(tmp_path / "bad.npz"), [X, GAIN])
    text = str(caught.value)
    for part in ("'other'", "expected float32", "expected [T, 2, 3]", "gain: array: is missing; expected float32[2]"):
        assert part in text
    np.savez(tmp_path / "lengths.npz", image=clip(4), second=clip(3))
    with pytest.raises(DataError, match="must be one number"):
        open_frames(str(tmp_path / "lengths.npz"), [X, Spec("second", (1, 2, 3))])
    np.savez(tmp_path / "none.npz", image=clip(0))
    with pytest.raises(DataError, match="at least 1"):
        open_frames(str(tmp_path / "none.npz"), [X])


def test_a_bad_frame_is_named(tmp_path: Path) -> None:
    x = clip(4)
    x[2, 1, 1] = np.nan
    np.savez(tmp_path / "nan.npz", x=x)
    with open_frames(str(tmp_path / "nan.npz"), [X]) as source:
        frames = iter(source)
        assert np.array_equal(next(frames)["image"], x[:1]) and np.array_equal(next(frames)["image"], x[1:2])
        with pytest.raises(DataError, match="image: frame 2: holds NaN"):
            next(frames)


def test_files_that_are_no_clips(tmp_path: Path) -> None:
    (tmp_path / "junk.npz").write_bytes(b"junk")
    np.save(tmp_path / "turned.npy", np.asfortranarray(clip(4)))
    for given, words in (("junk.npz", "neither a sound .npz"), ("missing.npz", "does not exist"), (".", "is a folder")):
        with pytest.raises(DataError, match=words):
            open_frames(str(tmp_path / given), [X])
    with open_frames(str(tmp_path / "turned.npy"), [X]) as source, pytest.raises(DataError, match="column by column"):
        next(iter(source))
    with pytest.raises(ConfigError, match="--preprocess is for videos"):
        open_frames(str(tmp_path / "junk.npz"), [X], preprocess=Preprocess())


def test_rows_of_a_file_cut_off_while_it_is_read(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", clip(400))
    rows = ArrayFile(tmp_path / "x.npy").rows("x")
    next(rows)
    with open(tmp_path / "x.npy", "r+b") as file:
        file.truncate(5000)
    with pytest.raises(DataError, match="ends early"):
        list(rows)
