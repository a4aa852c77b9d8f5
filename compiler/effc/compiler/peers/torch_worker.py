"""torch on a model that effc's frontends read: eager here, compiled in `torch_compile_worker`."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING, Any

from effc.compiler.peers.fitting import Taken, first_line, refuse_unfit
from effc.errors import InputRejectedError, MissingDependencyError
from effc.runtime.bench_worker import Engine, arguments, serve
from effc.runtime.tensors import Array

if TYPE_CHECKING:
    from effc.ir.interface import Value

__all__ = ["main", "start"]


def start(path: str, threads: int, inputs: str, *, compiled: bool = False) -> Engine:
    """The engine, with torch.compile where `compiled`."""
    import torch

    from effc.frontends import load_program
    from effc.ir.arrays import to_torch

    torch.set_num_threads(threads)
    program = load_program(path)
    refuse_unfit(path, [_taken(value) for value in program.interface.inputs], inputs)
    module: Any = program.exported.module()
    if compiled:
        if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
            raise MissingDependencyError("torch.compile needs a C++ compiler (g++ or clang++) on the PATH")
        module = torch.compile(module, mode="max-autotune", dynamic=False)
    names = [value.name for value in program.interface.inputs]

    mode = "torch.compile max-autotune" if compiled else "eager"

    def run(arrays: dict[str, Array]) -> object:
        try:
            with torch.inference_mode():
                return module(*(to_torch(arrays[name]) for name in names))
        except Exception as error:
            raise InputRejectedError(f"torch ({mode}) cannot run {path}: {first_line(error)}") from error

    return Engine(f"torch {torch.__version__}", {"mode": mode, "inference_mode": True}, run)


def _taken(value: Value) -> Taken:
    return Taken(value.name, tuple(size if isinstance(size, int) else None for size in value.shape), value.dtype)


def main() -> int:
    """Answer `effc.runtime.bench.compare_engines`."""
    options = arguments("time torch", "model").parse_args()
    return serve(options, lambda: start(options.model, options.threads, options.inputs))


if __name__ == "__main__":
    sys.exit(main())
