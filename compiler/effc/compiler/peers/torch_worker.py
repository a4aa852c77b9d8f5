"""torch on a model that effc's frontends read: eager here, compiled in `torch_compile_worker`."""

from __future__ import annotations

import shutil
import sys
from typing import Any

from effc.errors import DataError, MissingDependencyError
from effc.runtime.bench_worker import Engine, arguments, serve
from effc.runtime.tensors import Array

__all__ = ["main", "start"]


def start(path: str, threads: int, *, compiled: bool = False) -> Engine:
    """The engine, with torch.compile where `compiled`."""
    import torch

    from effc.frontends import load_program
    from effc.ir.arrays import to_torch

    torch.set_num_threads(threads)
    program = load_program(path)
    module: Any = program.exported.module()
    if compiled:
        if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
            raise MissingDependencyError("torch.compile needs a C++ compiler (g++ or clang++) on the PATH")
        module = torch.compile(module, mode="max-autotune", dynamic=False)
    names = [value.name for value in program.interface.inputs]

    def run(inputs: dict[str, Array]) -> object:
        missing = [name for name in names if name not in inputs]
        if missing:
            raise DataError(f"inputs {missing} are missing")
        with torch.inference_mode():
            return module(*(to_torch(inputs[name]) for name in names))

    mode = "torch.compile max-autotune" if compiled else "eager"
    return Engine(f"torch {torch.__version__}", {"mode": mode, "inference_mode": True}, run)


def main() -> int:
    """Answer `effc.runtime.bench.compare_engines`."""
    options = arguments("time torch", "model").parse_args()
    return serve(options, lambda: start(options.model, options.threads))


if __name__ == "__main__":
    sys.exit(main())
