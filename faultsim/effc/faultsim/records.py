"""What one injection did, counted over the inferences it was tried on; one line of a campaign's results.

Every inference is exactly one of
- *masked*: all outputs equal the golden run's (a zero's sign makes no difference);
- *non-critical*: an output differs, and the prediction does not;
- *critical*: the prediction differs from the golden run's, or an output became NaN or infinite.

A run that an operator breaks off (an index out of range) is DUE for all of its inferences.

The prediction is the largest score of the first output (of each position of a sequence). Of the critical ones, *due* counts those with NaN
or an infinity that the golden run lacks: a detected, unrecoverable error. The silent rest is SDC-1. The other classes overlap with these:

- *sdc5*: the prediction left the golden run's five best (silent ones only).
- *sdc10*, *sdc20*: the prediction is the same, and its confidence (softmax; the outputs themselves where they sum to one) changed by more
  than 10 % or 20 % **of the golden confidence**. G. Li et al., SC'17, say "varies by more than 10 %" and leave open of what and whether the
  class may change; this is the relative reading, exclusive of SDC-1.
- *correct*: the prediction is the label's. *lost*: golden right, faulty silently wrong.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Record"]


class Record(NamedTuple):
    """Counts of one injection.

    Attributes:
        group, draw: which injection.
        flips: bits whose value the fault changed.
        silent: bits it reached that already had the value they are stuck at.
        inferences: samples it was tried on.
        masked, non_critical, critical, due, sdc5, sdc10, sdc20: inferences of each class.
        correct: inferences whose prediction is the label; 0 without labels.
        golden_correct: the same of the golden run, on the same samples.
        lost: inferences that were right in the golden run and are silently wrong now.
        before, after: for an injection of one fault, the word before and after it (as the number view encodes them); else 0.
    """

    group: int
    draw: int
    flips: int
    silent: int
    inferences: int
    masked: int
    non_critical: int
    critical: int
    due: int
    sdc5: int
    sdc10: int
    sdc20: int
    correct: int
    golden_correct: int
    lost: int
    before: int = 0
    after: int = 0

    @property
    def sdc1(self) -> int:
        """Critical and silent."""
        return self.critical - self.due
