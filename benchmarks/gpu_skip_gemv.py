"""One input times a large float16 matrix on a GPU: what skipping the rows of zero inputs saves against cuBLAS.

Both read weights from the device's memory: each product of a CUDA graph takes the next of so many matrices that what was read of one has
left the second-level cache before it comes again, and an input of its own, new in every round, so no two masks are the same. effc's time
holds the scan for what is not zero, the list, the product and the sum of its parts. The peer is the faster of torch's `x @ w` with weights
stored as [inputs, results] and as [results, inputs], both cuBLAS, on the same inputs in float16. `reading all` is how long the weights take
at the bandwidth that a copy of device memory reaches here: no dense product can be faster. effc's input is float32 and holds its zeros
already.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import Claim, Options, Outcome, main
from effc.errors import EffcError, InternalError
from effc.ir import Batch, Program, Provenance, ValueFacts
from effc.lowering import Lowered, lower
from effc.runtime.cuda.driver import Driver
from effc.targets import Target, find_target
from effc.targets.rates import Level, Rates

__all__ = ["Products", "measure", "product"]

BARS = {(8192, 28672): {0.5: 1.5, 0.8: 2.5}, (4096, 11008): {0.5: 1.3, 0.8: 1.8}}
_ROUND = 8e-3  # seconds of a round, about: waiting for its end takes microseconds
_GUESS = 2e12  # bytes a second, for the number of products in a round
_COPIED = 1 << 30
_ALWAYS = Rates(Level(1e-9, 1e9, 0.0), Level(1e-9, 1e9, 0.0), 0.0)  # what is measured is the kernel that skips, whatever would be chosen
_NAME = "product of one input"


class _Product(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.float()


def product(depth: int, columns: int, target: Target) -> Lowered:
    """The code of a product whose input is known to have zeros."""
    exported = torch.export.export(_Product(torch.zeros(depth, columns, dtype=torch.float16)), (torch.zeros(1, depth),))
    program = Program.from_exported(exported, Provenance(_NAME, "torch", "0"), batch=Batch(False), input_names=["x"])
    facts = {node.name: ValueFacts(-1.0, 1.0, 0.5, 1) for node in program.input_nodes.values()}
    return lower(program.with_facts(program.facts.with_values(facts)), replace(target, rates=_ALWAYS))


class Products:
    """Launches of a compiled product on any weights, inputs and results in a device's memory."""

    def __init__(self, driver: Driver, lowered: Lowered) -> None:
        if lowered.plan is None or [step.family for step in lowered.plan.steps] != ["skipping"]:
            raise InternalError("the product that is to be measured has not become one kernel that skips")
        (step,) = lowered.plan.steps
        driver.load(lowered.code, step.launches)
        self._driver, self._plan = driver, lowered.plan
        self._arena = driver.allocate(lowered.plan.arena_bytes)

    def launch(self, weight: int, x: int, y: int) -> None:
        """Start one product, given addresses."""
        places = {"parameter": weight, "input": x, "output": y}
        (step,) = self._plan.steps
        rooms = {buffer.name: buffer for buffer in self._plan.buffers}
        buffers = [rooms[name] for name in (*step.reads, *step.writes)]
        pointers = [self._arena + buffer.offset if buffer.room == "arena" else places[buffer.room] for buffer in buffers]
        for one in step.launches:
            self._driver.launch(one.kernel, one.grid, one.block, one.shared, [pointers[at] for at in one.arguments])

    def recorded(self, weights: Sequence[int], xs: Sequence[int], ys: Sequence[int]) -> Callable[[], None]:
        """One product for each input, each with the next of the weights, as something to start."""

        def work() -> None:
            for number, (x, y) in enumerate(zip(xs, ys, strict=True)):
                self.launch(weights[number % len(weights)], x, y)

        graph = self._driver.record(work)
        return lambda: self._driver.replay(graph)


def measure(options: Options) -> Outcome:
    """Every size at every share of zeros."""
    outcome = Outcome()
    if not torch.cuda.is_available():
        why = (
            "torch sees no NVIDIA GPU on this machine"
            if torch.version.cuda
            else "this torch was built without CUDA, so there is no cuBLAS to compare with"
        )
        outcome.skip(_NAME, f"{why}: what the kernels gain is unproven")
        return outcome
    major, minor = torch.cuda.get_device_capability()
    try:
        target = find_target(f"cuda:sm_{major}{minor}")
    except EffcError as error:
        outcome.skip(_NAME, str(error))
        return outcome
    bandwidth = _bandwidth()
    for depth, columns in list(BARS)[1:] if options.quick else BARS:
        for zeros in BARS[depth, columns]:
            _measured(outcome, target, depth, columns, zeros, bandwidth, rounds=7 if options.quick else 25)
    return outcome


