"""The campaign's folder: chunks are whole or absent, damage is named, and nobody else's folder is touched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from effc.errors import AlteredArtifactError, ConfigError, InputRejectedError, OutputError
from effc.faultsim.records import Record
from effc.faultsim.store import CAMPAIGN, LIST, SCHEMA, SCHEMA_VERSION, Store, differences, read_chunk, read_identity, write_whole

IDENTITY = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "spec": {"seed": 1, "rates": [1e-6, 3e-6]}, "model": {"sha256": "ab"}}
RECORDS = [Record(0, 5, 1, 0, 10, 7, 2, 1, 0, 0, 1, 1, 9, 10, 1, -5, 2**31), Record(2, 0, 0, 0, 10, 10, *[0] * 9)]
CHUNK = Path("results/stage-01/chunk-00003.csv")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path / "deep" / "campaign", IDENTITY)
    assert not store.has(1, 3)
    store.write(1, 3, RECORDS)
    assert store.has(1, 3)
    assert Store(store.folder, IDENTITY).read(1, 3) == RECORDS
    assert read_identity(store.folder) == IDENTITY
    assert sorted(str(path.relative_to(store.folder)) for path in store.folder.rglob("*") if path.is_file()) == [CAMPAIGN, str(CHUNK)]


def test_any_damage_of_a_chunk_is_an_error_that_names_it(tmp_path: Path) -> None:
    store = Store(tmp_path, IDENTITY)
    store.write(1, 3, RECORDS)
    path = tmp_path / CHUNK
    good = path.read_bytes()
    lines = good.splitlines(keepends=True)
    for bad in (
        *(good[:length] for length in range(len(good) - 1)),
        good.replace(b"0,5,1", b"0,5,2"),
        good + good,
        b"".join([lines[0], lines[2], lines[1], lines[3]]),
        b"".join([lines[0], lines[1], lines[3]]),
        b"\xff" + good,
        good.replace(b"crc32,", b"crc32,x"),
    ):
        path.write_bytes(bad)
        with pytest.raises(AlteredArtifactError, match=r"chunk-00003\.csv is damaged"):
            store.read(1, 3)
    path.write_bytes(good)
    assert read_chunk(path) == RECORDS


def test_another_campaign_is_refused_with_what_differs(tmp_path: Path) -> None:
    Store(tmp_path, IDENTITY)
    other = {**IDENTITY, "spec": {"seed": 2, "rates": [1e-6, 1e-5]}, "model": {"sha256": "ab", "name": "x"}}
    with pytest.raises(ConfigError, match="another campaign") as refused:
        Store(tmp_path, other)
    assert [(problem.where, problem.what, problem.why) for problem in refused.value.problems] == [
        ("model.name", "it has null", 'now "x"'),
        ("spec.rates[1]", "it has 3e-06", "now 1e-05"),
        ("spec.seed", "it has 1", "now 2"),
    ]
    assert read_identity(tmp_path) == IDENTITY
    assert differences(IDENTITY, IDENTITY) == []


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        Store(tmp_path, IDENTITY)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(OutputError, match="cannot be written"):
        Store(tmp_path / "thesis.txt" / "campaign", IDENTITY)
    with pytest.raises(ConfigError, match="holds no campaign"):
        read_identity(tmp_path)


def test_a_campaign_killed_while_it_began_goes_on(tmp_path: Path) -> None:
    (tmp_path / LIST).write_bytes(b"half a list")
    (tmp_path / f".{CAMPAIGN}.4711").write_bytes(b"{")
    store = Store(tmp_path, IDENTITY, b"the list")
    store.write(1, 3, RECORDS)
    (tmp_path / CHUNK.with_name(f".{CHUNK.name}.4711")).write_bytes(b"half a chunk")
    store.tidy()
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == [CAMPAIGN, LIST, str(CHUNK)]
    assert (tmp_path / LIST).read_bytes() == b"the list"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "damaged"),
        (b"[" * 100_000, "damaged"),
        (b'{"schema": "other"}', "no campaign"),
        (b"[]", "no campaign"),
        (f'{{"schema": "{SCHEMA}", "schema_version": 99}}'.encode(), "version 99"),
    ],
)
def test_other_identities_are_rejected(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / CAMPAIGN).write_bytes(content)
    with pytest.raises(InputRejectedError, match=words):
        Store(tmp_path, IDENTITY)


def test_a_file_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    """A process that dies while it writes leaves the old file."""
    path = tmp_path / "file"
    write_whole(path, b"old")
    script = (
        "import os, sys, pathlib\nimport effc.faultsim.store as store\n"
        "os.fsync = lambda handle: os._exit(9)\n"
        "store.write_whole(pathlib.Path(sys.argv[1]), b'new')\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], env=os.environ)
    assert done.returncode == 9
    assert path.read_bytes() == b"old"
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
