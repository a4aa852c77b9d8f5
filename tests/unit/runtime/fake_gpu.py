"""A machine with a GPU that there is not: what tests of the driver share; the fixtures are in `gpu_fixtures.py`."""

from __future__ import annotations

from pathlib import Path

from effc.runtime import Session
from effc.runtime.artifact import Artifact
from effc.runtime.cuda.loading import cuda_executor

DIGITS = Path(__file__).parents[3] / "examples" / "digits.onnx"
LAUNCHED, INSTANTIATED, REPLAYED, UPLOADED, BLOCKS, GRAPHS, RECORDED = range(7)  # what `fake_count` counts


def session(artifact: Artifact, driver: str) -> Session:
    return Session(artifact, executor=cuda_executor(artifact, driver))
