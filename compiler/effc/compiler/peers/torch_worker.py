"""torch's eager mode on a model that effc's frontends read."""

from __future__ import annotations

import sys

from effc.errors import DataError
from effc.runtime.bench_worker import Engine, arguments, serve
from effc.runtime.tensors import Array

__all__ = ["main"]


def _start(path: str, threads: int) -> Engine:
    import torch

    from effc.frontends import load_program

    torch.set_num_threads(threads)
    program = load_program(path)
    module = program.exported.module()
    names = [value.name for value in program.interface.inputs]

    def run(inputs: dict[str, Array]) -> object:
        missing = [name for name in names if name not in inputs]
        if missing:
            raise DataError(f"inputs {missing} are missing")
        with torch.inference_mode():
            return module(*(torch.from_numpy(inputs[name]) for name in names))

    return Engine(f"torch {torch.__version__} eager", {"mode": "inference_mode"}, run)


def main() -> int:
    """Answer `effc.runtime.bench.compare_engines`."""
    options = arguments("time torch", "model").parse_args()
    return serve(options, lambda: _start(options.model, options.threads))


if __name__ == "__main__":
    sys.exit(main())
