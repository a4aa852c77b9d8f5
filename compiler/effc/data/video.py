"""Frames of a video file, of a camera, or of a stream on stdin, decoded by PyAV (FFmpeg) one at a time.

A file from a stranger may be anything: only containers that hold their own data are opened (a playlist could name other files, or hosts),
and the size of a frame has a limit. Decoding runs on the calling thread, so that it does not disturb what is timed between two frames.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from effc.data.images import image_input
from effc.data.preprocess import Preprocess
from effc.errors import DataError, InputRejectedError, LimitError, MissingDependencyError

__all__ = ["CAMERA", "STDIN", "Video", "is_camera"]

Array = np.ndarray[Any, Any]
STDIN = "-"
CAMERA = "camera"
_CAMERAS = {"linux": "v4l2:/dev/video0", "darwin": "avfoundation:0", "win32": "dshow:video=Integrated Camera"}
_DEVICES = ("v4l2", "avfoundation", "dshow")
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,h264,hevc,m4v,ogg,flv,asf,gif,ivf,nut,yuv4mpegpipe,mjpeg"
_CLOSED = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "none"}
_MOST_PIXELS = 1 << 26  # of a frame: twice those of 8K
_INSTALL = "pip install 'effc[video]' (PyAV and Pillow)"


def is_camera(name: str) -> bool:
    """`camera`, or a capture device of FFmpeg's by its kind and name: `v4l2:/dev/video1`."""
    return name == CAMERA or name.partition(":")[0] in _DEVICES


