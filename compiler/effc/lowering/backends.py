"""From kernels and a plan to code, family by family: a shared library, or C sources. The table is `BACKENDS`.

A family of targets (`Target.family`) differs from the others in which rules write its kernels (`kernels.RULES`), in how their functions
are lowered, and in what is made of them. All of that is here; `lower` only calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from effc.lowering.c99.functions import c_functions
from effc.lowering.c99.printer import Printed
from effc.lowering.cuda.backend import cuda_code
from effc.lowering.cuda.emit import cuda_kernels
from effc.lowering.drafts import Draft
from effc.lowering.emit import MICROCONTROLLER_STACK, Kernel, kernels, object_code
from effc.lowering.missing_functions import require_functions
from effc.lowering.narrowing import with_narrow_borders
from effc.lowering.toolchain import link_shared
from effc.runtime.plan import Plan
from effc.targets import C99, CUDA, Target

__all__ = ["BACKENDS", "Backend", "Code", "Finish", "backend_of"]

Kernels = Mapping[str, Kernel]


@dataclass(frozen=True)
class Code:
    """What a backend made.

    Attributes:
        plan: of the code; a backend may add to its steps how they are started.
        code: content of the artifact's file of code; empty for sources.
        objects: the same code as unlinked object files, where a self-test is linked from them.
        functions: the kernels as C functions, for sources.
        source: what `code` was compiled from, where a reader may want to see it.
    """

    plan: Plan
    code: bytes = b""
    objects: tuple[bytes, ...] = ()
    functions: tuple[Printed, ...] = ()
    source: str = ""


Finish = Callable[[Kernels, Plan, Draft, Any, Target], Code]
"""(kernels by symbol, the plan with all addresses, the draft, the tvm.target.Target, the target) -> the code."""


def _unchanged(drafted: Draft) -> Draft:
    return drafted


@dataclass(frozen=True)
class Backend:
    """What one family does.

    Attributes:
        finish: makes the code.
        kernels: scheduled TIR functions by symbol -> kernels.
        options: of `kernels`.
        drafted: what it changes in a draft before its kernels are written.
        machine: whether TVM's virtual machine serves programs that do not plan.
        lists: whether it has kernels over lists of what moved between two frames.
    """

    finish: Finish
    kernels: Callable[..., dict[str, Kernel]] = kernels
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    drafted: Callable[[Draft], Draft] = _unchanged
    machine: bool = False
    lists: bool = True

    def needs_plan(self, target: Target) -> bool:
        """Whether a program that does not plan is refused for a target of this family."""
        return not (self.machine and target.hosted)

    def lowered(self, functions: Mapping[str, Any]) -> dict[str, Kernel]:
        """The kernels as the code generator takes them."""
        return self.kernels(functions, **self.options)


def _library(compiled: Kernels, plan: Plan, drafted: Draft, chip: Any, target: Target) -> Code:
    external = drafted.external
    objects: tuple[bytes, ...] = object_code(compiled, plan, chip, () if external is None else external.notes)
    if external is not None:
        objects += external.objects
    if not target.hosted:
        require_functions(objects, compiled, drafted, chip, target)
    return Code(plan, link_shared(objects, target), objects)


def _sources(compiled: Kernels, plan: Plan, drafted: Draft, chip: Any, target: Target) -> Code:
    return Code(plan, functions=c_functions(compiled, drafted))


def _cubin(compiled: Kernels, plan: Plan, drafted: Draft, chip: Any, target: Target) -> Code:
    made = cuda_code(compiled, plan, chip, target.cpu)
    return Code(made.plan, made.cubin, source=made.source)


BACKENDS: Mapping[str, Backend] = {
    "cpu": Backend(_library, machine=True),
    C99: Backend(_sources, options={"stack": MICROCONTROLLER_STACK}, drafted=with_narrow_borders),
    CUDA: Backend(_cubin, kernels=cuda_kernels),
}


def backend_of(target: Target) -> Backend:
    """The backend of a target's family."""
    return BACKENDS[target.family]
