"""One schema for flags, file and function; a flag beats the file, the file the default; nothing wrong passes unnoticed."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from effc.compiler.settings import Settings, load_settings
from effc.errors import ConfigError, DataError


def write(folder: Path, text: str) -> Path:
    path = folder / "effc.toml"
    path.write_text(text)
    return path


def test_a_flag_beats_the_file_and_the_file_the_default(tmp_path: Path) -> None:
    config = write(tmp_path, 'passes = "ranger"\nmax-drop = 0.05\nseed = 3\n[input-shapes]\nx = [1, 3]\n')
    settings = load_settings(config, {"max_drop": 0.01, "passes": None, "target": None})
    assert settings == Settings(passes="ranger", max_drop=0.01, seed=3, input_shapes={"x": (1, 3)}, target="cpu")


def test_paths_in_a_file_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "calib.npz").touch()
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
    (tmp_path / "calib.npz").touch()
    settings = Settings(passes="ranger", data=tmp_path / "calib.npz", input_shapes={"x": (1, 3)}, emit=("onnx",), limits={"nodes": 5})
    text = settings.as_toml()
    assert str(tmp_path) not in text
    again = load_settings(write(tmp_path, text), {})
    assert again == settings


def test_the_readme_shows_every_key(tmp_path: Path) -> None:
    readme = (Path(__file__).resolve().parents[3] / "README.md").read_text()
    example = readme.partition("```toml\n")[2].partition("```")[0]
    for name in ("calibration.npz", "test.npz", "init.safetensors", "tuning.json", "rates.json"):
        (tmp_path / name).touch()
    read = load_settings(write(tmp_path, example), {})
    assert read.max_drop == 0.01 and read.checkpoints == tmp_path / "ck"  # relative to the file, and need not be there
    assert {key.replace("-", "_") for key in tomllib.loads(example)} == set(Settings.model_fields)


def test_one_file_to_emit_needs_no_list(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path, 'emit = "onnx"\n'), {}).emit == ("onnx",)
    assert load_settings(write(tmp_path, 'emit = ["onnx"]\n'), {}).emit == ("onnx",)


def test_what_is_wrong_is_said_in_own_words_and_where_it_was_written(tmp_path: Path) -> None:
    text = 'emit = "tflite"\nmetric = "acc"\nbatch = 0\nseed = 1.5\ncheck-import = "perhaps"\n[input-shapes]\nx = 3\n[limits]\nnode = 5\n'
    with pytest.raises(ConfigError) as caught:
        load_settings(write(tmp_path, text), {"max_drop": -1.0})
    said = {problem.where: problem.why for problem in caught.value.problems}
    assert said.pop("metric") == "must be 'top1', 'agreement', 'kl', 'perplexity' or 'max-error'"
    assert said.pop("limits.node").startswith("must be 'model_bytes'")
    assert said == {
        "--max-drop": "must be at least 0",
        "batch": "must be at least 1",
        "seed": "must be a whole number",
        "check-import": "must be true or false",
        "emit": "must be 'onnx'",
        "input-shapes.x": "must be a list",
    }


@pytest.mark.parametrize("metric", [None, "top1", "agreement"])
def test_a_share_is_no_percentage(metric: str | None) -> None:
    with pytest.raises(ConfigError, match=r"--max-drop: 5: is over 1: .* a share, 0\.05 of it is 5 points; for 5 points write 0\.05"):
        load_settings(None, {"max_drop": 5.0, "metric": metric})
    assert load_settings(None, {"max_drop": 5.0, "metric": "perplexity"}).max_drop == 5


def test_the_artifacts_configuration_says_that_it_keeps_names_only(tmp_path: Path) -> None:
    assert "only the names are kept" in Settings(data=tmp_path / "calib.npz").as_toml()
    assert "#" not in Settings(passes="ranger").as_toml()


def test_data_that_a_file_names_and_that_are_elsewhere_come_by_flag(tmp_path: Path) -> None:
    config = write(tmp_path, Settings(data=Path("/elsewhere/calib.npz"), eval=Path("/elsewhere/test.npz")).as_toml())
    with pytest.raises(DataError) as caught:
        load_settings(config, {})
    assert [problem.where for problem in caught.value.problems] == ["data", "eval"]
    assert "config.toml keeps no folders: give --data" in str(caught.value)
    given = load_settings(config, {"data": tmp_path / "x.npz", "eval": tmp_path / "y.npz"})
    assert (given.data, given.eval) == (tmp_path / "x.npz", tmp_path / "y.npz")
