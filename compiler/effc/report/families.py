"""What the kernel families of compiled steps are, in a few words for the reader of a report."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["FAMILIES", "described"]

FAMILIES = {
    "attention": "scores, softmax and weighted sum of one head after another, without a tensor of all scores",
    "compared": "what a dense kernel has computed beside what was propagated before: pixels that moved less than the threshold stay",
    "conv": "a convolution in tiles of sums (positions x channels)",
    "depthwise": "a convolution with one channel in each group",
    "elementwise": "every element by itself",
    "frame": "the frame beside the one before: which pixels moved, and whether it is computed whole",
    "generic": "loops that TVM schedules: no kernel of effc's own fits",
    "integer_conv": "a convolution of small integers, summed exactly in 32 bits",
    "integer_depthwise": "the same with one channel in each group",
    "integer_matmul": "a matrix product of small integers, summed exactly in 32 bits",
    "listed conv": "a convolution at the positions whose window holds a pixel that moved",
    "listed depthwise": "the same with one channel in each group",
    "listed map": "every element by itself, at the pixels that moved",
    "listed pool": "the largest or the mean element of each window that holds a pixel that moved",
    "masked": "a matrix product that is multiplied by something with zeros: results under a zero are not computed, their weights not read",
    "matmul": "a matrix product, or a convolution as one, in tiles of sums (rows x columns)",
    "pool": "the largest or the mean element of each window",
    "rows": "softmax and norms, a row at a time",
    "skipping": "a matrix product that does not read the weights that meet a zero",
    "streaming": "a matrix product of one row, whose weights come from memory row by row",
    "total": "sums and means over other axes than the last",
    "winograd": "a 3x3 convolution with fewer multiplications, which rounds differently",
}


def described(families: Iterable[str]) -> list[tuple[str, str]]:
    """The families that occur, in alphabetical order, each with what it is."""
    return [(family, FAMILIES[family]) for family in sorted(set(families)) if family in FAMILIES]
