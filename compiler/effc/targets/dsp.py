"""Digital signal processors without an operating system, which get object code: Qualcomm's Hexagon with its vector unit, HVX."""

from __future__ import annotations

from effc.targets.base import Target

__all__ = ["named"]

_HEXAGON = "hexagon-unknown-elf"


def named() -> tuple[Target, ...]:
    """By name.

    Hexagon v67: vectors of 128 bytes hold integers only (floating point came with v68), so float layers are
    scalar code. QEMU 7.2 knows no later Hexagon.
    """
    return (
        Target(
            name="hexagon-v67",
            family="cpu",
            triple=_HEXAGON,
            cpu="hexagonv67",
            features=("+hvxv67", "+hvx-length128b"),
            lanes=1,
            registers=32,
            cores=1,
            l1=32 << 10,
            l2=1 << 20,
            summary="Qualcomm Hexagon v67 with HVX of 128 bytes, no operating system; floating point is scalar",
            emulator="qemu-hexagon",
            emulator_flags=("-cpu", "v67"),
            hosted=False,
            dots=("vrmpy", "vmacc"),
            compiler="clang",
            flags=(f"--target={_HEXAGON}", "-mcpu=hexagonv67", "-mhvx", "-mhvx-length=128b"),
            integer_lanes=32,
        ),
    )
