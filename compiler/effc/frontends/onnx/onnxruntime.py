"""onnxruntime, imported so that it stays quiet: from 1.32 on it reports its use over the network unless it is told not to."""

from __future__ import annotations

import os
from typing import Any

__all__ = ["import_onnxruntime"]

_SWITCH = "ORT_DISABLE_TELEMETRY"  # `disable_telemetry_events()` comes too late: importing the package opens the store


def import_onnxruntime() -> Any:
    """The module `onnxruntime`, its telemetry off (also where the environment says otherwise). Raises ImportError without it."""
    os.environ[_SWITCH] = "1"
    import onnxruntime

    return onnxruntime
