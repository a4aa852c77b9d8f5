"""Decoding in a process of its own: one call is one greedy token, the text begins anew when the caches are full."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

from benchmarks.decoding import BEGIN, NETWORKS, Decode, effc_engine, onnxruntime_engine, torch_engine
from effc.errors import DataError
from effc.runtime.bench_worker import Engine, arguments, serve
from effc.runtime.tensors import Array

__all__ = ["main"]

_PACKAGES = {"effc": "effc", "torch": "torch", "onnxruntime": "onnxruntime"}


def main() -> int:
    """Answer `effc.runtime.bench.compare_engines`."""
    parser = arguments("time an engine that decodes", "model")
    parser.add_argument("--engine", choices=tuple(_PACKAGES), required=True, help="what the model is: an artifact, a network, an ONNX file")
    parser.add_argument("--positions", type=int, required=True, help="tokens of one text")
    options = parser.parse_args()
    return serve(options, lambda: _start(options.engine, options.model, options.threads, options.positions))


def _start(engine: str, model: str, threads: int, positions: int) -> Engine:
    decode = _decode(engine, model, threads)
    token, position = BEGIN, 0

    def run(inputs: dict[str, Array]) -> None:
        nonlocal token, position
        token = int(decode(token, position).argmax())
        position += 1
        if position == positions:
            token, position = BEGIN, 0

    return Engine(f"{engine} {metadata.version(_PACKAGES[engine])}", {"states": "inside the engine", "choice": "greedy, timed"}, run)


def _decode(engine: str, model: str, threads: int) -> Decode:
    if engine == "effc":
        return effc_engine(Path(model), threads)
    if engine == "onnxruntime":
        return onnxruntime_engine(Path(model), threads)
    import torch

    torch.set_num_threads(threads)
    weights = NETWORKS[model]()
    if weights is None:
        raise DataError(f"the weights of {model} are missing in $EFFC_DATA")
    return torch_engine(weights)


if __name__ == "__main__":
    sys.exit(main())
