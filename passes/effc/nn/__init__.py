"""Trainable layers, losses and Lightning callbacks behind the passes.

    from effc.nn import TopK, StatisticalTopK, SparkFFN, FATReLU, ActivationSparsity

    sparse = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), TopK(0.1), nn.Linear(256, 64))

Each layer is an ordinary `nn.Module` whose evaluation form holds an effc op where ATen has no word for what it does, so that a program
made of it (`effc.frontends.load_program`) can be lowered with the zeros in sight. Importing this package imports neither torch nor
Lightning; its names do, on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from effc.nn.callbacks import ActivationSparsity
    from effc.nn.fatrelu import FATReLU
    from effc.nn.regularisers import hoyer_square, l1
    from effc.nn.spark import SparkAttention, SparkFFN
    from effc.nn.statistical_top_k import StatisticalTopK
    from effc.nn.top_k import TopK

__all__ = ["ActivationSparsity", "FATReLU", "SparkAttention", "SparkFFN", "StatisticalTopK", "TopK", "hoyer_square", "l1"]

_HOMES = {
    "ActivationSparsity": "effc.nn.callbacks",
    "FATReLU": "effc.nn.fatrelu",
    "SparkAttention": "effc.nn.spark",
    "SparkFFN": "effc.nn.spark",
    "StatisticalTopK": "effc.nn.statistical_top_k",
    "TopK": "effc.nn.top_k",
    "hoyer_square": "effc.nn.regularisers",
    "l1": "effc.nn.regularisers",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
