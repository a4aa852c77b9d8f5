"""What comparing the outputs of artifacts, programs and sources shares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from effc.compiler.verdict import is_exact
from effc.data import Dataset
from effc.ir import Program
from effc.runtime import Artifact
from effc.runtime.manifest import Manifest, TensorSpec
from effc.runtime.tensors import Array, unpack_npz
from effc.runtime.verify import compare

__all__ = ["BATCH", "first_divergence", "is_own_source", "joined", "parts_of", "samples_in", "top1"]

BATCH = 64  # samples of one run of a program


def first_divergence(artifact: Artifact, expected: Mapping[str, Array], specs: list[str]) -> tuple[str, bool]:
    """The first step whose golden outputs are not the source's, and whether everything up to there promised to be exact."""
    for name in artifact.checks():
        recorded = unpack_npz(artifact.read(name))
        outputs = {key.removeprefix("output/"): array for key, array in recorded.items()}
        if compare(outputs, expected).passed:
            continue
        index = int(Path(name).stem.split("-")[0])
        if index == 0:
            return "the import of the source (is it the model that was compiled?)", True
        return specs[index - 1], all(map(is_exact, specs[:index]))
    return "", True


def is_own_source(artifact: Artifact, original: Program | None) -> bool:
    """Whether a source is the file that was compiled; True without one, and where that is not known."""
    compiled = artifact.manifest.data["source"]["sha256"]
    return original is None or not compiled or original.provenance.sha256 == compiled


def samples_in(manifest: Manifest, arrays: Mapping[str, Array], specs: Sequence[TensorSpec]) -> int:
    """How many samples, or frames of a clip, arrays hold; those of a call where they have no axis of samples."""
    streams = any(state.resident for state in manifest.states)
    batched = [len(arrays[spec.name]) for spec in specs if spec.name in arrays and (spec.batched or streams) and arrays[spec.name].ndim]
    return batched[0] if batched else manifest.batch


def joined(parts: list[dict[str, Array]]) -> dict[str, Array]:
    """The outputs of several runs, one after the other."""
    return {name: np.concatenate([np.atleast_1d(part[name]) for part in parts]) for name in parts[0]}


def parts_of(program: Program, dataset: Dataset) -> Iterator[Dataset]:
    """What goes into one run: some samples; for a streaming program all of them, which are one clip."""
    return iter([dataset]) if program.interface.resident else dataset.batches(BATCH)


def top1(outputs: Mapping[str, Array], reference: Mapping[str, Array]) -> float | None:
    """Of the first output, when it looks like scores (N, classes)."""
    name = next(iter(reference))
    left, right = outputs.get(name), reference[name]
    if left is None or right.ndim != 2 or right.shape[1] < 2 or left.shape != right.shape:
        return None
    return float(np.mean(left.argmax(1) == right.argmax(1)))
