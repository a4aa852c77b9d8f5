"""Further terms of a LightningModule's training loss, put on and taken off from outside.

A callback sees the loss of `training_step` only after the step, as a tensor whose gradient is about to be formed, scaled by then for
gradient accumulation and mixed precision. So the terms come in one step earlier: while any is attached, the module's `training_step` is
wrapped by a function that adds them to the loss it returns. From there on Lightning treats the sum as the module's own loss, and its
gradient is that of loss + terms under accumulation, precision plugins and strategies alike. What the module logs itself is its loss
without the terms.

All terms share one wrapper, so they can go in any order; the last one takes it away.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn

__all__ = ["Term", "attach", "detach"]

_TERMS = "_effc_loss_terms"
_STEP = "training_step"


class Term(Protocol):
    """One addition to the loss."""

    def begin(self) -> None:
        """A training step begins."""

    def value(self) -> Tensor:
        """The scalar to add; called when the step has returned a loss."""

    def end(self) -> None:
        """The step is over, also by an exception."""


def attach(module: nn.Module, term: Term) -> None:
    """Add a term to the loss of each training step of a LightningModule."""
    terms: list[Term] | None = module.__dict__.get(_TERMS)
    if terms is not None:
        terms.append(term)
        return
    module.__dict__[_TERMS] = [term]
    own = module.__dict__.get(_STEP)  # a step that was set on the instance
    original = getattr(module, _STEP)

    @functools.wraps(original)
    def training_step(*args: Any, **kwargs: Any) -> Any:
        return _with_terms(original, module.__dict__[_TERMS], args, kwargs)

    # Lightning looks behind one decorator for the step's arguments; it must find what it would find without this one.
    training_step.__wrapped__ = getattr(original, "__wrapped__", original)
    training_step.own = own  # type: ignore[attr-defined]
    module.__dict__[_STEP] = training_step


def detach(module: nn.Module, term: Term) -> None:
    """Take a term away again; one that is not attached is no error."""
    terms: list[Term] = module.__dict__.get(_TERMS, [])
    if term not in terms:
        return
    terms.remove(term)
    if not terms:
        own = module.__dict__[_STEP].own
        del module.__dict__[_TERMS], module.__dict__[_STEP]
        if own is not None:
            module.__dict__[_STEP] = own


def _with_terms(step: Any, terms: list[Term], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    terms = list(terms)
    try:
        for term in terms:
            term.begin()
        result = step(*args, **kwargs)
        loss = result.get("loss") if isinstance(result, Mapping) else result
        if loss is None:  # the module skips this batch
            return result
        for term in terms:
            loss = loss + term.value()
        return {**result, "loss": loss} if isinstance(result, Mapping) else loss
    finally:
        for term in terms:
            term.end()
