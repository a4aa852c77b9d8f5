"""An artifact's executor on the GPU of this machine."""

from __future__ import annotations

from effc.errors import AlteredArtifactError, DataError, MissingDependencyError
from effc.runtime.artifact import Artifact
from effc.runtime.cuda.executor import CUBIN, CudaExecutor
from effc.runtime.cuda.libcuda import LIBRARY, LibCuda

__all__ = ["cuda_executor"]


def cuda_executor(artifact: Artifact, library: str = LIBRARY) -> CudaExecutor:
    """Load an artifact's code onto the first GPU that runs it.

    Args:
        artifact: of a target `cuda:sm_...`.
        library: the driver's name or path.

    Raises:
        MissingDependencyError: no driver, no GPU. DataError: only GPUs of other architectures.
        AlteredArtifactError: the artifact holds no cubin.
    """
    manifest = artifact.manifest
    target = manifest.data["target"]
    plan, architecture = manifest.plan, str(target.get("cpu", ""))
    if plan is None or CUBIN not in manifest.files or not architecture.removeprefix("sm_").isdigit() or len(architecture) < len("sm_10"):
        raise AlteredArtifactError(f"{artifact.path} holds no {CUBIN} for an architecture of NVIDIA's, although its executor is cuda")
    try:
        driver = LibCuda(architecture, library)
    except (MissingDependencyError, DataError) as error:
        raise type(error)(f"{artifact.path} was compiled for {target.get('name')}: {error.message}") from error
    inputs, outputs = [spec.name for spec in manifest.code_inputs], [spec.name for spec in manifest.code_outputs]
    return CudaExecutor(plan, inputs, outputs, artifact.parameters(), artifact.read(CUBIN), driver)
