"""Clips of video for the benchmarks of streaming programs: a recorded street, the same with a sensor's noise, a face that moves, a camera
that moves.

All are float32 (T, 3, 240, 320), RGB, 0 to 255, so that a network's own preprocessing is all that differs between them.

    street   a fixed camera, 10 frames a second, people walking. $EFFC_DATA/video/street_192x240x320_delta.npz, made from `vtest.avi` of
             OpenCV's samples (samples/data/vtest.avi in github.com/opencv/opencv): scaled to 320 x 240 and stored as wrap-around
             differences between frames. Its codec makes the background exactly constant, which no sensor does.
    noise N  street plus independent normal noise of N steps of 8 bits in every value, not rounded: every pixel changes in every frame.
    face     the face of scikit-image's `astronaut` (a photograph by NASA, in the public domain) on the street, moved by parts of a pixel.
             Without it the street holds no face that a detector finds. `pip install scikit-image`
    pan      the first frame of the street, enlarged, seen by a camera that moves: every pixel changes, and nothing can be gained.

Who has the video can make the street file: `street_from("vtest.avi", path)` decodes it with PyAV (`pip install 'effc[video]'`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import data_file
from effc.errors import DataError, MissingDependencyError

__all__ = ["CLIPS", "FRAMES", "SIZE", "Frames", "clip", "face", "missing", "noisy", "pan", "street", "street_from"]

Frames = np.ndarray[Any, np.dtype[np.float32]]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]

SIZE = (240, 320)  # rows and columns of a frame
FRAMES = 192  # of the recording
STREET = "video/street_192x240x320_delta.npz"
CLIPS = ("street", "noise 1", "noise 2", "face", "pan")

_NOISE_SEED = 7
_HEAD = (slice(0, 200), slice(126, 328))  # rows and columns of the astronaut's head
_OVAL = (100.0, 101.0, 94.0, 78.0)  # of the head in there: its centre's row and column, half its height, half its width
_SOFT = 0.12  # of the oval's radius: where it fades out
_ZOOM = 2.0  # of the still that a camera pans over


def clip(name: str, frames: int = FRAMES) -> Frames:
    """One of `CLIPS`. Raises DataError where the recording is missing, MissingDependencyError where scikit-image is."""
    if name == "street":
        return street(frames)
    if name.startswith("noise "):
        return noisy(street(frames), float(name.removeprefix("noise ")))
    if name == "face":
        return face(frames)
    if name == "pan":
        return pan(frames)
    raise DataError(f"there is no clip {name!r}; clips are: {', '.join(CLIPS)}")


def missing(name: str) -> str:
    """Why a clip cannot be had here; empty where it can."""
    if data_file(STREET) is None:
        return f"$EFFC_DATA/{STREET} is missing"
    if name == "face":
        try:
            _astronaut()
        except MissingDependencyError as error:
            return str(error)
    return ""


def street(frames: int = FRAMES) -> Frames:
    """The first frames of the recording. Raises DataError where the file is missing or holds fewer frames."""
    path = data_file(STREET)
    if path is None:
        raise DataError(f"$EFFC_DATA/{STREET} is missing; see benchmarks/clips.py for how to make it")
    with np.load(path) as data:
        stored = np.add.accumulate(data["delta"][:frames], axis=0, dtype=np.uint8)
    if len(stored) < frames:
        raise DataError(f"{path} holds {len(stored)} frames, {frames} are needed")
    return _channels_first(stored)


def noisy(frames: Frames, deviation: float, seed: int = _NOISE_SEED) -> Frames:
    """Frames with independent N(0, deviation) added to every value, in steps of an 8-bit sensor (1 is 1/255 of the range); seeded."""
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal(frames.shape, np.float32)
    return np.clip(frames + np.float32(deviation) * noise, 0, 255).astype(np.float32, copy=False)


def face(frames: int = FRAMES) -> Frames:
    """The street with a head of some 80 x 95 pixels that goes slowly to and fro, at most 3 pixels a frame."""
    found = street(frames)
    head, cover = _head()
    rows, columns = (size - inner for size, inner in zip(SIZE, cover.shape, strict=True))
    for t in range(frames):
        row = rows * (0.5 + 0.25 * np.sin(2 * np.pi * t / 128 + 1))
        column = columns * (0.5 + 0.35 * np.sin(2 * np.pi * t / 192))
        _lay(found[t], head, cover, row, column)
    return found


def pan(frames: int = FRAMES) -> Frames:
    """A window on the first frame of the street, enlarged; it moves by up to five pixels a frame, and hardly ever by whole ones."""
    still = street(1)[0]
    found = np.empty((frames, *still.shape), np.float32)
    free = [size - (size - 1) / _ZOOM - 1 for size in SIZE]
    for t in range(frames):
        row = free[0] * (0.5 + 0.5 * np.sin(2 * np.pi * t / 290))
        column = free[1] * (0.5 + 0.5 * np.sin(2 * np.pi * t / 260 + 0.5))
        found[t] = _sampled(still, row + np.arange(SIZE[0]) / _ZOOM, column + np.arange(SIZE[1]) / _ZOOM)
    return found


def street_from(video: Path | str, path: Path | str, frames: int = FRAMES) -> None:
    """Make the street file from a video: its first frames, scaled to 240 x 320. Raises MissingDependencyError without PyAV."""
    try:
        import av
    except ImportError as error:
        raise MissingDependencyError(f"{error}; pip install 'effc[video]'") from error
    decoded: list[Bytes] = []
    with av.open(str(video)) as container:
        for frame in container.decode(video=0):
            decoded.append(frame.to_ndarray(width=SIZE[1], height=SIZE[0], format="rgb24"))
            if len(decoded) == frames:
                break
    if len(decoded) < frames:
        raise DataError(f"{video} holds {len(decoded)} frames, {frames} are needed")
    stacked = np.stack(decoded)
    np.savez_compressed(path, delta=np.concatenate([stacked[:1], stacked[1:] - stacked[:-1]]))  # differences wrap around


def _channels_first(frames: Bytes) -> Frames:
    return np.ascontiguousarray(frames.transpose(0, 3, 1, 2)).astype(np.float32)


def _astronaut() -> Bytes:
    try:
        from skimage import data
    except ImportError as error:
        raise MissingDependencyError(f"{error}; pip install scikit-image") from error
    found: Bytes = data.astronaut()
    return found


def _head() -> tuple[Frames, Frames]:
    """The head at half its size, (3, rows, columns), and how much it covers of what is behind it, (rows, columns), 0 to 1."""
    image = _halved(_astronaut()[_HEAD].transpose(2, 0, 1).astype(np.float32))
    row, column, high, wide = (value / 2 for value in _OVAL)
    y, x = np.mgrid[: image.shape[1], : image.shape[2]].astype(np.float32) + 0.5
    radius = np.hypot((y - row) / high, (x - column) / wide)
    return image, np.clip((1 - radius) / _SOFT, 0, 1).astype(np.float32)


def _halved(image: Frames) -> Frames:
    """Means of 2 x 2 pixels."""
    channels, rows, columns = image.shape
    return image.reshape(channels, rows // 2, 2, columns // 2, 2).mean((2, 4))


def _lay(frame: Frames, picture: Frames, cover: Frames, row: float, column: float) -> None:
    """Lay a picture over a frame, its first pixel at a place between pixels."""
    first, left = int(row), int(column)
    rows, columns = (np.arange(size + 1) - (start % 1) for size, start in zip(cover.shape, (row, column), strict=True))
    weight = _sampled(cover[None], rows, columns)
    place = frame[:, first : first + len(rows), left : left + len(columns)]
    place += weight * (_sampled(picture, rows, columns) - place)


def _sampled(image: Frames, rows: np.ndarray[Any, Any], columns: np.ndarray[Any, Any]) -> Frames:
    """Bilinear samples of (channels, rows, columns) at every pair of a row and a column; past the edge, the edge's."""

    def along(values: Frames, places: np.ndarray[Any, Any], axis: int) -> Frames:
        inside = np.clip(places, 0, values.shape[axis] - 1)
        low = np.minimum(inside.astype(np.int64), values.shape[axis] - 2)
        share = (inside - low).astype(np.float32).reshape([-1 if one == axis else 1 for one in range(values.ndim)])
        before, after = np.take(values, low, axis), np.take(values, low + 1, axis)
        return before + share * (after - before)

    return along(along(image, rows, 1), columns, 2)
