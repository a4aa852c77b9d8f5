"""Where faults can be in compiled code: the tensors that it reads, named by their sources where that is possible.

A stored tensor is one of two things.

- *Mapped*: it holds one source tensor, moved and packed at most (`effc.faultsim.stored_map`), and no other stored tensor holds anything of
  that source. Its site is the source's, with the source's name, layer, shape and elements: a list of faults for the model means the same
  bits here, and zeros that fill up blocks are not counted.
- A *stand-in*: everything else. It has its stored name, and a layer that says why, such as `stem (transformed)`; no list for the model can
  mean it by mistake. A *transformed* one was computed from sources (Winograd's weights, folded batch norms, a reshaped depthwise weight):
  its elements are all stored ones, padding included, because nothing says which of them are padding. A *copy* is one of several stored
  tensors that hold a source; it has the source's elements. A *constant* was made by the compiler, and has no source at all.

A stand-in computed from several sources has the kind of the first one; it is chosen when any of them is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from effc.errors import VerificationError
from effc.faultsim.formats import stored_view
from effc.faultsim.sites import Site, find_sites
from effc.faultsim.stored_map import StoredMap
from effc.ir import Program
from effc.ir.arrays import to_numpy, to_torch
from effc.runtime import Artifact
from effc.runtime.manifest import StoredTensor

__all__ = ["Held", "StoredSite", "held_in"]


@dataclass(frozen=True)
class StoredSite(Site):
    """A site in compiled code; `key` is the stored name.

    Attributes:
        stands_for: names of tensors and layers of the model that must not be taken for it: empty for a mapped tensor.
        why: why not; ends a sentence that begins with the name.
    """

    stands_for: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Held:
    """A stored tensor.

    Attributes:
        site: what faults name.
        sources: sites of the program that it holds something of, in the manifest's order; empty for constants.
        map: from the site's elements to the stored ones; None where they are the same.
    """

    site: StoredSite
    sources: tuple[Site, ...]
    map: StoredMap | None


def held_in(artifact: Artifact, program: Program) -> list[Held]:
    """All stored tensors with numbers, in the order in which the program has their first sources; constants last.

    Every map is checked: each source element is at its place.

    Args:
        artifact: an opened one. `program`: its own.

    Raises:
        ConfigError: a tensor of a type whose bits are not numbered, or a program without stored tensors.
        VerificationError: the manifest's map is wrong.
    """
    known = {site.name: site for site in find_sites(program)}
    order = {name: number for number, name in enumerate(known)}
    arrays = artifact.parameters()
    sources = {
        name: tuple(known[one] for one in _names(entry.source or "", known) if one in known)
        for name, entry in artifact.manifest.parameters.items()
        if arrays[name].size and arrays[name].dtype.kind not in "bc"
    }
    times = Counter(site.name for each in sources.values() for site in each)
    found = []
    for name in sorted(sources, key=lambda one: (order[sources[one][0].name] if sources[one] else len(order), one)):
        entry = artifact.manifest.parameters[name]
        held = _held(name, entry, arrays[name], sources[name], times, taken=program.tensor_names.values())
        if held.map is not None:
            _check(held.map, name, arrays[name], program, held.sources[0])
        found.append(held)
    return found


def _held(
    name: str, entry: StoredTensor, array: NDArray[Any], sources: tuple[Site, ...], times: Mapping[str, int], taken: Collection[str]
) -> Held:
    view = stored_view(to_torch(array[:0]).dtype if array.ndim else to_torch(array).dtype)
    own = f"{name} (stored)" if name in taken else name
    if not sources:
        return Held(StoredSite(own, name, entry.source or name, "other", "", array.shape, view), (), None)
    first = sources[0]
    where = StoredMap.of(entry, first.shape) if len(sources) == 1 else None
    if where is not None and times[first.name] == 1:
        return Held(StoredSite(first.name, name, first.layer, first.kind, first.op, first.shape, view), sources, where)
    names = [one for site in sources for one in ((site.name, site.layer) if site.kind == "weight" else (site.name,))]
    if where is None:
        label, shape = "transformed", array.shape
        why = f"was transformed when it was compiled and is part of {own}, whose elements are others"
    else:
        label, shape = "copy", first.shape
        why = f"is stored {times[first.name]} times, among others as {own}"
    site = StoredSite(own, name, f"{first.layer} ({label})", first.kind, first.op, shape, view, tuple(dict.fromkeys(names)), why)
    return Held(site, sources, where)


def _names(text: str, known: Collection[str]) -> list[str]:
    """The names in a list joined by commas; a name may have commas itself, so the longest known ones are taken."""
    parts, names = text.split(",") if text else [], []
    while parts:
        length = next((count for count in range(len(parts), 1, -1) if ",".join(parts[:count]) in known), 1)
        names.append(",".join(parts[:length]))
        parts = parts[length:]
    return names


def _check(where: StoredMap, name: str, array: NDArray[Any], program: Program, source: Site) -> None:
    try:
        where.check(array, to_numpy(program.tensors[source.key]))
    except VerificationError as error:
        raise VerificationError(f"the artifact's map of {name} to {source.name} is wrong: {error.message}; please report it") from None