def _measured(outcome: Outcome, target: Target, depth: int, columns: int, zeros: float, bandwidth: float, rounds: int) -> None:
    from effc.runtime.cuda.libcuda import LibCuda

    driver = LibCuda(target.cpu)
    products = Products(driver, product(depth, columns, target))
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    size = 2 * depth * columns
    copies = 1 + -(-2 * cache // int(size * (1 - zeros)))
    count = copies * max(1, int(_ROUND * _GUESS / size / copies))
    generator = torch.Generator("cuda").manual_seed(0)
    weights = [torch.randn(depth, columns, device="cuda", generator=generator, dtype=torch.float16) / depth**0.5 for _ in range(copies)]
    turned = [weight.t().contiguous() for weight in weights]
    xs, ys = torch.zeros(count, depth, device="cuda"), torch.zeros(count, columns, device="cuda")
    halves, results = xs.half(), torch.zeros(count, 1, columns, device="cuda", dtype=torch.float16)
    places = [[int(row.data_ptr()) for row in rows] for rows in (xs, ys)]
    engines = {
        "effc": products.recorded([int(weight.data_ptr()) for weight in weights], *places),
        "cuBLAS, [inputs, results]": _graph(lambda i: torch.mm(halves[i : i + 1], weights[i % copies], out=results[i]), count),
        "cuBLAS, [results, inputs]": _graph(lambda i: torch.mm(halves[i : i + 1], turned[i % copies].t(), out=results[i]), count),
    }
    times: dict[str, list[float]] = {name: [] for name in engines}
    for number in range(rounds + 2):
        xs.normal_(generator=generator)
        xs.masked_fill_(torch.rand(xs.shape, device="cuda", generator=generator) < zeros, 0.0)
        halves.copy_(xs)
        for name, start in engines.items():
            torch.cuda.synchronize()
            begun = time.perf_counter()
            start()
            driver.synchronise()
            torch.cuda.synchronize()
            if number >= 2:  # the first warm up
                times[name].append((time.perf_counter() - begun) / count)
    _checked(xs, ys, weights)
    _report(outcome, {"product": f"{depth}x{columns}", "zeros": zeros}, times, size, bandwidth, (depth, columns))


def _report(
    outcome: Outcome, what: dict[str, Any], times: dict[str, list[float]], size: int, bandwidth: float, shape: tuple[int, int]
) -> None:
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    peer = min((name for name in medians if name != "effc"), key=medians.__getitem__)
    for name, median in medians.items():
        read = size * (1 - what["zeros"]) if name == "effc" else size
        gain = statistics.median(a / b for a, b in zip(times[peer], times[name], strict=True))
        row = {"engine": name, "median us": median * 1e6, "GB/s of what is read": read / median / 1e9, "peer's time / this": gain}
        outcome.rows.append(what | row | {"peer": peer})
        if name == "effc":
            bar = BARS[shape][what["zeros"]]
            claim = f"{what['product']}, {what['zeros']:.0%} zeros: cuBLAS's time / effc's"
            outcome.claims.append(Claim(claim, gain, bar, "at least"))
    floor = size / bandwidth
    trivial = {"engine": "reading all", "median us": floor * 1e6, "GB/s of what is read": bandwidth / 1e9}
    outcome.rows.append(what | trivial | {"peer's time / this": medians[peer] / floor, "peer": peer})


def _checked(xs: Tensor, ys: Tensor, weights: Sequence[Tensor]) -> None:
    """The last results, against float32 products of the same numbers."""
    for number in range(len(weights)):
        wanted = (xs[number].double() @ weights[number].double()).float()
        worst = float((ys[number] - wanted).abs().max() / wanted.abs().max())
        if not worst < 1e-5:
            raise AssertionError(f"the product differs from torch's by {worst:.1e} of its largest magnitude")


def _graph(one: Callable[[int], Any], count: int) -> Callable[[], None]:
    """`one` for each number as a CUDA graph of torch's."""
    one(0)  # cuBLAS makes its workspace outside of the recording
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for number in range(count):
            one(number)
    return graph.replay


def _bandwidth() -> float:
    """Bytes a second that a copy of device memory reads and writes, the best of several."""
    source, to = (torch.zeros(_COPIED, dtype=torch.uint8, device="cuda") for _ in range(2))
    best = float("inf")
    for _ in range(10):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for _ in range(4):
            to.copy_(source)
        torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - begun) / 4)
    return 2 * _COPIED / best


if __name__ == "__main__":
    sys.exit(main(measure))
