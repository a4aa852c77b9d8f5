"""An accelerator as the subject of a campaign: an integer program on an array that a description says."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effc.cost.accelerator.description import Accelerator
from effc.data import Dataset
from effc.faultsim.accelerator.engine import ArrayEngine
from effc.faultsim.accelerator.gemms import gemms_of
from effc.faultsim.accelerator.places import array_sites
from effc.faultsim.accelerator.samples import with_samples
from effc.faultsim.accelerator.work import Gemm
from effc.faultsim.images import BatchGroups
from effc.faultsim.sites import Site
from effc.faultsim.spec import CampaignSpec
from effc.faultsim.subject import ProgramSubject
from effc.ir import Program
from effc.ir.interface import Value

__all__ = ["ArraySubject"]

_DESCRIPTION = "accelerator.json"


@dataclass(frozen=True)
class ArraySubject:
    """A program with integer products (`for_array`), run on an array.

    Attributes:
        program: see `ProgramSubject`. `name`: of the file it came from. `description`: the accelerator.
    """

    program: Program
    name: str
    description: Accelerator

    @property
    def kind(self) -> str:
        return "array"

    @property
    def inputs(self) -> tuple[Value, ...]:
        return self._plain.inputs

    @property
    def _plain(self) -> ProgramSubject:
        return ProgramSubject(self.program, self.name)

    @functools.cached_property
    def products(self) -> tuple[Gemm, ...]:
        """What the array does of the program. Raises ConfigError where it cannot do all products, or cannot tell samples apart in them."""
        return tuple(with_samples(self.program, gemms_of(self.program)))

    def identity(self) -> dict[str, Any]:
        return {**self._plain.identity(), "kind": self.kind, "accelerator": self.description.as_json()}

    def sites(self, spec: CampaignSpec) -> list[Site]:
        """See `array_sites`."""
        return array_sites(self.program, self.products, self.description, spec)

    def batch(self, spec: CampaignSpec) -> int:
        return self._plain.batch(spec)

    def images(self, data: Dataset, spec: CampaignSpec, batch: int) -> BatchGroups:
        return self._plain.images(data, spec, batch)

    def engine(self, spec: CampaignSpec, sites: Sequence[Site], images: BatchGroups) -> ArrayEngine:
        return ArrayEngine(
            self.program,
            self.products,
            self.description,
            sites,
            images,
            effect=spec.effect,
            tolerance=spec.tolerance,
            memory=spec.memory,
        )

    def save(self, folder: Path) -> None:
        self._plain.save(folder)
        (folder / _DESCRIPTION).write_text(json.dumps(self.description.as_json()))

    @classmethod
    def load(cls, folder: Path, name: str) -> ArraySubject:
        """From what `save` wrote."""
        description = Accelerator.model_validate(json.loads((folder / _DESCRIPTION).read_text()), by_name=False, by_alias=True)
        return cls(ProgramSubject.load(folder, name).program, name, description)
