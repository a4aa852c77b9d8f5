"""What can be chosen for a campaign: one schema for flags, `campaign.toml` and Python. A flag beats the file, the file the default.

# campaign.toml
eval = "test.npz"                  # relative to this file
where = ["weight"]
rates = [1e-7, 1e-6, 1e-5]
draws = 100
require = ["accuracy@1e-6 >= 0.85"]
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from effc.errors import ConfigError, DataError, Problem
from effc.faultsim.faults import Duration, Effect

__all__ = ["NOT_IDENTITY", "CampaignSpec", "load_spec", "parse_bits", "spec_of"]

# what does not change a result, or is told by a hash
NOT_IDENTITY = ("eval", "require", "jobs", "memory", "faults_csv", "preprocess", "accelerator", "data")
_PATHS = ("eval", "faults_csv", "data")
_Rate = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]  # at 0 nothing changes
_Share = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]


class CampaignSpec(BaseModel):
    """One campaign.

    Attributes:
        eval: the samples that faults are judged on.
        where: kinds of sites (`effc.faultsim.sites`). `layers`: shell patterns on layers or names. `ops`: operator names.
        bits: positions (`30`, `23-30`, `0-7,31`); all without it. Bit 0 is the least significant one.
        view: number view of floating-point values: `stored`, `f16`, `bf16`, `int8`, `q15.16`, ...
        effect, duration: what a fault does, and whether it stays. `burst`: adjacent bits that a burst flips.
        rates: bit error rates; each is a group of `draws` injections.
        faults: how many single faults. `margin`: the half-width at 95 % that Leveugle's formula turns into a number, where `faults` is not
            given. `exhaustive`: every bit once. `faults_csv`: replay a list.
        stratify: draw single faults by `bit`, `layer` or both. `precision`: go on until the critical share is known to this relative
            half-width; with it `margin` and `faults` do not apply, and `most_faults` is the end.
        images: how many samples of the data to use; all without it. `images_per_fault`: how many of them each fault is tried on; all
            without it. Transient faults hit one.
        tolerance: what is critical where outputs are no scores of classes: a relative difference.
        batch: samples of one pass; without it as many as `memory` allows, at most 256.
        seed: the root of all randomness. `threads`: of each worker; part of the campaign, as it may change the last bits of sums.
        jobs: worker processes. `memory`: bytes for the golden values of one worker.
        level: confidence of the intervals. `require`: budgets to judge.
        preprocess: how images become inputs.
        accelerator: an array that runs the network: a shipped description's name, or a file's path. Kinds of sites are then its own
            (`effc.faultsim.accelerator.places`); none given: `pe` where a bit is stuck, else `accumulator`.
            `data`: samples that a float network is quantised on for it.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=False, populate_by_name=True, alias_generator=lambda name: name.replace("_", "-")
    )

    eval: Path | None = None
    where: tuple[str, ...] = ("parameters",)
    layers: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()
    bits: str = ""
    view: str = "stored"
    effect: Effect = "flip"
    duration: Duration = "permanent"
    burst: Annotated[int, Field(ge=2, le=64)] = 2
    rates: tuple[_Rate, ...] = ()
    draws: Annotated[int, Field(ge=1)] = 100
    faults: Annotated[int, Field(ge=1)] | None = None
    margin: _Share = 0.05
    exhaustive: bool = False
    faults_csv: Path | None = None
    stratify: tuple[Literal["bit", "layer"], ...] = ()
    precision: _Share | None = None
    most_faults: Annotated[int, Field(ge=1)] = 1_000_000
    images: Annotated[int, Field(ge=1)] | None = None
    images_per_fault: Annotated[int, Field(ge=1)] | None = None
    tolerance: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    batch: Annotated[int, Field(ge=1, le=65536)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    jobs: Annotated[int, Field(ge=1, le=1024)] = 1
    memory: Annotated[int, Field(ge=1 << 20)] = 1 << 30
    level: _Share = 0.95
    require: tuple[str, ...] = ()
    preprocess: str | None = None
    accelerator: str | None = None
    data: Path | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_an_array(cls, values: Any) -> Any:
        chosen = isinstance(values, dict) and values.get("accelerator") is not None and "where" not in values
        if not chosen:
            return values
        stuck = str(values.get("effect", "")).startswith("stuck")  # multipliers are faulty for good, sums once
        return {**values, "where": ("pe",) if stuck else ("accumulator",)}

    @field_validator("where", "layers", "ops", "rates", "stratify", "require", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | int | float) else value

    @field_validator("bits", mode="before")
    @classmethod
    def _positions(cls, value: Any) -> Any:
        return ",".join(map(str, value)) if isinstance(value, list) else str(value) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _fits_together(self) -> CampaignSpec:
        chosen = [
            name
            for name, given in (
                ("rates", self.rates),
                ("faults", self.faults is not None),
                ("exhaustive", self.exhaustive),
                ("faults-csv", self.faults_csv),
                ("precision", self.precision is not None),
            )
            if given
        ]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} are different campaigns: give one of them")
        if self.stratify and chosen and chosen[0] not in ("faults", "precision"):
            raise ValueError(f"stratify is for drawn single faults, not for {chosen[0]}")
        if self.effect != "burst" and self.burst != CampaignSpec.model_fields["burst"].default:
            raise ValueError(f"burst is the length of a burst, and the effect is {self.effect}: choose effect burst, or leave it out")
        if self.bits and self.faults_csv is not None:
            raise ValueError("a list says which bits it means: bits cannot be chosen")
        if self.effect == "random" and self.faults_csv is not None:
            raise ValueError("a list does not hold the values of random faults: they cannot be replayed")
        if len(set(self.rates)) != len(self.rates):
            raise ValueError("a rate is given twice")
        if self.duration == "transient" and self.images_per_fault not in (None, 1):
            raise ValueError("a transient fault lasts for one inference: images-per-fault is 1")
        if self.effect != "random" or not self.bits:
            return self
        raise ValueError("a random value reaches all bits of a number: bits cannot be chosen")

    @property
    def tried_on(self) -> int | None:
        """Samples of each fault; None for all."""
        return 1 if self.duration == "transient" else self.images_per_fault

    @property
    def reach(self) -> int:
        """Adjacent bits of one fault."""
        return self.burst if self.effect == "burst" else 1

    def identity(self) -> dict[str, Any]:
        """What decides the results, as plain JSON."""
        return self.model_dump(mode="json", by_alias=True, exclude=set(NOT_IDENTITY))


