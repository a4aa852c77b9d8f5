"""The one door to parts of torch that are not public, and to packages that need care beside the CPU build of torch.

Everything here is tied to torch 2.13 (pyproject.toml pins the minor version). When torch is raised, this is the file to read.
"""

from __future__ import annotations

import importlib
import io
import sys
import zipfile
from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["PT2_ROOT", "Pt2Records", "core_decompositions", "import_lightning", "import_torchvision"]

PT2_ROOT = "archive"


class Pt2Records:
    """The records of a `.pt2` archive as torch's own reader sees them.

    Vetting must look through the eyes of the reader that loads afterwards: two zip readers can be made to see different files in one
    archive. The public `zipfile` only tells whether something is compressed (torch never compresses; a bomb does).

    Args:
        data: the archive's bytes.

    Raises:
        ValueError: it is no such archive.
    """

    def __init__(self, data: bytes) -> None:
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                entries = archive.infolist()
            self._reader = torch._C.PyTorchFileReader(io.BytesIO(data))
            self.names: list[str] = list(self._reader.get_all_records())
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError, ValueError, EOFError, OSError) as error:
            raise ValueError(str(error).splitlines()[0]) from error
        self.compressed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
        self.agreed = sorted(entry.filename.split("/", 1)[-1] for entry in entries) == sorted(self.names)

    def size(self, name: str) -> int:
        """Bytes of a record."""
        return int(self._reader.get_record_size(name))

    def read(self, name: str) -> bytes:
        """A record's bytes."""
        return bytes(self._reader.get_record(name))


def core_decompositions(*, without: Sequence[str]) -> dict[Any, Any]:
    """torch's table of decompositions to core ATen, without the operators whose name holds one of the texts: they stay whole."""
    table: dict[Any, Any] = torch.export.default_decompositions()
    for operator in [operator for operator in table if any(text in str(operator) for text in without)]:
        del table[operator]
    return table


_VISION: list[Any] = []  # keeps the schema library alive


def import_torchvision() -> Any:
    """torchvision, also where its wheel was built for another torch (a CUDA wheel beside CPU torch).

    There its own import fails because two operators of its native library are missing; with their schemas defined the models,
    transforms and datasets work (`ops.nms` and the detection models do not).
    """
    return _import("torchvision")


def import_lightning() -> Any:
    """pytorch_lightning, which imports torchvision through torchmetrics and so needs the same care."""
    return _import("pytorch_lightning")


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    half_imported = ("torchvision", "torchmetrics", "pytorch_lightning", "lightning")
    for module in [module for module in sys.modules if module.split(".")[0] in half_imported]:
        del sys.modules[module]
    if not _VISION:
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
        _VISION.append(library)
    return importlib.import_module(name)
