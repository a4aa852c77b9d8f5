"""Relax expressions that the quantised ops share; the arithmetic of `effc.ir.ops.quantised`, operation by operation.

`relax.op.round` rounds ties to even. Integers are centred as int16: 8-bit values minus an 8-bit zero point fit. Other widths are centred
as int32. Scales of 1 and zero points of 0 that `quantised_constants` has written into the graph are left out. `anchors_integer` knows the
forms of centred operands, whose bytes it multiplies themselves, and of saturation, of which it makes a maximum and a minimum.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

__all__ = ["Expressions"]


class Expressions:
    """Emits the parts of one op's meaning."""

    def __init__(self, node: fx.Node, importer: Any) -> None:
        from tvm import relax

        self._relax, self._node = relax, node
        self._env, self._emit = importer.env, importer.block_builder.emit

    def operand(self, position: int) -> Any:
        """The relax variable of an argument; None for an optional one that is absent."""
        argument = self._node.args[position] if position < len(self._node.args) else None
        return None if argument is None else self._env[argument]

    def fake(self, position: int) -> Tensor:
        argument = self._node.args[position]
        assert isinstance(argument, fx.Node)
        value: Tensor = argument.meta["val"]
        return value

    def op(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Emit `relax.op.<name>`."""
        function: Any = self._relax.op
        for part in name.split("."):
            function = getattr(function, part)
        return self._emit(function(*args, **kwargs))

    def cast(self, x: Any, dtype: str) -> Any:
        return x if str(x.ty.dtype) == dtype else self.op("astype", x, dtype)

    def along(self, position: int, dims: int, axis: int) -> Any:
        """The scale or zero point at an argument position, shaped to broadcast along `axis` of a tensor of `dims` dimensions."""
        values, fake = self.operand(position), self.fake(position)
        if fake.numel() == 1:
            return values if fake.ndim == 0 else self.op("reshape", values, [])
        shape = [1] * dims
        shape[axis] = fake.numel()
        return self.op("reshape", values, shape)

    def literal(self, position: int) -> float | None:
        """The number that an argument holds when it stands in the graph itself."""
        argument = self._node.args[position]
        if not isinstance(argument, fx.Node) or argument.target is not torch.ops.aten.full.default or argument.args[0]:
            return None
        return float(argument.args[1])  # type: ignore[arg-type]

    def centred(self, position: int, zero: int, axis: int) -> Any:
        """The argument minus its zero point (the argument at `zero`, which has one entry, or one a place on `axis`), exactly."""
        if self.literal(zero) == 0:
            return self.operand(position)
        wide = "int16" if self.fake(position).element_size() == 1 else "int32"
        point = self.along(zero, self.fake(position).ndim, axis)
        return self.op("subtract", self.cast(self.operand(position), wide), self.cast(point, wide))

    def multiplier(self, x_scale: int, w_scale: int, y_scale: int, dims: int, axis: int) -> Any:
        """x_scale * w_scale / y_scale of the arguments at these positions; w_scale may have an entry a place on `axis` of `dims`."""
        w = self.along(w_scale, dims, axis)
        if self.literal(x_scale) == 1 and self.literal(y_scale) == 1:
            return self.cast(w, "float32")
        product = self.op("multiply", self.along(x_scale, 1, 0), w)
        return self.cast(self.op("divide", product, self.along(y_scale, 1, 0)), "float32")

    def quantise(self, steps: Any, zero_point: Any) -> Any:
        """Round, saturate and shift, to the dtype of the zero point; NaN becomes the lowest integer.

        Steps in float32 are saturated first, which gives the same, since the limits are integers, and leaves no number without an int32.
        """
        import numpy as np

        dtype = str(zero_point.ty.dtype)
        lowest, highest = (  # each with a cast of its own: relax fuses what has one reader
            self.op("subtract", self._relax.const(float(limit), "float32"), self.cast(zero_point, "float32"))
            for limit in (np.iinfo(dtype).min, np.iinfo(dtype).max)
        )
        first = str(steps.ty.dtype) != "float32"
        kept = self.cast(self.op("round", steps), "float32") if first else steps
        kept = self.op("where", self.op("greater", kept, lowest), kept, lowest)  # NaN compares false
        kept = self.op("where", self.op("less", kept, highest), kept, highest)
        steps = self.cast(kept if first else self.op("round", kept), "int32")
        return self.cast(self.op("add", steps, self.cast(zero_point, "int32")), dtype)

    def requantise(self, accumulator: Any, multiplier: Any, zero_point: Any) -> Any:
        return self.quantise(self.op("multiply", self.cast(accumulator, "float32"), multiplier), zero_point)

    def real(self, position: int, scale: Any, zero_point: Any) -> Any:
        """Dequantised in the dtype of the scale."""
        steps = self.op("subtract", self.cast(self.operand(position), "int32"), self.cast(zero_point, "int32"))
        dtype = str(scale.ty.dtype)
        return self.op("multiply", self.cast(self.cast(steps, "float32"), dtype), scale)

    def product(self, a: Any, b: Any) -> Any:
        """Int32 sums over centred integers."""
        return self.op("matmul", a, b, out_dtype="int32")

    def convolution(self, x: Any, w: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
        """Int32 sums over centred integers; padding is 0 there."""
        name = {3: "nn.conv1d", 4: "nn.conv2d", 5: "nn.conv3d"}[len(w.ty.shape)]
        return self.op(name, x, w, strides=list(stride), padding=list(padding), dilation=list(dilation), groups=groups, out_dtype="int32")
