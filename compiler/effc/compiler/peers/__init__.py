"""Engines that effc is measured against. Each worker is a script of its own process; nothing here imports an engine.

A peer gets its best case: the original model, initialisers taken off the graph's inputs so that constants fold, all of its
optimisations, as many threads as effc on the same processors.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from effc.errors import ConfigError
from effc.runtime.bench import Contender

__all__ = ["PEERS", "peer_contender"]

PEERS = ("onnxruntime", "torch", "torch_compile", "openvino")


def peer_contender(name: str, model: Path | str, options: Sequence[str]) -> Contender:
    """A peer that runs a source model, with the options of `contender_arguments`. Raises ConfigError for an unknown name."""
    if name not in PEERS:
        raise ConfigError(f"unknown engine {name!r} to compare with; known: {', '.join(PEERS)}")
    return Contender(name, (sys.executable, "-m", f"effc.compiler.peers.{name}_worker", str(model), *options))
