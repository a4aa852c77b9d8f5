"""Shards of one campaign put together: a union of chunks, after every check that they belong together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from effc.errors import ConfigError, InputRejectedError, Problem
from effc.faultsim.store import LIST, Store, canonical, differences, read_chunk, read_identity, write_whole

__all__ = ["merge"]


def merge(folders: Sequence[Path], out: Path) -> None:
    """Copy the chunks of all folders into one.

    Args:
        folders: of shards, in any order. `out`: a new folder, or one that holds the same campaign.

    Raises:
        ConfigError: they are not of one campaign; says which differ, and in what.
        AlteredArtifactError: a chunk is damaged. InputRejectedError: two folders disagree about a chunk.
    """
    identities = [read_identity(folder) for folder in folders]
    problems = [
        Problem(str(folder), problem.where, f"{problem.what}, {problem.why}")
        for folder, identity in zip(folders, identities, strict=True)
        if canonical(identity) != canonical(identities[0])
        for problem in differences(identities[0], identity)[:3]
    ]
    if problems:
        raise ConfigError(f"the folders hold different campaigns; compared with {folders[0]}", problems)
    listed = folders[0] / LIST
    store = Store(out, identities[0], listed.read_bytes() if listed.exists() else None)
    for folder in folders:
        for path in sorted((folder / "results").glob("stage-*/chunk-*.csv")):
            read_chunk(path)
            target = store.folder / path.relative_to(folder)
            content = path.read_bytes()
            if target.exists():
                if target.read_bytes() != content:
                    raise InputRejectedError(
                        f"{path} and {target} hold different results of the same injections: one of them is not genuine"
                    )
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            write_whole(target, content)
