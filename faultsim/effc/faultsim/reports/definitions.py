"""What each class of outcomes means, one sentence each, for people; `effc.faultsim.records` has them for programmers."""

from __future__ import annotations

__all__ = ["LABELS", "definitions"]

LABELS = {
    "masked": "masked",
    "non_critical": "non-critical",
    "critical": "critical",
    "sdc1": "SDC-1",
    "sdc5": "SDC-5",
    "sdc10": "SDC-10 %",
    "sdc20": "SDC-20 %",
    "due": "DUE",
}

_OF_CLASSES = {
    "masked": "All outputs equal the fault-free run's.",
    "non_critical": "An output differs; the prediction is the fault-free one.",
    "critical": "The prediction differs from the fault-free one (not: from the label), or an output became NaN or infinite.",
    "sdc1": "Critical and silent: the prediction differs, and no output is NaN or infinite where the fault-free one was not.",
    "sdc5": "Silent, and the prediction is none of the fault-free run's five best.",
    "sdc10": "The prediction is the same, and its confidence changed by more than 10 % of the fault-free confidence.",
    "sdc20": "The prediction is the same, and its confidence changed by more than 20 % of the fault-free confidence.",
    "due": "Detected, unrecoverable error: an output is NaN or infinite where the fault-free one was not, or the run broke off. Critical.",
}
_OTHERS = {
    "masked": _OF_CLASSES["masked"],
    "non_critical": "An output differs, by no more than the campaign's tolerance.",
    "critical": "An output differs by more than the campaign's tolerance, or became NaN or infinite.",
    "sdc1": "Critical and silent: no output is NaN or infinite where the fault-free one was not.",
    "due": _OF_CLASSES["due"],
}


def definitions(classes: bool) -> dict[str, str]:
    """By class name. Where outputs are no scores of classes, there is no ranking and no confidence, and a tolerance decides instead."""
    return dict(_OF_CLASSES if classes else _OTHERS)
