"""What lowering may choose among kernels that compute the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from effc.lowering.kernels.tiles import Tile

__all__ = ["Known", "Options", "Winograd"]

Winograd = Literal["auto", "off", "f2", "f4"]


@dataclass(frozen=True)
class Options:
    """Choices among kernels.

    Attributes:
        winograd: `auto` takes Winograd's algorithm for a 3x3 convolution where the model says that it pays and the measured error stays
            within its bound; `off` never; `f2`, `f4` always that form where it is possible and within the bound.
        tiles: measured tiles by layer (`tuning`); the model chooses for the others.
    """

    winograd: Winograd = "auto"
    tiles: Mapping[str, Tile] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Known:
    """What is known of the program that a function belongs to, and of its data.

    Attributes:
        stored: bytes of all weights of the program, which tell whether they stay in a cache from one call to the next.
        density: share of the elements of a product's left operand that were not zero on data; None where nothing was observed.
        mask: the same of what the product's results are multiplied by.
    """

    stored: int
    density: float | None = None
    mask: float | None = None
