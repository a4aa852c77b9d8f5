"""Run a command of effc in this process, and print the most memory that it used: `python -m benchmarks.peak faultsim ...`."""

from __future__ import annotations

import json
import resource
import sys

__all__ = ["main"]


def main() -> int:
    """The command's output, then one JSON line. The exit status is the command's."""
    from effc.cli.main import cli

    code: object = 0
    try:
        cli.main(sys.argv[1:], prog_name="effc")
    except SystemExit as stop:
        code = stop.code
    print(json.dumps({"peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
