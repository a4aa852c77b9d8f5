"""Videos: exactly the pixels of their frames, upright, by the preprocessing of images; hostile files are refused with one error."""

from __future__ import annotations

import io
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from effc.data import Preprocess, open_frames
from effc.data.images import read_images
from effc.data.video import Video
from effc.errors import ConfigError, DataError, InputRejectedError, LimitError, MissingDependencyError
from tests.unit.data.clips import pictures, write_video

pytest.importorskip("av")


@dataclass(frozen=True)
class Spec:
    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


X = Spec("image", (1, 3, 6, 8))
STEPS = Preprocess.parse("size=6x8,mean=0.5,std=0.25")


@pytest.mark.parametrize("suffix", ["mkv", "avi"])
def test_frames_are_those_that_were_written(tmp_path: Path, suffix: str) -> None:
    made = pictures(5)
    path = write_video(tmp_path / f"clip.{suffix}", made)
    with open_frames(str(path), [X], preprocess=STEPS) as source:
        frames = list(source)
    assert source.rate == 10 and not source.live
    assert all(list(frame) == ["image"] and frame["image"].shape == X.shape and frame["image"].dtype == np.float32 for frame in frames)
    expected = (made.astype(np.float32) / 255 - 0.5) / 0.25
    np.testing.assert_allclose(np.concatenate([frame["image"] for frame in frames]), expected.transpose(0, 3, 1, 2), atol=1e-6)


@pytest.mark.parametrize("text", ["size=3x5", "size=12x9,channels=1,range=0..255", "size=4,layout=nhwc,mean=0.1;0.2;0.3"])
def test_a_frame_and_a_picture_of_it_become_the_same_input(tmp_path: Path, text: str) -> None:
    made = pictures(3)
    path = write_video(tmp_path / "clip.mkv", made)
    (tmp_path / "images").mkdir()
    for index, picture in enumerate(made):
        Image.fromarray(picture).save(tmp_path / "images" / f"{index}.png")
    steps = Preprocess.parse(text)
    with Video(str(path)) as video:
        frames = np.stack(list(video.frames(steps)))
    assert np.array_equal(frames, read_images(tmp_path / "images", steps)[0])


def test_a_turned_video_is_upright(tmp_path: Path) -> None:
    """The matrix that phones write: to be turned to the right by a quarter when shown."""
    plain = write_video(tmp_path / "plain.mp4", pictures(1, 16, 32), "mpeg4", "yuv420p")
    content = bytearray(plain.read_bytes())
    matrix = content.index(b"tkhd") + 44
    assert struct.unpack_from(">9i", content, matrix) == (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    struct.pack_into(">9i", content, matrix, 0, 65536, 0, -65536, 0, 0, 16 << 16, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(content)
    with Video(str(plain)) as one, Video(str(tmp_path / "turned.mp4")) as other:
        upright = next(one.frames(Preprocess()))
        turned = next(other.frames(Preprocess.parse("size=32x16")))
    assert np.array_equal(turned, np.rot90(upright, -1, axes=(1, 2)))


def test_what_does_not_fit_is_said_before_the_first_frame(tmp_path: Path) -> None:
    path = str(write_video(tmp_path / "clip.mkv", pictures(2)))
    with pytest.raises(ConfigError, match="size=9x9,channels=3,layout=nchw"):
        open_frames(path, [Spec("image", (1, 3, 9, 9))])
    with pytest.raises(DataError, match=r"frames of float32\[1, 3, 6, 8\]: expected float32\[1, 3, 9, 9\]; --preprocess size=9x9"):
        open_frames(path, [Spec("image", (1, 3, 9, 9))], preprocess=Preprocess())
    with pytest.raises(DataError, match="one input"):
        open_frames(path, [X, Spec("gain", (1,))], preprocess=STEPS)


def test_damaged_and_hostile_files(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", pictures(20, 32, 48), "mpeg4", "yuv420p").read_bytes()
    broken = write_video(tmp_path / "whole.mkv", pictures(20, 32, 48)).read_bytes()
    clip = tmp_path / "whole.mp4"
    files = {
        "cut.mp4": whole[: len(whole) // 2],
        "cut.mkv": broken[:700],
        "junk.mp4": b"junk" * 500,
        "empty.mp4": b"",
        "text.txt": b"hello",
        # A playlist could name any file of this machine, or any host.
        "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{clip}\n#EXT-X-ENDLIST\n".encode(),
        "list.mp4": f"ffconcat version 1.0\nfile {clip}\n".encode(),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputRejectedError) as caught, Video(str(tmp_path / name)) as video:
            list(video.frames(Preprocess()))
        assert name in str(caught.value) and "\n" not in str(caught.value)
    noisy = bytearray(whole)
    noisy[2000:-3000:7] = bytes(len(noisy[2000:-3000:7]))
    (tmp_path / "noisy.mp4").write_bytes(noisy)
    with pytest.raises(InputRejectedError, match=r"noisy\.mp4: frame \d+ cannot be decoded"), Video(str(tmp_path / "noisy.mp4")) as video:
        list(video.frames(Preprocess()))


def test_huge_frames_are_refused_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "clip.mkv", pictures(2))
    monkeypatch.setattr("effc.data.video._MOST_PIXELS", 47)
    with pytest.raises(LimitError, match="6x8 pixels are over the limit"):
        Video(str(path))


def test_things_that_are_no_videos(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not exist; give a \.npz"):
        open_frames(str(tmp_path / "missing.mp4"), [X], preprocess=STEPS)
    with pytest.raises(DataError, match=r"/dev/effc-none \(v4l2\) cannot be opened: No such file.* or pipe it in: ffmpeg -f v4l2"):
        open_frames("v4l2:/dev/effc-none", [X], preprocess=STEPS)
    with pytest.raises(MissingDependencyError, match="reads no cameras through dshow"):
        open_frames("dshow:video=none", [X], preprocess=STEPS)


def test_a_video_on_stdin_and_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg's callback swallows the interrupt of a read; it must come out all the same."""
    content = write_video(tmp_path / "clip.mkv", pictures(200, 48, 64)).read_bytes()

    class Pipe(io.BytesIO):
        end: type[BaseException] | None = None

        def read1(self, size: int | None = -1) -> bytes:
            if self.end is not None and self.tell() > 1_000_000:
                raise self.end
            return super().read1(min(size or 0, 4096))

    pipe = Pipe(content)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=pipe))
    with Video("-") as video:
        assert sum(1 for _ in video.frames(Preprocess())) == 200
    pipe.seek(0)
    pipe.end = KeyboardInterrupt
    with Video("-") as video:
        frames = video.frames(Preprocess())
        assert sum(1 for _, _ in zip(range(20), frames, strict=False)) == 20
        with pytest.raises(KeyboardInterrupt):
            list(frames)


def test_without_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingDependencyError, match=r"videos and cameras need av: pip install 'effc\[video\]'"):
        open_frames(str(tmp_path / "clip.mp4"), [X], preprocess=STEPS)
