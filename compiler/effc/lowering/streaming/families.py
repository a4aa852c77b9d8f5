"""Which kernels each family of targets has for streams: over lists, for the frame, and to compare. The table is `LIST_KERNELS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from effc.lowering.kernels.compact_listed import compact_compared, compact_listed, compact_map
from effc.lowering.kernels.compared import compared, compared_planes
from effc.lowering.kernels.cuda import frame as cuda_frame
from effc.lowering.kernels.cuda import listed as cuda_listed
from effc.lowering.kernels.cuda.positions import blocks_of_positions
from effc.lowering.kernels.cuda.positions import fits as fits_on_cuda
from effc.lowering.kernels.frame import frame_kernel
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.listed_conv import listed_convolution
from effc.lowering.kernels.listed_depthwise import listed_depthwise
from effc.lowering.kernels.listed_map import listed_map
from effc.lowering.kernels.listed_pool import listed_pool
from effc.lowering.kernels.pixel_list import TASKS, fits
from effc.targets import C99, CUDA, Target

__all__ = ["ListKernels", "list_kernels"]


@dataclass(frozen=True)
class ListKernels:
    """The kernels of one family.

    Attributes:
        rules: (fused function, which arguments are stored, what is listed, results, target) -> the kernel of a convolution or a pool, or
            None for what it does not take. The first that takes one writes it.
        mapped: (arguments, blocks, what is listed, results, target) -> the kernel of a function of single pixels.
        frame: (its buffers, lanes) -> the function of the first step.
        compared, compared_planes: (results, lanes) -> the function that compares what was computed whole, by layout.
        narrow: whether masks are as wide as the image.
        fits: (height, width, what is read) -> whether lists can serve.
        counters: (height, width, channels, target) -> how many counters of computed positions a kernel has.
        frame_counters: (height, width) -> the same of the first step.
        whole: whether rules called with nothing listed write the same sums for whole frames. Without, the family's dense kernels have them
            (`Call.direct`).
    """

    rules: tuple[Callable[..., Implementation | None], ...]
    mapped: Callable[..., Implementation]
    frame: Callable[..., Any] = frame_kernel
    compared: Callable[..., Any] = compared
    compared_planes: Callable[..., Any] = compared_planes
    narrow: bool = False
    fits: Callable[..., bool] = fits
    counters: Callable[[int, int, int, Target], int] = lambda height, width, channels, target: TASKS
    frame_counters: Callable[[int, int], int] = lambda height, width: TASKS
    whole: bool = False


def _always(*_: Any) -> bool:
    return True


_LIST_KERNELS: Mapping[str, ListKernels] = {
    "cpu": ListKernels((listed_depthwise, listed_convolution, listed_pool), listed_map),
    C99: ListKernels((compact_listed,), compact_map, compared=compact_compared, narrow=True, fits=_always),
    CUDA: ListKernels(
        rules=(cuda_listed.listed_convolution, cuda_listed.listed_pool),
        mapped=cuda_listed.listed_map,
        frame=cuda_frame.frame_kernel,
        compared=cuda_frame.compared,
        compared_planes=cuda_frame.compared_planes,
        narrow=True,
        fits=fits_on_cuda,
        counters=lambda height, width, channels, target: blocks_of_positions(height, width, channels, target)[0],
        frame_counters=cuda_frame.frame_blocks,
        whole=True,
    ),
}


def list_kernels(target: Target) -> ListKernels:
    """The kernels of a target's family."""
    return _LIST_KERNELS[target.family]
