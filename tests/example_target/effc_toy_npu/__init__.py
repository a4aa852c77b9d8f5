"""The target `toy-npu`: this machine, with a C library that computes convolutions.

This module is imported whenever targets are listed: it holds data, and names what is imported only for compiling.
"""

from __future__ import annotations

from dataclasses import replace

from effc.targets import Extension, find_target

EXTENSION = Extension(
    name="toy-npu",
    targets=(replace(find_target("cpu"), name="toy-npu", summary="this machine, convolutions by the toy library"),),
    hooks="effc_toy_npu.hooks:HOOKS",
)
