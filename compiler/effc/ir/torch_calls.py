"""Calls of torch that warn about torch itself: it copies its own tree specs, whose class it calls deprecated."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch.export import ExportedProgram

__all__ = ["copy_call_graph", "decompose"]


def copy_call_graph(exported: ExportedProgram) -> list[Any]:
    """A private copy of how a program is called."""
    with _no_tree_spec_warning():
        copied: list[Any] = copy.deepcopy(exported.module_call_graph)
    return copied


def decompose(exported: ExportedProgram, table: Mapping[Any, Callable[..., Any]]) -> ExportedProgram:
    """The program with the operators of `table` written out in others, and without in-place operators."""
    with _no_tree_spec_warning():
        decomposed: ExportedProgram = exported.run_decompositions(dict(table))
    return decomposed


@contextmanager
def _no_tree_spec_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        yield
