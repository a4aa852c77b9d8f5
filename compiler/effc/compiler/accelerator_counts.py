"""The zeros and changes of what a program's products read, counted on data for an accelerator.

Data are looked at call by call, in order: a zero is an input that is zero (its zero point, of quantised inputs), a change one that is not
equal to that of the call before. So a clip of video shows what temporal sparsity there is, and unrelated images that there is none. The
first call has none before it, and counts for zeros only. A stream's program runs as one clip: a change is what its truncates let through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from effc.cost.accelerator import Accelerator
from effc.cost.accelerator.event_driven import Events, count_events
from effc.cost.accelerator.layers import products_of
from effc.cost.accelerator.model import Counts
from effc.cost.accelerator.product import Product
from effc.data import Dataset
from effc.errors import UnsupportedModelError
from effc.ir import Program
from effc.passes.base import Progress, silent
from effc.passes.profiling import Observer, Watch

__all__ = ["Counted", "count_program", "present_products"]

_BATCH = 64  # samples that run together, where they may
_TOGETHER = 1 << 18  # inputs that are counted at a time


@dataclass(frozen=True)
class Counted:
    """What was counted on `samples` calls, a layer each; for accelerators of the same rows, columns and granularity."""

    samples: int
    layers: tuple[Counts, ...]


def present_products(program: Program) -> list[Product]:
    """The products of a program. Raises UnsupportedModelError where some have no form here, or there are none."""
    products = products_of(program)
    if not products:
        raise UnsupportedModelError(f"{program.provenance.source} has no matrix product and no convolution: an array has nothing to do")
    return products


def count_program(program: Program, accelerator: Accelerator, data: Dataset, *, progress: Progress = silent) -> Counted:
    """Count the events of every layer on data, in order. Raises UnsupportedModelError as `present_products`."""
    products = present_products(program)
    zeros = {product.zero: _Latest() for product in products if product.zero is not None}
    watchers = [_Watcher(product, accelerator, None if product.zero is None else zeros[product.zero]) for product in products]
    observers: dict[str, list[Observer]] = {name: [one] for name, one in zeros.items()}
    for product, watcher in zip(products, watchers, strict=True):
        if product.input is not None:
            observers.setdefault(product.input, []).append(watcher)
    watch = Watch(program, observers)
    with torch.no_grad(), progress("counting events", len(data)) as advance:
        for calls in data.batches(_calls_at_once(program, products)):
            watch.run_batch(calls)
            advance(len(calls))
    return Counted(len(data), tuple(watcher.counts() for watcher in watchers))


def _calls_at_once(program: Program, products: Sequence[Product]) -> int:
    """How many samples may run together: one, unless the first axis of all that is looked at counts samples and nothing else."""
    if program.interface.resident or not program.interface.batch.symbolic:
        return 1
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    looked_at = [values[one.input] for one in products if one.input is not None]
    in_order = all(value.ndim and not isinstance(value.shape[0], int) and value.shape[0].node.expr.is_Symbol for value in looked_at)
    zeros = all(isinstance(size, int) for one in products if one.zero is not None for size in values[one.zero].shape)
    return _BATCH if in_order and zeros else 1


class _Latest:
    """The last value of a node."""

    value: Tensor | None = None

    def see(self, value: Tensor) -> None:
        self.value = value.clone()


@dataclass
class _Watcher:
    """Counts the events of a layer's inputs, of some calls together."""

    product: Product
    accelerator: Accelerator
    zero: _Latest | None
    before: Tensor | None = None
    waiting: dict[str, list[Tensor]] = field(default_factory=lambda: {"zeros": [], "delta": []})
    seen: dict[tuple[str, int], list[tuple[int, Events]]] = field(default_factory=dict)

    def see(self, value: Tensor) -> None:
        active = value != self._zero(value)
        self.waiting["zeros"].append(active.reshape(-1, *self.product.shape))
        calls = value.reshape(-1, *self.product.shape)
        if self.before is not None:
            calls = torch.cat([self.before, calls])
        if len(calls) > 1:
            self.waiting["delta"].append(calls[1:] != calls[:-1])
        self.before = calls[-1:].clone()
        if sum(one.numel() for one in self.waiting["zeros"]) >= _TOGETHER:
            self._count()

    def _zero(self, value: Tensor) -> Tensor | float:
        zero = None if self.zero is None else self.zero.value
        if zero is None:
            return 0.0
        along_rows = zero.ndim == 1 and len(zero) > 1 and value.ndim > 1  # one a row, of a matrix product
        return zero.reshape(-1, 1) if along_rows and not self.product.by_column else zero

    def _count(self) -> None:
        for mode, waiting in self.waiting.items():
            for width in {1, _width(self.accelerator, mode)} if waiting else ():
                active = torch.cat(waiting)
                found = count_events(self.product, active, self.accelerator, width)
                self.seen.setdefault((mode, width), []).append((len(active), found))
            waiting.clear()

    def counts(self) -> Counts:
        """Means of all calls that were seen."""
        self._count()
        means = {key: _mean(seen) for key, seen in self.seen.items()}
        single = {mode: one for (mode, width), one in means.items() if width == 1}
        return Counts({mode: one for (mode, width), one in means.items() if width == _width(self.accelerator, mode)}, single)


def _width(accelerator: Accelerator, mode: str) -> int:
    return accelerator.width("zeros" if mode == "zeros" else "changes") or 1


def _mean(seen: Sequence[tuple[int, Events]]) -> Events:
    calls = sum(count for count, _ in seen)
    return Events(*(sum(count * getattr(one, part.name) for count, one in seen) / calls for part in fields(Events)))
