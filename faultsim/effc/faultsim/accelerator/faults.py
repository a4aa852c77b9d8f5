"""What a fault in the array's state does to a product's sums: where, and by how much, without simulating the array.

`pattern(fault, ...)` gives, for one product, the outputs that differ and their differences; sums are modulo 2^32 and linear in what was not
faulty, so differences add. With R rows, C columns, the places of `mapping`, `f(v)` the faulty reading of a word v:

- **product** (r, c), 16 bits, stuck: every product that the multiplier forms. acc += sum over its k of f(A B) - A B; in the dataflows that
  reduce in columns only k = r, r + R, ... are its own, and in each fold in which row r is idle its product of zeros adds f(0).
  Weight-stationary: all positions of the channels c, c + C, ...; input-stationary: all channels of the positions c, c + C, ...;
  output-stationary: positions r, r + R, ... of the channels c, c + C, ...; event-driven: the outputs of core r, every C-th channel of them
  (`effc.cost.accelerator.cores`).
- **sum** (r, c), 32 bits, stuck: the partial sum as it leaves the multiplier. Reducing in columns: with S_j the sum of the products of rows
  0 .. r in fold j, acc += sum over j of f(S_j) - S_j. Else the register is read back for every product: acc_k = f(acc_{k-1} + A B).
  The same outputs as above. (An event-driven core writes a sum only for an event: a neuron without one stays 0.)
- **accumulator** of a column, 32 bits, stuck (dataflows that reduce in columns): acc_j = f(acc_{j-1} + fold sum j). Outputs of the column.
- **accumulator** of one output, flipped once, after fold j: the sum P of folds 0 .. j becomes f(P), and what follows is added to that:
  acc += f(P) - P, that is 2^b where bit b was 0, else -2^b. One output.
- **weight word** (8 bits): B[k, n] becomes f(B[k, n]): acc += (f(B) - B) A[m, k]. All positions of one channel whose input is not zero.
- **activation word** (8 bits, before the zero point is taken off): x becomes f(x): acc += (f(x) - x) B[k, n]. All channels of the group, at
  the positions whose window holds the element.

A stuck memory cell is at an address: which elements of a product's tensor it holds, one after the other, says the memory's layout
(`effc.cost.accelerator.layout`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from effc.errors import InternalError
from effc.faultsim.accelerator.mapping import Mapping, Outputs, Served
from effc.faultsim.accelerator.work import Extents, Gemm, MatrixGemm, Operands

__all__ = ["ArrayFault", "Kind", "Pattern", "faulty_word", "patterns"]

Kind = Literal["pe-product", "pe-sum", "accumulator", "sram-weight", "sram-activation"]
WIDTHS: dict[str, int] = {"pe-product": 16, "pe-sum": 32, "accumulator": 32, "sram-weight": 8, "sram-activation": 8}
_WORDS = {8: torch.int8, 16: torch.int16, 32: torch.int32}


@dataclass(frozen=True)
class ArrayFault:
    """One faulty bit.

    Attributes:
        kind: which register or memory. `bit`: 0 is the least significant one.
        effect: `flip` once, or `stuck-at-0`, `stuck-at-1` for good.
        place: pe-*: (row, column). accumulator: stuck (column,), flipped (fold, channel over all groups, position). sram-*: the elements
            of the product's tensor that are in the word.
    """

    kind: Kind
    bit: int
    effect: Literal["flip", "stuck-at-0", "stuck-at-1"]
    place: tuple[int, ...]

    @property
    def is_stuck(self) -> bool:
        return self.effect != "flip"


@dataclass(frozen=True)
class Pattern:
    """Differences of a product's sums, (samples, *shape) int32, at groups, channels of a group and positions that broadcast to shape."""

    groups: Tensor
    channels: Tensor
    positions: Tensor
    values: Tensor

    def add_to(self, sums: Tensor) -> None:
        """In place, modulo 2^32. sums: (S, G, N, M) int32."""
        sums[:, self.groups, self.channels, self.positions] += self.values


