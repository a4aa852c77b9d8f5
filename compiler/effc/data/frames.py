"""Frames for a streaming program, one after the other: from arrays in a file, a video, or a camera. Never more than one is in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from effc.data.arrays import DATA_BYTES, UNNAMED, ArrayFile
from effc.data.loading import InputSpec
from effc.data.preprocess import Preprocess, preprocess_hint
from effc.data.video import STDIN, Video, is_camera
from effc.errors import ConfigError, DataError, Problem

__all__ = ["FrameSource", "open_frames"]

Array = np.ndarray[Any, Any]
Frame = dict[str, Array]
_ARRAYS = (".npz", ".npy")
_LABELS = ("y", "labels")  # a clip may have them; a stream does not need them


@dataclass(frozen=True)
class FrameSource:
    """An open source of frames; iterate over it once, and close it.

    Attributes:
        name: what messages call it.
        count: how many frames it has; None where that is not known. A damaged video may have fewer.
        rate: frames a second that it was recorded at; None where it does not say.
        live: it goes on until somebody stops it: a camera, or what is piped in.
    """

    name: str
    count: int | None
    rate: float | None
    live: bool
    _frames: Callable[[], Iterator[Frame]]
    _stack: ExitStack

    def __iter__(self) -> Iterator[Frame]:
        """Input name -> array of exactly the input's shape and dtype. Raises DataError, InputRejectedError at the frame that is bad."""
        return self._frames()

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def open_frames(
    given: str, inputs: Sequence[InputSpec], *, preprocess: Preprocess | None = None, max_bytes: int = DATA_BYTES
) -> FrameSource:
    """Find out what frames there are, and whether they fit; read none of them yet.

    Args:
        given: `.npz` with one array (T, ...) per input, by the input's name (or `x` for a single input), in the order of the frames; `.npy`
            for a single input; a video file; `camera`, or a camera's name such as `v4l2:/dev/video1`; `-` for a video on stdin.
        inputs: of one frame: name, shape, dtype. The leading axis is 1; an input without such an axis is the same for all frames.
        preprocess: how pictures of a video become inputs; a video needs it.
        max_bytes: of inputs that are the same for all frames.

    Raises:
        DataError: it does not exist or does not fit; everything that is wrong at once.
        ConfigError: a video without `preprocess`, or arrays with it.
        InputRejectedError, MissingDependencyError: see `Video`.
    """
    if not is_camera(given) and Path(given).suffix.lower() in _ARRAYS:
        if preprocess is not None:
            raise ConfigError(f"--preprocess is for videos; {given} holds arrays, which are taken as they are: leave it out")
        return _of_arrays(Path(given), inputs, max_bytes)
    if not is_camera(given) and given != STDIN and Path(given).is_dir():
        raise DataError(f"{given} is a folder; a stream takes a .npz or .npy with frames (T, ...) in order, a video file, or camera")
    return _of_video(given, inputs, preprocess)


def _of_arrays(path: Path, inputs: Sequence[InputSpec], max_bytes: int) -> FrameSource:
    if not path.exists():
        raise DataError(f"{path} does not exist; give a .npz, a .npy, a video file, camera, or - for a video on stdin")
    file = ArrayFile(path)
    single = inputs[0].name if len(inputs) == 1 else ""
    stored = {single: UNNAMED} if single and single not in file.names and UNNAMED in file.names else {}
    stored |= {spec.name: spec.name for spec in inputs if spec.name in file.names}
    taken = {*stored.values(), *_LABELS}
    hint = f"inputs: {', '.join(spec.name for spec in inputs)}"
    problems = [Problem(str(path), f"array {name!r}", "no such input", hint) for name in file.names if name not in taken]
    counts: dict[str, int] = {}
    for spec in inputs:
        framed = _is_framed(spec)
        wanted = ", ".join(map(str, ["T", *spec.shape[1:]] if framed else spec.shape))
        if spec.name not in stored:
            problems.append(Problem(spec.name, "array", "is missing", f"expected {spec.dtype}[{wanted}]"))
            continue
        header = file.header(stored[spec.name])
        if header.dtype.name != spec.dtype:
            cast = f".astype('{spec.dtype}') converts it"
            problems.append(Problem(spec.name, f"dtype {header.dtype.name}", f"expected {spec.dtype}", cast))
        if len(header.shape) != len(spec.shape) or header.shape[framed:] != tuple(spec.shape[framed:]):
            problems.append(Problem(spec.name, f"shape {list(header.shape)}", f"expected [{wanted}], T frames in order"))
        elif framed:
            counts[spec.name] = header.shape[0]
    if len(set(counts.values())) > 1 or 0 in counts.values():
        problems.append(Problem("inputs", f"numbers of frames {counts}", "must be one number, and at least 1"))
    if problems:
        raise DataError(f"{path} does not fit the compiled model", problems)
    count = next(iter(counts.values()), 1)

    def frames() -> Iterator[Frame]:
        fixed = file.read([stored[spec.name] for spec in inputs if spec.name not in counts], max_bytes)
        rows = {name: file.rows(stored[name]) for name in counts}
        for index in range(count):
            frame = {name: next(row)[None] for name, row in rows.items()}
            frame |= {spec.name: fixed[stored[spec.name]] for spec in inputs if spec.name not in counts}
            yield _sound(str(path), index, frame)

    return FrameSource(str(path), count, None, False, frames, ExitStack())


def _of_video(given: str, inputs: Sequence[InputSpec], preprocess: Preprocess | None) -> FrameSource:
    if len(inputs) != 1:
        names = ", ".join(spec.name for spec in inputs)
        raise DataError(f"{given}: a video serves models with one input; this one has {names}: give a .npz with an array for each")
    spec = inputs[0]
    stack = ExitStack()
    video = stack.enter_context(Video(given))
    if preprocess is None:
        stack.close()
        raise ConfigError(
            f"{given}: the artifact does not say how pictures become its input {spec}: {preprocess_hint(spec.shape) or 'give --preprocess'}"
            " (and mean=, std=, range= where it was trained with some)"
        )
    high, wide = preprocess.size or video.size
    shape = [1, preprocess.channels, high, wide] if preprocess.layout == "nchw" else [1, high, wide, preprocess.channels]
    if shape != list(spec.shape) or spec.dtype != "float32":
        stack.close()
        problem = Problem(
            f"input {spec.name!r}", f"frames of float32{shape}", f"expected {spec.dtype}{list(spec.shape)}", preprocess_hint(spec.shape)
        )
        raise DataError(f"{given} does not fit the compiled model", [problem])

    def frames() -> Iterator[Frame]:
        for picture in video.frames(preprocess):
            yield {spec.name: picture[None]}

    return FrameSource(video.name, video.count, video.rate, is_camera(given) or given == STDIN, frames, stack)


def _is_framed(spec: InputSpec) -> bool:
    return bool(spec.shape) and spec.shape[0] == 1


def _sound(name: str, index: int, frame: Mapping[str, Array]) -> Frame:
    bad = [key for key, array in frame.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
    if bad:
        problems = [Problem(key, f"frame {index}", "holds NaN or infinity", "remove what holds it") for key in bad]
        raise DataError(f"{name} does not fit the compiled model", problems)
    return dict(frame)
