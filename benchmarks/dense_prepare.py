"""Compile one network in a process of its own, so that the time and the peak of memory are its own, and write what its peers run.

    python -m benchmarks.dense_prepare NAME FOLDER --batch 8 --threads 2

leaves FOLDER/artifact and FOLDER/model.onnx, and says on stdout, in JSON, what that took and how near the outputs are to onnxruntime's."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.dense_child import answer, peak_bytes
from benchmarks.dense_networks import NETWORKS, write_onnx
from benchmarks.models import onnxruntime_reference, random_inputs
from effc.runtime import Session, load
from effc.runtime.verify import compare

__all__ = ["ARTIFACT", "ONNX"]

ARTIFACT, ONNX = "artifact", "model.onnx"
_SAMPLES = 2  # random inputs for the error


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=NETWORKS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    return answer(lambda: _prepared(options.name, options.folder, options.batch, options.threads))


def _prepared(name: str, folder: Path, batch: int, threads: int) -> dict[str, Any]:
    from effc.compiler import compile_model

    network = NETWORKS[name]
    source = network.source()
    examples = () if isinstance(source, Path) else network.example(batch)
    settings: dict[str, Any] = {"example_inputs": examples} if examples else {}
    weights = _weight_bytes(source)
    started = time.monotonic()
    result = compile_model(source, folder / ARTIFACT, batch=batch, target=network.target, **settings)
    facts = {"compile s": time.monotonic() - started, "peak GiB": peak_bytes() / 2**30}
    session = load(folder / ARTIFACT, threads=threads)
    inputs, outputs = [spec.name for spec in session.inputs], [spec.name for spec in session.outputs]
    write_onnx(source, folder / ONNX, examples, batch, inputs, outputs)
    facts |= _sizes(session, result.program, weights)
    facts |= _errors(session, folder / ONNX) if network.group != "int8" else {}
    facts["executor"] = session.manifest.executor
    plan = session.manifest.plan
    specs = [{"name": spec.name, "shape": spec.shape, "dtype": spec.dtype} for spec in session.inputs]
    macs = sum(step.macs for step in plan.steps) if plan is not None else None
    thread_seconds = result.trial.call / 1e9 * result.trial.threads if result.trial is not None else 0.0
    return {"facts": facts, "inputs": specs, "macs": macs, "thread seconds": thread_seconds}


def _weight_bytes(source: Any) -> int:
    """What the source stores of floats: parameters and buffers of a module, initialisers and constants of a file."""
    if isinstance(source, Path):
        import onnx
        from onnx import numpy_helper

        graph = onnx.load(source).graph
        attributes = [attribute for node in graph.node if node.op_type == "Constant" for attribute in node.attribute]
        constants = [attribute.t for attribute in attributes if attribute.name == "value"]
        return sum(numpy_helper.to_array(tensor).nbytes for tensor in (*graph.initializer, *constants))
    return sum(tensor.nbytes for tensor in source.state_dict().values() if tensor.is_floating_point())


def _sizes(session: Session, program: Any, weights: int) -> dict[str, Any]:
    """Bytes of code and parameters beside the source's weights, and their share without what is listed apart: by how much Winograd's
    transformed weights are larger than those they stand for, and the zeros that fill up blocks of channels.
    """
    manifest = session.manifest
    code, parameters = manifest.files["model.so"].bytes, manifest.files["params.safetensors"].bytes
    sizes = {"weights MB": weights / 1e6, "code MB": code / 1e6, "parameters MB": parameters / 1e6}
    sizes["both of weights"] = (code + parameters) / weights
    if manifest.plan is None:
        return sizes
    stored = {buffer.name: buffer for buffer in manifest.plan.in_room("parameter")}
    original = {program.tensor_names.get(name, name): tensor.nbytes for name, tensor in program.tensors.items()}
    copies = padding = 0
    for family, name in {(step.family, name) for step in manifest.plan.steps for name in step.reads if name in stored}:
        source = manifest.parameters[name]
        if source.source in original and family == "winograd" and source.kind == "transformed" and len(stored[name].shape) == 4:
            copies += stored[name].size - original[source.source]
        elif source.source in original and source.kind == "packed":
            padding += stored[name].size - original[source.source]
    apart = {"Winograd copies MB": copies / 1e6, "padding MB": padding / 1e6}
    return sizes | apart | {"rest of weights": (code + parameters - copies - padding) / weights}


def _errors(session: Session, path: Path) -> dict[str, Any]:
    """How far the outputs are from onnxruntime's without optimisations, and how far those of another input would be."""
    reference = onnxruntime_reference(path)
    inputs = [random_inputs(session.inputs, seed) for seed in range(_SAMPLES)]
    expected = [reference(one) for one in inputs]
    worst = max(compare(session.run(one), want).worst for one, want in zip(inputs, expected, strict=True))
    return {"error": worst, "of another input": compare(expected[1], expected[0]).worst}


if __name__ == "__main__":
    sys.exit(main())
