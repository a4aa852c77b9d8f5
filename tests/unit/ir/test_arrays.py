"""numpy to torch and back, and the ranges of random integers."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import torch

from effc.ir.arrays import random_inputs, random_like_indices, to_numpy, to_torch


def test_bfloat16_survives_both_ways() -> None:
    values = np.array([[1.5, -0.0], [np.inf, 3e-40]], ml_dtypes.bfloat16)
    tensor = to_torch(values.T)
    assert tensor.dtype == torch.bfloat16
    np.testing.assert_array_equal(to_numpy(tensor).view(np.int16), values.T.view(np.int16))


def test_read_only_arrays_and_transposed_tensors_are_taken() -> None:
    array = np.arange(6).reshape(2, 3)
    array.flags.writeable = False
    tensor = to_torch(array)
    tensor += 1
    assert array[0, 0] == 0
    assert to_numpy(tensor.T).flags.c_contiguous


def test_indices_stay_inside_the_table_and_quantities_use_the_range() -> None:
    table = torch.zeros(2, 4)
    shapes, dtypes = [(100,)], [torch.int64]
    assert set(random_like_indices(shapes, dtypes, 0, lambda given: table[given[0]])[0].tolist()) == {0, 1}
    assert int(random_like_indices(shapes, dtypes, 0, lambda given: given[0] + 1)[0].max()) > 200
    (small,) = random_inputs([(1000,)], [torch.int8], 0)
    assert (int(small.min()), int(small.max())) == (-128, 127)
