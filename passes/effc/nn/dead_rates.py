"""Dead neurons: how many of an activation's elements are 0 for an input, or have no incoming weights left.

    dynamic = mean over samples of #{i: relu_i == 0 and row_i != 0} / N
    static  = #{i: row_i == 0} / N

A neuron is an element of an activation, N of them in one sample; its row holds its incoming weights: a row of a linear layer's matrix, the
filter of a convolution (all elements of a channel share it). A neuron whose row is not all 0 and which gives 0 is dead dynamically, for
this input; one whose incoming weights were all pruned is dead statically, whatever its bias makes of it. The two exclude each other.

Paper: S. Liu et al., arXiv 2212.06145, which names the two rates; how they are averaged is fixed here: over samples, and over the neurons
of all layers together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from effc.errors import UsageError

__all__ = ["DeadCount", "DeadRates", "alive_rows", "dead_rates", "total"]


class DeadRates(NamedTuple):
    """Shares of neurons, in [0, 1]; see the module docstring."""

    dynamic: float
    static: float


def alive_rows(weight: Tensor, axis: int = 0) -> Tensor:
    """Which rows of a layer's weight hold anything but zeros: bool, one a row. `axis` counts rows, 0 as torch stores layers."""
    alive: Tensor = weight.detach().movedim(axis, 0).flatten(1).ne(0).any(1)
    return alive


def dead_rates(outputs: Tensor, alive: Tensor, axis: int = 1) -> DeadRates:
    """The rates of one activation on a batch.

    Args:
        outputs: what the ReLU gives: (B, ...), floating point.
        alive: bool, one for each index on `axis`: whether that row has any incoming weight left (`alive_rows`).
        axis: of the outputs that counts rows, not 0: 1 behind a convolution or a linear layer on (B, features), else -1.

    Raises:
        UsageError: the outputs have no sample, or `alive` does not fit them.
    """
    count = DeadCount()
    count.see(outputs, alive, axis)
    return count.rates


class DeadCount:
    """Counts over batches of one activation.

    Attributes:
        neurons: of one sample.
        samples: that were seen.
    """

    def __init__(self) -> None:
        self.neurons = self.samples = 0
        self._dynamic: Tensor | int = 0
        self._static: Tensor | int = 0

    def see(self, outputs: Tensor, alive: Tensor, axis: int = 1) -> None:
        """Count a batch; arguments and errors as of `dead_rates`."""
        outputs = outputs.detach()
        axis = axis % outputs.ndim if outputs.ndim else 0
        if axis == 0 or not len(outputs) or outputs.shape[axis] != len(alive):
            raise UsageError(f"dead neurons: outputs of shape {list(outputs.shape)} do not have {len(alive)} rows on axis {axis}")
        zeros = outputs.eq(0).movedim(axis, 1).reshape(len(outputs), len(alive), -1).sum((0, 2))
        self.samples += len(outputs)
        self.neurons = outputs[0].numel()
        self._dynamic = self._dynamic + zeros[alive].sum()
        self._static = self._static + (~alive).sum() * (outputs.numel() // len(alive))

    @property
    def dead(self) -> tuple[float, float]:
        """Neurons that are dead dynamically and statically, means over samples."""
        return float(self._dynamic) / self.samples, float(self._static) / self.samples

    @property
    def rates(self) -> DeadRates:
        """Of all that was seen."""
        dynamic, static = self.dead
        return DeadRates(dynamic / self.neurons, static / self.neurons)


def total(counts: Sequence[DeadCount]) -> DeadRates:
    """The rates over the neurons of several activations together."""
    neurons = sum(count.neurons for count in counts)
    return DeadRates(sum(count.dead[0] for count in counts) / neurons, sum(count.dead[1] for count in counts) / neurons)
