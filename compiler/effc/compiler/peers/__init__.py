"""Engines that effc is measured against. Each worker is a script of its own process; nothing here imports an engine.

A peer gets its best case: the original model, initialisers taken off the graph's inputs so that constants fold, all of its
optimisations, as many threads as effc on the same processors.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from effc.errors import ConfigError, DataError

if TYPE_CHECKING:
    from effc.runtime.bench import Contender

__all__ = ["PEERS", "peer_contender"]

PEERS = {"onnxruntime": (".onnx",), "torch": (".onnx", ".pt2"), "torch_compile": (".onnx", ".pt2"), "openvino": (".onnx",)}
"""Every engine by name, and the model files that it runs."""


def peer_contender(name: str, model: Path | str, options: Sequence[str]) -> Contender:
    """A peer that runs a source model, with the options of `contender_arguments`.

    Raises:
        ConfigError: an unknown engine, or one that does not run such a file.
        DataError: there is no such file.
    """
    from effc.runtime.bench import Contender

    if name not in PEERS:
        raise ConfigError(f"unknown engine {name!r} to compare with; known: {', '.join(PEERS)}")
    path = Path(model)
    if not path.is_file():
        raise DataError(f"{path} is a folder, not a model file" if path.is_dir() else f"{path}: no such file")
    if path.suffix.lower() not in PEERS[name]:
        others = [other for other, suffixes in PEERS.items() if path.suffix.lower() in suffixes]
        hint = f"; `effc compile {path} --emit onnx -o OUT` writes OUT/model.onnx; {' and '.join(others)} run {path.name}" if others else ""
        raise ConfigError(f"{name} needs a model in {' or '.join(PEERS[name])}, not {path.name}{hint}")
    return Contender(name, (sys.executable, "-m", f"effc.compiler.peers.{name}_worker", str(model), *options))
