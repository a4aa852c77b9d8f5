"""A lowered program as a folder of C99: header, kernels, weights, golden vectors, a self-test, and files that build them."""

from __future__ import annotations

from collections.abc import Sequence

from effc.lowering.c99.building import build_files
from effc.lowering.c99.driver import driver, header, weights
from effc.lowering.c99.model import c_model
from effc.lowering.c99.selftest import GoldenCall, test_main, test_vectors
from effc.lowering.lower import Lowered
from effc.runtime.verify import TOLERANCE
from effc.targets import Target

__all__ = ["GoldenCall", "c_sources"]


def c_sources(
    name: str,
    lowered: Lowered,
    vectors: Sequence[GoldenCall],
    target: Target,
    version: str,
    *,
    states: Sequence[tuple[str, str]] = (),
    tolerance: float = TOLERANCE,
) -> dict[str, bytes]:
    """Relative name -> content. The same arguments give the same bytes.

    Args:
        name: the model's, as its user calls it; whatever it holds, it ends up in identifiers and comments only.
        lowered: for a target of the family c99.
        vectors: the calls that the self-test makes, in order; those of a program that keeps states are the first frames of a stream.
        target: gives the compiler, its flags and the board; the C is the same for all.
        version: what the C says of itself: `effc 0.1.0`.
        states: (input, output) of every state that the caller passes from call to call.
        tolerance: how far outputs of float32 may be off, of their largest magnitude; integers must be equal.

    Raises:
        InternalError: a type that C99 does not have, or vectors that do not fit the plan.
    """
    model = c_model(name, lowered, version, states)
    prefix = model.prefix
    texts = {
        f"{prefix}.h": header(model),
        f"{prefix}.c": driver(model, lowered.parameters),
        f"{prefix}_weights.c": weights(model, lowered.parameters),
        "test_vectors.h": test_vectors(model, vectors, tolerance),
        "test_main.c": test_main(model),
        **build_files(model, target, len(vectors)),
    }
    return {path: text.encode("ascii") for path, text in texts.items()}
