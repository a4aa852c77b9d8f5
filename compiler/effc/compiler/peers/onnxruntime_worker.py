"""onnxruntime's best case: constants foldable, every optimisation on, sequential execution with all threads inside each operator."""

from __future__ import annotations

import sys

from effc.errors import DataError, InputRejectedError, MissingDependencyError
from effc.runtime.bench_worker import Engine, arguments, serve

__all__ = ["main"]


def _start(path: str, threads: int) -> Engine:
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(f"{error}; pip install onnxruntime onnx") from error
    try:
        model = onnx.load(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    constants = {initializer.name for initializer in model.graph.initializer}
    kept = [entry for entry in model.graph.input if entry.name not in constants]
    removed = len(model.graph.input) - len(kept)
    del model.graph.input[:]
    model.graph.input.extend(kept)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    try:
        source = model.SerializeToString() if removed else path
        session = onnxruntime.InferenceSession(source, options, ["CPUExecutionProvider"])
    except Exception as error:
        raise InputRejectedError(f"onnxruntime refuses {path}: {error}") from error
    settings = {"optimisation": "ORT_ENABLE_ALL", "execution": "sequential", "initialisers removed from inputs": removed}
    return Engine(f"onnxruntime {onnxruntime.__version__}", settings, lambda inputs: session.run(None, inputs))


def main() -> int:
    """Answer `effc.runtime.bench.compare_engines`."""
    options = arguments("time onnxruntime", "model").parse_args()
    return serve(options, lambda: _start(options.model, options.threads))


if __name__ == "__main__":
    sys.exit(main())
