"""Tensor files whose bytes depend on nothing but their content: safetensors for parameters, npz for vectors.

The runtime reads and writes both formats itself: numpy stamps the time into every npz member, and a device that only runs artifacts
should need numpy and TVM, nothing more. Any safetensors or npz reader understands the files.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effc.errors import InputRejectedError

__all__ = ["Array", "crc32", "dtype_named", "pack_npz", "pack_safetensors", "unpack_npz", "unpack_safetensors"]

Array = NDArray[Any]

_CODES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
}
_NAMES = {code: name for name, code in _CODES.items()}
_HEADER_LIMIT = 100_000_000  # bytes; the limit of the reference implementation
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that zip can write


def dtype_named(name: str) -> np.dtype[Any]:
    """numpy's dtype of a name; `bfloat16` needs the package ml_dtypes, which comes with TVM. Raises TypeError for an unknown name."""
    if name == "bfloat16":
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype(name)


def crc32(array: Array) -> int:
    """CRC-32 of the elements in C order, little-endian; what the manifest keeps for every stored tensor."""
    return zlib.crc32(_raw(array))


def pack_safetensors(tensors: Mapping[str, Array]) -> bytes:
    """The tensors, sorted by name, as one safetensors file. Raises TypeError for a dtype that the format lacks."""
    header: dict[str, dict[str, Any]] = {}
    blobs: list[bytes] = []
    offset = 0
    for name in sorted(tensors):
        array = tensors[name]
        if array.dtype.name not in _CODES:
            raise TypeError(f"parameter {name!r}: safetensors cannot hold dtype {array.dtype.name}")
        raw = _raw(array)
        header[name] = {"dtype": _CODES[array.dtype.name], "shape": list(array.shape), "data_offsets": [offset, offset + len(raw)]}
        blobs.append(raw)
        offset += len(raw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data starts aligned
    return b"".join([struct.pack("<Q", len(text)), text, *blobs])


def unpack_safetensors(data: bytes) -> dict[str, Array]:
    """Read-only views of the tensors inside `data`. Raises InputRejectedError when the bytes are not a safetensors file."""
    try:
        (length,) = struct.unpack_from("<Q", data)
        if length > min(_HEADER_LIMIT, len(data) - 8):
            raise ValueError(f"the header claims {length} bytes")
        header = json.loads(data[8 : 8 + length])
        tensors = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            dtype = dtype_named(_NAMES[entry["dtype"]])
            shape = tuple(int(size) for size in entry["shape"])
            start, stop = entry["data_offsets"]
            count = int(np.prod(shape, dtype=object)) if shape else 1
            if not 0 <= start <= stop <= len(data) - 8 - length or stop - start != count * dtype.itemsize:
                raise ValueError(f"tensor {name!r}: offsets {start}..{stop} do not fit {dtype.name}{list(shape)}")
            tensors[name] = np.frombuffer(data, dtype, count, 8 + length + start).reshape(shape)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputRejectedError(f"not a safetensors file: {error}") from error
    return tensors


def pack_npz(arrays: Mapping[str, Array]) -> bytes:
    """The arrays, sorted by name, as an uncompressed npz with a fixed time stamp."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            member = io.BytesIO()
            # ascontiguousarray would turn a scalar into shape (1,)
            np.lib.format.write_array(member, np.asarray(arrays[name], order="C"), version=(1, 0), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            info.create_system = 3
            info.external_attr = 0o644 << 16
            archive.writestr(info, member.getvalue())
    return buffer.getvalue()


def unpack_npz(data: bytes) -> dict[str, Array]:
    """All arrays of an npz; pickled members are refused. Raises InputRejectedError when the bytes are not an npz."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {name: _named(archive[name]) for name in archive.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, AttributeError) as error:
        raise InputRejectedError(f"not an npz file: {error}") from error


def _named(array: Array) -> Array:
    """The npz format has no name for bfloat16 and keeps it as two bytes without a type, as every writer with ml_dtypes does."""
    return array.view(dtype_named("bfloat16")) if array.dtype.str in ("|V2", "<V2") else array


def _raw(array: Array) -> bytes:
    little = array if array.dtype.byteorder in "=<|" else array.astype(array.dtype.newbyteorder("<"))
    return little.tobytes()
