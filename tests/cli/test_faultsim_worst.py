"""`effc faultsim worst`: its list replays to the same accuracy, images are prepared as the artifact says, a bad -o is refused at once."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import CALIBRATION, DIGITS, TEST, Effc

LITTLE = ("--samples", "32", "--candidates", "3", "--random-draws", "1")


def accuracy_of(out: Path) -> float:
    """Of a replayed campaign of one injection."""
    header, line = (out / "results" / "stage-00" / "chunk-00000.csv").read_text().splitlines()[:2]
    record = dict(zip(header.split(","), line.split(","), strict=False))
    return int(record["correct"]) / int(record["inferences"])


@pytest.mark.parametrize("chosen", [(), ("--layers", "conv*", "--view", "q3.12")])
def test_the_list_replays_to_the_same_accuracy(effc: Effc, tmp_path: Path, chosen: tuple[str, ...]) -> None:
    data = ("--data", CALIBRATION, "--eval", TEST)
    out = tmp_path / "it's out"  # a name that a shell must have quoted
    result = effc("faultsim", "worst", DIGITS, "--no-check-import", *data, *LITTLE, "--flips", "4", *chosen, "-o", out)
    assert result.exit_code == 0, result.output
    searched = json.loads((out / "worst.json").read_bytes())["searched"]
    command = shlex.split(next(line for line in result.stdout.splitlines() if line.startswith("replay")).partition(": ")[2])
    assert command[:3] == ["effc", "faultsim", str(DIGITS)] and command[command.index("--view") + 1] == (chosen[-1] if chosen else "int8")
    command[command.index("DIR")] = str(tmp_path / "again")
    again = effc(*command[1:], "--no-check-import")
    assert again.exit_code == 0, again.output
    assert searched[-1]["accuracy"] < 0.9
    assert accuracy_of(tmp_path / "again") == searched[-1]["accuracy"]


def test_images_are_prepared_as_the_artifact_says(effc: Effc, tmp_path: Path) -> None:
    with np.load(TEST) as stored:
        for index, (image, label) in enumerate(zip(stored["x"][:60], stored["y"][:60], strict=True)):
            (tmp_path / "images" / str(label)).mkdir(exist_ok=True, parents=True)
            grey = np.round(image[0] * 240).astype(np.uint8)
            Image.fromarray(grey).save(tmp_path / "images" / str(label) / f"{index:03}.png")
    grey = ("--preprocess", f"channels=1,range=0..{255 / 240}")
    data = ("--data", tmp_path / "images", "--eval", tmp_path / "images")
    assert effc("compile", DIGITS, "--passes", "ranger", *data, *grey, "-o", tmp_path / "artifact").exit_code == 0
    found = {}
    for name, source, flags in (("kept", tmp_path / "artifact", ()), ("given", DIGITS, ("--no-check-import", *grey))):
        result = effc("faultsim", "worst", source, *flags, *data, *LITTLE, "--flips", "1", "-o", tmp_path / name, "--json")
        assert result.exit_code == 0, result.output
        found[name] = json.loads(result.stdout)["accuracy"]["clean"]
    assert found["kept"] == found["given"] > 0.95


def test_an_output_that_cannot_be_written_is_refused_before_the_search(effc: Effc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effc.faultsim.bit_search.search", lambda *given, **named: pytest.fail("it searched"))
    (tmp_path / "file").write_bytes(b"mine")
    result = effc("faultsim", "worst", DIGITS, "--no-check-import", "--data", TEST, "--eval", TEST, "-o", tmp_path / "file")
    assert result.exit_code == 2, result.output
    assert "cannot be written" in result.stderr and result.stdout == ""
    assert (tmp_path / "file").read_bytes() == b"mine"
