"""`PruningPlan`: how many weights each cycle removes, and how many of them AP chooses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from effc.errors import ConfigError

__all__ = ["PruningPlan"]


@dataclass(frozen=True)
class PruningPlan:
    """One share a cycle.

    Attributes:
        shares: of the remaining weights, removed after each cycle.
        ap_shares: how much of it AP chooses, also as a share of the remaining weights.

    Raises:
        ConfigError: there is no cycle, not as many of the one as of the other, or a cycle breaks 0 <= ap_share <= share < 1.
    """

    shares: tuple[float, ...]
    ap_shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.shares or len(self.shares) != len(self.ap_shares):
            raise ConfigError(
                f"pruning: {len(self.shares)} shares and {len(self.ap_shares)} AP shares; give one of each a cycle, at least one"
            )
        for share, ap in zip(self.shares, self.ap_shares, strict=True):
            if not 0.0 <= ap <= share < 1.0:
                raise ConfigError(f"pruning: share {share} and ap_share {ap}; 0 <= ap_share <= share < 1 must hold in each cycle")

    @classmethod
    def of(cls, share: float | Sequence[float], ap_share: float | Sequence[float], cycles: int | None) -> PruningPlan:
        """From numbers that hold for all cycles, or one a cycle. `cycles` may be None where `share` gives them."""
        shares = _each(share, cycles or 0)
        plan = cls(shares, _each(ap_share, len(shares)))
        if cycles not in (None, plan.cycles):
            raise ConfigError(f"pruning: {plan.cycles} shares for {cycles} cycles; give one a cycle")
        return plan

    @property
    def cycles(self) -> int:
        """How often it prunes."""
        return len(self.shares)

    def budget(self, cycle: int, total: int, alive: int) -> tuple[int, int]:
        """How many weights go after a cycle (from 0), and how many of them AP chooses.

        After it round(total * product of all (1 - share) so far) shall remain; where more went before, less goes now.

        Args:
            cycle: which.
            total: weights that were alive before the first one.
            alive: weights that are left.
        """
        shall_remain = round(total * math.prod(1.0 - share for share in self.shares[: cycle + 1]))
        count = max(0, alive - shall_remain)
        return count, min(count, round(self.ap_shares[cycle] * alive))


def _each(share: float | Sequence[float], cycles: int) -> tuple[float, ...]:
    return (float(share),) * cycles if isinstance(share, int | float) else tuple(float(one) for one in share)
