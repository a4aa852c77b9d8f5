"""The trained ResNet-20 for CIFAR-10 and its images, for benchmarks of reliability. See `harness.DATA_HELP` for where they come from."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from benchmarks.harness import data_file
from benchmarks.models import module_from
from effc.data import Dataset
from effc.errors import DataError
from effc.ir import Program

__all__ = ["FILES", "images", "is_there", "network", "program"]

_CHECKPOINT = "cifar10/resnet20-12fca82f.th"
_DEFINITION = "cifar10/resnet_cifar.py"
FILES = {"test": "cifar10/cifar10_test1017.npz", "train": "cifar10/cifar10_train8068.npz"}


def is_there() -> bool:
    """Whether the data folder has all of it."""
    return all(data_file(name) is not None for name in (_CHECKPOINT, _DEFINITION, *FILES.values()))


def network() -> Any:
    """The network in eager torch, in eval mode. Raises DataError."""
    definition, checkpoint = module_from(_DEFINITION), data_file(_CHECKPOINT)
    if definition is None or checkpoint is None:
        raise DataError(f"{_DEFINITION} or {_CHECKPOINT} is missing in $EFFC_DATA")
    return definition.load(checkpoint, 20)


@functools.cache
def program() -> Program:
    """The network as a program. Raises DataError."""
    import torch

    from effc.frontends import load_program

    return load_program(network(), example_inputs=[torch.zeros(2, 3, 32, 32)])


def images(count: int | None = None, part: str = "test") -> Dataset:
    """Normalised images `x` (N, 3, 32, 32) float32 with labels. `part`: `test` or `train`. Raises DataError."""
    definition, file = module_from(_DEFINITION), data_file(FILES[part])
    if definition is None or file is None:
        raise DataError(f"{FILES[part]} is missing in $EFFC_DATA")
    with np.load(file) as arrays:
        pixels, labels = arrays["x"][:count], arrays["y"][:count]
    return Dataset({"x": definition.prep(pixels).contiguous().numpy()}, labels.astype(np.int64))
