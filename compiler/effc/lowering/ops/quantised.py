"""Relax expressions that the quantised ops share; the arithmetic of `effc.ir.ops.quantised`, operation by operation.

`relax.op.round` rounds ties to even. Integers are centred as int16: 8-bit values minus an 8-bit zero point fit, and products of int16
summed in int32 are one instruction on x86 and Arm. Other widths are centred as int32.
"""

from __future__ import annotations

from typing import Any

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
        values = self.operand(position)
        count = self.fake(position).numel()
        if count == 1:
            return values if self.fake(position).ndim == 0 else self.op("reshape", values, [])
        shape = [1] * dims
        shape[axis] = count
        return self.op("reshape", values, shape)

    def centred(self, position: int, zero_point: Any) -> Any:
        """The argument minus its zero point, exactly."""
        wide = "int16" if self.fake(position).element_size() == 1 else "int32"
        return self.op("subtract", self.cast(self.operand(position), wide), self.cast(zero_point, wide))

    def multiplier(self, x_scale: Any, w_scale: Any, y_scale: Any) -> Any:
        return self.cast(self.op("divide", self.op("multiply", x_scale, w_scale), y_scale), "float32")

    def quantise(self, steps: Any, zero_point: Any) -> Any:
        """Round, saturate and shift, to the dtype of the zero point; NaN becomes the lowest integer."""
        import numpy as np

        dtype = str(zero_point.ty.dtype)
        limits = np.iinfo(dtype)
        zero = self.cast(zero_point, "float32")
        lowest = self.op("subtract", self._relax.const(float(limits.min), "float32"), zero)
        highest = self.op("subtract", self._relax.const(float(limits.max), "float32"), zero)
        rounded = self.cast(self.op("round", steps), "float32")
        kept = self.op("where", self.op("greater_equal", rounded, lowest), self.op("minimum", rounded, highest), lowest)
        return self.cast(self.cast(self.op("add", kept, zero), "int32"), dtype)

    def requantise(self, accumulator: Any, multiplier: Any, zero_point: Any) -> Any:
        return self.quantise(self.op("multiply", self.cast(accumulator, "float32"), multiplier), zero_point)

    def real(self, position: int, scale: Any, zero_point: Any) -> Any:
        """Dequantised in the dtype of the scale."""
        steps = self.op("subtract", self.cast(self.operand(position), "int32"), self.cast(zero_point, "int32"))
        dtype = str(scale.ty.dtype)
        return self.op("multiply", self.cast(self.cast(steps, "float32"), dtype), scale)

    def convolution(self, x: Any, w: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
        """Int32 sums over centred integers; padding is 0 there."""
        name = {3: "nn.conv1d", 4: "nn.conv2d", 5: "nn.conv3d"}[len(w.ty.shape)]
        return self.op(
            name, x, w, strides=list(stride), padding=list(padding), dilation=list(dilation), groups=groups, out_dtype="int32"
        )
