"""A private, trainable copy of a program whose weights hold what a number view can hold, and whose bits can be flipped.

Weights are the stored tensors of two or more dimensions that a convolution or a matrix product multiplies its input with (the sites of kind
`weight`, `effc.faultsim.sites`). Biases, norms, scales, embeddings and what a protection added are not among them. The program itself is
never touched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effc.errors import ConfigError, InternalError, Problem
from effc.faultsim.bit_gradient import flipped
from effc.faultsim.population import Population, whole
from effc.faultsim.sites import Site, find_sites
from effc.ir import Program

__all__ = ["Place", "WeightsInView"]


@dataclass(frozen=True, order=True)
class Place:
    """One bit: number of its tensor (in `WeightsInView.sites`), of its element in the flattened tensor, and its own (0 the lowest)."""

    tensor: int
    element: int
    bit: int


class WeightsInView:
    """The copy. Calling it runs the network as it stands: inputs in the interface's order -> outputs.

    Args:
        program: where the weights come from.
        view: name of a number view: `int8`, `f32`, ... Scales are fitted to each tensor once, before the first flip.
        layers: shell patterns; a weight is taken when one fits its layer or its name. None given takes all.
        bits: the positions that may be flipped; None for all that the view has.

    Attributes:
        sites: the weights, in the graph's order.
        population: all bits that may be flipped, numbered.

    Raises:
        ConfigError: no such view, a pattern that fits no weight, bits that the view lacks, weights that are not float32.
    """

    def __init__(self, program: Program, view: str, layers: Sequence[str] = (), bits: Sequence[int] | None = None) -> None:
        found = find_sites(program, where=("weight",), layers=layers, view=view)
        self.sites: list[Site] = [site for site in found if len(site.shape) > 1]
        _check(program, self.sites, bits)
        self.bits = tuple(sorted(set(bits))) if bits is not None else tuple(range(self.sites[0].view.bits))
        self.population: Population = whole(self.sites, self.bits)
        self._module = program.trainable(batch_norm="frozen").requires_grad_(False)
        self._values: list[Tensor] = []
        self._golden: list[Tensor] = []
        for site in self.sites:
            stored = getattr(self._module, program.tensor_names[site.key].replace(".", "__"))
            words = site.view.encode(stored.detach().reshape(-1)).clone()  # the words of a stored view are the tensor's own bytes
            stored.copy_(site.view.decode(words).reshape(site.shape))
            self._golden.append(words)
            self._values.append(stored.requires_grad_())
        self.words = [words.clone() for words in self._golden]
        self._golden_hash = self._hash()

    def __call__(self, *inputs: Tensor) -> Any:
        return self._module(*inputs)

    def gradients(self) -> list[Tensor]:
        """Take the gradients that were added up: one flat tensor (elements,) per site, zero where the loss does not depend on it."""
        taken = [torch.zeros_like(value) if value.grad is None else value.grad for value in self._values]
        for value in self._values:
            value.grad = None
        return [one.reshape(-1) for one in taken]

    def value(self, place: Place) -> float:
        """The weight that holds a bit, as it is now."""
        return float(self.sites[place.tensor].view.decode(self.words[place.tensor][place.element : place.element + 1])[0])

    def flip(self, place: Place) -> None:
        """Flip one bit in place; the same call again undoes it. Raises InternalError where the network does not hold the new value then."""
        view, words = self.sites[place.tensor].view, self.words[place.tensor]
        here = slice(place.element, place.element + 1)
        words[here] = flipped(view, words[here], place.bit)
        with torch.no_grad():
            new = view.decode(words[here])[0]
            self._values[place.tensor][self.index(place)] = new
            held = self._values[place.tensor][self.index(place)]
        if not torch.equal(held.view(torch.int32), new.view(torch.int32)):  # as integers: NaN is not equal to itself
            raise InternalError(f"{self.sites[place.tensor].name}: a flip of bit {place.bit} of element {place.element} is not read back")

    def index(self, place: Place) -> tuple[int, ...]:
        """The element's position in its tensor."""
        return tuple(int(one) for one in np.unravel_index(place.element, self.sites[place.tensor].shape))

    def check_restored(self) -> None:
        """Raise InternalError unless all words and weights are those from before the first flip, bit for bit."""
        same = all(torch.equal(now, golden) for now, golden in zip(self.words, self._golden, strict=True))
        if not same or self._hash() != self._golden_hash:
            raise InternalError("weights differ from the golden ones after all flips were undone")

    def _hash(self) -> str:
        digest = hashlib.sha256()
        for value in self._values:
            digest.update(value.detach().contiguous().numpy().tobytes())
        return digest.hexdigest()


def _check(program: Program, sites: Sequence[Site], bits: Sequence[int] | None) -> None:
    problems = []
    for site in sites:
        dtype = str(program.tensors[site.key].dtype).removeprefix("torch.")
        if dtype != "float32":
            hint = "leave it out with `layers`, or give the model before it was converted"
            problems.append(Problem(site.name, dtype, "only float32 weights have a gradient that the search can follow", hint))
    if not sites:
        problems.append(Problem("layers", "no weight", "the chosen layers have no weight of two or more dimensions"))
    elif bits is not None:
        width = sites[0].view.bits
        problems += [Problem("bits", str(bit), f"the view has bits 0 to {width - 1}") for bit in bits if not 0 <= bit < width]
        if not bits:
            problems.append(Problem("bits", "an empty list", "there is nothing to flip", "leave it out for all bits"))
    if problems:
        raise ConfigError("the weights cannot be searched", problems)
