"""The artifact on disk: sound, reproducible, and never half of anything."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from effc.errors import AlteredArtifactError, DataError, EffcWarning, InputRejectedError, OutputError
from effc.runtime import exchange, load, manifest, open_artifact, preflight, write_artifact
from effc.runtime.tensors import pack_npz, pack_safetensors, unpack_npz, unpack_safetensors
from tests.unit.runtime.dense_artifact import fields, files, weights

ROOT = Path(__file__).parents[3]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_two_writes_give_the_same_bytes(library: bytes, tmp_path: Path) -> None:
    write_artifact(tmp_path / "one", files(library), fields(), {"measurements.json": b"1"})
    write_artifact(tmp_path / "deep" / "two", dict(reversed(files(library).items())), fields(), {"measurements.json": b"1"})
    assert content(tmp_path / "one") == content(tmp_path / "deep" / "two")


def test_manifest_lists_hash_and_crc(out: Path) -> None:
    data = json.loads((out / "manifest.json").read_text())
    assert set(data["files"]) == {"model.so", "params.safetensors", "golden.npz", "checks/00-source.npz", "config.toml"}
    assert open_artifact(out).manifest.parameters["w"].permutation == (1, 0)
    assert open_artifact(out).checks() == ["checks/00-source.npz"]


def test_formats_are_what_other_readers_expect() -> None:
    tensors = {
        **weights(),
        "i": np.arange(3),
        "flag": np.array([True]),
        "half": np.ones((2, 2), np.float16),
        "scalar": np.array(3.5),
    }
    from safetensors.numpy import load as read_safetensors
    from safetensors.numpy import save

    for read in (read_safetensors(pack_safetensors(tensors)), unpack_safetensors(save(tensors)), unpack_npz(pack_npz(tensors))):
        assert read.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert (read[name].shape, read[name].dtype) == (tensor.shape, tensor.dtype)
            np.testing.assert_array_equal(read[name], tensor)


@pytest.mark.parametrize("position", [0.0, 0.3, 0.7, 1.0])
def test_a_changed_byte_anywhere_is_found_and_named(out: Path, position: float) -> None:
    names = [name for name in content(out) if name != "measurements.json"]
    assert len(names) == 6
    for name in names:
        original = (out / name).read_bytes()
        index = int(position * (len(original) - 1))
        (out / name).write_bytes(original[:index] + bytes([original[index] ^ 1]) + original[index + 1 :])
        with pytest.raises(InputRejectedError, match="manifest") as caught:
            load(out)
        assert name in str(caught.value)
        assert caught.value.exit_code == 4
        (out / name).write_bytes(original)
    load(out)


def test_added_white_space_in_the_manifest_is_found(out: Path) -> None:
    with open(out / "manifest.json", "a") as file:
        file.write(" ")
    with pytest.raises(AlteredArtifactError, match=r"manifest\.json was altered"):
        open_artifact(out)


@pytest.mark.parametrize("value", [b"NaN", b"-Infinity", b"1e999", rb'"\ud800"', rb'{"\udfff": 1}', b'"\xed\xa0\x80"'])
def test_values_that_effc_never_writes_are_found_in_the_manifest(out: Path, value: bytes) -> None:
    """Python reads them from JSON and cannot write them again."""
    original = (out / "manifest.json").read_bytes()
    altered = original.replace(b'"source": {', b'"source": {"odd": ' + value + b", ", 1)
    assert altered != original
    (out / "manifest.json").write_bytes(altered)
    with pytest.raises(AlteredArtifactError) as caught:
        load(out)
    assert caught.value.exit_code == 4


def test_all_missing_files_are_listed(out: Path) -> None:
    (out / "model.so").unlink()
    (out / "golden.npz").unlink()
    with pytest.raises(AlteredArtifactError) as caught:
        load(out)
    assert sorted(problem.where for problem in caught.value.problems) == ["golden.npz", "model.so"]


def test_what_is_no_artifact_says_so(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none", "nothing there"), (tmp_path, "no manifest.json"), (Path(__file__), "is a file")):
        with pytest.raises(DataError, match=reason) as caught:
            load(path)
        assert caught.value.exit_code == 2


def forge(out: Path, **changes: object) -> None:
    """A manifest with a right digest but wrong content."""
    data = json.loads((out / "manifest.json").read_text()) | changes
    (out / "manifest.json").write_bytes(manifest.encode({key: value for key, value in data.items() if value is not ...}))


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "a\\b", "", "./model.so"])
def test_file_names_cannot_leave_the_directory(out: Path, name: str) -> None:
    forge(out, files={name: {"sha256": "0", "bytes": 0}, "params.safetensors": {"sha256": "0", "bytes": 0}})
    with pytest.raises(InputRejectedError, match="leaves the artifact's directory"):
        open_artifact(out)


def test_a_link_out_of_the_directory_is_refused(out: Path) -> None:
    (out / "config.toml").rename(out.parent / "config.toml")
    (out / "config.toml").symlink_to(out.parent / "config.toml")
    with pytest.raises(AlteredArtifactError, match="link out of the artifact"):
        open_artifact(out)


def test_malformed_manifests_are_rejected_with_all_faults(out: Path) -> None:
    forge(out, inputs=..., plan=3)
    with pytest.raises(InputRejectedError) as caught:
        open_artifact(out)
    assert [(problem.what, problem.why) for problem in caught.value.problems] == [("inputs", "is missing"), ("plan", "is a int")]


def test_a_plan_that_reads_outside_its_block_is_rejected(out: Path) -> None:
    plan = json.loads((out / "manifest.json").read_text())["plan"]
    plan["buffers"][1]["offset"] = 1 << 40
    forge(out, plan=plan)
    with pytest.raises(InputRejectedError, match="outside its parameter block"):
        open_artifact(out)


def test_a_newer_schema_says_what_to_do(out: Path) -> None:
    forge(out, schema_version=2)
    with pytest.raises(InputRejectedError, match="reads version 1; compile the model again"):
        open_artifact(out)


def test_someone_elses_files_are_kept(tmp_path: Path, library: bytes) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for attempt in (lambda: preflight(tmp_path), lambda: write_artifact(tmp_path, files(library), fields())):
        with pytest.raises(OutputError, match=r"thesis\.tex") as caught:
            attempt()
        assert caught.value.exit_code == 2
    assert content(tmp_path) == {"thesis.tex": b"years of work"}
    write_artifact(tmp_path, files(library), fields(), force=True)
    assert "thesis.tex" not in content(tmp_path)


def test_a_note_beside_an_artifact_is_someones_file(out: Path, library: bytes) -> None:
    (out / "notes.txt").write_text("keep")
    with pytest.raises(OutputError, match=r"notes\.txt"):
        write_artifact(out, files(library), fields())
    assert (out / "notes.txt").read_text() == "keep"


def test_the_working_directory_is_not_replaced_by_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work" / "deep").mkdir(parents=True)
    (tmp_path / "work" / "file").write_text("")
    monkeypatch.chdir(tmp_path / "work" / "deep")
    with pytest.raises(OutputError, match="not replaced even with --force"):
        preflight(tmp_path / "work", force=True)


@pytest.mark.parametrize("place", ["file", "file/out", "/proc/none/out"])
def test_a_place_that_cannot_be_written(tmp_path: Path, library: bytes, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError) as caught:
        write_artifact(tmp_path / place, files(library), fields())
    assert caught.value.exit_code == 2
    assert content(tmp_path) == {"file": b"mine"}


def test_an_empty_directory_and_a_link_to_one_are_fine(tmp_path: Path, library: bytes) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write_artifact(tmp_path / "link", files(library), fields())
    assert (tmp_path / "link").is_symlink()
    load(tmp_path / "real")


def test_interrupt_leaves_nothing(out: Path, library: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(out.parent)

    def interrupt(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(exchange, "_exchange", interrupt)
    for place in (out, out.parent / "new" / "deep"):
        with pytest.raises(KeyboardInterrupt):
            write_artifact(place, files(library), fields()) if place == out else exchange.replace_directory(place, interrupting(interrupt))
    assert content(out.parent) == before
    assert sorted(path.name for path in out.parent.iterdir()) == ["out"]


def interrupting(interrupt: object) -> dict[str, bytes]:
    class Files(dict[str, bytes]):
        def items(self):  # type: ignore[no-untyped-def]
            yield "first", b"written"
            interrupt()  # type: ignore[operator]

    return Files()


def test_without_exchange_the_old_one_steps_aside(out: Path, library: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_exchange", lambda *_: False)
    write_artifact(out, files(library), fields(passes=["ranger"]))
    assert load(out).manifest.data["passes"] == ["ranger"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_an_old_artifact_that_stepped_aside_is_found_and_recovered(out: Path) -> None:
    out.rename(exchange.former(out))
    with pytest.warns(EffcWarning, match="a compile was killed while it replaced it"):
        load(out)
    preflight(out)
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    load(out)


def test_an_old_artifact_that_waits_beside_the_new_one_goes_with_the_next_write(out: Path, library: bytes) -> None:
    shutil.copytree(out, exchange.former(out))
    preflight(out)
    assert exchange.former(out).is_dir()  # the model may yet be refused
    write_artifact(out, files(library), fields(passes=["ranger"]))
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_users_own_copy_is_neither_removed_nor_loaded(out: Path, library: bytes) -> None:
    copy = out.with_name("out.old")
    shutil.copytree(out, copy)
    before = content(copy)
    write_artifact(out, files(library), fields(passes=["ranger"]))
    shutil.rmtree(out)
    preflight(out)
    assert content(copy) == before
    with pytest.raises(DataError, match="nothing there"):
        load(out)


def test_what_waits_aside_but_is_not_an_artifact_is_kept(out: Path, library: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    aside = exchange.former(out)
    aside.mkdir()
    (aside / "thesis.tex").write_text("years of work")
    write_artifact(out, files(library), fields())
    monkeypatch.setattr(exchange, "_exchange", lambda *_: False)
    before = content(out.parent)
    with pytest.raises(OutputError, match=r"\.out\.effc-old is in the way"):
        write_artifact(out, files(library), fields(passes=["ranger"]))
    assert content(out.parent) == before


# The driver writes artifact B over artifact A in forked children; child k is killed at its k-th system call that changes the disk.
DRIVER = """
import os, signal, sys
from pathlib import Path
from effc.runtime import exchange, open_artifact, preflight, write_artifact

