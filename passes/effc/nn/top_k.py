"""`TopK`: the k largest of each row stay, the rest is zero, in training as in evaluation.

This is TopK_k of Li et al., "The Lazy Neuron Phenomenon" (arXiv 2210.06313): an MLP becomes V * TopK_k(relu(K^T x)), so the
module stands behind the activation, and a row is one token. Elements that equal the k-th largest all stay (see `effc::keep_top_k`): behind
a ReLU, a row with fewer than k positive elements keeps its zeros, which is no difference.
"""

from __future__ import annotations

from torch import Tensor, nn

from effc.errors import ConfigError
from effc.ir.ops.keep_top_k import KEEP_TOP_K

__all__ = ["TopK"]

_keep_top_k = KEEP_TOP_K.overload


class TopK(nn.Module):
    """Keep the k largest elements of the last axis.

    Args:
        k: an `int` is a count, at least 1; a `float` in (0, 1] is a share of the last axis, rounded to the nearest count, at least 1.
            So `TopK(1)` keeps one element and `TopK(1.0)` all.

    Shape:
        x: (..., d), floating point. Result: the same shape and dtype. The gradient is 1 where x is kept, else 0.

    Raises:
        ConfigError: k is neither.
        ValueError: when called: a count over d, a tensor without an axis or of integers.
    """

    def __init__(self, k: int | float) -> None:
        super().__init__()
        counts = isinstance(k, int) and not isinstance(k, bool) and k >= 1
        shares = isinstance(k, float) and 0.0 < k <= 1.0
        if not counts and not shares:
            raise ConfigError(f"TopK: k is {k!r}; give a count (an int from 1) or a share of the last axis (a float in (0, 1])")
        self.k = k

    def count(self, length: int) -> int:
        """How many elements stay in a row of `length` elements without ties."""
        return self.k if isinstance(self.k, int) else max(1, round(self.k * length))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = _keep_top_k(x, self.count(x.shape[-1]) if x.ndim else 1)
        return result

    def extra_repr(self) -> str:
        return f"k={self.k}"