def parse_bits(text: str) -> tuple[int, ...] | None:
    """`30`, `23-30`, `0-7,31` as positions in ascending order; None for an empty text. Raises ConfigError."""
    if not text.strip():
        return None
    found: set[int] = set()
    for part in text.split(","):
        low, dash, high = (one.strip() for one in part.partition("-"))
        ends = (low, high if dash else low)
        if not all(one.isascii() and one.isdigit() and len(one) < 3 for one in ends) or not 0 <= int(ends[0]) <= int(ends[1]) < 64:
            raise ConfigError(
                "bits are not understood", [Problem("bits", repr(part.strip()), "is no position or range", "such as 30 or 23-30")]
            )
        found.update(range(int(ends[0]), int(ends[1]) + 1))
    return tuple(sorted(found))


def spec_of(values: Mapping[str, Any]) -> CampaignSpec:
    """A checked spec. Raises ConfigError with everything that is wrong."""
    try:
        spec = CampaignSpec(**values)
    except ValidationError as error:
        raise ConfigError("the campaign is not understood", [_problem(entry) for entry in error.errors()]) from None
    parse_bits(spec.bits)
    return spec


def load_spec(path: Path) -> dict[str, Any]:
    """The values of a `campaign.toml`; its paths are relative to its folder. Raises DataError, ConfigError."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"there is no readable campaign file {str(path)!r}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name} is not TOML: {error}") from error
    values = {name.replace("-", "_"): value for name, value in values.items()}
    for name in _PATHS:
        if isinstance(values.get(name), str):
            values[name] = path.parent / values[name]
    if str(values.get("accelerator", "")).endswith(".toml"):  # else it is the name of a shipped one
        values["accelerator"] = str(path.parent / values["accelerator"])
    return values


def _problem(entry: Any) -> Problem:
    where = "-".join(str(part).replace("_", "-") for part in entry["loc"][:1]) or "campaign"
    given = repr(entry.get("input"))
    message = str(entry["msg"]).removeprefix("Value error, ")
    hint = ""
    if entry["type"] == "extra_forbidden":
        near = difflib.get_close_matches(where, [name.replace("_", "-") for name in CampaignSpec.model_fields], 1)
        message, hint = "there is no such option", f"did you mean {near[0]}?" if near else "see `effc faultsim --help`"
    return Problem(where, given[:80] if where != "campaign" else "the options", message, hint)
