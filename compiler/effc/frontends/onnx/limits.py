"""Limits on untrusted models, each with the flag that raises it."""

from __future__ import annotations

from dataclasses import dataclass

from effc.errors import LimitError

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """What a model may ask for.

    Attributes:
        model_bytes: size of the file and of its external data together.
        nodes: nodes of the graph, its subgraphs and its functions after expansion.
        tensor_elements: elements of one tensor, stored or computed.
        nesting: depth of subgraphs and of function calls.
    """

    model_bytes: int = 8 << 30
    nodes: int = 100_000
    tensor_elements: int = 1 << 30
    nesting: int = 32

    def check(self, field: str, value: int, what: str) -> None:
        """Raise LimitError, naming the flag, when `value` is over the limit `field`."""
        limit = getattr(self, field)
        if value > limit:
            flag = "--limit " + field.replace("_", "-")
            raise LimitError(f"{what}: {value:,} is over the limit of {limit:,}; raise it with {flag}={value} if you trust the model")
