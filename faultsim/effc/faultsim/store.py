"""A campaign's folder: its identity, and its results in chunks that are written once, whole or not at all.

    campaign.json                      what the campaign is: two campaigns with the same file give the same results
    faults-list.csv                    the replayed faults, where there are some
    results/stage-00/chunk-00000.csv   records of some injections, with a checksum; written beside, synced, renamed

A chunk is a function of the campaign and its number. So a campaign goes on after any death by making the chunks that are missing, several
machines can make different ones, and a merge is a union of files.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from effc.errors import AlteredArtifactError, ConfigError, InputRejectedError, OutputError, Problem
from effc.faultsim.records import Record
from effc.faultsim.whole_files import remove_leftovers, write_whole

__all__ = [
    "CAMPAIGN",
    "LIST",
    "SCHEMA",
    "SCHEMA_VERSION",
    "Store",
    "canonical",
    "chunk_bytes",
    "differences",
    "parse_chunk",
    "read_chunk",
    "read_identity",
]

CAMPAIGN = "campaign.json"
LIST = "faults-list.csv"
SCHEMA = "effc.faultsim.campaign"
SCHEMA_VERSION = 1
_HEADER = ",".join(Record._fields)
_MOST_SHOWN = 12
_LARGEST_CHUNK, _LARGEST_IDENTITY = 1 << 22, 1 << 26  # bytes; twenty times what a full chunk takes
_DEEPEST = 16  # levels of plain JSON; an identity has five
_MOST = 2**63


class Store:
    """A campaign's folder.

    Args:
        folder: made where it is missing.
        identity: plain JSON that names the campaign.
        listed: the content of a replayed list.

    Raises:
        ConfigError: the folder holds another campaign; says what differs.
        OutputError: it holds other files, or cannot be written.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], listed: bytes | None = None) -> None:
        self.folder = folder
        content = canonical(identity)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / CAMPAIGN
            if path.exists():
                found = read_identity(folder)
                if canonical(found) != content:
                    raise ConfigError(
                        f"{folder} holds another campaign: give another folder, or remove it", differences(found, identity)[:_MOST_SHOWN]
                    )
                return
            if any(not _is_of_a_beginning(one.name) for one in folder.iterdir()):
                raise OutputError(f"{folder} is not empty and holds no campaign: give another folder")
            if listed is not None:
                write_whole(folder / LIST, listed)
            write_whole(path, content)
        except OSError as error:
            raise OutputError(f"{folder} cannot be written: {error.strerror or error}") from error

    def has(self, stage: int, chunk: int) -> bool:
        """Whether a chunk is there. It may still be damaged: reading tells."""
        return self._path(stage, chunk).exists()

    def write(self, stage: int, chunk: int, records: Sequence[Record]) -> None:
        """Keep a chunk. Raises OutputError."""
        body = "\n".join([_HEADER, *(",".join(map(str, record)) for record in records)]) + "\n"
        try:
            self._path(stage, chunk).parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path(stage, chunk), f"{body}crc32,{zlib.crc32(body.encode())}\n".encode())
        except OSError as error:
            raise OutputError(f"{self._path(stage, chunk)} cannot be written: {error.strerror or error}") from error

    def read(self, stage: int, chunk: int) -> list[Record]:
        """A chunk. Raises AlteredArtifactError where it is not what was written."""
        return read_chunk(self._path(stage, chunk))

    def tidy(self) -> None:
        """Remove what killed processes were writing."""
        for folder in (self.folder, *self.folder.glob("results/stage-*")):
            remove_leftovers(folder)

    def _path(self, stage: int, chunk: int) -> Path:
        return self.folder / "results" / f"stage-{stage:02d}" / f"chunk-{chunk:05d}.csv"


def _is_of_a_beginning(name: str) -> bool:
    """What a campaign leaves that was killed before its identity was written."""
    return name == LIST or name.startswith((f".{LIST}.", f".{CAMPAIGN}."))