out, fallback = Path(sys.argv[1]), sys.argv[2] == "fallback"
from tests.unit.runtime.dense_artifact import fields, files
code = Path(sys.argv[3]).read_bytes()
if fallback:
    exchange._exchange = lambda *_: False

class Deadly:
    def __init__(self, function): self.function = function
    def __call__(self, *arguments, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.function(*arguments, **options)

def compile_b():
    write_artifact(out, files(code), fields(passes=["b"]))

killed = 0
while True:
    write_artifact(out, files(code), fields(passes=["a"]))
    child = os.fork()
    if child == 0:
        left = killed
        for name in ("mkdir", "fsync", "rename", "unlink", "rmdir"):
            setattr(os, name, Deadly(getattr(os, name)))
        exchange._exchange = Deadly(exchange._exchange)
        compile_b()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    artifact = open_artifact(out)  # the old one or the new one, every hash right
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0 and artifact.manifest.data["passes"] == ["b"]
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert artifact.manifest.data["passes"] in (["a"], ["b"])
    preflight(out)
    open_artifact(out)
    write_artifact(out, files(code), fields(passes=["c"]))  # the next compile takes the leftovers away
    assert os.listdir(out.parent) == ["out"], os.listdir(out.parent)
    open_artifact(out)
    killed += 1
print(killed)
"""


def drive(*arguments: str, code: str = DRIVER) -> str:
    paths = [str(ROOT / part) for part in ("compiler", "runtime", "")]
    script = f"import sys; sys.path[:0] = {paths!r}\n{textwrap.dedent(code)}"
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("way", ["exchange", "fallback"])
def test_kill_at_every_step_leaves_a_whole_artifact(way: str, library: bytes, tmp_path: Path) -> None:
    (tmp_path / "code").write_bytes(library)
    (tmp_path / "place").mkdir()
    killed = int(drive(str(tmp_path / "place" / "out"), way, str(tmp_path / "code")))
    assert killed >= 15  # two directories made, seven files and three folders synced, the exchange, the old content removed


def test_disk_full_leaves_the_old_artifact_and_nothing_else(out: Path, library: bytes) -> None:
    (out.parent / "code").write_bytes(library)
    before = content(out.parent)
    message = drive(
        str(out),
        str(out.parent / "code"),
        code="""
        import resource
        from pathlib import Path
        from effc.errors import OutputError
        from effc.runtime import write_artifact
        from tests.unit.runtime.dense_artifact import fields, files
        code = Path(sys.argv[2]).read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        for place in (Path(sys.argv[1]), Path(sys.argv[1]).parent / "new" / "out"):
            try:
                write_artifact(place, files(code), fields(passes=["b"]))
            except OutputError as error:
                print(error.exit_code, error)
        """,
    )
    assert message.count("2 cannot write") == 2
    assert message.count("the disk is full") == 2
    assert content(out.parent) == before
    assert sorted(path.name for path in out.parent.iterdir()) == ["code", "out"]


def test_a_living_writers_directory_is_left_alone(out: Path) -> None:
    with exchange._temporary_sibling(out) as sibling:
        exchange.remove_leftovers(out, lambda _: False)
        assert sibling.exists()


def test_pickles_in_vectors_are_refused() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.array([object()]))
    with pytest.raises(InputRejectedError):
        unpack_npz(buffer.getvalue())
