"""QEMU's user mode, which runs a target's static programs on another machine: which program it is, and what to install for it."""

from __future__ import annotations

import shutil

from effc.targets.base import Target

__all__ = ["emulator_for", "emulator_install"]


def emulator_for(target: Target) -> str | None:
    """The program that runs the target's static executables here, the static qemu first, as distributions name both; None without one."""
    names = (f"{target.emulator}-static", target.emulator) if target.emulator else ()
    return next((name for name in names if shutil.which(name)), None)


def emulator_install(target: Target) -> str:
    """What to do where it is missing."""
    return f"install {target.emulator} (Debian: qemu-user)"
