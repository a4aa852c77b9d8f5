"""The benchmark of products on a GPU without one: what it starts is right, and it says that nothing was measured."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch

from benchmarks import gpu_skip_gemv
from benchmarks.harness import Options
from effc.lowering.cuda.emulation import EmulatedDriver, host_compiler
from effc.targets import find_target


@pytest.mark.skipif(host_compiler() is None, reason="no C++ compiler (g++) to run CUDA C on this machine's CPU")
def test_each_product_of_the_graph_has_its_own_input_and_the_next_weights() -> None:
    depth, columns, count = 600, 96, 5
    with mock.patch("effc.lowering.cuda.backend.compile_cubin", lambda source, architecture: source.encode()):
        lowered = gpu_skip_gemv.product(depth, columns, find_target("cuda:sm_90"))
    driver = EmulatedDriver(lowered.code.decode())
    random = np.random.default_rng(0)
    weights = [random.standard_normal((depth, columns)).astype(np.float16) for _ in range(2)]
    xs = [random.standard_normal((1, depth)).astype(np.float32) * (random.random((1, depth)) < 0.4) for _ in range(count)]
    places = []
    for arrays in (weights, xs):
        places.append([driver.allocate(array.nbytes) for array in arrays])
        for place, array in zip(places[-1], arrays, strict=True):
            driver.upload(place, array.astype(array.dtype, order="C"))
    results = [driver.allocate(4 * columns) for _ in range(count)]
    gpu_skip_gemv.Products(driver, lowered).recorded(places[0], places[1], results)()
    for number, place in enumerate(results):
        got = np.empty((1, columns), np.float32)
        driver.download(got, place)
        wanted = xs[number].astype(np.float64) @ weights[number % 2].astype(np.float64)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_claimed() -> None:
    outcome = gpu_skip_gemv.measure(Options(quick=True))
    assert outcome.claims == []
    assert "unproven" in outcome.rows[0]["skipped"]
