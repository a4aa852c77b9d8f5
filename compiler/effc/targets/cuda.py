"""NVIDIA's GPUs by the architecture of their multiprocessors; compiling for them needs no GPU, only nvcc."""

from __future__ import annotations

from effc.targets.base import CUDA, Target
from effc.targets.rates import Level, Rates

__all__ = ["named"]

# (architecture, multiprocessors, KiB of shared memory in each, MiB of second-level cache, GB/s of memory, which cards): of the first one.
_ARCHITECTURES = (
    ("sm_80", 108, 164, 40, 1555, "A100, A30"),
    ("sm_86", 84, 100, 6, 696, "A40, A10, RTX 30"),
    ("sm_87", 16, 164, 4, 205, "Jetson Orin"),
    ("sm_89", 142, 100, 96, 864, "L40S, L4, RTX 40"),
    ("sm_90", 132, 228, 50, 3350, "H100, H200"),
    ("sm_100", 148, 228, 126, 8000, "B200"),
)


def named() -> tuple[Target, ...]:
    """By name, `cuda:sm_90`.

    Of the fields of a target, `cpu` is the architecture, `lanes` what one load of 16 bytes brings, `registers` what a thread may have,
    `cores` the multiprocessors, `l1` the shared memory of each and `l2` the whole card's second-level cache.
    """
    return tuple(
        Target(
            name=f"cuda:{architecture}",
            family=CUDA,
            triple="",
            cpu=architecture,
            features=(),
            lanes=4,
            registers=255,
            cores=multiprocessors,
            l1=shared << 10,
            l2=cache << 20,
            summary=f"NVIDIA GPU of architecture {architecture} ({cards})",
            rates=_rates(bandwidth),
        )
        for architecture, multiprocessors, shared, cache, bandwidth, cards in _ARCHITECTURES
    )


def _rates(bandwidth: float) -> Rates:
    """From the data sheet's bandwidth, unmeasured: a product reads weights at nine tenths of it, a skipping one at eight tenths; the cache
    is twice as fast. Thousands of threads look at the inputs at once."""
    memory = Level(0.9 * bandwidth, 0.8 * bandwidth, 0.0)
    return Rates(memory, Level(2 * memory.dense, 2 * memory.skipping, 0.0), scan=0.0005, threads=1)
