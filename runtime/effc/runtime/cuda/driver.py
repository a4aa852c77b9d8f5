"""What the executor asks of a GPU. `libcuda` is NVIDIA's driver; the compiler has another that runs the code on a CPU, to check it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from effc.runtime.plan import Launch
from effc.runtime.tensors import Array

__all__ = ["Driver", "fits"]


class Driver(Protocol):
    """One device. Everything happens in order: a copy waits for the launches before it."""

    def load(self, code: bytes, launches: Iterable[Launch] = ()) -> None:
        """Make the functions of a cubin known, and ready all that will be launched: nothing of that may happen while launches are recorded.

        Raises InternalError where a launch is not what its function takes.
        """

    def allocate(self, size: int) -> int:
        """The address of device memory, of at least one byte, at a multiple of 256; its content is anything. Freed with the driver.

        Raises DataError where there is not so much left.
        """

    def upload(self, to: int, array: Array) -> None:
        """Copy a contiguous array to device memory. The array must stay, unchanged, until `synchronise` or a download has returned."""

    def download(self, array: Array, source: int) -> None:
        """Copy device memory into a contiguous array, and wait until that is done."""

    def copy(self, to: int, source: int, size: int) -> None:
        """Copy device memory to device memory."""

    def clear(self, to: int, size: int) -> None:
        """Fill device memory with zeros."""

    def launch(self, kernel: str, grid: Sequence[int], block: Sequence[int], shared: int, arguments: Sequence[int]) -> None:
        """Start a function of the loaded code on addresses."""

    def record(self, work: Callable[[], None]) -> Any:
        """What `work` launches, as one thing to start; nothing of it runs now."""

    def replay(self, recorded: Any) -> None:
        """Start what was recorded."""

    def synchronise(self) -> None:
        """Wait for everything. Raises InternalError where the device reports a failure."""


def fits(architecture: str, capability: tuple[int, int]) -> bool:
    """Whether code for an architecture such as `sm_80` runs on a device of a compute capability such as (8, 6).

    Machine code runs on later devices of the same major version. Jetson's (8, 7) stands alone.
    """
    digits = architecture.removeprefix("sm_")
    major, minor = int(digits[:-1]), int(digits[-1])
    if (8, 7) in ((major, minor), capability):
        return (major, minor) == capability
    return major == capability[0] and minor <= capability[1]
