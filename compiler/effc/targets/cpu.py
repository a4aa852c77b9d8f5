"""Processors that run an operating system: this machine, and those that LLVM knows by name."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

from effc.targets.base import Target

__all__ = ["named", "this_machine"]

_X86_V3 = frozenset(("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"))
_X86_V4 = _X86_V3 | frozenset(("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"))


@functools.cache
def _flags() -> frozenset[str]:
    """Instruction-set flags of this machine as Linux lists them; none on other systems."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def _cache(level: int, otherwise: int) -> int:
    """Bytes of this machine's data cache of a level, per core; a common size where the system does not say."""
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            kind = (index / "type").read_text().strip()
            if int((index / "level").read_text()) == level and kind in ("Data", "Unified"):
                size = (index / "size").read_text().strip()
                return int(size.rstrip("KM")) * {"K": 1 << 10, "M": 1 << 20}.get(size[-1], 1)
        except (OSError, ValueError):
            continue
    return otherwise


def _dots(flags: frozenset[str]) -> tuple[str, ...]:
    """Dot products of narrow integers on a processor with these flags."""
    if "avx2" not in flags:
        return ("sdot",) if "asimddp" in flags else ()
    by_bytes = flags >= _X86_V4 | {"avx512_vnni"} or (not flags >= _X86_V4 and "avx_vnni" in flags)
    return ("pmaddwd", "vpdpwssd", "vpdpbusd") if by_bytes else ("pmaddwd",)


@functools.cache
def this_machine() -> Target:
    """The target `cpu`: compiled for the processor that compiles, as LLVM detects it."""
    flags = _flags()
    lanes, registers = (16, 32) if flags >= _X86_V4 else (8, 16) if "avx2" in flags else (4, 32 if platform.machine() == "aarch64" else 16)
    return Target(
        name="cpu",
        family="cpu",
        triple="",
        cpu="",
        features=("+dotprod",) if "sdot" in _dots(flags) else (),
        lanes=lanes,
        registers=registers,
        cores=0,
        l1=_cache(1, 32 << 10),
        l2=_cache(2, 1 << 20),
        summary=f"this machine ({platform.machine()}, {lanes * 32}-bit vectors)",
        runs_here=True,
        dots=_dots(flags),
    )


def named() -> tuple[Target, ...]:
    """Processors by name; compiling for them needs no such machine."""
    machine = platform.machine()
    flags = _flags()
    return (
        Target(
            name="x86-64-v3",
            family="cpu",
            triple="x86_64-unknown-linux-gnu",
            cpu="x86-64-v3",
            features=(),
            lanes=8,
            registers=16,
            cores=0,
            l1=32 << 10,
            l2=512 << 10,
            summary="x86-64 with AVX2 and FMA (Haswell, Zen and later)",
            runs_here=machine == "x86_64" and flags >= _X86_V3,
            emulator="qemu-x86_64",
            dots=("pmaddwd",),
        ),
        Target(
            name="x86-64-v4",
            family="cpu",
            triple="x86_64-unknown-linux-gnu",
            cpu="x86-64-v4",
            features=(),
            lanes=16,
            registers=32,
            cores=0,
            l1=32 << 10,
            l2=1 << 20,
            summary="x86-64 with AVX-512 (Skylake-X, Zen 4 and later)",
            runs_here=machine == "x86_64" and flags >= _X86_V4,
            dots=("pmaddwd",),
        ),
        Target(
            name="aarch64",
            family="cpu",
            triple="aarch64-unknown-linux-gnu",
            cpu="generic",
            features=("+neon",),
            lanes=4,
            registers=32,
            cores=0,
            l1=32 << 10,
            l2=512 << 10,
            summary="64-bit Arm with NEON (Cortex-A53 and later)",
            runs_here=machine == "aarch64",
            emulator="qemu-aarch64",
        ),
        Target(
            name="aarch64-dotprod",
            family="cpu",
            triple="aarch64-unknown-linux-gnu",
            cpu="generic",
            features=("+neon", "+dotprod"),
            lanes=4,
            registers=32,
            cores=0,
            l1=64 << 10,
            l2=512 << 10,
            summary="64-bit Arm with NEON and integer dot products (Cortex-A55, A75 and later)",
            runs_here=machine == "aarch64" and "asimddp" in flags,
            emulator="qemu-aarch64",
            emulator_flags=("-cpu", "max"),
            dots=("sdot",),
        ),
        Target(
            name="riscv64",
            family="cpu",
            triple="riscv64-unknown-linux-gnu",
            cpu="generic-rv64",
            features=("+m", "+a", "+f", "+d", "+c"),
            lanes=4,
            registers=32,
            cores=0,
            l1=32 << 10,
            l2=512 << 10,
            summary="64-bit RISC-V, RV64GC without vector instructions",
            runs_here=machine == "riscv64",
            emulator="qemu-riscv64",
        ),
        *(_vectors(bits, bits // 32) for bits in (128, 256)),
    )


def _vectors(bits: int, lanes: int) -> Target:
    """RISC-V with the vector extension, for registers of exactly so many bits: code in vectors of fixed length needs to know."""
    return Target(
        name=f"riscv64-v{bits}",
        family="cpu",
        triple="riscv64-unknown-linux-gnu",
        cpu="generic-rv64",
        features=("+m", "+a", "+f", "+d", "+c", "+v", f"+zvl{bits}b"),
        lanes=lanes,
        registers=32,
        cores=0,
        l1=32 << 10,
        l2=512 << 10,
        summary=f"64-bit RISC-V with RVV 1.0, vectors of {bits} bits (RV64GCV)",
        emulator="qemu-riscv64",
        emulator_flags=("-cpu", f"rv64,v=true,vext_spec=v1.0,vlen={bits},elen=64"),
        dots=("vwmacc", "vmacc"),
    )
