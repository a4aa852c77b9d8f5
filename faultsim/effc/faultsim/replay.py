"""A list of faults, replayed: which bits of which sites its rows mean."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from effc.errors import AlteredArtifactError, ConfigError, Problem
from effc.faultsim.artifact_sites import StoredSite
from effc.faultsim.groups import Places
from effc.faultsim.reports.csv_report import ListedFault, parse_faults, read_list
from effc.faultsim.sites import Site
from effc.faultsim.store import LIST

__all__ = ["Replay"]

_SHOWN = 20  # problems of one message


@dataclass(frozen=True)
class Replay:
    """A list.

    Attributes:
        faults: its rows. `content`: the file's bytes, which the campaign keeps.
    """

    faults: tuple[ListedFault, ...]
    content: bytes

    @classmethod
    def read(cls, path: Path) -> Replay:
        """From a file. Raises DataError, LimitError."""
        content = read_list(path)
        return cls(tuple(parse_faults(content, str(path))), content)

    @classmethod
    def kept(cls, folder: Path, sha256: str) -> Replay:
        """From a campaign's folder. Raises AlteredArtifactError where it is not the list that the campaign was begun with."""
        found = cls.read(folder / LIST)
        if found.sha256 != sha256:
            raise AlteredArtifactError(f"{folder / LIST} is not the list that the campaign was begun with: it was changed")
        return found

    @property
    def sha256(self) -> str:
        """Hash of the file."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def numbers(self) -> tuple[int, ...]:
        """The list's own numbers of its injections, in order."""
        return tuple(dict.fromkeys(fault.injection for fault in self.faults))

    def places(self, sites: Sequence[Site], reach: int = 1) -> list[Places]:
        """For every injection its sites, elements and bits.

        A name is a tensor's, or a layer's: then its weight is meant.

        Raises:
            ConfigError: with all rows that mean nothing here, or two things, or from whose bit a burst of `reach` bits leaves the number.
        """
        by_name = {site.name: number for number, site in enumerate(sites)}
        by_layer: dict[str, list[int]] = {}
        for number, site in enumerate(sites):
            if site.kind == "weight" or site.name == f"{site.layer}.weight":  # a norm's scale is a module's weight, too
                by_layer.setdefault(site.layer, []).append(number)
        hidden = {name: site.why for site in sites if isinstance(site, StoredSite) for name in site.stands_for}
        found: dict[int, set[tuple[int, int, int]]] = {number: set() for number in self.numbers}
        problems: list[Problem] = []
        for fault in self.faults:
            if fault.layer in hidden and fault.layer not in by_name:
                hint = "replay the list on the program (--executor program)"
                problems.append(Problem(f"line {fault.line}", repr(fault.layer), hidden[fault.layer], hint))
                continue
            meant = {*by_layer.get(fault.layer, ()), *([by_name[fault.layer]] if fault.layer in by_name else ())}
            if not meant:
                why = f"no tensor and no layer with a weight has this name; there are: {_some(list(by_layer) or list(by_name))}"
                problems.append(Problem(f"line {fault.line}", repr(fault.layer), why))
                continue
            if len(meant) > 1:
                why = f"means several tensors: {_some([sites[one].name for one in sorted(meant)])}"
                problems.append(Problem(f"line {fault.line}", repr(fault.layer), why, "write a tensor's name in full"))
                continue
            (number,) = meant
            site = sites[number]
            try:
                element = site.element(fault.index)
            except ValueError as error:
                problems.append(Problem(f"line {fault.line}", f"{fault.layer} {fault.index}", str(error)))
                continue
            if fault.bit + reach > site.view.bits:
                what = f"bit {fault.bit}" if reach == 1 else f"a burst from bit {fault.bit} to {fault.bit + reach - 1}"
                problems.append(Problem(f"line {fault.line}", what, f"{site.name} has bits 0 to {site.view.bits - 1}"))
                continue
            place = (number, element, fault.bit)
            if place in found[fault.injection]:
                problems.append(Problem(f"line {fault.line}", f"{fault.layer} {fault.index} bit {fault.bit}", "is twice in one injection"))
            found[fault.injection].add(place)
        if problems:
            more = f" ({len(problems) - _SHOWN} more)" if len(problems) > _SHOWN else ""
            raise ConfigError(f"the list of faults does not fit the model{more}", problems[:_SHOWN])
        return [_arrays(places) for places in found.values()]


def _arrays(places: set[tuple[int, int, int]]) -> Places:
    sites, elements, bits = np.array(sorted(places), np.int64).reshape(-1, 3).T
    return sites, elements, bits


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