def read_chunk(path: Path) -> list[Record]:
    """The records of a chunk's file. Raises AlteredArtifactError where it is not what was written."""
    return parse_chunk(chunk_bytes(path), path)


def chunk_bytes(path: Path) -> bytes:
    """A chunk's file. Raises AlteredArtifactError where it cannot be read, or is larger than any chunk."""
    try:
        return _read(path, _LARGEST_CHUNK)
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error


def parse_chunk(content: bytes, path: Path) -> list[Record]:
    """The records in a chunk's bytes. `path`: for messages. Raises AlteredArtifactError where no campaign can have written them."""
    try:
        body, _, check = content.decode("ascii").rpartition("crc32,")
        if not body or int(check) != zlib.crc32(body.encode()):
            raise ValueError("its checksum does not fit")
        header, *lines = body.splitlines()
        if header != _HEADER:
            raise ValueError("its columns are others")
        return [_record(line, number) for number, line in enumerate(lines, 2)]
    except ValueError as error:
        raise _damaged(path, error) from error


def _record(line: str, number: int) -> Record:
    """A checksum says that a line is what was written, not that effc wrote it. Raises ValueError."""
    values = [int(value) for value in line.split(",")]
    if len(values) != len(Record._fields):
        raise ValueError(f"line {number} has {len(values)} columns")
    found = Record(*values)
    counts = found[:-2]
    if min(counts) < 0 or max(counts) >= _MOST or not all(-_MOST <= word < _MOST for word in (found.before, found.after)):
        raise ValueError(f"line {number} has a number that cannot be")
    if (
        found.inferences < 1
        or found.masked + found.non_critical + found.critical != found.inferences
        or max(found.due, found.sdc5) > found.critical
        or not found.sdc20 <= found.sdc10 <= found.non_critical
        or max(found.correct, found.golden_correct, found.lost) > found.inferences
    ):
        raise ValueError(f"the counts of line {number} contradict each other")
    return found


def _damaged(path: Path, error: Exception) -> AlteredArtifactError:
    return AlteredArtifactError(f"{path} is damaged ({error}): remove it, and run the campaign again")


def read_identity(folder: Path) -> dict[str, Any]:
    """The identity in a campaign's folder, as plain JSON whose fields are not checked. Raises ConfigError, InputRejectedError."""
    path = folder / CAMPAIGN
    try:
        data = json.loads(_read(path, _LARGEST_IDENTITY))
        if _is_deep(data):
            raise ValueError("it is nested too deeply")
        canonical(data)  # infinite numbers, and text that is none
    except OSError as error:
        raise ConfigError(f"{folder} holds no campaign: {CAMPAIGN} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InputRejectedError(f"{path} is damaged: {error}") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise InputRejectedError(f"{path} is no campaign of effc")
    if data.get("schema_version") != SCHEMA_VERSION:
        raise InputRejectedError(f"{path} has schema version {data.get('schema_version')!r}; this effc reads {SCHEMA_VERSION}")
    return data


def _read(path: Path, most: int) -> bytes:
    with open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it is larger than {most:,} bytes")
    return content


def _is_deep(data: Any) -> bool:
    level = [data]
    for _ in range(_DEEPEST):
        level = [child for one in level if isinstance(one, dict | list) for child in (one.values() if isinstance(one, dict) else one)]
    return bool(level)


def canonical(data: Mapping[str, Any]) -> bytes:
    """The one spelling of plain JSON."""
    return (json.dumps(data, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def differences(old: Any, new: Any, path: str = "") -> list[Problem]:
    """Where two identities differ, by path."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            one for key in sorted(old.keys() | new.keys()) for one in differences(old.get(key), new.get(key), f"{path}.{key}".strip("."))
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [one for index, (a, b) in enumerate(zip(old, new, strict=True)) for one in differences(a, b, f"{path}[{index}]")]
    return [] if old == new else [Problem(path, f"it has {_short(old)}", f"now {_short(new)}")]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
