"""What a target is: data about one processor, read by the cost model, the kernels and the code emitter."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from effc.targets.rates import STANDARD, Rates

__all__ = ["C99", "Target"]

C99 = "c99"  # the family of targets that get C sources


@dataclass(frozen=True)
class Target:
    """One processor.

    Attributes:
        name: as typed after `--target`: `cpu`, `x86-64-v3`, `aarch64`, `riscv64`, ...
        family: `cpu` for everything that TVM's LLVM emits for and that has an operating system; `c99` for what gets C99 sources.
        triple: LLVM's target triple; empty for the host.
        cpu: LLVM's -mcpu; empty for the host's own.
        features: LLVM's -mattr entries, such as `+v`.
        lanes: float32 elements of one vector register.
        registers: number of vector registers.
        cores: worker threads to plan for; 0 means: those of the machine that runs it.
        l1, l2: data cache bytes per core.
        summary: one line for `effc targets`.
        runs_here: whether code for it runs on this machine as it is.
        emulator: name of the qemu user-mode emulator that runs it elsewhere; empty where there is none.
        dots: which dot products of narrow integers its vectors have: `pmaddwd` (two 16-bit products a 32-bit lane), `vpdpwssd` (the same,
            added to the lane), `vpdpbusd` (four products of an unsigned and a signed byte, added to the lane), `sdot` (of signed bytes).
        compiler: of family `c99`: the C compiler's name, for the Makefile and for trying the sources out.
        flags: what it needs to know of the processor.
        board: QEMU's name of a machine with such a processor; empty where there is none.
        rates: how fast products of few rows are, dense and skipping.
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
    dots: tuple[str, ...] = ()
    compiler: str = ""
    flags: tuple[str, ...] = ()
    board: str = ""
    rates: Rates = STANDARD

    @property
    def architecture(self) -> str:
        """The first word of the triple (`aarch64`); empty for the host."""
        return self.triple.split("-")[0]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
