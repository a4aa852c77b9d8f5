"""How vectors multiply narrow integers and add the products, exactly, to lanes of 32 bits.

    vpdpbusd    lane += four products of an unsigned byte and a signed byte        x86 with VNNI
    sdot        lane += four products of signed bytes                              Arm with the dot product extension
    vrmpy       the same in 32 lanes                                               Hexagon with HVX
    vpdpwssd    lane += two products of signed 16-bit integers                     x86 with VNNI
    pmaddwd     the same in two instructions                                       any x86 with AVX2
    vwmacc      lane += one product of signed 16-bit integers                      RISC-V with vectors
    plain       lane += one product, in the compiler's words                       any processor

None of them saturates. A form of `size` products takes `size` neighbours of the depth at once: those of the left operand go into all
lanes, those of the right operand lie side by side for each lane.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from effc.targets import Target

__all__ = ["Dot", "bytes_dot", "signed_dot"]

Add = Callable[[Any, Any, Any], Any]
_BITS = {16: 512, 8: 256}  # of a vector, by lanes


@dataclass(frozen=True)
class Dot:
    """One form.

    Attributes:
        lanes: int32 lanes of a vector.
        size: products of a lane in one step.
        left, right: element types of the operands as they lie in memory. A byte holds no centred number: what the left operand's zero
            point adds to the sums must be taken off them.
        add: (sums, left, right) -> sums, for a vector of int32 sums, the left operand's `size` elements, and the right operand's
            `size * lanes`.
        registers: that one vector of sums takes.
        vectors: most of them that a position may have at once; 0: as many as fit.
    """

    lanes: int
    size: int
    left: str
    right: str
    add: Add
    registers: int = 1
    vectors: int = 0

    @property
    def centred(self) -> bool:
        """Whether the left operand is centred."""
        return self.left == "int16"


def bytes_dot(target: Target) -> Dot | None:
    """Bytes by signed bytes; None where the processor has no such instruction."""
    if "sdot" in target.dots and target.lanes == 4:
        return Dot(4, 4, "int8", "int8", _added("llvm.aarch64.neon.sdot", 4, "int8", 4))
    if "vrmpy" in target.dots and target.int32_lanes == 32:
        return Dot(32, 4, "int8", "int8", _of_words("llvm.hexagon.V6.vrmpybv.acc.128B", 32))
    if "vpdpbusd" not in target.dots or target.lanes not in _BITS:
        return None
    return Dot(target.lanes, 4, "uint8", "int8", _added(f"llvm.x86.avx512.vpdpbusd.{_BITS[target.lanes]}", target.lanes, "int8", 4))


def signed_dot(target: Target, right: str) -> Dot:
    """Centred bytes, as int16, by integers of a type of at most 16 bits."""
    lanes = target.int32_lanes
    if "vpdpwssd" in target.dots and lanes in _BITS:
        return Dot(lanes, 2, "int16", "int16", _added(f"llvm.x86.avx512.vpdpwssd.{_BITS[lanes]}", lanes, "int16", 2))
    if "pmaddwd" in target.dots and lanes in _BITS:
        name = {16: "llvm.x86.avx512.pmaddw.d.512", 8: "llvm.x86.avx2.pmadd.wd"}[lanes]
        return Dot(lanes, 2, "int16", "int16", _pairs(name, lanes))
    if "vwmacc" in target.dots:
        # LLVM finds it where both operands have 16 bits and a widened left one is used once; so one vector, of a group of two registers.
        return Dot(2 * lanes, 1, "int16", "int16", _plain(2 * lanes), registers=2, vectors=1)
    return Dot(max(1, lanes), 1, "int16", right, _plain(max(1, lanes)))


def _spread(left: Any, lanes: int, kind: str, size: int) -> Any:
    """The left operand's elements in all lanes."""
    from tvm import tirx

    return tirx.reinterpret(f"{kind}x{lanes * size}", tirx.Broadcast(tirx.reinterpret("int32", left), lanes))


def _added(name: str, lanes: int, kind: str, size: int) -> Add:
    def add(sums: Any, left: Any, right: Any) -> Any:
        from tvm import tirx

        return tirx.call_llvm_pure_intrin(f"int32x{lanes}", name, sums, _spread(left, lanes, kind, size), right)

    return add


def _of_words(name: str, lanes: int) -> Add:
    """For an instruction whose operands are all vectors of words to LLVM, whatever is in them."""

    def add(sums: Any, left: Any, right: Any) -> Any:
        from tvm import tirx

        kind = f"int32x{lanes}"
        spread = tirx.Broadcast(tirx.reinterpret("int32", left), lanes)
        return tirx.call_llvm_pure_intrin(kind, name, sums, spread, tirx.reinterpret(kind, right))

    return add


def _pairs(name: str, lanes: int) -> Add:
    def add(sums: Any, left: Any, right: Any) -> Any:
        from tvm import tirx

        return sums + tirx.call_llvm_pure_intrin(f"int32x{lanes}", name, _spread(left, lanes, "int16", 2), right)

    return add


def _plain(lanes: int) -> Add:
    def add(sums: Any, left: Any, right: Any) -> Any:
        from tvm import tirx

        wide = tirx.Cast("int32", left)
        if lanes == 1:
            return sums + wide * tirx.Cast("int32", right)
        return sums + tirx.Broadcast(wide, lanes) * tirx.Cast(f"int32x{lanes}", right)

    return add
