"""onnxruntime's best case: constants foldable, every optimisation on, sequential execution with all threads inside each operator."""

from __future__ import annotations

import sys
from typing import Any

from effc.compiler.peers.fitting import Taken, first_line, refuse_unfit
from effc.errors import DataError, InputRejectedError, MissingDependencyError
from effc.frontends.onnx.onnxruntime import import_onnxruntime
from effc.runtime.bench_worker import Engine, arguments, serve
from effc.runtime.tensors import Array

__all__ = ["main", "start"]

_DTYPES = {"float": "float32", "double": "float64"}  # onnxruntime's names where they are not numpy's


def start(path: str, threads: int, inputs: str, *, one_pool: bool = False) -> Engine:
    """onnxruntime with the model of a file.

    Args:
        path: an ONNX file.
        threads: inside each operator.
        inputs: what it will be called with, as JSON.
        one_pool: whether it uses the threads of the process, which `set_global_thread_pool_sizes` made, and none of its own.

    Raises:
        EffcError: the file cannot be run, or takes other inputs.
    """
    try:
        import onnx

        onnxruntime = import_onnxruntime()
    except ImportError as error:
        raise MissingDependencyError(f"{error}; pip install onnxruntime onnx") from error
    try:
        model = onnx.load(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # protobuf's own class, and onnx's for tensors in other files
        raise InputRejectedError(f"{path} is not a sound ONNX file: {first_line(error)}") from error
    constants = {initializer.name for initializer in model.graph.initializer}
    kept = [entry for entry in model.graph.input if entry.name not in constants]
    removed = len(model.graph.input) - len(kept)
    del model.graph.input[:]
    model.graph.input.extend(kept)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    if one_pool:
        options.use_per_session_threads = False
    else:
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    try:
        source = model.SerializeToString() if removed else path
        session = onnxruntime.InferenceSession(source, options, ["CPUExecutionProvider"])
    except Exception as error:
        raise InputRejectedError(f"onnxruntime refuses {path}: {first_line(error)}") from error
    refuse_unfit(path, [_taken(value) for value in session.get_inputs()], inputs)

    def run(arrays: dict[str, Array]) -> object:
        try:
            return session.run(None, arrays)
        except Exception as error:
            raise InputRejectedError(f"onnxruntime cannot run {path}: {first_line(error)}") from error

    settings = {"optimisation": "ORT_ENABLE_ALL", "execution": "sequential", "initialisers removed from inputs": removed}
    return Engine(f"onnxruntime {onnxruntime.__version__}", settings, run)


def _taken(value: Any) -> Taken:
    inner = value.type.removeprefix("tensor(").removesuffix(")")
    return Taken(value.name, tuple(size if isinstance(size, int) else None for size in value.shape), _DTYPES.get(inner, inner))


def main() -> int:
    """Answer `effc.runtime.bench.compare_engines`."""
    options = arguments("time onnxruntime", "model").parse_args()
    return serve(options, lambda: start(options.model, options.threads, options.inputs))


if __name__ == "__main__":
    sys.exit(main())
