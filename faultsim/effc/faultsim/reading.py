"""A campaign's folder read without its model: for merges, and for reports of what is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from effc.errors import EffcError, InputRejectedError
from effc.faultsim.design import Design
from effc.faultsim.replay import Replay
from effc.faultsim.sites import Site
from effc.faultsim.spec import spec_of
from effc.faultsim.store import Store, read_identity

__all__ = ["read_design"]


def read_design(folder: Path) -> tuple[dict[str, Any], Design, Store, tuple[int, ...]]:
    """Identity, design and results of a campaign, and the list's own numbers of its injections.

    Raises:
        ConfigError: no campaign there. InputRejectedError: its identity was altered.
    """
    identity = read_identity(folder)
    try:
        sites = [Site.from_json(entry) for entry in identity["design"]["sites"]]
        spec = spec_of(identity["spec"])
        replay = Replay.kept(folder, identity["list_sha256"]) if identity["list_sha256"] else None
        listed = None if replay is None else replay.places(sites, spec.reach)
        design = Design.of(spec, sites, int(identity["design"]["batch_groups"]), listed=listed)
        if design.as_json() != identity["design"]:
            raise ValueError("its groups are not those of its spec")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputRejectedError(f"{folder}: the campaign's identity is malformed ({type(error).__name__}: {error})") from error
    except EffcError as error:
        raise InputRejectedError(f"{folder}: the campaign's identity is malformed: {error.message}", error.problems) from error
    return identity, design, Store(folder, identity), () if replay is None else replay.numbers
