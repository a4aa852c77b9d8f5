"""How to build a model in C: a Makefile, a CMakeLists.txt, and what starts the self-test on a board of QEMU."""

from __future__ import annotations

from effc.lowering.c99.model import CModel
from effc.lowering.c99.template import filled
from effc.targets import Target

__all__ = ["BOARD_MIB", "build_files", "emulator", "library"]

BOARD_MIB = 4  # of flash, and of RAM: what board.ld gives out and all of the boards have
_BOARD_BYTES = BOARD_MIB << 20
_STACK = 64 << 10
_VIRT = 0x80000000  # where its memory begins, all of it RAM: the first part stands for flash

# Where a board of QEMU has the memory that it starts from, and the memory for data.
_MEMORY = {
    "mps2-an385": ("0x00000000", "0x20000000"),
    "mps2-an386": ("0x00000000", "0x20000000"),
    "mps2-an500": ("0x00000000", "0x20000000"),
    "mps2-an505": ("0x10000000", "0x38000000"),  # as its core sees them in its secure state, in which it starts
    "virt": (f"{_VIRT:#x}", f"{_VIRT + _BOARD_BYTES:#x}"),
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


def build_files(model: CModel, target: Target, calls: int) -> dict[str, str]:
    """Relative name -> text. The self-test makes so many calls."""
    own, made = " ".join(library(target)), f"{calls} call{'s' if calls != 1 else ''}"
    values = model.values() | {
        "COMPILER": target.compiler,
        "FLAGS": " ".join(target.flags),
        "SPECS": f"TARGET_LIBRARY = {own} # nothing for a compiler with a C library of its own\n" if own else "",
        "LIBRARY": " $(TARGET_LIBRARY)" if own else "",
        "EMULATOR": " ".join(emulator(target)) if target.board else "",
        "PASSED": f"self-test passed: {made} gave the outputs of test_vectors.h, the weights are undamaged",
    }
    small = _too_large(model, target, calls)
    runs = f"says why QEMU's {target.board} cannot run the self-test" if small else f"runs the self-test on QEMU's {target.board}"
    goals = f"#   make target   builds it with {target.compiler} for {target.name}\n#   make qemu     {runs}\n"
    board = bool(target.board)
    values |= {
        "GOALS": goals if board else "",
        "TARGET_BUILD": " $(TARGET_CC) $(TARGET_CFLAGS)" if board else "",
        "TARGET": filled("target.mk", values) + (_refusal(small) if small else filled("qemu.mk", values)) if board else "",
        "PHONY": " target qemu" if board else "",
    }
    files = {"Makefile": filled("Makefile", values), "CMakeLists.txt": filled("CMakeLists.txt", values)}
    if board and not small:
        flash, ram = _MEMORY[target.board]
        start, entry = ("start_riscv.c", "effc_reset") if target.board == "virt" else ("start_arm.c", "effc_start")
        files["qemu/board.ld"] = filled("board.ld", values | {"FLASH": flash, "RAM": ram, "MIB": str(BOARD_MIB), "ENTRY": entry})
        files["qemu/start.c"] = filled(start, values)
    return files


def _too_large(model: CModel, target: Target, calls: int) -> str:
    """Why the board cannot hold the self-test, however small its code is; empty where it may."""
    plan = model.plan
    inputs, outputs, weights = (sum(one.buffer.size for one in tensors) for tensors in (model.inputs, model.outputs, model.weights))
    flash, ram = weights + calls * (inputs + outputs), model.arena_bytes + plan.state_bytes + outputs + _STACK
    if max(flash, ram) <= _BOARD_BYTES:
        return ""
    has = f"QEMU's {target.board} has {_BOARD_BYTES:,} bytes of flash and as many of RAM"
    return f"the self-test needs over {flash:,} bytes of flash and {ram:,} of RAM, and {has}: run it on your board, or here by make test"


def _refusal(why: str) -> str:
    return f'\nqemu:\n\t@echo "{why}" >&2; false\n'
