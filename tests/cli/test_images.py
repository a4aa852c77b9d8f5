"""Folders of images from end to end: they calibrate, judge and run, by the preprocessing that the artifact remembers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import DIGITS, TEST, Effc

STEP = 15  # a digit's pixel is 0 to 16 sixteenths; as a grey value 0 to 240
PREPROCESS = f"channels=1,range=0..{255 / STEP / 16}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 100 test digits as PNG files, a subfolder a class."""
    made = tmp_path_factory.mktemp("digits")
    with np.load(TEST) as data:
        images, labels = data["x"][:100], data["y"][:100]
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        (made / str(label)).mkdir(exist_ok=True)
        grey = np.round(image[0] * 16 * STEP).astype(np.uint8)
        Image.fromarray(grey).save(made / str(label) / f"{index:03}.png")
    return made


def test_a_folder_calibrates_judges_and_runs(effc: Effc, folder: Path, tmp_path: Path) -> None:
    out, outputs = tmp_path / "out", tmp_path / "y.npy"
    chosen = ("--data", folder, "--eval", folder, "--preprocess", PREPROCESS, "--max-drop", "0.05")
    result = effc("compile", DIGITS, "--passes", "ranger", *chosen, "-o", out, "--json")
    assert result.exit_code == 0, result.output
    quality = json.loads(result.stdout)["quality"]
    assert quality["metric"] == "top1" and quality["samples"] == 100 and quality["before"] >= 0.95
    assert effc("run", out, "--input", folder, "-o", outputs).exit_code == 0
    labels = [int(path.parent.name) for path in sorted(folder.rglob("*.png"))]
    assert np.mean(np.load(outputs).argmax(1) == labels) == pytest.approx(quality["after"])


def test_colour_images_do_not_fit_a_grey_network(effc: Effc, folder: Path, tmp_path: Path) -> None:
    result = effc("compile", DIGITS, "--passes", "ranger", "--data", folder, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "[100, 3, 8, 8]" in result.stderr and "channels=1" in result.stderr
    assert not (tmp_path / "out").exists()
