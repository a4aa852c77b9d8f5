"""Passes in order, with the order checked before any work and every failure naming the pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from effc.errors import ConfigError, EffcError, InternalError, PassError, Problem
from effc.ir import Program, verify
from effc.passes.base import Context, Pass

__all__ = ["Observer", "Pipeline"]

Observer = Callable[[int, Pass, Program], None]


class Pipeline:
    """Some passes in order.

    Raises:
        ConfigError: a pass stands before one that it must follow; all such pairs at once.
    """

    def __init__(self, passes: Sequence[Pass]) -> None:
        self.passes = tuple(passes)
        problems = [
            Problem(later.name, f"after {pass_.name}", f"{pass_.name} must come after it", f"put {later.name} first")
            for index, pass_ in enumerate(self.passes)
            for later in self.passes[index + 1 :]
            if isinstance(later, pass_.after)
        ]
        if problems:
            raise ConfigError("the passes are in the wrong order", problems)

    def __call__(self, program: Program, context: Context, *, observe: Observer | None = None) -> Program:
        """Run all passes.

        Args:
            program: what to rewrite.
            context: data, target, seed and the log of decisions.
            observe: called after every pass with its index and the program that it made.

        Raises:
            PassError: a pass broke the program or failed in a way that it did not foresee.
            EffcError: whatever a pass raises on purpose.
        """
        verify(program, after="reading the model")
        for index, pass_ in enumerate(self.passes):
            before = [earlier.spec for earlier in self.passes[:index]]
            try:
                program = pass_(program, context)
            except PassError:
                raise
            except InternalError as error:
                raise PassError(pass_.spec, before, error.message, error.problems) from error
            except EffcError:
                raise
            except Exception as error:  # whatever a pass does wrong, the user must learn which pass it was
                raise PassError(pass_.spec, before, f"{type(error).__name__}: {error}") from error
            if observe is not None:
                observe(index, pass_, program)
        return program
