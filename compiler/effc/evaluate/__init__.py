"""Quality on data: metrics of anything that runs, and the paired difference between two of them."""

from __future__ import annotations

from effc.evaluate.compare import Difference, compare, samples_needed
from effc.evaluate.metrics import METRICS, Score, evaluate, has_classes, own_metric

__all__ = ["METRICS", "Difference", "Score", "compare", "evaluate", "has_classes", "own_metric", "samples_needed"]
