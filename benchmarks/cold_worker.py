"""An engine with many copies of its model, each used in turn: weights that were read a moment ago are not in a cache when they are needed.

In a large network the other layers' weights push a layer's out of the caches between two calls; a layer timed alone, again and again,
would find them there.
"""

from __future__ import annotations

import argparse
import itertools
import sys

from effc.compiler.peers import onnxruntime_worker
from effc.frontends.onnx.onnxruntime import import_onnxruntime
from effc.runtime.bench_worker import Engine, arguments, serve
from effc.runtime.session import load
from effc.runtime.tensors import Array

__all__ = ["main"]


def main() -> int:
    """Answer `effc.runtime.bench.compare_engines`."""
    parser = arguments("time copies of a model in turn", "model")
    parser.add_argument("--engine", choices=("effc", "onnxruntime"), required=True)
    parser.add_argument("--copies", type=int, required=True)
    options = parser.parse_args()
    return serve(options, lambda: _rotating(options))


def _rotating(options: argparse.Namespace) -> Engine:
    if options.engine == "onnxruntime":  # one pool of threads: those of engines that wait would spin, and take the others' time
        import_onnxruntime().set_global_thread_pool_sizes(options.threads, 1)
    one = _effc if options.engine == "effc" else _onnxruntime
    engines = [one(options) for _ in range(options.copies)]
    turn = itertools.cycle([engine.run for engine in engines])

    def run(inputs: dict[str, Array]) -> object:
        return next(turn)(inputs)

    return Engine(engines[0].name, {**engines[0].settings, "copies": options.copies}, run)


def _effc(options: argparse.Namespace) -> Engine:
    session = load(options.model, threads=options.threads)
    return Engine(f"effc {session.manifest.data['versions'].get('effc', '')}", {"executor": session.manifest.executor}, session.run)


def _onnxruntime(options: argparse.Namespace) -> Engine:
    return onnxruntime_worker.start(options.model, options.threads, options.inputs, one_pool=True)


if __name__ == "__main__":
    sys.exit(main())
