"""How code for a GPU is tried: on a GPU of this machine where one fits; else its CUDA C runs on the CPU; a large model is rehearsed.

What the CPU runs is the text that nvcc compiled, launch by launch, with the arena, the addresses and the order that the device gets; the
threads of a block run in ascending order, and for the second time in descending order, which must give the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from effc.compiler.crosscheck import SelfTestRun
from effc.compiler.scratch import scratch_folder
from effc.errors import MissingDependencyError, Problem, VerificationError
from effc.lowering import Lowered
from effc.lowering.cuda.emulation import EmulatedDriver, Emulation, host_compiler
from effc.runtime import Session, open_artifact, write_artifact
from effc.runtime.cuda.driver import fits
from effc.runtime.cuda.executor import CudaExecutor
from effc.runtime.cuda.libcuda import devices
from effc.runtime.manifest import Manifest, TensorSpec
from effc.runtime.tensors import Array
from effc.runtime.verify import compare

__all__ = ["emulated", "gpu_here"]

_MOST_WORK = 3e8  # multiply-accumulates that a CPU emulates in half a minute
_FRAMES = 3  # of a clip: one that is computed whole, and two that are not


def gpu_here(architecture: str) -> bool:
    """Whether this machine has a GPU that runs code of an architecture."""
    try:
        return any(fits(architecture, capability) for _, capability in devices())
    except MissingDependencyError:
        return False


def emulated(files: Mapping[str, bytes], fields: Mapping[str, Any], lowered: Lowered) -> SelfTestRun | None:
    """Run the golden vectors on this machine's CPU; None without a C++ compiler, or where that would take long.

    Args:
        files, fields: of the artifact.
        lowered: its code.

    Raises:
        VerificationError: an output is further from the program's than float32 sums in another order explain, or depends on the order in
            which threads run.
    """
    plan = lowered.plan
    command = host_compiler()
    if plan is None or command is None:
        return None
    calls = int(_MOST_WORK // max(1, 2 * sum(step.macs for step in plan.steps)))
    if not calls:
        return None
    with scratch_folder() as folder:
        write_artifact(folder / "artifact", files, fields)
        artifact = open_artifact(folder / "artifact")
        inputs, expected = _samples(artifact.manifest, *artifact.golden(), calls)
        names = [[spec.name for spec in specs] for specs in (artifact.manifest.code_inputs, artifact.manifest.code_outputs)]
        emulation = Emulation(lowered.source)
        results = []
        for descending in (False, True):
            driver = EmulatedDriver(emulation, descending)
            executor = CudaExecutor(plan, names[0], names[1], artifact.parameters(), lowered.code, driver)
            results.append(Session(artifact, executor=executor).run(inputs))
    found = compare(results[0], expected)
    wrong = [one for one in found.differences if not one.within(found.tolerance)]
    if wrong:
        raise VerificationError(
            f"the CUDA code, run on this machine's CPU, differs from the program by more than {found.tolerance:g} of the largest magnitude",
            [Problem(f"output {one.name}", f"{one.relative:.3g} at {one.index}", one.reason or "is too far off") for one in wrong],
        )
    racing = [name for name, array in results[0].items() if array.tobytes() != results[1][name].tobytes()]
    if racing:
        why = "changes with the order in which the threads of a block run"
        raise VerificationError("the CUDA code lacks a barrier", [Problem(f"output {name}", "its bits", why) for name in racing])
    return SelfTestRun(
        "this machine's CPU in the place of a GPU", " ".join(f"PASS {one.name} {one.relative:.1e}" for one in found.differences)
    )


def _samples(
    manifest: Manifest, inputs: Mapping[str, Array], outputs: Mapping[str, Array], calls: int
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The first golden samples, as many as so many calls take."""
    if not (manifest.streams or manifest.symbolic_batch):
        return dict(inputs), dict(outputs)
    count = min(_FRAMES, calls) if manifest.streams else calls * manifest.batch

    def part(arrays: Mapping[str, Array], specs: tuple[TensorSpec, ...]) -> dict[str, Array]:
        axis = {spec.name for spec in specs if spec.batched or (manifest.streams and spec.shape[:1] == (1,))}
        return {name: np.ascontiguousarray(array[:count]) if name in axis else array for name, array in arrays.items()}

    return part(inputs, manifest.inputs), part(outputs, manifest.outputs)
