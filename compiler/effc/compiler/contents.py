"""What goes into an artifact: its hashed files and the fields of its manifest. The same compile gives the same bytes."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

from effc.compiler.backends import Compiled, backend_of
from effc.compiler.golden import Checks
from effc.compiler.inputs import Inputs
from effc.compiler.settings import Settings
from effc.ir import Program
from effc.ir.storage import save_program
from effc.lowering import Lowered
from effc.lowering.chip import processor
from effc.lowering.onnx import export_onnx
from effc.lowering.tuning import dump_tiles
from effc.runtime.tensors import pack_safetensors
from effc.targets import Target
from effc.targets.rates import STANDARD, dump_rates

__all__ = ["artifact_files", "manifest_fields"]

TUNING, RATES = "tuning.json", "rates.json"
_VERSIONS = {"effc": "effc", "torch": "torch", "onnx": "onnx", "tvm": "apache-tvm"}


def artifact_files(program: Program, lowered: Lowered, target: Target, checks: Checks, settings: Settings) -> dict[str, bytes]:
    """Relative name -> content of every file that the manifest hashes."""
    measured = {TUNING: dump_tiles(lowered.tiles, target).encode()} if lowered.tiles else {}
    decided = {RATES: dump_rates(target.rates, processor(target)).encode()} if target.rates != STANDARD else {}
    used = {"tuning": Path(TUNING) if measured else None, "rates": Path(RATES) if decided else None}
    effective = settings.model_copy(update={**used, "target_package": "" if target.origin is None else str(target.origin.package)})
    files = {
        **backend_of(target).code(Compiled(program, lowered, checks, target)),
        "params.safetensors": pack_safetensors(lowered.parameters),
        "program.pt2": save_program(program),
        "config.toml": effective.as_toml().encode(),
        **measured,
        **decided,
        **checks.files(),
    }
    if "onnx" in settings.emit:
        files["model.onnx"] = export_onnx(program)
    return files


def manifest_fields(program: Program, lowered: Lowered, target: Target, given: Inputs) -> dict[str, Any]:
    """The manifest's fields besides those that `write_artifact` adds."""
    interface = program.interface.as_json()
    origin = program.provenance
    data = {"data": given.data, "eval": given.held_out}
    return {
        "executor": backend_of(target).executor(lowered),
        "inputs": interface["inputs"],
        "outputs": interface["outputs"],
        "states": interface["states"],
        "batch": {"size": lowered.batch, **interface["batch"]},
        "preprocess": None if given.preprocess is None else given.preprocess.as_json(),
        "target": {
            "name": target.name,
            "triple": target.triple,
            "cpu": lowered.cpu,
            "features": list(target.features),
            **_extension(target),
        },
        "passes": list(origin.passes),
        "versions": {name: importlib.metadata.version(package) for name, package in _VERSIONS.items()},
        "source": {"name": origin.source, "format": origin.format, "sha256": origin.sha256},
        "data": {
            **{name: dataset.sha256 for name, dataset in data.items() if dataset is not None},
            **({} if given.initial_sha256 is None else {"init": given.initial_sha256}),
        },
        "parameters": {name: _source(lowered, name) for name in lowered.parameters},
        "plan": None if lowered.plan is None else lowered.plan.as_json(),
        "vm": None if lowered.vm is None else dict(lowered.vm),
        "notes": list(lowered.notes),
    }


def _extension(target: Target) -> dict[str, Any]:
    """What made the code besides effc."""
    origin = target.origin
    if origin is None:
        return {}
    return {"extension": {"name": origin.extension, "package": origin.package.name, "version": origin.package.version}}


def _source(lowered: Lowered, name: str) -> dict[str, Any]:
    source = lowered.sources[name]
    axes = list(source.permutation) if source.kind in ("permutation", "packed") else None
    blocks = [list(block) for block in source.blocks] if source.kind == "packed" else None
    return {"source": source.name or None, "kind": source.kind, "permutation": axes, "blocks": blocks}
