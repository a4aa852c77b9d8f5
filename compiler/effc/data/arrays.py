"""`.npz` and `.npy` files from strangers: every array's header is read first, its elements only when they are wanted and within the limit.

numpy alone would unpack what a few kilobytes of zip say, whole gigabytes of it, before anybody can look at a shape. Nothing here unpickles.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from effc.errors import DataError, LimitError

__all__ = ["DATA_BYTES", "UNNAMED", "Array", "ArrayFile", "Header"]

Array = np.ndarray[Any, Any]
DATA_BYTES = 2 << 30  # of all arrays that are read from one file; `--limit data_bytes=NUMBER` raises it
UNNAMED = "x"  # the array of a .npy
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_BROKEN = (OSError, ValueError, EOFError, KeyError, RuntimeError, struct.error, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Header:
    """What a file says about one of its arrays; `by_column`: its elements are stored in Fortran's order."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    by_column: bool = False

    @property
    def bytes(self) -> int:
        """Of all elements."""
        return math.prod(self.shape) * self.dtype.itemsize


class ArrayFile:
    """One `.npz` or `.npy` file.

    Attributes:
        names: its arrays; `x` for that of a .npy.
        named: whether the file itself names them, as a .npz does.

    Raises (here and in the methods):
        DataError: it is neither, damaged, or holds pickled objects.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with _sound(path):
            self._zipped = zipfile.is_zipfile(path)
            self.names = self._members() if self._zipped else [UNNAMED]
        self.named = self._zipped
        if not self._zipped:
            self.header(UNNAMED)  # whether it is one

    def header(self, name: str) -> Header:
        """Shape and dtype of an array, after the check that the file is long enough for them."""
        with self._opened(name) as (stream, size):
            header = _read_header(stream)
            held = size - stream.tell()
            if held != header.bytes:
                what = f"array {name!r} of {header.dtype.name}{list(header.shape)} needs {header.bytes} bytes, the file holds {held}"
                raise ValueError(what)
        return header

    def read(self, names: Sequence[str], limit: int) -> dict[str, Array]:
        """The elements of some arrays, in this machine's byte order. Raises LimitError when they are over `limit` bytes together."""
        total = sum(self.header(name).bytes for name in names)
        if total > limit:
            raise LimitError(
                f"{self._path}: its arrays {', '.join(names)} have {total} bytes, over the limit of {limit}; "
                f"if you trust the file, raise it with --limit data_bytes={total}"
            )
        try:
            return {name: self._read(name) for name in names}
        except MemoryError as error:
            raise LimitError(f"{self._path}: there is no memory for the {total} bytes of its arrays {', '.join(names)}") from error

    def rows(self, name: str) -> Iterator[Array]:
        """The parts of an array along its first axis, read one after the other: the whole array is never in memory.

        Raises DataError as well where the array has no axis, or is stored in Fortran's order, in which no part is in one piece.
        """
        header = self.header(name)
        shape, dtype = header.shape[1:], header.dtype
        with self._opened(name) as (stream, _):
            _read_header(stream)
            if not header.shape or header.by_column:
                raise ValueError(f"array {name!r} is stored column by column or has no axis; save numpy.ascontiguousarray of it")
            size = math.prod(shape) * dtype.itemsize
            for _ in range(header.shape[0]):
                part = stream.read(size)
                if len(part) != size:
                    raise ValueError(f"array {name!r} ends early")
                yield np.frombuffer(part, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)

    def _read(self, name: str) -> Array:
        with self._opened(name) as (stream, _):
            array: Array = np.lib.format.read_array(stream, allow_pickle=False)
        return array.astype(array.dtype.newbyteorder("="), copy=False)

    def _members(self) -> list[str]:
        with zipfile.ZipFile(self._path) as archive:
            names = archive.namelist()
        odd = [name for name in names if not name.endswith(".npy")]
        if odd:
            raise ValueError(f"its member {odd[0]!r} is no array")
        if len(set(names)) != len(names):
            raise ValueError("it holds a name twice")
        return [name.removesuffix(".npy") for name in names]

    @contextmanager
    def _opened(self, name: str) -> Iterator[tuple[IO[bytes], int]]:
        """The bytes of one array's .npy, and how many there are."""
        with _sound(self._path):
            if self._zipped:
                with zipfile.ZipFile(self._path) as archive, archive.open(f"{name}.npy") as member:
                    yield member, archive.getinfo(f"{name}.npy").file_size
            else:
                with open(self._path, "rb") as file:
                    yield file, self._path.stat().st_size


def _read_header(stream: IO[bytes]) -> Header:
    try:
        version = np.lib.format.read_magic(stream)
    except ValueError:
        raise ValueError("it does not begin as one") from None
    if version not in _HEADERS:
        raise ValueError(f"an array in version {version} of numpy's format")
    shape, by_column, dtype = _HEADERS[version](stream)
    if dtype.hasobject:
        raise ValueError("it holds pickled objects, which are not read")
    if any(size < 0 for size in shape):
        raise ValueError(f"an array of shape {list(shape)}")
    return Header(shape, dtype, by_column and len(shape) > 1)


@contextmanager
def _sound(path: Path) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        raise DataError(f"{path} is neither a sound .npz nor a .npy file: {error}") from error
