"""A network of `dense_cpu` as the torch module that it is: eager, or compiled by inductor with `--compiled`.

The peers `torch` and `torch_compile` run what effc's frontends read, where in-place operators are gone; eager torch is fastest as written.
"""

from __future__ import annotations

import shutil
import sys

from benchmarks.dense_networks import NETWORKS
from effc.errors import MissingDependencyError
from effc.runtime.bench_worker import Engine, arguments, serve
from effc.runtime.tensors import Array

__all__ = ["main"]


def main() -> int:
    """Answer `effc.runtime.bench.compare_engines`."""
    parser = arguments("time a torch module", "network")
    parser.add_argument("--compiled", action="store_true")
    options = parser.parse_args()
    return serve(options, lambda: _start(options.network, options.threads, compiled=options.compiled))


def _start(name: str, threads: int, *, compiled: bool) -> Engine:
    import torch

    torch.set_num_threads(threads)
    module = NETWORKS[name].source()
    if compiled:
        if not any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++")):
            raise MissingDependencyError("torch.compile needs a C++ compiler (g++ or clang++) on the PATH")
        module = torch.compile(module, mode="max-autotune", dynamic=False)

    def run(arrays: dict[str, Array]) -> object:
        with torch.inference_mode():
            return module(*(torch.from_numpy(array) for array in arrays.values()))

    mode = "torch.compile max-autotune" if compiled else "eager"
    return Engine(f"torch {torch.__version__}", {"mode": mode, "inference_mode": True, "network": "the module itself"}, run)


if __name__ == "__main__":
    sys.exit(main())
