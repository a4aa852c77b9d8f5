"""A target as TVM knows it."""

from __future__ import annotations

from typing import Any

from effc.targets import C99, CUDA, Target

__all__ = ["processor", "tvm_target"]


def tvm_target(target: Target) -> Any:
    """The tvm.target.Target of a target; the host's processor as LLVM names it where the target leaves it open."""
    import tvm

    if target.family == C99:
        return tvm.target.Target("c")
    if target.family == CUDA:
        limits = {"max_threads_per_block": 1024, "max_shared_memory_per_block": 48 << 10, "thread_warp_size": 32}
        return tvm.target.Target({"kind": "cuda", "arch": target.cpu, **limits})
    cpu = target.cpu or str(tvm.get_global_func("target.llvm_get_system_cpu")())
    fields: dict[str, Any] = {"kind": "llvm", "mcpu": cpu}
    if target.triple:
        fields["mtriple"] = target.triple
    if target.features:
        fields["mattr"] = list(target.features)
    return tvm.target.Target(fields)


def processor(target: Target) -> str:
    """What measured tiles depend on: the processor's name, vectors and second-level cache."""
    cpu = tvm_target(target).attrs.get("mcpu", target.cpu or "any")
    return f"{cpu}, {target.registers} registers of {target.lanes} lanes, {target.l2 >> 10} KiB"
