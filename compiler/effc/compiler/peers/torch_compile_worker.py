"""torch.compile (inductor, tuned) on a model that effc's frontends read; needs a C++ compiler."""

from __future__ import annotations

import sys

from effc.compiler.peers.torch_worker import start
from effc.runtime.bench_worker import arguments, serve

__all__ = ["main"]


def main() -> int:
    """Answer `effc.runtime.bench.compare_engines`."""
    options = arguments("time torch.compile", "model").parse_args()
    return serve(options, lambda: start(options.model, options.threads, options.inputs, compiled=True))


if __name__ == "__main__":
    sys.exit(main())
