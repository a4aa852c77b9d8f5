"""How to build a model in C: a Makefile, a CMakeLists.txt, and what starts the self-test on a board of QEMU."""

from __future__ import annotations

from effc.lowering.c99.model import CModel
from effc.lowering.c99.template import filled
from effc.targets import Target

__all__ = ["build_files", "emulator", "library"]

# Where a board of QEMU has the memory that it starts from, and the memory for data.
_MEMORY = {
    "mps2-an385": ("0x00000000", "0x20000000"),
    "mps2-an386": ("0x00000000", "0x20000000"),
    "mps2-an500": ("0x00000000", "0x20000000"),
    "mps2-an505": ("0x10000000", "0x38000000"),  # as its core sees them in its secure state, in which it starts
    "virt": ("0x80000000", "0x80400000"),
}


def emulator(target: Target) -> list[str]:
    """The command that runs a self-test on the target's board; the program's name comes behind it."""
    quiet = ["-display", "none", "-monitor", "none", "-serial", "none"]
    if target.board == "virt":
        return ["qemu-system-riscv32", "-M", "virt", "-bios", "none", *quiet, "-kernel"]
    return ["qemu-system-arm", "-M", target.board, *quiet, "-semihosting-config", "enable=on,target=native", "-kernel"]


def library(target: Target) -> list[str]:
    """What tells a compiler that has no C library of its own where its headers are, as distributions package it."""
    return ["--specs=picolibc.specs"] if target.board == "virt" else []


def build_files(model: CModel, target: Target) -> dict[str, str]:
    """Relative name -> text."""
    own = " ".join(library(target))
    values = model.values() | {
        "COMPILER": target.compiler,
        "FLAGS": " ".join(target.flags),
        "SPECS": f"TARGET_LIBRARY = {own} # nothing for a compiler with a C library of its own\n" if own else "",
        "LIBRARY": " $(TARGET_LIBRARY)" if own else "",
        "EMULATOR": " ".join(emulator(target)) if target.board else "",
    }
    goals = (
        f"#   make target   builds it with {target.compiler} for {target.name}\n"
        f"#   make qemu     runs the self-test on QEMU's {target.board}\n"
    )
    board = bool(target.board)
    values |= {
        "GOALS": goals if board else "",
        "TARGET": filled("target.mk", values) if board else "",
        "PHONY": " target qemu" if board else "",
    }
    files = {"Makefile": filled("Makefile", values), "CMakeLists.txt": filled("CMakeLists.txt", values)}
    if board:
        flash, ram = _MEMORY[target.board]
        start, entry = ("start_riscv.c", "effc_reset") if target.board == "virt" else ("start_arm.c", "effc_start")
        files["qemu/board.ld"] = filled("board.ld", values | {"FLASH": flash, "RAM": ram, "ENTRY": entry})
        files["qemu/start.c"] = filled(start, values)
    return files
