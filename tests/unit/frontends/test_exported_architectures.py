"""Nine architectures, each exported by torch in three ways: the imported program and its machine code against onnxruntime.

The exporters write the same network differently: the dynamo one in opset 20 decomposes by its own rules and keeps weights in a file
beside the model, the legacy one in opset 13 spells out GELU, layer normalisation and attention, in 17 it has LayerNormalization.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from effc.frontends import load_program
from effc.ir import Program
from effc.lowering import lower, run_lowered
from effc.targets import find_target
from tests.unit.frontends.architectures import ARCHITECTURES, EXPORTS, Architecture, Export

Array = np.ndarray[Any, Any]

BOUND = 1e-4  # of the output's largest magnitude
LEAST_CHANGE = 0.1  # of the same, between two inputs: what hardly depends on the input cannot show an error


@dataclass(frozen=True)
class Imported:
    """An export as a program, and what onnxruntime says about it.

    Attributes:
        architecture: what was exported.
        program: the import.
        inputs: by name, of each sample alone (batch 1).
        expected: onnxruntime's outputs for each sample, in the graph's order.
    """

    architecture: Architecture
    program: Program
    inputs: list[dict[str, Array]]
    expected: list[list[Array]]


@contextmanager
def attention_in_opset_13() -> Iterator[None]:
    """The legacy exporter knows torch's attention from opset 14 on; what it writes there is opset 13 as well."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.onnx import symbolic_opset14

    name = "aten::scaled_dot_product_attention"
    torch.onnx.register_custom_op_symbolic(name, symbolic_opset14.scaled_dot_product_attention, 13)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.onnx.unregister_custom_op_symbolic(name, 13)  # type: ignore[attr-defined]


def export(architecture: Architecture, how: Export, path: Path) -> list[tuple[torch.Tensor, ...]]:
    """Write the file; returns two samples of inputs. Skips where torchvision is missing or torch's exporter refuses."""
    try:
        network = architecture.network()
    except ImportError as error:
        pytest.skip(f"torchvision does not work here: {error}")
    samples = [architecture.inputs(torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    with warnings.catch_warnings(), attention_in_opset_13():
        warnings.simplefilter("ignore")  # deprecations inside torch, the legacy tracer's remarks on constants
        try:
            torch.onnx.export(network, samples[0], str(path), dynamo=how.dynamo, opset_version=how.opset, verbose=False)
        except torch.onnx.OnnxExporterError as error:
            pytest.skip(f"torch's exporter refuses it: {error}")
    return samples


def reference(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1  # the networks are small: more threads only wait for each other
    options.log_severity_level = 3  # initialisers that nothing uses are no news
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def imported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """One export, shared by the tests below, which pytest orders so that each is made once."""
    name, how = request.param
    architecture = ARCHITECTURES[name]
    path = tmp_path_factory.mktemp(name) / "model.onnx"
    samples = export(architecture, EXPORTS[how], path)
    session = reference(path)
    names = [value.name for value in session.get_inputs()]
    inputs = [{name: tensor.numpy() for name, tensor in zip(names, sample, strict=True)} for sample in samples]
    expected = [session.run(None, given) for given in inputs]
    for index, (one, other) in enumerate(zip(*expected, strict=True)):
        change = difference(one, other) if one.dtype.kind == "f" else float((one != other).any())
        assert change >= LEAST_CHANGE, f"output {index} changes by {change:.1e} between two inputs: it would show no error"
    # The import's own comparison is looser, and would hide by how much a wrong result is wrong.
    return Imported(architecture, load_program(path, check_import=False), inputs, expected)


def difference(expected: Array, actual: Array) -> float:
    """Largest difference, relative to the expected output's largest magnitude; infinite where integers differ at all."""
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    if expected.dtype.kind != "f":
        return 0.0 if np.array_equal(expected, actual) else np.inf
    error = np.abs(expected.astype(np.float64) - actual).max() / np.abs(expected).max()
    return float(error) if np.isfinite(error) else np.inf


def differences(expected: list[Array], actual: dict[str, Array]) -> dict[str, float]:
    """`difference` of every output that is over the bound, by name."""
    errors = {name: difference(want, actual[name]) for name, want in zip(actual, expected, strict=True)}
    return {name: error for name, error in errors.items() if error > BOUND}


def run(program: Program, inputs: dict[str, Array]) -> dict[str, Array]:
    results = program.run({name: torch.from_numpy(array) for name, array in inputs.items()})
    return {name: result.detach().numpy() for name, result in results.items()}


def cases(*, lowered: bool) -> list[Any]:
    """(architecture, export) of every export, or of the one that each architecture is lowered from."""
    return [
        pytest.param((name, how), id=f"{name}-{how}", marks=[pytest.mark.slow] if how not in architecture.quick else [])
        for name, architecture in ARCHITECTURES.items()
        for how in EXPORTS
        if how == architecture.lowered or not lowered
    ]


@pytest.mark.parametrize("imported", cases(lowered=False), indirect=True)
def test_the_program_equals_onnxruntime(imported: Imported) -> None:
    for given, expected in zip(imported.inputs, imported.expected, strict=True):
        wrong = differences(expected, run(imported.program, given))
        assert not wrong, f"relative to the largest magnitude: {wrong}"


@pytest.mark.parametrize("imported", cases(lowered=False), indirect=True)
def test_a_symbolic_batch_holds_for_the_samples_together(imported: Imported) -> None:
    batch = imported.program.interface.batch
    assert batch.symbolic or not imported.architecture.batched, batch.reason
    if not batch.symbolic:
        return
    together = run(imported.program, {name: np.concatenate([given[name] for given in imported.inputs]) for name in imported.inputs[0]})
    for i, expected in enumerate(imported.expected):
        wrong = differences(expected, {name: array[i : i + 1] for name, array in together.items()})
        assert not wrong, f"sample {i}, relative to the largest magnitude: {wrong}"


@pytest.mark.parametrize("imported", cases(lowered=True), indirect=True)
def test_the_machine_code_equals_onnxruntime(imported: Imported) -> None:
    lowered = lower(imported.program, find_target("cpu"))
    for given, expected in zip(imported.inputs, imported.expected, strict=True):
        wrong = differences(expected, run_lowered(lowered, imported.program, given))
        assert not wrong, f"relative to the largest magnitude: {wrong}"
