"""`compile_model` as Python callers use it: arrays instead of files, passes in a list, a result that a console can show."""

from __future__ import annotations

import tomllib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from effc.compiler import compile_model
from effc.errors import ConfigError, DataError, EffcWarning
from effc.runtime import load

EXAMPLES = (torch.zeros(2, 6),)
RANDOM = np.random.default_rng(0)
ROWS = RANDOM.standard_normal((40, 6), np.float32)
OTHERS = RANDOM.standard_normal((40, 6), np.float32)


@pytest.fixture(scope="module")
def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


@pytest.fixture(scope="module")
def labels(module: nn.Module) -> Any:
    with torch.no_grad():
        return module(torch.from_numpy(OTHERS)).argmax(1).numpy()


def test_arrays_serve_like_files_of_them(module: nn.Module, labels: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    np.savez(tmp_path / "others.npz", input=OTHERS, y=labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error", EffcWarning)  # data and held-out data are not the same
        held = compile_model(
            module, tmp_path / "held", passes=["ranger"], data=ROWS, eval={"input": OTHERS, "y": labels}, example_inputs=EXAMPLES
        )
    read = compile_model(
        module, tmp_path / "read", passes="ranger", data=tmp_path / "rows.npy", eval=str(tmp_path / "others.npz"), example_inputs=EXAMPLES
    )
    assert held.quality is not None
    assert (held.quality.metric, held.quality) == ("top1", read.quality)
    assert held.manifest.data["data"] == read.manifest.data["data"]
    config = tomllib.loads((tmp_path / "held" / "config.toml").read_text())
    assert (config["data"], config["eval"], config["passes"]) == ("(arrays)", "(arrays)", "ranger")
    assert load(tmp_path / "held").run({"input": ROWS})["output"].shape == (40, 3)


def test_several_passes_as_a_sequence(module: nn.Module, tmp_path: Path) -> None:
    result = compile_model(module, tmp_path / "out", passes=("fold-constants", "eliminate-dead"), example_inputs=EXAMPLES)
    assert result.program.provenance.passes == ("fold-constants", "eliminate-dead")


def test_a_result_is_shown_in_one_short_line(module: nn.Module, tmp_path: Path) -> None:
    shown = repr(compile_model(module, tmp_path / "out", passes=["fold-constants"], eval={"input": ROWS}, example_inputs=EXAMPLES))
    assert len(shown) - len(str(tmp_path)) < 160
    for part in (str(tmp_path / "out"), "target='cpu'", "passes='fold-constants'", "quality='agreement 1.0000 -> 1.0000'", "µs"):
        assert part in shown


@pytest.mark.parametrize("argument", ["data", "eval"])
def test_wrong_arrays_are_refused_without_their_elements(module: nn.Module, tmp_path: Path, argument: str) -> None:
    wrong: list[tuple[Any, str]] = [
        ({"input": np.full((4, 5), 77.25, np.float32)}, rf"^{argument} does not fit the program\n.*shape \[4, 5\]"),
        (np.full((4, 6), 77.25), "dtype float64"),
        ((ROWS, ROWS), f"^{argument}: a tuple is neither an array nor a mapping"),
        (object(), rf"^{argument} cannot be used\n.*is no array of numbers"),
    ]
    for given, expected in wrong:
        with pytest.raises(DataError, match=expected) as caught:
            compile_model(module, tmp_path / "out", example_inputs=EXAMPLES, **{argument: given})
        assert "77.25" not in str(caught.value)
        assert len(str(caught.value)) < 400
    assert not (tmp_path / "out").exists()


def test_no_message_about_a_setting_repeats_an_array(module: nn.Module, tmp_path: Path) -> None:
    settings: list[dict[str, Any]] = [{"passes": ROWS}, {"passes": [ROWS]}, {"preprocess": ROWS}, {"batch": ROWS}, {"target": "x" * 5000}]
    for given in settings:
        with pytest.raises(ConfigError) as caught:
            compile_model(module, tmp_path / "out", example_inputs=EXAMPLES, **given)
        assert "0.1257302" not in str(caught.value)
        assert next(iter(given)) in str(caught.value)


def test_the_config_of_arrays_names_no_file(module: nn.Module, tmp_path: Path) -> None:
    """Taken as a config it says what is missing, and how to give it."""
    from effc.compiler import load_settings

    compile_model(module, tmp_path / "out", data=ROWS, example_inputs=EXAMPLES)
    with pytest.raises(DataError, match="--data"):
        load_settings(tmp_path / "out" / "config.toml", {})
    assert load_settings(tmp_path / "out" / "config.toml", {"data": tmp_path / "mine.npz"}).data == tmp_path / "mine.npz"
