"""Small videos and clips for tests. Needs PyAV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def pictures(count: int, height: int = 6, width: int = 8, seed: int = 0) -> np.ndarray[Any, Any]:
    """uint8 (T, H, W, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def write_video(path: Path, frames: np.ndarray[Any, Any], codec: str = "ffv1", pixels: str = "bgr0") -> Path:
    """A video of the frames; the default codec loses nothing."""
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixels
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=pixels)))
        container.mux(stream.encode())
    return path
