"""The function around the loops of a small kernel: its arguments are indexed with 32 bits.

Relax counts in 64 bits, and so do the shapes of what it hands over. An index into such a buffer would be computed in 64 bits wherever TVM
cannot show that fewer do, which costs a machine of 32 bits several instructions for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from effc.lowering.kernels.code import flat_function

__all__ = ["compact_function"]


def compact_function(arguments: Sequence[Any], body: Any) -> Any:
    """A function over buffers of the same sizes as `arguments`, with shapes and indices of 32 bits, whose body has no blocks."""
    import tvm_ffi
    from tvm import tirx
    from tvm.ir import TensorLoad

    narrow = {buffer: _narrow(buffer) for buffer in arguments}

    def load(node: Any) -> Any:
        return tirx.BufferLoad(narrow.get(node.source, node.source), [_index(one) for one in node.indices])

    def store(node: Any) -> Any:
        return tirx.BufferStore(narrow.get(node.buffer, node.buffer), node.value, [_index(one) for one in node.indices])

    body = tvm_ffi.structural_map(body, ((TensorLoad, load), (tirx.BufferStore, store)))
    return flat_function(list(narrow.values()), body)


def _narrow(buffer: Any) -> Any:
    from tvm import tirx

    return tirx.decl_buffer([tirx.IntImm("int32", int(size)) for size in buffer.shape], str(buffer.dtype), name=buffer.name)


def _index(index: Any) -> Any:
    from tvm import tirx

    if str(index.ty.dtype) != "int64":
        return index
    return tirx.IntImm("int32", int(index)) if isinstance(index, tirx.IntImm) else tirx.Cast("int32", index)
