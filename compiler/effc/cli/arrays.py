"""Arrays to files and to tables."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effc.errors import ConfigError, OutputError
from effc.runtime.tensors import pack_npz

__all__ = ["check_output", "describe", "write_arrays"]


def check_output(path: Path, *, suffixes: tuple[str, ...] = (".npz", ".npy"), option: str = "-o") -> None:
    """Find out before the work whether a result file can be written. Raises ConfigError or OutputError."""
    if path.suffix not in suffixes:
        raise ConfigError(f"{path}: {option} writes {' or '.join(suffixes)}; give it a name that ends so")
    if path.is_dir():
        raise OutputError(f"{path} is a folder; choose another {option}")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path}: the folder is not writable; choose another {option}")


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write the arrays in one step. Raises ConfigError for several arrays into one .npy, OutputError when the disk refuses."""
    if path.suffix == ".npy" and len(arrays) != 1:
        raise ConfigError(f"{path}: a .npy holds one array, but the model has outputs {', '.join(arrays)}; give -o a .npz")
    folder = path.parent
    temporary = ""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{path.name}.", delete=False) as file:
            temporary = file.name
            if path.suffix == ".npy":
                np.lib.format.write_array(file, next(iter(arrays.values())), allow_pickle=False)
            else:
                file.write(pack_npz(arrays))
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            with suppress(OSError):
                os.unlink(temporary)
        raise OutputError(f"cannot write {path}: {error.strerror}; choose another -o") from error


def describe(array: NDArray[Any]) -> dict[str, Any]:
    """dtype, shape and the extremes of the finite elements, for a table or JSON; no number where there is none."""
    finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    known = finite.size > 0 and array.dtype.kind in "fiub"

    def number(value: Any) -> float | None:
        return float(f"{float(value):.6g}") if known else None

    return {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "min": number(finite.min() if known else 0),
        "mean": number(finite.mean(dtype=np.float64) if known else 0),
        "max": number(finite.max() if known else 0),
    }


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
