"""What a target is: data about one processor, read by the cost model, the kernels and the code emitter."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from effc.targets.rates import STANDARD, Rates

__all__ = ["C99", "CUDA", "Origin", "Package", "Target"]

C99 = "c99"  # the family of targets that get C sources
CUDA = "cuda"  # the family of NVIDIA's GPUs


@dataclass(frozen=True)
class Package:
    """An installed distribution."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class Origin:
    """Where a target of another package came from.

    Attributes:
        extension: the name of the `targets.extensions.Extension`.
        package: that declares it.
        hooks: of the extension.
    """

    extension: str
    package: Package
    hooks: str


@dataclass(frozen=True)
class Target:
    """One processor.

    Attributes:
        name: as typed after `--target`: `cpu`, `x86-64-v3`, `aarch64`, `riscv64`, ...
        family: `cpu` for everything that TVM's LLVM emits for and that has an operating system; `c99` for what gets C99 sources; `cuda` for
            NVIDIA's GPUs (what the fields mean there: `targets/cuda.py`).
        triple: LLVM's target triple; empty for the host.
        cpu: LLVM's -mcpu; empty for the host's own.
        features: LLVM's -mattr entries, such as `+v`.
        lanes: float32 elements of one vector register; 1 where vectors hold no floating point.
        integer_lanes: int32 elements of one; 0: as many.
        registers: number of vector registers.
        cores: worker threads to plan for; 0 means: those of the machine that runs it.
        l1, l2: data cache bytes per core.
        summary: one line for `effc targets`.
        runs_here: whether code for it runs on this machine as it is.
        emulator: name of the qemu user-mode emulator that runs it elsewhere; empty where there is none.
        emulator_flags: what the emulator needs to know of the processor.
        hosted: whether there is an operating system with a C library; without one the self-test brings what it needs.
        dots: which dot products of narrow integers its vectors have: `pmaddwd` (two 16-bit products a 32-bit lane), `vpdpwssd` (the same,
            added to the lane), `vpdpbusd` (four products of an unsigned and a signed byte, added to the lane), `sdot` and `vrmpy` (four of
            signed bytes), `vwmacc` (one 16-bit product, added to the lane), `vmacc` (one 32-bit product, added to the lane, as fast as
            one of float32).
        compiler: the C compiler's name: of family `c99` for the Makefile and for trying the sources out, else for linking; empty: the one
            that `lowering.toolchain` finds by the triple.
        flags: what it needs to know of the processor.
        board: QEMU's name of a machine with such a processor; empty where there is none.
        rates: how fast products of few rows are, dense and skipping.
        origin: where it came from, set when that is found; None for effc's own.
    """

    name: str
    family: str
    triple: str
    cpu: str
    features: tuple[str, ...]
    lanes: int
    registers: int
    cores: int
    l1: int
    l2: int
    summary: str
    runs_here: bool = False
    emulator: str = ""
    emulator_flags: tuple[str, ...] = ()
    hosted: bool = True
    dots: tuple[str, ...] = ()
    compiler: str = ""
    flags: tuple[str, ...] = ()
    board: str = ""
    rates: Rates = STANDARD
    integer_lanes: int = 0
    origin: Origin | None = None

    @property
    def architecture(self) -> str:
        """The first word of the triple (`aarch64`); empty for the host."""
        return self.triple.split("-")[0]

    @property
    def int32_lanes(self) -> int:
        """int32 elements of one vector register."""
        return self.integer_lanes or self.lanes

    @property
    def scalar_floats(self) -> bool:
        """Whether vectors hold integers only."""
        return self.lanes == 1 < self.int32_lanes

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
