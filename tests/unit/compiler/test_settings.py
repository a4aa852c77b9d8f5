"""One schema for flags, file and function; a flag beats the file, the file the default; nothing wrong passes unnoticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from effc.compiler.settings import Settings, load_settings
from effc.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    path = folder / "effc.toml"
    path.write_text(text)
    return path


def test_a_flag_beats_the_file_and_the_file_the_default(tmp_path: Path) -> None:
    config = write(tmp_path, 'passes = "ranger"\nmax-drop = 0.05\nseed = 3\n[input-shapes]\nx = [1, 3]\n')
    settings = load_settings(config, {"max_drop": 0.01, "passes": None, "target": None})
    assert settings == Settings(passes="ranger", max_drop=0.01, seed=3, input_shapes={"x": (1, 3)}, target="cpu")


def test_paths_in_a_file_are_relative_to_it(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path, 'data = "calib.npz"\n'), {}).data == tmp_path / "calib.npz"


def test_everything_wrong_is_reported_at_once(tmp_path: Path) -> None:
    config = write(tmp_path, 'max-dorp = 0.01\nmetric = "top2"\nseed = -1\n')
    with pytest.raises(ConfigError) as caught:
        load_settings(config, {})
    text = str(caught.value)
    assert "did you mean max-drop?" in text
    assert "metric" in text
    assert "seed" in text
    assert str(config) in text


@pytest.mark.parametrize("content", ["passes = ", "\udcff"])
def test_a_broken_file_is_a_config_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "effc.toml"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError):
        load_settings(path, {})
    with pytest.raises(ConfigError):
        load_settings(tmp_path / "missing.toml", {})


def test_the_effective_configuration_reads_back_and_names_no_folder(tmp_path: Path) -> None:
    settings = Settings(passes="ranger", data=tmp_path / "calib.npz", input_shapes={"x": (1, 3)}, emit=("onnx",), limits={"nodes": 5})
    text = settings.as_toml()
    assert str(tmp_path) not in text
    again = load_settings(write(tmp_path, text), {})
    assert again == settings
