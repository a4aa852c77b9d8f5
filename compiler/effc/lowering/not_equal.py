"""`a != b` of floating-point numbers is true where one is NaN: TVM's generator for LLVM asks whether both are ordered, and differ.

before:   a != b           after:   not (a == b)
"""

from __future__ import annotations

from typing import Any

__all__ = ["with_nan_unequal"]


def with_nan_unequal(function: Any) -> Any:
    """A TIR function as LLVM's generator should get it."""
    import tvm_ffi
    from tvm import tirx

    def unequal(one: Any, mutator: Any) -> Any:
        one = mutator.default_mutate(one)
        return tirx.Not(tirx.EQ(one.a, one.b)) if "float" in str(one.a.ty.dtype) else one

    return function.with_body(tvm_ffi.structural_mutate(function.body, [(tirx.NE, unequal)]))
