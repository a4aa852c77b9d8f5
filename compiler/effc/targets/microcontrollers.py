"""Machines without an operating system, for which effc writes C99: microcontrollers by core, and any other by its own compiler."""

from __future__ import annotations

from effc.targets.base import C99, Target

__all__ = ["named"]

_THUMB = ("-mthumb", "-ffunction-sections", "-fdata-sections")
_CORES = (
    ("cortex-m0", ("-mcpu=cortex-m0", "-mfloat-abi=soft"), "mps2-an385", "Arm Cortex-M0: no floating-point unit, no DSP instructions"),
    ("cortex-m3", ("-mcpu=cortex-m3", "-mfloat-abi=soft"), "mps2-an385", "Arm Cortex-M3: no floating-point unit"),
    (
        "cortex-m4",
        ("-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"),
        "mps2-an386",
        "Arm Cortex-M4F: single precision in hardware",
    ),
    (
        "cortex-m7",
        ("-mcpu=cortex-m7", "-mfloat-abi=hard", "-mfpu=fpv5-d16"),
        "mps2-an500",
        "Arm Cortex-M7: double precision in hardware",
    ),
    (
        "cortex-m33",
        ("-mcpu=cortex-m33", "-mfloat-abi=hard", "-mfpu=fpv5-sp-d16"),
        "mps2-an505",
        "Arm Cortex-M33F: single precision in hardware",
    ),
)


def named() -> tuple[Target, ...]:
    """By name; `c99` leaves the compiler to whoever builds the C."""
    any_machine = _target("c99", "cc", (), "", "plain C99 for any machine: no operating system, no heap, no stdio, no libm")
    arms = [_target(name, "arm-none-eabi-gcc", (*flags, *_THUMB), board, summary) for name, flags, board, summary in _CORES]
    risc_v = ("-march=rv32imac", "-mabi=ilp32", "-ffunction-sections", "-fdata-sections")
    summary = "32-bit RISC-V, RV32IMAC: no floating-point unit"
    return (any_machine, *arms, _target("riscv32", "riscv64-unknown-elf-gcc", risc_v, "virt", summary))


def _target(name: str, compiler: str, flags: tuple[str, ...], board: str, summary: str) -> Target:
    return Target(
        name=name,
        family=C99,
        triple="",
        cpu="",
        features=(),
        lanes=1,
        registers=16,
        cores=1,
        l1=32 << 10,
        l2=256 << 10,
        summary=summary,
        compiler=compiler,
        flags=flags,
        board=board,
    )
