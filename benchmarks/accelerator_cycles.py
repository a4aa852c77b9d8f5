"""Dense cycles of `effc model-npu` beside SCALE-Sim's, for every layer of ResNet-18 at 224 x 224, in all stationary dataflows.

Layers of the same shape are simulated once. SCALE-Sim goes through every cycle of every multiplier, so all of it takes some ten minutes.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass

from benchmarks.harness import REPOSITORY, Claim, Outcome
from effc.cost.accelerator import Accelerator, find_accelerator
from effc.cost.accelerator.product import Product
from effc.cost.accelerator.systolic import systolic
from effc.errors import InternalError

__all__ = ["RESNET18", "TABLE", "cycles_part", "scalesim_cycles"]

TABLE = "Cycles of ResNet-18's layers, and SCALE-Sim's"
APART = 0.02
DATAFLOWS = {"weight-stationary": "ws", "output-stationary": "os", "input-stationary": "is"}
ARRAYS = ((32, 32), (16, 64))


@dataclass(frozen=True)
class Shape:
    """A convolution; `times` layers of the network have it. A linear layer is one of a single place."""

    name: str
    channels: int
    filters: int
    kernel: int
    stride: int
    output: int
    times: int = 1

    @property
    def extent(self) -> int:
        """How far windows reach into the padded input."""
        return (self.output - 1) * self.stride + self.kernel

    @property
    def product(self) -> Product:
        places, depth = self.output**2, self.channels * self.kernel**2
        shape = (1, self.channels, self.extent, self.extent)
        return Product(
            self.name, "conv2d", self.name, self.name, shape, 1, places, depth, self.filters, places * self.filters, self.filters
        )


RESNET18 = (
    Shape("conv1", 3, 64, 7, 2, 112),
    Shape("layer1.*.conv*", 64, 64, 3, 1, 56, 4),
    Shape("layer2.0.conv1", 64, 128, 3, 2, 28),
    Shape("layer2.0.downsample", 64, 128, 1, 2, 28),
    Shape("layer2.* (others)", 128, 128, 3, 1, 28, 3),
    Shape("layer3.0.conv1", 128, 256, 3, 2, 14),
    Shape("layer3.0.downsample", 128, 256, 1, 2, 14),
    Shape("layer3.* (others)", 256, 256, 3, 1, 14, 3),
    Shape("layer4.0.conv1", 256, 512, 3, 2, 7),
    Shape("layer4.0.downsample", 256, 512, 1, 2, 7),
    Shape("layer4.* (others)", 512, 512, 3, 1, 7, 3),
    Shape("fc", 512, 1000, 1, 1, 1),
)
QUICK = ("layer2.0.downsample", "layer3.0.downsample", "layer4.0.downsample")


def cycles_part(quick: bool) -> Outcome:
    """Compare, or note that SCALE-Sim is missing."""
    outcome = Outcome()
    if importlib.util.find_spec("scalesim") is None:
        outcome.skip("SCALE-Sim", "scalesim is not installed: pip install 'effc[peers]'")
        return outcome
    shapes = [shape for shape in RESNET18 if not quick or shape.name in QUICK]
    for rows, columns in ARRAYS[:1] if quick else ARRAYS:
        for dataflow in DATAFLOWS:
            print(f"accelerators: SCALE-Sim, {rows} x {columns}, {dataflow} ...", file=sys.stderr)
            _compare(outcome, shapes, rows, columns, dataflow)
    return outcome


def _compare(outcome: Outcome, shapes: list[Shape], rows: int, columns: int, dataflow: str) -> None:
    array = find_accelerator("systolic-32x32").model_copy(update={"rows": rows, "columns": columns, "dataflow": dataflow})
    theirs = scalesim_cycles(array, shapes)
    worst = 0.0
    for shape, peer in zip(shapes, theirs, strict=True):
        ours = systolic(shape.product, array).cycles
        apart = ours / peer - 1
        worst = max(worst, abs(apart))
        size = f"{shape.product.rows} x {shape.product.depth} x {shape.filters}"
        row = {"table": TABLE, "array": f"{rows} x {columns}", "dataflow": dataflow, "layer": shape.name, "layers": shape.times}
        outcome.rows.append({**row, "M x K x N": size, "effc": ours, "SCALE-Sim": peer, "apart": f"{apart:+.4%}"})
    name = f"{rows} x {columns}, {dataflow}: cycles of a layer apart from SCALE-Sim's, at most"
    outcome.claims.append(Claim(name, worst, APART, "at most"))


def scalesim_cycles(array: Accelerator, shapes: list[Shape]) -> list[int]:
    """SCALE-Sim's cycles, from a process of its own. Raises InternalError where it fails."""
    layers = [
        [f"layer{index}", one.extent, one.extent, one.kernel, one.kernel, one.channels, one.filters, one.stride]
        for index, one in enumerate(shapes)
    ]
    asked = {"rows": array.rows, "columns": array.columns, "dataflow": DATAFLOWS[array.dataflow], "layers": layers}
    command = [sys.executable, "-m", "benchmarks.scalesim_worker"]
    done = subprocess.run(command, cwd=REPOSITORY, input=json.dumps(asked), capture_output=True, text=True, check=False)
    if done.returncode:
        raise InternalError(f"SCALE-Sim ended with code {done.returncode}: {done.stderr[-300:]}")
    found: list[int] = json.loads(done.stdout)["cycles"]
    return found
