"""OpenVINO tuned for the latency of one stream, in float32."""

from __future__ import annotations

import sys
from typing import Any

from effc.compiler.peers.fitting import Taken, first_line, refuse_unfit
from effc.errors import InputRejectedError, MissingDependencyError
from effc.runtime.bench_worker import Engine, arguments, serve
from effc.runtime.tensors import Array

__all__ = ["main"]


def _start(path: str, threads: int, inputs: str) -> Engine:
    try:
        import openvino
    except ImportError as error:
        raise MissingDependencyError(f"{error}; pip install 'effc[peers]'") from error
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    core = openvino.Core()
    try:
        compiled = core.compile_model(core.read_model(path), "CPU", settings)
    except RuntimeError as error:
        raise InputRejectedError(f"OpenVINO refuses {path}: {first_line(error)}") from error
    refuse_unfit(path, [_taken(port) for port in compiled.inputs], inputs)
    request = compiled.create_infer_request()

    def run(arrays: dict[str, Array]) -> object:
        try:
            return request.infer(arrays, share_inputs=True, share_outputs=True)  # no copies
        except RuntimeError as error:
            raise InputRejectedError(f"OpenVINO cannot run {path}: {first_line(error)}") from error

    settings["INFERENCE_NUM_THREADS"] = compiled.get_property("INFERENCE_NUM_THREADS")  # what it took
    return Engine(f"openvino {openvino.__version__}", settings, run)


def _taken(port: Any) -> Taken:
    shape = port.get_partial_shape()
    sizes = None if shape.rank.is_dynamic else tuple(None if size.is_dynamic else size.get_length() for size in shape)
    return Taken(port.get_any_name(), sizes, port.get_element_type().to_dtype().name)


def main() -> int:
    """Answer `effc.runtime.bench.compare_engines`."""
    options = arguments("time OpenVINO", "model").parse_args()
    return serve(options, lambda: _start(options.model, options.threads, options.inputs))


if __name__ == "__main__":
    sys.exit(main())
