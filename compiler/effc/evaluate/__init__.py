"""Quality on data: metrics of anything that runs, and the paired difference between two of them."""

from __future__ import annotations

from effc.evaluate.compare import Difference, compare, samples_needed
from effc.evaluate.metrics import METRICS, Score, evaluate

__all__ = ["METRICS", "Difference", "Score", "compare", "evaluate", "samples_needed"]
