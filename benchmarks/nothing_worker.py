"""An engine that computes nothing: what the harness itself costs."""

from __future__ import annotations

import sys

from effc.runtime.bench_worker import Engine, arguments, serve

__all__ = ["main"]


def main() -> int:
    """Answer `effc.runtime.bench.compare_engines`."""
    options = arguments("time nothing", "model").parse_args()
    return serve(options, lambda: Engine("nothing", {}, lambda inputs: None))


if __name__ == "__main__":
    sys.exit(main())
