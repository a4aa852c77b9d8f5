"""Run and measure compiled artifacts. Needs numpy and TVM's runtime library, neither torch nor onnx."""

from effc.runtime.activity import FrameActivity, StepActivity
from effc.runtime.artifact import Artifact, open_artifact, preflight, write_artifact
from effc.runtime.manifest import Manifest, StateSpec, TensorSpec
from effc.runtime.session import Session, load
from effc.runtime.stream import Stream
from effc.runtime.verify import Difference, Verification, verify_golden

__all__ = [
    "Artifact",
    "Difference",
    "FrameActivity",
    "Manifest",
    "Session",
    "StateSpec",
    "StepActivity",
    "Stream",
    "TensorSpec",
    "Verification",
    "load",
    "open_artifact",
    "preflight",
    "verify_golden",
    "write_artifact",
]
