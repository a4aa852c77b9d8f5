"""Whole networks for GPUs: nvcc takes their code, and on this machine's CPU it computes what the programs compute."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from effc.compiler.golden import golden_inputs, run_program
from effc.frontends.loading import load_program
from effc.ir import Program
from effc.lowering import Lowered, lower
from effc.lowering.cuda.emulation import EmulatedDriver
from effc.lowering.cuda.nvcc import find_nvcc
from effc.runtime.cuda.executor import CudaExecutor
from effc.runtime.verify import compare
from effc.targets import find_target
from tests.unit.lowering.cuda.on_host import needs_host

DIGITS = Path(__file__).parents[4] / "examples" / "digits.onnx"
DATA = Path(os.environ.get("EFFC_DATA", "")) / "onnx"
FLOAT = ("mlperf_tiny_resnet8_cifar10", "mlperf_tiny_vww96_float", "mnist_cntk", "ultraface_rfb320")
INTEGER = ("mlperf_tiny_ad_autoencoder_int8qdq", "mlperf_tiny_kws_int8qdq", "mlperf_tiny_resnet8_int8qdq", "mlperf_tiny_vww_int8qdq")
SHARED = 48 << 10

needs_nvcc = pytest.mark.skipif(find_nvcc() is None, reason="no nvcc (CUDA toolkit) on this machine")


def named(name: str) -> Path:
    path = DIGITS if name == "digits" else DATA / f"{name}.onnx"
    if not path.is_file():
        pytest.skip(f"EFFC_DATA names no folder with onnx/{name}.onnx")
    return path


def on_the_cpu(program: Program, lowered: Lowered) -> float:
    """The largest difference from the program on one sample, relative to the output's largest magnitude; inf for NaN and the like."""
    interface = program.interface
    assert lowered.plan is not None
    names = [value.name for value in interface.inputs], [value.name for value in interface.outputs]
    executor = CudaExecutor(lowered.plan, *names, lowered.parameters, lowered.code, EmulatedDriver(lowered.source))
    inputs = {name: array[:1] for name, array in golden_inputs(program, None, 0).items()}
    outputs = {value.name: np.empty(value.at_batch(1), value.dtype) for value in interface.outputs}
    executor.call([inputs[name] for name in names[0]], list(outputs.values()))
    return compare(outputs, run_program(program, inputs)).worst


@needs_host
@needs_nvcc
@pytest.mark.parametrize("name", ["digits", "mlperf_tiny_resnet8_cifar10"])
def test_small_networks(name: str) -> None:
    program = load_program(named(name), check_import=False)
    lowered = lower(program, find_target("cuda:sm_90"))
    assert lowered.cpu == "sm_90"
    assert lowered.code[:4] == b"\x7fELF"
    assert on_the_cpu(program, lowered) < 1e-5


@needs_host
@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("name", [*FLOAT, *INTEGER])
def test_every_network(name: str) -> None:
    """Integer networks bit for bit, up to a softmax in float32 at their end; no step is left to a single thread."""
    program = load_program(named(name), check_import=False)
    lowered = lower(program, find_target("cuda:sm_90"))
    assert lowered.plan is not None
    assert lowered.code[:4] == b"\x7fELF"
    assert not [step.kernel for step in lowered.plan.steps if step.family == "single-thread"]
    assert all(launch.shared <= SHARED for step in lowered.plan.steps for launch in step.launches)
    assert on_the_cpu(program, lowered) < (1e-5 if name in FLOAT else 1e-6)
