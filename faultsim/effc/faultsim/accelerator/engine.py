"""Injections on the array: a pass whose products are the array's, with what the fault adds to their sums (`faults`).

Products are formed exactly, in float32 where that holds every partial sum, and what a fault changes is added in int32. The first clean pass
is compared with effc's integer operators bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from effc.cost.accelerator.description import Accelerator
from effc.errors import ConfigError, InternalError
from effc.faultsim.accelerator.faults import ArrayFault, patterns
from effc.faultsim.accelerator.mapping import Mapping
from effc.faultsim.accelerator.places import fault_at, is_everywhere, layouts, mapping_of
from effc.faultsim.accelerator.work import Gemm
from effc.faultsim.engine import ProgramEngine
from effc.faultsim.faults import Injection
from effc.faultsim.golden import Golden, OperatorError, Runner
from effc.faultsim.images import BatchGroups
from effc.faultsim.outcomes import Outcome, Reference
from effc.faultsim.sites import Site
from effc.ir import Program

__all__ = ["ArrayEngine"]


class ArrayUnit:
    """One product on the array; called with its operator's arguments.

    Attributes:
        fault: what is faulty now. `changed`: whether that changed a sum since it was set to False.
    """

    def __init__(self, product: Gemm, mapping: Mapping, operator: Any) -> None:
        self.product, self._mapping, self._operator = product, mapping, operator
        self.fault: ArrayFault | None = None
        self.changed, self._compared = False, False

    def __call__(self, *arguments: Any) -> Tensor:
        given = self.product.operands(arguments)
        sums = self.product.sums(given.x, self.product.matrix(given.weights))
        if self.fault is not None:
            for pattern in patterns(self.fault, self.product, self._mapping, given):
                pattern.add_to(sums)
                self.changed = self.changed or bool(pattern.values.any())
        result = self.product.finish(arguments, sums, given.x)
        if not self._compared and self.fault is None:
            if not torch.equal(result, self._operator(*arguments)):
                raise InternalError(f"the array's result of {self.product.source} is not that of {self.product.op}")
            self._compared = True
        return result


class ArrayEngine(ProgramEngine):
    """Runs an integer program on an array; see `ProgramEngine` for what the arguments mean.

    Args:
        products: of the program. `description`: the array.
    """

    def __init__(
        self,
        program: Program,
        products: Sequence[Gemm],
        description: Accelerator,
        sites: Sequence[Site],
        images: BatchGroups,
        *,
        effect: str = "flip",
        tolerance: float | None = None,
        memory: int = 1 << 30,
    ) -> None:
        super().__init__(program, (), images, tolerance=tolerance, memory=memory)
        self._sites, self._array_effect = tuple(sites), effect
        self._layouts = layouts(program, products, description)
        operators = {node.name: node.target for node in program.nodes}
        self._units = {one.name: ArrayUnit(one, mapping_of(description), operators[one.name]) for one in products}
        self._runner = Runner(self.program, computing=self._units)

    def _one(
        self, injection: Injection, golden: Golden, reference: Reference, facts: tuple[int, int, int, int], first: bool
    ) -> tuple[Outcome, tuple[int, int, int, int]]:
        """See `ProgramEngine`. A bit counts as changed where a sum did, and else as one that had the value it is stuck at."""
        if injection.faults != 1:
            raise ConfigError(
                f"injection {injection.draw} has {injection.faults} faults: of an array effc injects one at a time; give each row of the "
                "list a number of its own"
            )
        site = self._sites[int(injection.sites[0])]
        fault = fault_at(site, int(injection.elements[0]), int(injection.bits[0]), self._array_effect)
        hit = self._faulty(site, fault)
        for unit, its in hit:
            unit.fault, unit.changed = its, False
        try:
            outputs = self._runner.rerun(golden, (), {}, [unit.product.name for unit, _ in hit]).outputs
            outcome = reference.unharmed if outputs is None else reference.judge(outputs)
        except OperatorError:
            outcome = reference.failed
        finally:
            for unit, _ in hit:
                unit.fault = None
        changed = facts[0] or any(unit.changed for unit, _ in hit)
        return outcome, (int(bool(changed)), int(not changed), 0, 0)

    def _faulty(self, site: Site, fault: ArrayFault) -> list[tuple[ArrayUnit, ArrayFault]]:
        """The products that a fault is in, and what it is there."""
        if not is_everywhere(site):
            return [(self._units[site.key], fault)]
        if site.kind not in self._layouts:
            return [(unit, fault) for unit in self._units.values()]
        elements = (self._layouts[site.kind].elements(index, fault.place[0]) for index in range(len(self._units)))
        return [(unit, replace(fault, place=one)) for unit, one in zip(self._units.values(), elements, strict=True) if one]
