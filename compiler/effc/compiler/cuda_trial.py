"""How code for a GPU is tried: on a GPU of this machine where one fits; else its CUDA C runs on the CPU; a large model is rehearsed.

What the CPU runs is the text that nvcc compiled, launch by launch, with the arena, the addresses and the order that the device gets; the
threads of a block run in ascending order, and for the second time in descending order, which must give the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from effc.compiler.comparing import samples_in
from effc.compiler.crosscheck import SelfTestRun
from effc.compiler.differences import refuse_differences
from effc.compiler.resets import check_resets
from effc.compiler.scratch import scratch_folder
from effc.errors import MissingDependencyError, Problem, VerificationError
from effc.ir import Program
from effc.lowering.cuda.emulation import EmulatedDriver, Emulation, host_compiler
from effc.runtime import Artifact, Session, Verification, open_artifact, write_artifact
from effc.runtime.cuda.driver import fits
from effc.runtime.cuda.executor import CUBIN, SOURCE, CudaExecutor
from effc.runtime.cuda.libcuda import devices
from effc.runtime.manifest import Manifest, TensorSpec
from effc.runtime.plan import Plan
from effc.runtime.tensors import Array
from effc.runtime.verify import compare

__all__ = ["OnCpu", "cannot_emulate", "emulated", "gpu_here", "run_on_cpu"]

_MOST_WORK = 3e8  # multiply-accumulates that a CPU emulates in half a minute
_FRAMES = 3  # of a clip: one that is computed whole, and two that are not
_CLIP = 11  # frames of the clip of `check_resets`, which go through the code twice
_FEWEST_FRAMES = 2  # fewer would leave the code untried that is there for frames which are not computed whole


def gpu_here(architecture: str) -> bool:
    """Whether this machine has a GPU that runs code of an architecture."""
    try:
        return any(fits(architecture, capability) for _, capability in devices())
    except MissingDependencyError:
        return False


@dataclass(frozen=True)
class OnCpu:
    """What the CUDA C computes on this machine's CPU.

    Attributes:
        golden: beside the golden outputs. samples: how many of them.
        resets: a stream beside the same frames with a reset before each, where that must give the same bits and does not take long.
    """

    golden: Verification
    samples: int
    resets: Verification | None


def emulated(files: Mapping[str, bytes], fields: Mapping[str, Any], program: Program) -> SelfTestRun | None:
    """Run the golden vectors of an artifact that is not written yet on this machine's CPU; None where that `cannot_emulate`.

    Args:
        files, fields: of the artifact.
        program: what its code was made from.

    Raises:
        VerificationError: an output is further from the program's than float32 sums in another order explain, or depends on the order in
            which threads run; or frames of a stream are not those that are computed whole, though nothing is truncated.
    """
    with scratch_folder() as folder:
        write_artifact(folder / "artifact", files, fields)
        artifact = open_artifact(folder / "artifact")
        if cannot_emulate(artifact):
            return None
        found = run_on_cpu(artifact, program)
    code = "the CUDA code, run on this machine's CPU,"
    refuse_differences(found.golden, f"{code} differs from the program by more than {found.golden.tolerance:g} of the largest magnitude")
    if found.resets is not None:
        refuse_differences(found.resets, f"{code} gives other frames of a stream than after a reset, which must have the same bits")
    return SelfTestRun(
        "this machine's CPU in the place of a GPU", " ".join(f"PASS {one.name} {one.relative:.1e}" for one in found.golden.differences)
    )


def cannot_emulate(artifact: Artifact) -> str:
    """Why a CPU does not run the CUDA code of an artifact; empty where it does."""
    plan = artifact.manifest.plan
    if plan is None or SOURCE not in artifact.manifest.files:
        return f"it holds no {SOURCE}"
    if host_compiler() is None:
        return "there is no C++ compiler (g++) here"
    fewest = _FEWEST_FRAMES if artifact.manifest.streams else 1
    if _affordable(plan) >= fewest:
        return ""
    what = (
        f"{fewest} frames of over {_MOST_WORK / 2 / fewest:,.0f}" if artifact.manifest.streams else f"a call of over {_MOST_WORK / 2:,.0f}"
    )
    return f"{what} multiply-accumulates takes too long there"


def run_on_cpu(artifact: Artifact, program: Program) -> OnCpu:
    """Run the CUDA code of an artifact that a CPU can emulate; `program` is what it was made from.

    Raises:
        VerificationError: a result depends on the order in which the threads of a block run.
    """
    manifest, source = artifact.manifest, artifact.read(SOURCE).decode()
    assert manifest.plan is not None  # `cannot_emulate`
    inputs, expected = _samples(manifest, *artifact.golden(), _affordable(manifest.plan))
    names = [[spec.name for spec in specs] for specs in (manifest.code_inputs, manifest.code_outputs)]
    emulation = Emulation(source)
    sessions = []
    for descending in (False, True):
        driver = EmulatedDriver(emulation, descending)
        executor = CudaExecutor(manifest.plan, names[0], names[1], artifact.parameters(), artifact.read(CUBIN), driver)
        sessions.append(Session(artifact, executor=executor))
    first, second = (session.run(inputs) for session in sessions)
    racing = [name for name, array in first.items() if array.tobytes() != second[name].tobytes()]
    if racing:
        why = "changes with the order in which the threads of a block run"
        raise VerificationError("the CUDA code lacks a barrier", [Problem(f"output {name}", "its bits", why) for name in racing])
    samples = samples_in(manifest, inputs, manifest.frame_inputs)
    resets = check_resets(sessions[0], program, inputs) if _affordable(manifest.plan) >= _CLIP else None
    return OnCpu(compare(first, expected), samples, resets)


def _affordable(plan: Plan) -> int:
    """Calls, once for each order of threads."""
    return int(_MOST_WORK // max(1, 2 * sum(step.macs for step in plan.steps)))


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
