"""Faults in compiled code: an artifact as the subject of a campaign.

What differs from a campaign on a program: faults are in the tensors as they are stored, in their own number format
(`effc.faultsim.artifact_sites` says which they are and how they are named); values on the way are out of reach; a pass has the artifact's
number of samples.
"""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from effc.data import Dataset
from effc.errors import AlteredArtifactError, ConfigError, EffcWarning, Problem
from effc.faultsim.artifact_engine import ArtifactEngine
from effc.faultsim.artifact_sites import Held, held_in
from effc.faultsim.images import BatchGroups
from effc.faultsim.sites import PARAMETERS, Site, find_sites
from effc.faultsim.spec import CampaignSpec
from effc.ir import Program
from effc.ir.interface import Value
from effc.ir.storage import load_program_bytes
from effc.runtime import Session, open_artifact

__all__ = ["ArtifactSubject"]

_PROGRAM, _PLACE = "program.pt2", "artifact.json"
_MOST_SHOWN = 20


class ArtifactSubject:
    """An artifact, run as compiled.

    Args:
        path: its directory. It holds native code: take only what you trust.
        name: of the directory; a whole path would not be the same on another machine.

    Raises:
        DataError, InputRejectedError: there is no sound artifact.
        ConfigError: it keeps states between calls, or has no program in it.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self.artifact = open_artifact(path)
        manifest = self.artifact.manifest
        if manifest.states:
            names = ", ".join(state.input for state in manifest.states)
            raise ConfigError(
                "campaigns on streaming artifacts are not supported",
                [Problem(name, f"the states {names}", "samples follow each other, so a fault is not judged by one of them")],
            )
        if _PROGRAM not in manifest.files:
            raise ConfigError(f"{path} has no {_PROGRAM}, which says what its parameters are: compile the model again")

    @property
    def kind(self) -> str:
        return "artifact"

    @functools.cached_property
    def program(self) -> Program:
        """What was compiled."""
        return load_program_bytes(self.artifact.read(_PROGRAM), name=_PROGRAM)

    @functools.cached_property
    def held(self) -> tuple[Held, ...]:
        """All stored tensors; see `held_in`."""
        return tuple(held_in(self.artifact, self.program))

    @property
    def inputs(self) -> tuple[Value, ...]:
        return self.program.interface.frame_inputs

    def identity(self) -> dict[str, Any]:
        manifest = self.artifact.manifest
        return {
            "name": self.name,
            "kind": self.kind,
            "source_sha256": manifest.data["source"].get("sha256"),
            "sha256": manifest.digest,
            "passes": list(manifest.data["passes"]),
            "target": manifest.data["target"].get("name"),
        }

    def sites(self, spec: CampaignSpec) -> list[Site]:
        """The stored tensors whose sources the spec chooses. Constants that the compiler made belong to no layer and no operator: they are
        taken where neither is chosen. An `EffcWarning` names chosen tensors that the code does not read.

        Raises:
            ConfigError: nothing fits, or is stored; values on the way are asked for; a view is not the stored one.
        """
        _refuse_values(spec)
        chosen = {site.name for site in find_sites(self.program, where=spec.where, layers=spec.layers, ops=spec.ops)}
        everything = not spec.layers and not spec.ops and bool({"parameters", "other"} & set(spec.where))
        taken = [one for one in self.held if any(site.name in chosen for site in one.sources) or (everything and not one.sources)]
        if not taken:
            problems = [Problem(name, "its tensor", "the compiled code does not read it") for name in sorted(chosen)[:_MOST_SHOWN]]
            raise ConfigError("there is nowhere to put faults: take the program, or other layers", problems)
        _refuse_views(spec.view, taken)
        absent = sorted(chosen - {site.name for one in taken for site in one.sources})
        if absent:
            shown = ", ".join(absent[:_MOST_SHOWN]) + (", ..." if len(absent) > _MOST_SHOWN else "")
            warnings.warn(f"the compiled code does not read {shown}: no fault is put there", EffcWarning, stacklevel=2)
        return [one.site for one in taken]

    def batch(self, spec: CampaignSpec) -> int:
        """What the code computes in a call."""
        return self.artifact.manifest.batch

    def images(self, data: Dataset, spec: CampaignSpec, batch: int) -> BatchGroups:
        """See `Subject`. Raises DataError; ConfigError where the spec asks for another batch than the compiled one."""
        names = [value.name for value in self.inputs]
        compiled = self.artifact.manifest.batch
        images = BatchGroups(data, names, images=spec.images, per_fault=spec.tried_on, batch=compiled, seed=spec.seed)
        if batch not in (compiled, images.batch):
            why = f"the code computes {images.batch} in a call"
            raise ConfigError(
                "the batch does not fit", [Problem("batch", str(batch), why, "leave it out, or compile with another --batch")]
            )
        return images

    def engine(self, spec: CampaignSpec, sites: Sequence[Site], images: BatchGroups) -> ArtifactEngine:
        """See `Subject`. It loads the code anew: its parameters are the engine's own."""
        by_key = {one.site.key: one for one in self.held}
        session = Session(self.artifact, threads=spec.threads)
        return ArtifactEngine(session, [by_key[site.key] for site in sites], images, effect=spec.effect, tolerance=spec.tolerance)

    def save(self, folder: Path) -> None:
        """Where the artifact is, and what it is: it is not copied."""
        place = {"path": str(self.artifact.path.resolve()), "manifest_sha256": self.artifact.manifest.digest}
        (folder / _PLACE).write_text(json.dumps(place))

    @classmethod
    def load(cls, folder: Path, name: str) -> ArtifactSubject:
        """From what `save` wrote. Raises AlteredArtifactError where another artifact is in the place now."""
        place = json.loads((folder / _PLACE).read_text())
        subject = cls(Path(place["path"]), name)
        if subject.artifact.manifest.digest != place["manifest_sha256"]:
            raise AlteredArtifactError(f"{place['path']} was compiled anew while a campaign on it ran: run the campaign again")
        return subject


def _refuse_values(spec: CampaignSpec) -> None:
    beyond = [kind for kind in spec.where if kind in ("activation", "input")]
    if beyond:
        why = "compiled code has no such tensor that could be changed between two operators"
        hint = f"run the program (--executor program), or take {', '.join(PARAMETERS)}"
        raise ConfigError("an artifact has faults in its stored tensors alone", [Problem("where", kind, why, hint) for kind in beyond])


def _refuse_views(view: str, taken: Sequence[Held]) -> None:
    own = [one for one in taken if one.site.view.carrier.is_floating_point and one.site.view.name != view]
    if view != "stored" and own:
        problems = [Problem(one.site.name, f"view {view}", f"it is stored as {one.site.view.name}") for one in own[:_MOST_SHOWN]]
        raise ConfigError("compiled code computes with the numbers that are stored: use the stored view, or run the program", problems)