class Video:
    """The frames of one video, in order. A context manager; the frames can be gone through once.

    Attributes:
        name: what messages call it.
        count: how many frames it says it has; None where it does not say. It may be wrong.
        rate: frames a second that it was recorded at; None where it does not say.
        size: height and width of its pictures in pixels.
    """

    def __init__(self, source: str) -> None:
        """Open a file by its path, a camera (see `is_camera`), or `-`: stdin, where any container can be piped in.

        Raises:
            DataError: no such file or camera, or it holds no pictures.
            InputRejectedError: no video that can be decoded; LimitError: its frames are too large.
            MissingDependencyError: PyAV or Pillow is not installed.
        """
        try:
            import av
            import PIL.Image  # noqa: F401 - found out now, not at the first frame
        except ImportError as error:
            raise MissingDependencyError(f"videos and cameras need {error.name}: {_INSTALL}") from error
        self._av: Any = av
        self._reader = _Reader(io.BytesIO())
        self._stack = ExitStack()
        self.name = "stdin" if source == STDIN else source
        try:
            self._container = self._stack.enter_context(self._camera(source) if is_camera(source) else self._file(source))
            if not self._container.streams.video:
                raise DataError(f"{self.name} holds no pictures: it has no video stream")
            self._stream = self._container.streams.video[0]
            self._stream.thread_type = "NONE"
            self.count: int | None = self._stream.frames or None
            self.rate: float | None = float(self._stream.average_rate) if self._stream.average_rate else None
            self.size = self._checked(self._stream.height, self._stream.width)
            self._stream.codec_context.options = {"max_pixels": str(_MOST_PIXELS)}  # its frames may yet be larger than it says
        except BaseException:
            self._stack.close()
            raise

    def frames(self, preprocess: Preprocess) -> Iterator[Array]:
        """The frames as inputs: float32 (C, H, W) or (H, W, C), resized and scaled as `preprocess` says.

        Raises:
            InputRejectedError: a frame cannot be decoded, or there is none.
            DataError: without a size to bring them to, the frames change theirs.
        """
        index = -1
        for index, picture in enumerate(self._pictures()):
            if preprocess.size is None and picture.size[::-1] != self.size:
                what = f"{picture.height}x{picture.width} pixels, not {self.size[0]}x{self.size[1]}"
                raise DataError(f"{self.name}: frame {index} has {what} as the video says: give --preprocess size=HEIGHTxWIDTH")
            yield image_input(picture, preprocess)
        if index < 0:
            raise InputRejectedError(f"{self.name} is damaged or empty: no frame of it can be decoded")

    def close(self) -> None:
        """Let go of the file or the camera."""
        self._stack.close()

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pictures(self) -> Iterator[Any]:
        """Pillow's images, upright."""
        from PIL import Image

        decoded, index = self._container.decode(self._stream), 0
        while True:
            try:
                frame = next(decoded, None)
            except (self._av.FFmpegError, OSError, ValueError, MemoryError) as error:
                self._reader.end()
                what = f"{self.name}: frame {index} cannot be decoded, the file is damaged: {_words(error)}"
                raise InputRejectedError(f"{what}; --frames {index} stops before it" if index else what) from error
            if frame is None:
                self._reader.end()
                return
            pixels = frame.to_ndarray(format="rgb24")
            quarters = frame.rotation // 90 if frame.rotation % 90 == 0 else 0
            yield Image.fromarray(np.ascontiguousarray(np.rot90(pixels, quarters)))
            index += 1

    def _file(self, source: str) -> Any:
        if source == STDIN:
            self._reader = _Reader(sys.stdin.buffer)
        else:
            path = Path(source)
            if not path.is_file():
                raise DataError(f"{source} does not exist; give a .npz, a .npy, a video file, camera, or - for a video on stdin")
            try:
                self._reader = _FileReader(self._stack.enter_context(path.open("rb")))
            except OSError as error:
                raise DataError(f"{source} cannot be read: {error.strerror}") from error
        try:
            return self._av.open(self._reader, options=_CLOSED)
        except (self._av.FFmpegError, OSError, ValueError) as error:
            self._reader.end()
            raise InputRejectedError(f"{self.name} is no video that can be decoded, or is cut off: {_words(error)}") from error

    def _camera(self, source: str) -> Any:
        kind, _, device = (_CAMERAS.get(sys.platform, "v4l2:/dev/video0") if source == CAMERA else source).partition(":")
        piped = f"or pipe it in: ffmpeg -f {kind} -i {device} -f matroska - | effc stream OUT --input -"
        try:
            self._av.format.ContainerFormat(kind, "r")
        except ValueError as error:
            raise MissingDependencyError(f"this PyAV reads no cameras through {kind}; install one that does, {piped}") from error
        try:
            return self._av.open(device, format=kind)
        except (self._av.FFmpegError, OSError, ValueError) as error:
            raise DataError(
                f"the camera {device} ({kind}) cannot be opened: {_words(error)}; name another as {kind}:DEVICE, {piped}"
            ) from error

    def _checked(self, height: int, width: int) -> tuple[int, int]:
        if height * width > _MOST_PIXELS:
            raise LimitError(
                f"{self.name}: frames of {height}x{width} pixels are over the limit of {_MOST_PIXELS:,}; scale the video down first"
            )
        if not height or not width:
            raise InputRejectedError(f"{self.name} is damaged: it does not say how large its frames are")
        return height, width


class _Reader:
    """What PyAV reads a stream through. An interrupt that comes while it reads would be lost in its callback from FFmpeg: it ends the
    stream instead, and `end` raises it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream: Any = stream
        self._interrupted = False

    def read(self, count: int) -> bytes:
        """At most so many bytes, as soon as there are any; none at the end."""
        try:
            part: bytes = b"" if self._interrupted else self._stream.read1(count)
        except KeyboardInterrupt:
            self._interrupted, part = True, b""
        return part

    def end(self) -> None:
        """To be called where the stream has ended."""
        if self._interrupted:
            raise KeyboardInterrupt


class _FileReader(_Reader):
    """The same for a file, in which containers jump."""

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._stream.seek(offset, whence))

    def tell(self) -> int:
        return int(self._stream.tell())


def _words(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error)
