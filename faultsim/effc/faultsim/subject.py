"""What faults are put into: a program in torch, compiled code (`artifact_subject`), or an accelerator that runs it (`accelerator`).

A campaign asks all of them the same questions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from effc.data import Dataset
from effc.errors import ConfigError
from effc.faultsim.engine import Engine, ProgramEngine
from effc.faultsim.images import BatchGroups
from effc.faultsim.sites import Site, find_sites
from effc.faultsim.spec import CampaignSpec
from effc.ir import Program
from effc.ir.interface import Value
from effc.ir.storage import load_program_bytes, save_program

__all__ = ["ProgramSubject", "Subject"]

_LARGEST_BATCH = 256
PROGRAM = "program.pt2"


class Subject(Protocol):
    """What a campaign needs of the thing that it puts faults into."""

    @property
    def kind(self) -> str:
        """`program`, `artifact` or `array`."""
        ...

    @property
    def inputs(self) -> tuple[Value, ...]:
        """The inputs, for reading data and cutting batches."""
        ...

    def identity(self) -> dict[str, Any]:
        """Name and hashes, as plain JSON."""
        ...

    def sites(self, spec: CampaignSpec) -> list[Site]:
        """Where faults can be. Raises ConfigError."""
        ...

    def batch(self, spec: CampaignSpec) -> int:
        """Samples of one pass where the spec leaves that open."""
        ...

    def images(self, data: Dataset, spec: CampaignSpec, batch: int) -> BatchGroups:
        """The campaign's batches. Raises DataError."""
        ...

    def engine(self, spec: CampaignSpec, sites: Sequence[Site], images: BatchGroups) -> Engine:
        """What runs the injections. Raises DataError, ConfigError."""
        ...

    def save(self, folder: Path) -> None:
        """Write what another process needs to make the same subject."""
        ...


@dataclass(frozen=True)
class ProgramSubject:
    """A program, run in torch.

    Attributes:
        program: with a symbolic batch, or a fixed one that then is the batch of every pass.
        name: of the file it came from, as reports show it.
    """

    program: Program
    name: str

    @property
    def kind(self) -> str:
        return "program"

    @property
    def inputs(self) -> tuple[Value, ...]:
        return self.program.interface.frame_inputs

    def identity(self) -> dict[str, Any]:
        source = self.program.provenance
        digest = hashlib.sha256(save_program(self.program)).hexdigest()
        return {"name": self.name, "kind": self.kind, "source_sha256": source.sha256, "sha256": digest, "passes": list(source.passes)}

    def sites(self, spec: CampaignSpec) -> list[Site]:
        return find_sites(self.program, where=spec.where, layers=spec.layers, ops=spec.ops, view=spec.view)

    def batch(self, spec: CampaignSpec) -> int:
        """The largest power of two whose golden values, and as much again for a faulty run, fit into the memory."""
        most = max(1, spec.memory // (2 * self._bytes_per_sample()))
        return min(_LARGEST_BATCH, 1 << (most.bit_length() - 1))

    def images(self, data: Dataset, spec: CampaignSpec, batch: int) -> BatchGroups:
        names = [value.name for value in self.inputs]
        if data.unit is not None and spec.batch not in (None, data.unit):
            raise ConfigError(f"the program takes exactly {data.unit} samples at a time, and batch is {spec.batch}: leave it out")
        return BatchGroups(data, names, images=spec.images, per_fault=spec.tried_on, batch=batch, seed=spec.seed)

    def engine(self, spec: CampaignSpec, sites: Sequence[Site], images: BatchGroups) -> Engine:
        return ProgramEngine(self.program, sites, images, effect=spec.effect, tolerance=spec.tolerance, memory=spec.memory)

    def save(self, folder: Path) -> None:
        (folder / PROGRAM).write_bytes(save_program(self.program))

    @classmethod
    def load(cls, folder: Path, name: str) -> ProgramSubject:
        """From what `save` wrote."""
        return cls(load_program_bytes((folder / PROGRAM).read_bytes()), name)

    def _bytes_per_sample(self) -> int:
        total = 0
        for node in self.program.nodes:
            fake = node.meta.get("val")
            for one in fake if isinstance(fake, list | tuple) else [fake]:
                if isinstance(one, torch.Tensor):
                    count = one.element_size()
                    for extent in one.shape:
                        count *= extent if isinstance(extent, int) else 1
                    total += count
        return max(1, total)
