"""Folders of images, through Pillow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from effc.data.preprocess import Preprocess
from effc.errors import DataError, MissingDependencyError, Problem, counted

__all__ = ["image_input", "read_images"]

Array = np.ndarray[Any, Any]
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm")


def read_images(folder: Path, preprocess: Preprocess) -> tuple[Array, Array | None]:
    """All images below a folder as one array, and labels where subfolders name the classes.

    Args:
        folder: images, or one subfolder of images per class; classes are numbered in alphabetical order, images come in alphabetical order.
        preprocess: size and scaling.

    Returns:
        float32 (N, C, H, W) or (N, H, W, C), and int64 (N,) or None.

    Raises:
        DataError: no image, an image that cannot be read, or images of different sizes without `size=`; all of them at once.
        MissingDependencyError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError("reading images needs Pillow: pip install pillow") from error
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    paths = [(path, label) for label, sub in enumerate(classes) for path in _images(sub)] or [(path, 0) for path in _images(folder)]
    if not paths:
        raise DataError(f"{folder} holds no images ({', '.join(_SUFFIXES)})")
    arrays, problems = [], []
    for path, _ in paths:
        try:
            with Image.open(path) as image:
                arrays.append(image_input(image, preprocess))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            problems.append(Problem(str(path.relative_to(folder)), "image", f"cannot be read: {error}"))
    sizes = {array.shape for array in arrays}
    if len(sizes) > 1:
        problems.append(Problem(str(folder), counted(len(sizes), "image size"), "must be one", "--preprocess size=224"))
    if problems:
        raise DataError(f"{folder}: images cannot be used", problems)
    return np.stack(arrays), np.array([label for _, label in paths], np.int64) if classes else None


def image_input(image: Any, preprocess: Preprocess) -> Array:
    """One of Pillow's images as an input: float32 (C, H, W) or (H, W, C). A file and a video's frame with the same pixels give the same."""
    from PIL import Image

    colour = image.convert("RGB" if preprocess.channels == 3 else "L")
    if preprocess.size is not None:
        height, width = preprocess.size
        colour = colour.resize((width, height), Image.Resampling.BILINEAR)
    return preprocess.apply(np.asarray(colour).reshape(colour.height, colour.width, preprocess.channels))


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES and path.is_file())
