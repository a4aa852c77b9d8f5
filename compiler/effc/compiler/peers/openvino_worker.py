"""OpenVINO tuned for the latency of one stream, in float32."""

from __future__ import annotations

import sys

from effc.errors import InputRejectedError, MissingDependencyError
from effc.runtime.bench_worker import Engine, arguments, serve

__all__ = ["main"]


def _start(path: str, threads: int) -> Engine:
    try:
        import openvino
    except ImportError as error:
        raise MissingDependencyError(f"{error}; pip install 'effc[peers]'") from error
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    core = openvino.Core()
    try:
        compiled = core.compile_model(core.read_model(path), "CPU", settings)
    except RuntimeError as error:
        raise InputRejectedError(f"OpenVINO refuses {path}: {error}") from error
    request = compiled.create_infer_request()
    return Engine(f"openvino {openvino.__version__}", settings, request.infer)


def main() -> int:
    """Answer `effc.runtime.bench.compare_engines`."""
    options = arguments("time OpenVINO", "model").parse_args()
    return serve(options, lambda: _start(options.model, options.threads))


if __name__ == "__main__":
    sys.exit(main())
