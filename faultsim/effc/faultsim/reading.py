"""A campaign's folder read without its model: for merges, and for reports of what is done.

The folder comes from another machine, so all that reports use is checked: nothing in it can be compared with a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from effc.errors import EffcError, InputRejectedError, LimitError, Problem, counted
from effc.faultsim.design import Design
from effc.faultsim.drawing import DRAWING
from effc.faultsim.replay import Replay
from effc.faultsim.schedule import Schedule
from effc.faultsim.sites import ARRAY_KINDS, KINDS, Site
from effc.faultsim.spec import CampaignSpec, spec_of
from effc.faultsim.store import Store, read_identity

__all__ = ["read_design"]

_MOST_ELEMENTS = 2**40  # numbers in all sites: bits and their sums then fit into int64
_MOST_INJECTIONS = 10_000_000  # their keys take about a gigabyte
_SHOWN = 12

_Count = Annotated[int, Field(ge=0, lt=2**53)]
_Some = Annotated[int, Field(ge=1, lt=2**53)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")  # what else there is depends on its kind, and is only shown

    name: str
    passes: list[str] = []


class _Data(_Part):
    sha256: str
    samples: _Some
    used: _Some
    labels: bool

    @model_validator(mode="after")
    def _fits(self) -> _Data:
        if self.used > self.samples:
            raise ValueError("more samples are used than there are")
        return self


class _Golden(_Part):
    sha256: str
    correct: _Count
    inferences: _Some

    @model_validator(mode="after")
    def _fits(self) -> _Golden:
        if self.correct > self.inferences:
            raise ValueError("more inferences are correct than there are")
        return self


class _View(_Part):
    name: str
    dtype: str
    scale: Annotated[float, Field(gt=0, le=3.4028234663852886e38)] | None  # a float32


class _Site(_Part):
    name: str
    key: str
    layer: str
    kind: Literal[*KINDS, *ARRAY_KINDS]  # type: ignore[valid-type]
    op: str
    shape: Annotated[list[Annotated[int, Field(ge=0, lt=_MOST_ELEMENTS)]], Field(max_length=64)]
    view: _View


class _Design(_Part):
    sites: Annotated[list[_Site], Field(min_length=1)]
    groups: list[dict[str, Any]]  # compared with those that follow from the rest
    population: _Some
    batch_groups: _Some


class _Identity(_Part):
    """campaign.json, as `effc.faultsim.campaign` writes it."""

    schema_: Annotated[str, Field(alias="schema")]
    schema_version: int
    model: _Model
    data: _Data
    spec: dict[str, Any]
    design: _Design
    list_sha256: str | None
    versions: dict[str, str]
    golden: _Golden

    @model_validator(mode="after")
    def _fits(self) -> _Identity:
        if self.design.batch_groups > self.data.used:
            raise ValueError("there are more groups of images than images")
        return self


def read_design(folder: Path) -> tuple[dict[str, Any], Design, Store, tuple[int, ...]]:
    """Identity, design and results of a campaign, and the list's own numbers of its injections.

    Raises:
        ConfigError: no campaign there. InputRejectedError: its identity was altered. LimitError: it is too large to be read.
    """
    identity = read_identity(folder)
    try:
        _Identity.model_validate(identity)
        if identity["versions"].get("drawing") != DRAWING:
            raise ValueError("its faults were drawn by another version of effc, and would not be the same here")
        sites = [_site(entry) for entry in identity["design"]["sites"]]
        if sum(site.elements for site in sites) >= _MOST_ELEMENTS:
            raise ValueError("its sites have more numbers than any model")
        spec = spec_of(identity["spec"])
        replay = Replay.kept(folder, identity["list_sha256"]) if identity["list_sha256"] else None
        listed = None if replay is None else replay.places(sites, spec.reach)
        design = Design.of(spec, sites, identity["design"]["batch_groups"], listed=listed)
        if design.as_json() != identity["design"]:
            raise ValueError("its groups are not those of its spec")
        _check_size(spec, design)
    except ValidationError as error:
        problems = [Problem(".".join(map(str, one["loc"])) or "campaign", "", one["msg"]) for one in error.errors()[:_SHOWN]]
        raise InputRejectedError(f"{folder}: the campaign's identity is malformed", problems) from None
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, MemoryError) as error:
        raise InputRejectedError(f"{folder}: the campaign's identity is malformed ({type(error).__name__}: {error})") from error
    except LimitError:
        raise
    except EffcError as error:
        raise InputRejectedError(f"{folder}: the campaign's identity is malformed: {error.message}", error.problems) from error
    return identity, design, Store(folder, identity), () if replay is None else replay.numbers


def _site(entry: Mapping[str, Any]) -> Site:
    site = Site.from_json(entry)
    if site.is_stored and getattr(site.view, "scale", 1.0) is None:
        raise ValueError(f"{site.name} has no scale")
    return site


def _check_size(spec: CampaignSpec, design: Design) -> None:
    """Refuse more injections than can be held, before they are listed. A campaign with a precision may take as many as it is allowed."""
    most = Schedule(spec, design.groups).planned()
    if spec.precision is not None:
        most = max(most, min(spec.most_faults, design.population.size))
    if most > _MOST_INJECTIONS:
        raise LimitError(
            f"the campaign has up to {counted(most, 'injection')}; without its model effc reads {_MOST_INJECTIONS:,} at most: run the "
            "campaign's own command in its folder"
        )
