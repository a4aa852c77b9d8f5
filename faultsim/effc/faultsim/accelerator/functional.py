"""The array executes a network: three ways to form the same sums, and the same bits from all of them.

- `dense`: split into the array's folds over K, whose partial sums are added in int32; of an array whose sums stay in place one fold does it
  all. Which multiplier of a fold forms a product does not show in a sum: that is what faults show, and `faults` is compared with a
  simulation of every multiplier.
- `zero-skipping`: event after event. An input that is not zero is an *event*: it is multiplied with the weights of its fan-out, by the
  cores that own the outputs there, and the products are added to their sums. Zeros cost nothing.
- `delta`: the events are the inputs that differ from those of the frame before; Z += W dO is added to sums that stay in memory
  (A. Yousefzadeh, M. Sifalakis, arXiv 2107.07305, section 3). Sums are integers modulo 2^32, so Z never drifts from the dense result.

`Tally` counts the multiplications that each way needs: all M x K x N of a dense product, padding too, and the fan-out of events otherwise;
and the cycles of the busiest core of an event-driven array whose events are single inputs. They are the numbers that
`effc.cost.accelerator.event_driven` counts without executing anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from effc.errors import ConfigError
from effc.faultsim.accelerator.gemms import gemms_of
from effc.faultsim.accelerator.mapping import Mapping
from effc.faultsim.accelerator.samples import with_samples
from effc.faultsim.accelerator.work import Extents, Gemm, Operands
from effc.faultsim.golden import Runner
from effc.ir import Program

__all__ = ["MODES", "Mode", "Tally", "run_on_array"]

Mode = Literal["dense", "zero-skipping", "delta"]
MODES: tuple[Mode, ...] = ("dense", "zero-skipping", "delta")


@dataclass
class Tally:
    """Of each product, by its source's name, over all samples: multiplications, and cycles of the core that is busiest in each sample."""

    multiplications: dict[str, int] = field(default_factory=dict)
    cycles: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, count: int) -> None:
        self.multiplications[name] = self.multiplications.get(name, 0) + count

    def wait(self, name: str, cycles: int) -> None:
        self.cycles[name] = self.cycles.get(name, 0) + cycles


def run_on_array(
    program: Program, mapping: Mapping, mode: Mode, batches: Sequence[Sequence[Tensor]], tally: Tally | None = None
) -> list[tuple[Tensor, ...]]:
    """The outputs of each batch.

    Args:
        program: with integer products (`for_array`). `mapping`: the array.
        mode: see the module docstring. For `delta` the batches are frames of one clip, in order.
        batches: inputs in the interface's order.
        tally: is told of every multiplication.

    Raises:
        ConfigError: the program has products that the array cannot do; no such mode.
    """
    if mode not in MODES:
        raise ConfigError(f"there is no way {mode!r} to execute a product; known: {', '.join(MODES)}")
    products = with_samples(program, gemms_of(program))
    units = [_Unit(product, mapping, mode, Tally() if tally is None else tally) for product in products]
    runner = Runner(program, computing={unit.product.name: unit for unit in units})
    return [runner.golden(batch).outputs for batch in batches]


class _Unit:
    """One product in one mode; called with the operator's arguments."""

    def __init__(self, product: Gemm, mapping: Mapping, mode: Mode, tally: Tally) -> None:
        self.product, self._mapping, self._mode, self._tally = product, mapping, mode, tally
        self._held: tuple[Tensor, Tensor] | None = None  # the inputs of the frame before, and the sums

    def __call__(self, *arguments: Any) -> Tensor:
        given = self.product.operands(arguments)
        extents = self.product.extents(given.x, given.weights)
        if self._mode == "dense":
            sums = self._folds(given, extents)
        else:
            before, sums = self._before(given, extents)
            self._events(given, given.x - before, sums)
            self._held = given.x, sums.clone()
        return self.product.finish(arguments, sums, given.x)

    def _before(self, given: Operands, extents: Extents) -> tuple[Tensor, Tensor]:
        if self._mode == "delta" and self._held is not None:
            return self._held[0], self._held[1]
        shape = (len(given.words), extents.groups, extents.channels, extents.positions)
        return torch.zeros_like(given.x), torch.zeros(shape, dtype=torch.int32)

    def _folds(self, given: Operands, extents: Extents) -> Tensor:
        """Partial sums of the array's folds, added in int32."""
        matrix, positions = self.product.matrix(given.weights), torch.arange(extents.positions)
        shape = (len(given.words), extents.groups, extents.channels, extents.positions)
        sums = torch.zeros(shape, dtype=torch.int32)
        step = self._mapping.rows if self._mapping.reduces_in_columns else extents.depth
        for start in range(0, extents.depth, step):
            ks = torch.arange(start, min(start + step, extents.depth))
            a = self.product.gather(given.x, positions, ks).to(torch.float64)
            partial = (a @ matrix[:, ks].to(torch.float64)).transpose(2, 3)  # exact: a sum of at most 2^31 products of 16 bits
            sums += partial.to(torch.int64).to(torch.int32)
        self._tally.add(self.product.source, sums.numel() * extents.depth)
        return sums

    def _events(self, given: Operands, changes: Tensor, sums: Tensor) -> None:
        """Add every change that is not zero to the sums of its fan-out."""
        matrix, flat = self.product.matrix(given.weights), changes.reshape(len(given.words), -1)
        samples, elements = flat.nonzero(as_tuple=True)
        rows = sums.permute(0, 1, 3, 2).contiguous()  # a row holds the channels that an event meets
        table = rows.view(-1, rows.shape[-1])
        cores = self._mapping.cores(self.product.extents(given.x, given.weights))
        busy = torch.zeros(len(rows) * cores.rows, dtype=torch.int64)
        for which, groups, positions, ks in self.product.fan_out(given.x, elements):
            target = (samples[which] * rows.shape[1] + groups) * rows.shape[2] + positions
            table.index_add_(0, target, flat[samples[which], elements[which]][:, None] * matrix[groups, ks])
            self._tally.add(self.product.source, len(which) * rows.shape[-1])
            for chunk in range(cores.chunks):
                owners = cores.core(groups, torch.full_like(groups, chunk * cores.columns), positions)
                busy += torch.bincount(samples[which] * cores.rows + owners, minlength=len(busy))
        sums.copy_(rows.permute(0, 1, 3, 2))
        if self._mapping.is_single_events:
            self._tally.wait(self.product.source, int(busy.view(-1, cores.rows).amax(1).sum()))
