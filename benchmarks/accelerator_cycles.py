"""Dense cycles of `effc model-npu` beside SCALE-Sim's, for every layer of ResNet-18 at 224 x 224, in all stationary dataflows.

The layers are those that the model reads from the network's program, as for any user. Layers of the same shape are simulated once.
SCALE-Sim goes through every cycle of every multiplier, so all of it takes some ten minutes. The second array's sides divide nothing: all of
ResNet-18's channels are multiples of 32 but the first layer's.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence

from benchmarks.harness import REPOSITORY, Claim, Outcome
from effc.cost.accelerator import Accelerator, find_accelerator
from effc.cost.accelerator.layers import products_of
from effc.cost.accelerator.product import Product
from effc.cost.accelerator.systolic import systolic
from effc.errors import InternalError

__all__ = ["TABLE", "cycles_part", "resnet18_products", "scalesim_cycles"]

TABLE = "Cycles of ResNet-18's layers, and SCALE-Sim's"
APART = 0.02
DATAFLOWS = {"weight-stationary": "ws", "output-stationary": "os", "input-stationary": "is"}
ARRAYS = ((32, 32), (24, 40))
QUICK = "downsample"  # in the names of the layers that a quick run takes

Topology = tuple[int, int, int, int, int]


def resnet18_products() -> list[Product]:
    """What the model reads from ResNet-18's program. Its weights do not matter here."""
    import torch

    from benchmarks.resnet18 import ResNet18
    from effc.frontends import load_program

    return products_of(load_program(ResNet18().eval(), example_inputs=[torch.zeros(1, 3, 224, 224)], check_import=False))


def cycles_part(quick: bool) -> Outcome:
    """Compare, or note that SCALE-Sim is missing."""
    outcome = Outcome()
    if importlib.util.find_spec("scalesim") is None:
        outcome.skip("SCALE-Sim", "scalesim is not installed: pip install 'effc[peers]'")
        return outcome
    products = [product for product in resnet18_products() if not quick or QUICK in product.name]
    for rows, columns in ARRAYS[1:] if quick else ARRAYS:
        for dataflow in DATAFLOWS:
            print(f"accelerators: SCALE-Sim, {rows} x {columns}, {dataflow} ...", file=sys.stderr)
            _compare(outcome, products, rows, columns, dataflow)
    return outcome


def _compare(outcome: Outcome, products: list[Product], rows: int, columns: int, dataflow: str) -> None:
    array = find_accelerator("systolic-32x32").model_copy(update={"rows": rows, "columns": columns, "dataflow": dataflow})
    times = Counter(map(topology, products))
    first = {topology(product): product for product in reversed(products)}
    shapes = [first[key] for key in times]
    theirs = scalesim_cycles(array, shapes)
    worst = 0.0
    for product, peer in zip(shapes, theirs, strict=True):
        ours = systolic(product, array).cycles
        apart = ours / peer - 1
        worst = max(worst, abs(apart))
        row = {"table": TABLE, "array": f"{rows} x {columns}", "dataflow": dataflow, "layer": product.name}
        size = {"layers": times[topology(product)], "M x K x N": f"{product.rows} x {product.depth} x {product.columns}"}
        outcome.rows.append({**row, **size, "effc": ours, "SCALE-Sim": peer, "apart": f"{apart:+.4%}"})
    name = f"{rows} x {columns}, {dataflow}: cycles of a layer apart from SCALE-Sim's, at most"
    outcome.claims.append(Claim(name, worst, APART, "at most"))


def topology(product: Product) -> Topology:
    """A convolution of one group with square windows as SCALE-Sim describes it: how far windows reach into the padded input, the window,
    channels, filters, stride. A linear layer of one row is a convolution of a single place."""
    window = product.window
    if window is None:
        return 1, 1, product.depth, product.columns, 1
    (kernel, _), (stride, _), (output, _) = window.kernel, window.stride, window.outputs
    return (output - 1) * stride + kernel, kernel, product.depth // kernel**2, product.columns, stride


def scalesim_cycles(array: Accelerator, products: Sequence[Product]) -> list[int]:
    """SCALE-Sim's cycles, from a process of its own. Raises InternalError where it fails."""
    layers = []
    for index, product in enumerate(products):
        extent, kernel, channels, filters, stride = topology(product)
        layers.append([f"layer{index}", extent, extent, kernel, kernel, channels, filters, stride])
    asked = {"rows": array.rows, "columns": array.columns, "dataflow": DATAFLOWS[array.dataflow], "layers": layers}
    command = [sys.executable, "-m", "benchmarks.scalesim_worker"]
    done = subprocess.run(command, cwd=REPOSITORY, input=json.dumps(asked), capture_output=True, text=True, check=False)
    if done.returncode:
        raise InternalError(f"SCALE-Sim ended with code {done.returncode}: {done.stderr[-300:]}")
    found: list[int] = json.loads(done.stdout)["cycles"]
    return found
