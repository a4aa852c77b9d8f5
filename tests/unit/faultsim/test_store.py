"""The campaign's folder: chunks are whole or absent, damage is named, and nobody else's folder is touched."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from effc.errors import AlteredArtifactError, ConfigError, InputRejectedError, OutputError
from effc.faultsim.records import Record
from effc.faultsim.store import CAMPAIGN, LIST, SCHEMA, SCHEMA_VERSION, Store, differences, read_chunk, read_identity
from effc.faultsim.whole_files import remove_leftovers, write_all, write_whole

IDENTITY = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "spec": {"seed": 1, "rates": [1e-6, 3e-6]}, "model": {"sha256": "ab"}}
RECORDS = [Record(0, 5, 1, 0, 10, 7, 2, 1, 0, 0, 1, 1, 9, 10, 1, -5, 2**31), Record(2, 0, 0, 0, 10, 10, *[0] * 9)]
CHUNK = Path("results/stage-01/chunk-00003.csv")
DEAD = 999_999_999  # above any process id


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
    (tmp_path / f".{CAMPAIGN}.effc-{DEAD}-0123abcd").write_bytes(b"{")
    store = Store(tmp_path, IDENTITY, b"the list")
    store.write(1, 3, RECORDS)
    (tmp_path / CHUNK.with_name(f".{CHUNK.name}.effc-{DEAD}-0123abcd")).write_bytes(b"half a chunk")
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
        (b'{"schema": 1e999}', "damaged"),
        (b'{"schema": "' + b"\\ud800" + b'"}', "damaged"),
        (b'{"a": ' * 20 + b"1" + b"}" * 20, "too deeply"),
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
        "import os, sys, pathlib\nimport effc.faultsim.whole_files as whole_files\n"
        "os.fsync = lambda handle: os._exit(9)\n"
        "whole_files.write_whole(pathlib.Path(sys.argv[1]), b'new')\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], env=os.environ)
    assert done.returncode == 9
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"


def test_what_a_living_process_writes_is_not_tidied(tmp_path: Path) -> None:
    """It waits in the middle of a chunk while this process tidies, and must then be able to finish."""
    store = Store(tmp_path, IDENTITY)
    store.write(1, 3, RECORDS)
    script = (
        "import sys, pathlib\nfrom effc.faultsim.whole_files import write_all\n"
        "def pieces():\n    yield b'first, '\n    print('now', flush=True)\n    sys.stdin.readline()\n    yield b'second'\n"
        "write_all({pathlib.Path(sys.argv[1]): pieces()})\n"
    )
    target = (tmp_path / CHUNK).with_name("chunk-00004.csv")
    with subprocess.Popen([sys.executable, "-c", script, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "now\n"
        store.tidy()
        # as a process of another container, whose id means nothing here: its lock speaks for it
        (written,) = target.parent.glob(f".{target.name}.effc-*")
        elsewhere = written.with_name(f".{target.name}.effc-{DEAD}-0123abcd")
        os.link(written, elsewhere)
        store.tidy()
        assert elsewhere.exists()
        other.communicate("go on\n")
    assert other.returncode == 0
    assert target.read_bytes() == b"first, second"
    store.tidy()
    assert not elsewhere.exists()


def test_a_file_that_was_tidied_away_is_no_loss_where_another_has_written_the_same(tmp_path: Path) -> None:
    def robbed(content: bytes, found: bytes | None) -> None:
        def pieces() -> Iterator[bytes]:
            yield content
            for path in tmp_path.glob(".file.effc-*"):
                path.unlink()
            if found is not None:
                (tmp_path / "file").write_bytes(found)

        write_all({tmp_path / "file": pieces()})

    robbed(b"the chunk", b"the chunk")
    for found in (b"the chunk, longer", b"the", b"others   "):
        with pytest.raises(FileNotFoundError):
            robbed(b"the chunk", found)
        assert (tmp_path / "file").read_bytes() == found


def test_nobody_elses_files_are_tidied(tmp_path: Path) -> None:
    alive = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    names = {f".report.json.effc-{alive.pid}-0123abcd", f".notes.{DEAD}", f"notes.effc-{DEAD}-0123abcd", f".x.effc-{DEAD}-0123abcd.bak"}
    for name in (*names, f".report.json.effc-{DEAD}-0123abcd"):
        (tmp_path / name).write_text("half")
    (tmp_path / f".out.effc-{DEAD}-0123abcd").mkdir()
    remove_leftovers(tmp_path)
    alive.communicate(b"\n")
    assert {path.name for path in tmp_path.iterdir()} == {*names, f".out.effc-{DEAD}-0123abcd"}
    remove_leftovers(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "changes",
    [
        {"inferences": 0, "masked": 0, "non_critical": 0, "critical": 0},
        {"masked": 8},
        {"critical": -1, "masked": 9},
        {"due": 2},
        {"sdc5": 2},
        {"sdc10": 3},
        {"sdc20": 2},
        {"correct": 11},
        {"golden_correct": 11},
        {"lost": 11},
        {"draw": -1},
        {"group": 2**63},
        {"flips": 10**30},
        {"before": 10**30},
        {"after": -(2**63) - 1},
        {"after": 2**63},
    ],
)
def test_a_chunk_that_no_campaign_can_have_written(tmp_path: Path, changes: dict[str, int]) -> None:
    store = Store(tmp_path, IDENTITY)
    store.write(1, 3, [RECORDS[1], RECORDS[0]._replace(**changes)])
    with pytest.raises(AlteredArtifactError, match=r"chunk-00003\.csv is damaged .*line 3"):
        store.read(1, 3)


def test_a_chunk_of_another_form(tmp_path: Path) -> None:
    store = Store(tmp_path, IDENTITY)
    store.write(1, 3, RECORDS)
    path = tmp_path / CHUNK
    body = path.read_bytes().rpartition(b"crc32,")[0]
    for bad in (body.replace(b",2147483648", b""), body.replace(b"2147483648", b"9" * 5000), body + b"\n", body + b"0" * (1 << 22)):
        path.write_bytes(bad + f"crc32,{zlib.crc32(bad)}\n".encode())
        with pytest.raises(AlteredArtifactError, match="is damaged"):
            store.read(1, 3)


def test_a_worker_whose_parent_was_killed_removes_the_copy_of_the_data(tmp_path: Path) -> None:
    work = tmp_path / "effc-faultsim-x"
    work.mkdir()
    (work / "data.npz").write_bytes(b"data")
    script = (
        "import sys, time, pathlib\nfrom effc.faultsim.workers import _die_with\n_die_with(0, pathlib.Path(sys.argv[1]))\ntime.sleep(60)\n"
    )
    begun = time.monotonic()
    assert subprocess.run([sys.executable, "-c", script, str(work)]).returncode == 1
    assert time.monotonic() - begun < 50
    assert not work.exists()