def faulty_word(words: Tensor, fault: ArrayFault) -> Tensor:
    """int32 numbers that fit into the register, as they are read from it."""
    width = WIDTHS[fault.kind]
    mask = 1 << fault.bit if fault.bit < width - 1 else -(1 << fault.bit)
    held = words.to(_WORDS[width])
    if fault.effect == "flip":
        return (held ^ mask).to(torch.int32)
    return (held & ~mask if fault.effect == "stuck-at-0" else held | mask).to(torch.int32)


def patterns(fault: ArrayFault, product: Gemm, mapping: Mapping, given: Operands) -> Iterator[Pattern]:
    """What the fault adds to a product's sums: none, one, or (a word that holds several elements in turn) several patterns.

    Args:
        fault: see the module docstring. `product`, `given`: the product and its operands. `mapping`: the array.
    """
    matrix = product.matrix(given.weights)
    extents = product.extents(given.x, given.weights)
    if fault.kind.startswith("sram"):
        for element in fault.place:
            if fault.kind == "sram-weight":
                yield _weight(fault, product, given, extents, element)
            else:
                yield _activation(fault, product, given, matrix, element)
        return
    if fault.kind == "accumulator":
        yield (
            _column(fault, product, mapping, given, matrix, extents)
            if fault.is_stuck
            else _flipped(fault, product, mapping, given, matrix, extents)
        )
        return
    outputs = mapping.outputs(extents, *fault.place)
    if not len(outputs):
        return
    if fault.kind == "pe-sum" and mapping.reduces_in_columns:
        served = mapping.served(extents, fault.place[1])
        partial = _partial(product, mapping, given, matrix, extents, row=fault.place[0], served=served)
        yield _rectangle(extents, served, (faulty_word(partial, fault) - partial).sum(2, dtype=torch.int32))
        return
    adds = _products if fault.kind == "pe-product" else _registers
    yield Pattern(outputs.groups, outputs.channels, outputs.positions, adds(fault, product, mapping, given, matrix, extents, outputs))


def _rectangle(extents: Extents, served: Served, values: Tensor) -> Pattern:
    """values: (samples, groups, channels, positions)."""
    return Pattern(torch.arange(extents.groups)[:, None, None], served.channels[:, None], served.positions, values)


def _products(
    fault: ArrayFault, product: Gemm, mapping: Mapping, given: Operands, matrix: Tensor, extents: Extents, outputs: Outputs
) -> Tensor:
    """Sum over k of f(A B) - A B: (samples, outputs)."""
    ks, idle = mapping.multiplied(extents, fault.place[0])
    formed = product.gather_pairs(given.x, outputs.groups, outputs.positions, ks)  # (S, outputs, K)
    formed = formed * matrix[:, ks][outputs.groups, :, outputs.channels]
    wrong = faulty_word(formed, fault) - formed
    if mapping.skip is not None:
        wrong = wrong * product.gather_pairs(_live(product, mapping, given, extents), outputs.groups, outputs.positions, ks)
        idle = 0  # an idle multiplier's input is zero
    return wrong.sum(-1, dtype=torch.int32) + idle * faulty_word(torch.zeros((), dtype=torch.int32), fault)


def _live(product: Gemm, mapping: Mapping, given: Operands, extents: Extents) -> Tensor:
    return mapping.live(given.x, extents, -1 if isinstance(product, MatrixGemm) else 1)


def _partial(
    product: Gemm,
    mapping: Mapping,
    given: Operands,
    matrix: Tensor,
    extents: Extents,
    *,
    row: int,
    served: Served,
) -> Tensor:
    """The partial sum below `row` of every fold: (S, G, folds, N, M) int32. One product with masked weights gives all folds."""
    positions, channels = served.positions, served.channels
    folds = mapping.folds(extents)
    masked = torch.zeros(extents.groups, extents.depth, folds, len(channels), dtype=matrix.dtype)
    for fold in range(folds):
        ks = mapping.reduced(extents, fold, row)
        masked[:, ks.start : ks.stop, fold] = matrix[:, ks.start : ks.stop, channels]
    if len(positions) == extents.positions:
        sums = product.sums(given.x, masked.flatten(2))
    else:
        a = product.gather(given.x, positions, torch.arange(extents.depth))
        sums = (a.to(torch.float64) @ masked.flatten(2).to(torch.float64)).transpose(2, 3).to(torch.int64).to(torch.int32)
    return sums.reshape(len(sums), extents.groups, folds, len(channels), len(positions))


