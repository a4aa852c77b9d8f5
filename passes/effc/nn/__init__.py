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
    from effc.nn.activating_while_pruning import ActivatingWhilePruning
    from effc.nn.bound import Bound
    from effc.nn.callbacks import ActivationSparsity
    from effc.nn.dead_neurons import DeadNeurons
    from effc.nn.delta_activation import DeltaActivation
    from effc.nn.delta_network import DeltaNetwork
    from effc.nn.delta_sparsity import DeltaSparsity, DeltaStage
    from effc.nn.delta_step import DeltaStep, QuantisedNetwork
    from effc.nn.fatrelu import FATReLU
    from effc.nn.iterative_pruning import IterativePruning
    from effc.nn.progressive_bounds import ProgressiveBounds
    from effc.nn.regularisers import hoyer_square, l1
    from effc.nn.spark import SparkAttention, SparkFFN
    from effc.nn.statistical_top_k import StatisticalTopK
    from effc.nn.synaptic_operations import SynapticOperations
    from effc.nn.top_k import TopK

__all__ = [
    "ActivatingWhilePruning",
    "ActivationSparsity",
    "Bound",
    "DeadNeurons",
    "DeltaActivation",
    "DeltaNetwork",
    "DeltaSparsity",
    "DeltaStage",
    "DeltaStep",
    "FATReLU",
    "IterativePruning",
    "ProgressiveBounds",
    "QuantisedNetwork",
    "SparkAttention",
    "SparkFFN",
    "StatisticalTopK",
    "SynapticOperations",
    "TopK",
    "hoyer_square",
    "l1",
]

_HOMES = {
    "ActivatingWhilePruning": "effc.nn.activating_while_pruning",
    "ActivationSparsity": "effc.nn.callbacks",
    "Bound": "effc.nn.bound",
    "DeadNeurons": "effc.nn.dead_neurons",
    "DeltaActivation": "effc.nn.delta_activation",
    "DeltaNetwork": "effc.nn.delta_network",
    "DeltaSparsity": "effc.nn.delta_sparsity",
    "DeltaStage": "effc.nn.delta_sparsity",
    "DeltaStep": "effc.nn.delta_step",
    "FATReLU": "effc.nn.fatrelu",
    "IterativePruning": "effc.nn.iterative_pruning",
    "ProgressiveBounds": "effc.nn.progressive_bounds",
    "QuantisedNetwork": "effc.nn.delta_step",
    "SparkAttention": "effc.nn.spark",
    "SparkFFN": "effc.nn.spark",
    "StatisticalTopK": "effc.nn.statistical_top_k",
    "SynapticOperations": "effc.nn.synaptic_operations",
    "TopK": "effc.nn.top_k",
    "hoyer_square": "effc.nn.regularisers",
    "l1": "effc.nn.regularisers",
}


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
