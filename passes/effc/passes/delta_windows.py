"""Which pixels of a layer's result may have changed, from the pixels of what it reads that did: the union of their windows.

Masks are (T, 1, H, W) bool, one image a frame. Through a window of k x k pixels with a dilation d and a stride s an output pixel may
change when any pixel under its window has: a max pool of the mask. At an add and a concatenation masks are united; a resize changes the
pixels whose sources it weighs. Padding never changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx

from effc.ir import keyword_arguments
from effc.passes.delta_operators import CONVOLUTIONS, POOLS, is_pad, is_resize
from effc.passes.delta_sites import Layer

__all__ = ["active_pixels", "window"]

Pair = tuple[int, int]


def active_pixels(layer: Layer, moved: Mapping[fx.Node, Tensor | None], constants: Mapping[fx.Node, Any]) -> Tensor | None:
    """The pixels of a layer's result that must be computed.

    Args:
        layer: any layer.
        moved: for each site that it reads, the pixels that moved, (T, 1, H, W) bool; None where all of them may have.
        constants: the values of nodes that are the same for all frames.

    Returns:
        (T, 1, H, W) bool; None for all pixels.
    """
    if not layer.sparse or any(moved[one] is None for one in layer.reads):
        return None
    found: dict[fx.Node, Tensor] = {one: mask for one in layer.reads if (mask := moved[one]) is not None}
    found |= {part: found[one] for part, one in layer.moved_from.items()}
    for node in layer.nodes:
        masks = [found[one] for one in node.all_input_nodes if one in found]
        union = masks[0]
        for mask in masks[1:]:
            union = union | mask
        found[node] = _through(node, union, constants)
    return found[layer.node]


def _through(node: fx.Node, mask: Tensor, constants: Mapping[fx.Node, Any]) -> Tensor:
    if is_pad(node):
        return F.pad(mask, [*keyword_arguments(node)["pad"]])
    if is_resize(node):  # of ones and zeros with weights of at least 0: not 0 where a marked pixel has some weight
        image, *others = fx.map_arg(node.args, lambda one: constants.get(one, mask.float()))
        resized: Tensor = node.target(image, *others, **node.kwargs)  # type: ignore[operator]
        return resized > 0
    arguments = keyword_arguments(node)
    size = _pair(node.meta["val"].shape[2:])
    if node.target in CONVOLUTIONS:
        kernel, dilation = _pair(node.args[1].meta["val"].shape[2:]), _pair(arguments["dilation"])  # type: ignore[union-attr]
        return window(mask, kernel, _pair(arguments["stride"]), _padding(arguments["padding"], kernel, dilation), dilation, size)
    if node.target in POOLS:
        kernel = _pair(arguments["kernel_size"])
        stride = _pair(arguments["stride"] or kernel)  # an empty list is the window's own size
        return window(mask, kernel, stride, _pair(arguments["padding"]), _pair(arguments.get("dilation", 1)), size)
    return mask


def window(mask: Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, size: Pair) -> Tensor:
    """The output pixels whose window holds a marked input pixel.

    Args:
        mask: (T, 1, H, W) bool.
        kernel, stride, dilation: of rows and of columns. padding: in front of the first row and column.
        size: rows and columns of the result; its last windows may end before the image does, or hang over.

    Returns:
        (T, 1, *size) bool.
    """
    if kernel == (1, 1) and padding == (0, 0):
        return mask[:, :, :: stride[0], :: stride[1]][:, :, : size[0], : size[1]]
    rows, columns = (
        (size[axis] - 1) * stride[axis] + dilation[axis] * (kernel[axis] - 1) + 1 - padding[axis] - mask.shape[2 + axis] for axis in (0, 1)
    )
    spread = F.pad(mask.float(), (padding[1], columns, padding[0], rows))  # a negative width cuts
    return F.max_pool2d(spread, kernel, stride, 0, dilation) > 0


def _padding(given: Any, kernel: Pair, dilation: Pair) -> Pair:
    """In front of the first row and column. With `same` an odd total has its smaller half there."""
    if isinstance(given, str):
        return (0, 0) if given == "valid" else (dilation[0] * (kernel[0] - 1) // 2, dilation[1] * (kernel[1] - 1) // 2)
    return _pair(given)


def _pair(given: Any) -> Pair:
    values = [given] if isinstance(given, int) else list(given)
    return (int(values[0]), int(values[-1]))
