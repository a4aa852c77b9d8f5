"""Cycles that SCALE-Sim (`pip install scalesim`, https://github.com/scalesim-project/SCALE-Sim) finds for layers, in a process of its own.

It reads JSON from stdin and writes JSON to stdout:

    {"rows": 32, "columns": 32, "dataflow": "ws",
     "layers": [[name, height, width, kernel height, kernel width, channels, filters, stride], ...]}
    {"version": "3.0.0", "cycles": [...]}

Heights and widths are those of the padded input, as far as windows reach: SCALE-Sim rounds a window that does not fit up. Its memories are
so large, and their bandwidth is what the array asks for, that the array never waits. It reports the number of the last cycle, counted from
0.

SCALE-Sim 3.0.0 calls `int()` with an array of one element, which numpy refuses since 2.4. In that one module `max` gives a number instead.
"""

from __future__ import annotations

import builtins
import contextlib
import json
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["main"]

_CONFIGURATION = """\
[general]
run_name = run
[architecture_presets]
ArrayHeight: {rows}
ArrayWidth: {columns}
IfmapSramSzkB: 65536
FilterSramSzkB: 65536
OfmapSramSzkB: 65536
IfmapOffset: 0
FilterOffset: 100000000
OfmapOffset: 200000000
Bandwidth: 10
Dataflow: {dataflow}
MemoryBanks: 1
ReadRequestBuffer: 64
WriteRequestBuffer: 64
[layout]
IfmapCustomLayout: False
IfmapSRAMBankBandwidth: 10
IfmapSRAMBankNum: 10
IfmapSRAMBankPort: 2
FilterCustomLayout: False
FilterSRAMBankBandwidth: 10
FilterSRAMBankNum: 10
FilterSRAMBankPort: 2
[sparsity]
SparsitySupport: false
SparseRep: ellpack_block
OptimizedMapping: false
BlockSize: 8
RandomNumberGeneratorSeed: 40
[run_presets]
InterfaceBandwidth: CALC
UseRamulatorTrace: False
"""
_LAYOUT = ",1,1,1,1,1,1,0,1,2,0,1,2,0,1,2,3,0,1,2,3,"  # of one layer; unused without custom layouts, but read


def main() -> int:
    """Run what stdin asks for."""
    import numpy as np
    from scalesim.memory import double_buffered_scratchpad_mem as memory
    from scalesim.scale_sim import scalesim

    memory.max = lambda *values: np.asarray(builtins.max(*values)).reshape(-1)[0]
    asked: dict[str, Any] = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(sys.stderr):
        folder = Path(scratch)
        (folder / "array.cfg").write_text(_CONFIGURATION.format(**{name: asked[name] for name in ("rows", "columns", "dataflow")}))
        rows = ["name,height,width,kernel height,kernel width,channels,filters,stride,"]
        (folder / "layers.csv").write_text("\n".join([*rows, *(",".join(map(str, layer)) + "," for layer in asked["layers"])]) + "\n")
        (folder / "layout.csv").write_text("\n".join(["layout,", *(f"{layer[0]}{_LAYOUT}" for layer in asked["layers"])]) + "\n")
        files = {name: str(folder / file) for name, file in (("config", "array.cfg"), ("topology", "layers.csv"), ("layout", "layout.csv"))}
        scalesim(save_disk_space=True, verbose=False, **files).run_scale(top_path=str(folder / "out"))
        lines = (folder / "out" / "run" / "COMPUTE_REPORT.csv").read_text().splitlines()
    column = [cell.strip() for cell in lines[0].split(",")].index("Total Cycles")
    cycles = [int(float(line.split(",")[column])) for line in lines[1:]]
    print(json.dumps({"version": metadata.version("scalesim"), "cycles": cycles}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
