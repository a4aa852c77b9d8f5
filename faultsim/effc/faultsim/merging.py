"""Shards of one campaign put together: a union of chunks, after every check that they belong together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from effc.errors import ConfigError, InputRejectedError, OutputError, Problem
from effc.faultsim.reading import read_design
from effc.faultsim.reports.csv_report import read_list
from effc.faultsim.store import LIST, Store, canonical, chunk_bytes, differences, parse_chunk, read_identity
from effc.faultsim.whole_files import write_whole

__all__ = ["merge"]


def merge(folders: Sequence[Path], out: Path) -> None:
    """Copy the chunks of all folders into one.

    Args:
        folders: of shards, in any order. `out`: a new folder, or one that holds the same campaign.

    Raises:
        ConfigError: they are not of one campaign; says which differ, and in what.
        AlteredArtifactError: a chunk is damaged. InputRejectedError: the campaign was altered, or two folders disagree about a chunk.
        OutputError: `out` cannot be written.
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
    identity, *_ = read_design(folders[0])  # what reports could not be made of is refused before anything is written
    store = Store(out, identity, read_list(folders[0] / LIST) if identity["list_sha256"] else None)
    for folder in folders:
        for path in sorted((folder / "results").glob("stage-*/chunk-*.csv")):
            content = chunk_bytes(path)
            parse_chunk(content, path)
            target = store.folder / path.relative_to(folder)
            if target.exists():
                if chunk_bytes(target) != content:
                    raise InputRejectedError(
                        f"{path} and {target} hold different results of the same injections: one of them is not genuine"
                    )
                continue
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                write_whole(target, content)
            except OSError as error:
                raise OutputError(f"{target} cannot be written: {error.strerror or error}") from error
