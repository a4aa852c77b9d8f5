"""One input times a large matrix: what skipping the rows of zero inputs saves against dense products, weights from memory.

effc's time holds everything: the threshold, the scan for what is left, the index list, the product. Inputs are normal random numbers, new
in every call, so that no two masks are the same, and the threshold makes a given share of them zero. Each engine goes through so many
copies of its weights that none is in a cache when it is read. The peer is the faster of onnxruntime's MatMul and effc's own dense kernel,
on the same inputs without a threshold. `break-even` is the share of zeros at which the line through effc's times meets that peer's.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from benchmarks.harness import Claim, Options, Outcome, main
from effc.compiler import compile_model
from effc.runtime import load
from effc.runtime.bench import Contender, compare_engines, contender_arguments

__all__ = ["measure"]

SIZES = ((2048, 8192), (8192, 2048), (4096, 11008), (11008, 4096))
ZEROS = (0.0, 0.15, 0.5, 0.8, 0.9)
BARS = {0.5: 1.6, 0.8: 3.0, 0.9: 5.5}
BREAK_EVEN = 0.15
_ROTATED = 1 << 30  # bytes of weights that pass between two uses of the same


class Product(nn.Module):
    """x @ weight, with elements of x whose magnitude is at most `threshold` taken as zero; None: a dense product."""

    def __init__(self, weight: Tensor, threshold: float | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.threshold = None if threshold is None else nn.Parameter(torch.tensor(threshold))

    def forward(self, x: Tensor) -> Tensor:
        kept = x if self.threshold is None else torch.ops.effc.sparsify(x, self.threshold, "magnitude")
        return kept @ self.weight


def measure(options: Options) -> Outcome:
    """Every size at every share of zeros."""
    outcome = Outcome()
    for depth, columns in SIZES[:1] if options.quick else SIZES:
        with tempfile.TemporaryDirectory() as folder:
            _size(outcome, depth, columns, Path(folder), options)
    return outcome


def _size(outcome: Outcome, depth: int, columns: int, folder: Path, options: Options) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(depth, columns, generator=generator) / depth**0.5
    data = torch.randn(64, depth, generator=generator).numpy()
    shares = (0.5, 0.8) if options.quick else ZEROS
    contenders = []
    inputs = [{"name": "x", "shape": [1, depth], "dtype": "float32"}]
    shared = contender_arguments(inputs, threads=options.threads)
    copies = max(2, _ROTATED // (4 * depth * columns))
    kernels = {}
    for zeros in (None, *shares):
        label = "effc, dense" if zeros is None else f"effc, {zeros:.0%} zeros"
        artifact = folder / label.replace(" ", "")
        kernels[label] = _compiled(weight, zeros, data, artifact)
        contenders.append(_contender(label, "effc", artifact, copies, shared))
    _write_onnx(weight.numpy(), folder / "product.onnx")
    contenders.append(_contender("onnxruntime", "onnxruntime", folder / "product.onnx", copies, shared))
    contenders.append(Contender("nothing", (sys.executable, "-m", "benchmarks.nothing_worker", "-", *shared)))
    blocks, seconds = (6, 0.15) if options.quick else (16, 0.3)
    comparison = compare_engines(contenders, blocks=blocks, block_seconds=seconds, warm_up_seconds=0.5)
    medians = {timing.label: timing.median for timing in comparison.timings}
    name = f"{depth}x{columns}"
    rounds = dict(zip(medians, ([statistics.median(block) for block in taken] for taken in comparison.durations), strict=True))
    peer = min(("effc, dense", "onnxruntime"), key=medians.__getitem__)
    for timing in comparison.timings:
        row: dict[str, Any] = {"product": name, "engine": timing.label, "kernel": kernels.get(timing.label, ""), "peer": peer}
        row |= {"median us": timing.median / 1000, "p5 us": timing.percentile5 / 1000, "p95 us": timing.percentile95 / 1000}
        row["GB/s of all weights"] = 4 * depth * columns / timing.median
        row["peer's time / this"] = statistics.median(a / b for a, b in zip(rounds[peer], rounds[timing.label], strict=True))
        outcome.rows.append(row | {"settings": timing.settings})
    gains = {row["engine"]: row["peer's time / this"] for row in outcome.rows if row["product"] == name}
    for zeros, bar in BARS.items():
        if zeros in shares:
            outcome.claims.append(
                Claim(f"{name}, {zeros:.0%} zeros: peer's time / effc's", gains[f"effc, {zeros:.0%} zeros"], bar, "at least")
            )
    if not options.quick:
        outcome.claims.append(Claim(f"{name}: share of zeros at break-even", _break_even(medians, peer), BREAK_EVEN, "at most"))


def _compiled(weight: Tensor, zeros: float | None, data: np.ndarray[Any, Any], artifact: Path) -> str:
    """Compile one product, check its result, and say which kernel it got."""
    threshold = None if zeros is None else float(torch.special.ndtri(torch.tensor(0.5 + zeros / 2, dtype=torch.float64)))
    passes = "" if zeros is None else "profile"
    module = Product(weight, threshold)
    # The skipping kernel everywhere: what the cost model would rather do is another question than where the kernels are level.
    rates = None if zeros is None else _always_skip(artifact.with_suffix(".rates.json"))
    compile_model(
        module,
        artifact,
        passes=passes,
        data={"x": data} if passes else None,
        example_inputs=(torch.zeros(1, weight.shape[0]),),
        rates=rates,
    )
    session = load(artifact)
    x = data[:1]
    wanted = np.where(np.abs(x) <= (threshold or 0.0), 0, x).astype(np.float64) @ weight.numpy().astype(np.float64)
    (got,) = session.run({"x": x}).values()
    worst = float(np.abs(got - wanted).max() / np.abs(wanted).max())
    if worst > 1e-5:
        raise AssertionError(f"the product differs from numpy's by {worst:.1e} of its largest magnitude")
    return " + ".join(step["family"] for step in session.manifest.data["plan"]["steps"])


def _always_skip(path: Path) -> Path:
    """Rates under which skipping is always predicted to pay."""
    from effc.lowering.chip import processor
    from effc.targets import find_target
    from effc.targets.rates import Level, Rates, dump_rates

    free = Level(dense=1e-6, skipping=1e6, start=0.0)
    path.write_text(dump_rates(Rates(free, free, 0.0), processor(find_target("cpu"))))
    return path


def _contender(label: str, engine: str, path: Path, copies: int, shared: Sequence[str]) -> Contender:
    command = (sys.executable, "-m", "benchmarks.cold_worker", str(path), "--engine", engine, "--copies", str(copies), *shared)
    return Contender(label, command)


def _write_onnx(weight: np.ndarray[Any, Any], path: Path) -> None:
    depth, columns = weight.shape
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [onnx.helper.make_tensor_value_info("x", kind, [1, depth])],
        [onnx.helper.make_tensor_value_info("y", kind, [1, columns])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), path)


def _break_even(medians: dict[str, float], peer: str) -> float:
    """Where the line through effc's times, fitted to the shares up to one half, meets the peer's time; 0 where it is under it already."""
    shares = [zeros for zeros in ZEROS if zeros <= 0.5]
    slope, start = np.polyfit(shares, [medians[f"effc, {zeros:.0%} zeros"] for zeros in shares], 1)
    return max(0.0, float((medians[peer] - start) / slope))


if __name__ == "__main__":
    sys.exit(main(measure))
