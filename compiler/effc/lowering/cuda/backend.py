"""What a plan becomes for a GPU: CUDA C, its machine code, and for each step the launches that it consists of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from effc.errors import InternalError
from effc.lowering.cuda.emit import CudaKernel, cuda_source
from effc.lowering.cuda.nvcc import compile_cubin
from effc.lowering.emit import Kernel
from effc.runtime.plan import Plan, Step

__all__ = ["CudaCode", "cuda_code"]


@dataclass(frozen=True)
class CudaCode:
    """The plan with launches, CUDA C, and a cubin."""

    plan: Plan
    source: str
    cubin: bytes


def cuda_code(compiled: Mapping[str, Kernel], plan: Plan, chip: Any, architecture: str) -> CudaCode:
    """The code of all kernels that a plan calls.

    Args:
        compiled: of `cuda_kernels`, by symbol.
        plan: with all addresses.
        chip: a tvm.target.Target.
        architecture: such as `sm_90`.
    """

    def launched(step: Step) -> Step:
        return replace(step, launches=tuple(launch for launch, _ in _cuda(compiled, step).launches))

    functions = {launch.kernel: function for step in (*plan.steps, *plan.fresh) for launch, function in _cuda(compiled, step).launches}
    source = cuda_source(functions, chip) if functions else ""
    whole = replace(plan, steps=tuple(map(launched, plan.steps)), fresh=tuple(map(launched, plan.fresh)))
    return CudaCode(whole, source, compile_cubin(source, architecture))


def _cuda(compiled: Mapping[str, Kernel], step: Step) -> CudaKernel:
    kernel = compiled[step.kernel]
    if not isinstance(kernel, CudaKernel):
        raise InternalError(f"{step.kernel} is no kernel for a GPU")
    return kernel
