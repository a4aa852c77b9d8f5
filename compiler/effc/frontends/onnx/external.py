"""Tensors that a model keeps in files beside it, read without ever leaving its folder.

A location may name a file in the model's folder or below it. Absolute paths, `..`, symlinks in any component, and slices beyond the end
of a file are refused: they are how a model reads (or makes a service reveal) files that are not its own.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from effc.errors import InputRejectedError, Problem
from effc.frontends.onnx.limits import Limits

__all__ = ["load_external_data"]


def load_external_data(tensors: Iterable[Any], folder: Path, spent: int, limits: Limits) -> None:
    """Bring the data of external tensors into the model.

    Args:
        tensors: every TensorProto of the model; those without external data are left alone.
        folder: the model's folder.
        spent: bytes of the model file itself, which count towards `limits.model_bytes`.
        limits: bounds; they are checked before a file is read.

    Raises:
        InputRejectedError: a location leaves the folder, is missing, or is too short; all of them are listed.
        LimitError: file and external data together are over `model_bytes`.
    """
    from onnx import TensorProto

    external = [tensor for tensor in tensors if tensor.data_location == TensorProto.EXTERNAL]
    problems = [problem for tensor in external if (problem := _problem(tensor, folder)) is not None]
    if problems:
        raise InputRejectedError("the model's external data are refused", problems)
    for tensor in external:
        path, offset, length = _place(tensor, folder)
        spent += length
        limits.check("model_bytes", spent, "the model with its external data")
        tensor.raw_data = _read(path, offset, length)
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


def _fields(tensor: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _problem(tensor: Any, folder: Path) -> Problem | None:
    """What forbids reading this tensor, or None."""
    location = _fields(tensor).get("location", "")
    where, what = tensor.name or "a tensor", f"external data {location!r}"
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    if not location or "\0" in location:
        return Problem(where, what, "names no file")
    if posix.is_absolute() or windows.is_absolute() or windows.drive or windows.root:
        return Problem(where, what, "is an absolute path", "external data must lie in the model's folder")
    if ".." in posix.parts or ".." in windows.parts:
        return Problem(where, what, "leaves the model's folder", "external data must lie in the model's folder")
    path = folder
    for part in posix.parts:
        path = path / part
        if path.is_symlink():
            return Problem(where, what, "is a symlink or lies behind one", "replace the link by the file")
    if not path.is_file():
        return Problem(where, what, "there is no such file in the model's folder", "keep the data files beside the model")
    if path.stat().st_nlink > 1:
        return Problem(where, what, "is a hard link: its data may be another file's", "replace the link by a copy")
    try:
        _, offset, length = _place(tensor, folder)
    except ValueError:
        return Problem(where, what, "offset or length is not a number")
    if offset < 0 or length < 0 or offset + length > path.stat().st_size:
        return Problem(where, what, f"bytes {offset} to {offset + length} are beyond the file's {path.stat().st_size}")
    return None


def _place(tensor: Any, folder: Path) -> tuple[Path, int, int]:
    fields = _fields(tensor)
    path = folder / fields["location"]
    offset = int(fields.get("offset", "0"))
    length = int(fields["length"]) if "length" in fields else path.stat().st_size - offset
    return path, offset, length


def _read(path: Path, offset: int, length: int) -> bytes:
    """Read a slice; O_NOFOLLOW and the file type are checked on the open file, so a swap after the check gains nothing."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise InputRejectedError(f"external data {path.name!r} is not a regular file")
        file.seek(offset)
        return file.read(length)
