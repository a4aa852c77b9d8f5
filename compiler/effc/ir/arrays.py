"""numpy arrays to torch tensors and back, bfloat16 included: numpy knows it only through ml_dtypes, and torch does not know that.

And seeded random inputs, which an import is proved and compared with, and which stand in for data that was not given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["random_inputs", "random_like_indices", "to_numpy", "to_torch"]

Array = np.ndarray[Any, Any]

_BYTES = (torch.uint8, torch.int8)  # quantised values and pixels, hardly ever indices
_HIGHS = (256, 16, 2)


def to_torch(array: Array) -> Tensor:
    """A tensor; it may share the array's memory where that is writable and in C order."""
    given = np.require(array, requirements=("C", "W"))
    if given.dtype.name == "bfloat16":
        return torch.from_numpy(given.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(given)


def to_numpy(tensor: Tensor) -> Array:
    """An array in C order; it may share the tensor's memory."""
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        bits: Array = tensor.view(torch.int16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    array: Array = tensor.numpy()
    return array


def random_inputs(shapes: Sequence[Sequence[int]], dtypes: Sequence[torch.dtype], seed: int, high: int = 2) -> list[Tensor]:
    """Seeded inputs: normal floats, booleans, 8-bit integers over their whole range, other integers from 0 to below `high`.

    numpy draws them: its generators give the same bits on every machine.
    """
    generator = np.random.default_rng(seed)
    made = []
    for shape, dtype in zip(shapes, dtypes, strict=True):
        size = tuple(shape)
        if dtype.is_complex:
            real, imaginary = generator.standard_normal((2, *size), np.float32)
            drawn = np.asarray(real + 1j * imaginary, np.complex64)
        elif dtype.is_floating_point:
            drawn = np.asarray(generator.standard_normal(size, np.float32))
        elif dtype in _BYTES:
            limits = torch.iinfo(dtype)
            drawn = np.asarray(generator.integers(limits.min, limits.max + 1, size))
        else:
            drawn = np.asarray(generator.integers(0, 2 if dtype == torch.bool else high, size))
        made.append(torch.from_numpy(drawn).to(dtype))
    return made


def random_like_indices(
    shapes: Sequence[Sequence[int]], dtypes: Sequence[torch.dtype], seed: int, run: Callable[[list[Tensor]], Any]
) -> list[Tensor]:
    """`random_inputs` with the widest of three ranges for wide integers that `run` accepts.

    Such an integer may be a quantity, which 0 and 1 would hardly test, or an index into a table of any size, beyond which nothing runs.
    The narrowest range is not tried: what fails with 0 and 1, too, has another fault, and whoever runs it says so.
    """
    if not any(not (dtype.is_floating_point or dtype.is_complex or dtype in (*_BYTES, torch.bool)) for dtype in dtypes):
        return random_inputs(shapes, dtypes, seed)
    for high in _HIGHS[:-1]:
        given = random_inputs(shapes, dtypes, seed, high)
        try:
            run(given)
        except (IndexError, RuntimeError):
            continue
        return given
    return random_inputs(shapes, dtypes, seed, _HIGHS[-1])
