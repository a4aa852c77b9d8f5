"""A model of accelerators: cycles, memory traffic and energy of a network's products on an array that a TOML file describes."""

from __future__ import annotations

from effc.cost.accelerator.description import Accelerator, find_accelerator, shipped

__all__ = ["Accelerator", "find_accelerator", "shipped"]
