"""Descriptions of accelerators: those that ship, files of a user's own, and everything that can be wrong with them at once."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from effc.cost.accelerator.description import find_accelerator, read_accelerator, shipped
from effc.errors import ConfigError

SYSTOLIC = (resources.files("effc.cost.accelerator") / "systolic-32x32.toml").read_text()


def test_shipped_descriptions_are_called_like_their_files() -> None:
    files = {entry.name for entry in resources.files("effc.cost.accelerator").iterdir() if entry.name.endswith(".toml")}
    assert {f"{one.name}.toml" for one in shipped()} == files == {"systolic-32x32.toml", "event-driven.toml"}
    dense, events = find_accelerator("systolic-32x32"), find_accelerator("event-driven")
    assert dense.multipliers == events.multipliers == 1024 and dense.sram == events.sram, "they differ in what they do"
    assert dense.width("zeros") is None and events.width("zeros") == events.width("changes") == 1


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(SYSTOLIC.replace('"systolic-32x32"', '"mine"').replace('zeros = "none"', 'zeros = "element"').replace("1e9", "5e8"))
    found = find_accelerator(path)
    assert (found.name, found.clock_hz, found.width("zeros")) == ("mine", 5e8, 1)
    assert read_accelerator(SYSTOLIC.encode(), "x").as_json()["sram"] == {"activations": 1 << 20, "weights": 1 << 20, "outputs": 1 << 21}


def test_everything_wrong_is_said_at_once() -> None:
    text = SYSTOLIC.replace("rows = 32", "rows = 0").replace("columns = 32", "colums = 32").replace("mac = 0.3", "mac = nan")
    text = text.replace('zeros = "none"', "zeros = 1").replace("accumulator = 4", "accumulator = true")
    with pytest.raises(ConfigError) as caught:
        read_accelerator(text.encode(), "mine.toml")
    said = {problem.where: str(problem) for problem in caught.value.problems}
    assert set(said) == {"rows", "columns", "colums", "skipping.zeros", "bytes.accumulator", "energy.mac"}
    assert "did you mean columns?" in said["colums"] and "at least 1" in said["rows"] and '"element"' in said["skipping.zeros"]


def test_a_stationary_array_cannot_skip() -> None:
    text = SYSTOLIC.replace('zeros = "none"', "zeros = 4").replace('changes = "none"', 'changes = "element"')
    with pytest.raises(ConfigError, match="lockstep") as caught:
        read_accelerator(text.encode(), "mine.toml")
    assert [problem.where for problem in caught.value.problems] == ["skipping.zeros", "skipping.changes"]


def test_contradictions_are_said_beside_what_is_wrong_elsewhere() -> None:
    text = SYSTOLIC.replace("rows = 32", "rows = true").replace('changes = "none"', "changes = 4").replace("dram = 162.5", 'dram = "dear"')
    with pytest.raises(ConfigError) as caught:
        read_accelerator(text.replace('name = "systolic-32x32"', 'name = ""').encode(), "mine.toml")
    said = {problem.where: str(problem) for problem in caught.value.problems}
    assert set(said) == {"name", "rows", "energy.dram", "skipping.changes"}
    assert "must be a whole number" in said["rows"] and "must be a number" in said["energy.dram"] and "lockstep" in said["skipping.changes"]
    assert not any("Input should" in line for line in said.values())
    with pytest.raises(ConfigError) as caught:
        read_accelerator(SYSTOLIC.replace("[skipping]", "[[skipping]]").replace('zeros = "none"', "zeros = 0").encode(), "mine.toml")
    assert [(one.where, "table" in str(one)) for one in caught.value.problems] == [("skipping", True)]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("systolic-32x23", r"did you mean systolic-32x32\? A description"),
        ("xyz", r"shipped are event-driven, systolic-32x32\. A description"),
        ("none.toml", "No such file"),
    ],
)
def test_what_is_not_there(name: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        find_accelerator(name)


def test_what_is_no_toml(tmp_path: Path) -> None:
    path = tmp_path / "model.toml"
    path.write_bytes(b"\x00\xff")
    with pytest.raises(ConfigError, match="is not TOML"):
        find_accelerator(path)
