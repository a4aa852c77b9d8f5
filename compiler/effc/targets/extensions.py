"""Targets of other packages: found through the entry-point group `effc.targets`, loaded only when one is named or all are listed.

A package declares `name = "package.module:EXTENSION"`, an `Extension`. What is broken in one package hides no other: it is kept beside what
was found, and is an error only where somebody names it. docs/extending.md shows a whole package.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from effc.targets.base import Origin, Package, Target
from effc.targets.places import place_in

__all__ = ["GROUP", "Extension", "Found", "installed"]

GROUP = "effc.targets"
_NAME = re.compile(r"[a-z0-9][a-z0-9._:-]*")


@dataclass(frozen=True)
class Extension:
    """What a package adds.

    Attributes:
        name: that of its entry point; steps of a plan that its code computes are of this family.
        targets: each `Target` names one of effc's families: that decides how code is made and run.
        hooks: `package.module:NAME` of its `effc.lowering.extensions.Hooks`, imported when something is compiled for one of its targets;
            empty where the targets are data alone.
    """

    name: str
    targets: tuple[Target, ...]
    hooks: str = ""


@dataclass(frozen=True)
class Found:
    """One entry point.

    Attributes:
        name: of the entry point.
        package: that declares it.
        extension: what it stands for, its targets marked with their origin; None where that could not be loaded.
        fault: why it cannot be used; empty for a sound one.
    """

    name: str
    package: Package
    extension: Extension | None
    fault: str = ""

    @property
    def targets(self) -> tuple[Target, ...]:
        """That can be compiled for."""
        return () if self.extension is None or self.fault else self.extension.targets

    @property
    def claims(self) -> frozenset[str]:
        """Every name that it may have been asked for by."""
        return frozenset((self.name, *(() if self.extension is None else (target.name for target in self.extension.targets))))


def installed(own: Collection[Target]) -> tuple[Found, ...]:
    """Every extension on this Python's path, by name; loads them.

    Args:
        own: effc's own targets: their names are taken, their families are those that there are.
    """
    found = [_loaded(entry, own) for entry in sorted(_entries(), key=lambda entry: (entry.name, _package(entry).name))]
    several = [name for one in found for name in ({one.name} | {target.name for target in one.targets})]
    twice = {name for name, count in Counter(several).items() if count > 1}
    return tuple(_refused_twice(one, found, twice) for one in found)


def _entries() -> importlib.metadata.EntryPoints:
    return importlib.metadata.entry_points(group=GROUP)


def _package(entry: importlib.metadata.EntryPoint) -> Package:
    return Package("unknown", "") if entry.dist is None else Package(entry.dist.name, entry.dist.version)


def _loaded(entry: importlib.metadata.EntryPoint, own: Collection[Target]) -> Found:
    package = _package(entry)
    try:
        extension = entry.load()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - foreign code raises anything: it must not take effc's targets with it
        fault = f"importing {entry.value} raises {type(error).__name__}: {error}{place_in(error, entry.module)}"
        return Found(entry.name, package, None, fault)
    if not isinstance(extension, Extension):
        return Found(entry.name, package, None, f"{entry.value} is a {type(extension).__name__}, not an effc.targets.Extension")
    faults = list(_faults(entry, extension, own))
    if faults:
        listed = isinstance(extension.targets, tuple) and all(isinstance(target, Target) for target in extension.targets)
        return Found(entry.name, package, extension if listed else None, "; ".join(faults))
    marked = tuple(replace(target, origin=Origin(extension.name, package, extension.hooks)) for target in extension.targets)
    return Found(entry.name, package, replace(extension, targets=marked))


def _faults(entry: importlib.metadata.EntryPoint, extension: Extension, own: Collection[Target]) -> Iterator[str]:
    """Everything that is wrong with it."""
    if extension.name != entry.name:
        yield f"its name is {extension.name!r}, that of its entry point {entry.name!r}"
    if not isinstance(extension.targets, tuple) or not extension.targets:
        yield "its targets are no tuple of at least one Target"
        return
    if extension.hooks and not re.fullmatch(r"[\w.]+:\w+", extension.hooks, re.ASCII):
        yield f"its hooks, {extension.hooks!r}, are not written package.module:NAME"
    families, taken = {target.family for target in own}, {target.name for target in own}
    for target in extension.targets:
        if not isinstance(target, Target):
            yield f"{target!r} among its targets is no Target"
        elif not _NAME.fullmatch(target.name):
            yield f"the name {target.name!r} of a target holds more than small letters, digits and . _ : -"
        elif target.name in taken:
            yield f"{target.name!r} is the name of another target"
        elif target.family not in families:
            yield f"target {target.name} is of family {target.family!r}, but effc has {', '.join(sorted(families))}"
        else:
            taken.add(target.name)


def _refused_twice(one: Found, found: Collection[Found], twice: Collection[str]) -> Found:
    """The extension, at fault where its name or that of a target is also another package's: neither may win by chance."""
    names = sorted(one.claims & set(twice)) if one.targets else []
    others = [str(other.package) for other in found if other is not one and other.claims & set(names)]
    if not others:
        return one
    return replace(one, fault=f"{', '.join(names)} is also a name of {', '.join(others)}: uninstall one of the two")