def _registers(
    fault: ArrayFault, product: Gemm, mapping: Mapping, given: Operands, matrix: Tensor, extents: Extents, outputs: Outputs
) -> Tensor:
    """acc_k = f(acc_{k-1} + A B), minus the true sum: (samples, outputs)."""
    ks = torch.arange(matrix.shape[1])
    a = product.gather_pairs(given.x, outputs.groups, outputs.positions, ks)  # (S, outputs, K)
    b = matrix[outputs.groups, :, outputs.channels]  # (outputs, K)
    events = None  # where none is, an event-driven core does not touch the sum
    if mapping.dataflow == "event-driven" and mapping.skip is not None:
        events = product.gather_pairs(_live(product, mapping, given, extents), outputs.groups, outputs.positions, ks) != 0
    register = true = torch.zeros((), dtype=torch.int32)
    for k in range(len(ks)):
        formed = a[..., k] * b[..., k]
        read = faulty_word(register + formed, fault)
        register, true = read if events is None else torch.where(events[..., k], read, register), true + formed
    return register - true


def _column(fault: ArrayFault, product: Gemm, mapping: Mapping, given: Operands, matrix: Tensor, extents: Extents) -> Pattern:
    if not mapping.reduces_in_columns:
        raise InternalError(f"a {mapping.dataflow} array has no accumulators of columns")
    served = mapping.served(extents, fault.place[0])
    if not served:
        return _rectangle(extents, served, torch.zeros((), dtype=torch.int32))
    sums = _partial(product, mapping, given, matrix, extents, row=mapping.rows - 1, served=served)
    held = true = torch.zeros((), dtype=torch.int32)
    for fold in range(sums.shape[2]):
        held, true = faulty_word(held + sums[:, :, fold], fault), true + sums[:, :, fold]
    return _rectangle(extents, served, held - true)


def _flipped(fault: ArrayFault, product: Gemm, mapping: Mapping, given: Operands, matrix: Tensor, extents: Extents) -> Pattern:
    fold, channel, position = fault.place
    group, inner = divmod(channel, extents.channels)
    end = mapping.reduced(extents, fold, mapping.rows - 1).stop
    a = product.gather(given.x, torch.tensor([position]), torch.arange(end))[:, group, 0]
    held = (a.to(torch.int64) * matrix[group, :end, inner].to(torch.int64)).sum(1).to(torch.int32)
    return Pattern(torch.tensor([group]), torch.tensor([inner]), torch.tensor([position]), (faulty_word(held, fault) - held)[:, None])


def _weight(fault: ArrayFault, product: Gemm, given: Operands, extents: Extents, element: int) -> Pattern:
    if isinstance(product, MatrixGemm):  # (K, N)
        k, group, inner = element // extents.channels, 0, element % extents.channels
    else:
        channel, k = divmod(element, extents.depth)
        group, inner = divmod(channel, extents.channels)
    word = given.weights.reshape(-1)[element]
    difference = faulty_word(word, fault) - word
    positions = torch.arange(extents.positions)
    a = product.gather(given.x, positions, torch.tensor([k]))[:, group, :, 0]
    return Pattern(torch.tensor(group), torch.tensor(inner), positions, a * difference)


def _activation(fault: ArrayFault, product: Gemm, given: Operands, matrix: Tensor, element: int) -> Pattern:
    words = given.words[:, element]
    unsigned = words.dtype == torch.uint8
    found = faulty_word(words.view(torch.int8) if unsigned else words, fault)
    difference = (found & 255 if unsigned else found) - words.to(torch.int32)
    reads = list(product.fan_out(given.x, torch.tensor([element])))
    groups, positions, ks = (torch.cat([read[column] for read in reads]) for column in (1, 2, 3))
    values = difference[:, None, None] * matrix[groups, ks].transpose(0, 1)[None]  # (S, N, M)
    group = groups[0] if len(groups) else torch.tensor(0)  # an element is in one group, and may be in no window
    return Pattern(group, torch.arange(matrix.shape[2])[:, None], positions, values)
