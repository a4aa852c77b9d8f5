"""Measured tiles: which layers are measured, what is remembered, and that given tiles are used as they are."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from effc.compiler import compile_model
from effc.errors import ConfigError
from effc.ir import Batch, Program, Provenance
from effc.lowering import Lowered, Options, lower, tuning
from effc.lowering.kernels.tiles import Tile
from effc.targets import find_target

CPU = find_target("cpu")
DIGITS = Path(__file__).resolve().parents[3] / "examples" / "digits.onnx"


def lowered(net: nn.Module, *shape: int, **settings: Any) -> Lowered:
    torch.manual_seed(0)
    exported = torch.export.export(net.eval(), (torch.randn(*shape),))
    return lower(Program.from_exported(exported, Provenance("net", "torch", "0"), batch=Batch(False)), CPU, **settings)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The notes of the kernels that were measured; every later candidate seems faster than the one before."""
    notes: list[str] = []

    def measure(implementation: Any, *rest: Any) -> float:
        notes.append(implementation.note)
        return 1 / len(notes)

    monkeypatch.setattr(tuning, "_measure", measure)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return notes


def test_the_fastest_tile_is_used_and_remembered(measured: list[str], tmp_path: Path) -> None:
    net = nn.Linear(40, 48)
    first = lowered(net, 20, 40, tune_seconds=60)
    assert len(measured) == 6
    assert len(first.tiles) == 1
    assert first.plan is not None
    assert first.plan.steps[-1].note == measured[-1]  # the last one seemed the fastest
    again = lowered(net, 20, 40, tune_seconds=60)
    assert len(measured) == 6
    assert re.fullmatch(r"tuning measured 0 layers in [\d.]+ s and knew 1 from its cache", *again.remarks)
    assert again.tiles == first.tiles
    (cache,) = tmp_path.rglob("*.json")
    cache.write_text("no JSON")
    lowered(net, 20, 40, tune_seconds=60)
    assert len(measured) == 12  # a cache that cannot be read is measured anew


def test_what_a_layer_cannot_have_is_measured_anew(measured: list[str], tmp_path: Path) -> None:
    lowered(nn.Linear(40, 48), 20, 40, tune_seconds=60)
    (cache,) = tmp_path.rglob("*.json")
    cache.write_text(re.sub(r"\[\s*\d+,\s*\d+\s*\]", "[60, 60]", cache.read_text()))
    (tile,) = lowered(nn.Linear(40, 48), 20, 40, tune_seconds=60).tiles.values()
    assert len(measured) == 12
    assert tile != Tile(60, 60)


def test_products_whose_operand_lies_otherwise_are_other_layers(measured: list[str]) -> None:
    class Products(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stored = nn.Linear(40, 48)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return self.stored(x), x @ y

    inputs = torch.randn(20, 40), torch.randn(40, 48)
    program = Program.from_exported(torch.export.export(Products(), inputs), Provenance("net", "torch", "0"), batch=Batch(False))
    found = lower(program, CPU, tune_seconds=60).tiles
    assert {key.rpartition(", ")[2] for key in found} == {"stored", "as it lies"}


def test_given_tiles_are_not_measured_again(measured: list[str]) -> None:
    found = lowered(nn.Linear(40, 48), 20, 40, tune_seconds=60)
    (key,) = found.tiles
    measured.clear()
    given = lowered(nn.Linear(40, 48), 20, 40, options=Options(tiles={key: Tile(3, 1)}), tune_seconds=60)
    assert not measured
    assert given.plan is not None
    assert given.plan.steps[-1].note == f"tiles of 3 x {CPU.lanes}, measured"


def test_only_what_has_a_choice_is_measured(measured: list[str]) -> None:
    lowered(nn.Conv2d(32, 32, 3, groups=32), 1, 32, 9, 9, tune_seconds=60)
    assert not measured


def test_no_time_measures_nothing(measured: list[str]) -> None:
    found = lowered(nn.Linear(40, 48), 20, 40, tune_seconds=1e-9)
    assert found.tiles == {}
    assert found.remarks[0].endswith("; the time was too short for 1 more, which have the model's tiles")
    assert not measured


NO_TILES = ("[]", '{"a": [true, true]}', '{"a": [1]}', '{"a": [0, 2]}', '{"a": "b"}')


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"processor": 3, "tiles": {}}', *(f'{{"processor": "a", "tiles": {tiles}}}' for tiles in NO_TILES)]
)
def test_a_file_that_holds_no_tiles_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "tuning.json").write_text(text)
    with pytest.raises(ConfigError, match="no file of measured tiles"):
        tuning.load_tiles(tmp_path / "tuning.json", CPU)


def test_tiles_of_another_processor_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tuning.json").write_text(tuning.dump_tiles({"layer": Tile(1, 1)}, find_target("riscv64")))
    assert tuning.load_tiles(tmp_path / "tuning.json", find_target("riscv64")) == {"layer": Tile(1, 1)}
    with pytest.raises(ConfigError, match=r"another processor \(generic.*; cpu is "):
        compile_model(DIGITS, tmp_path / "out", tuning=tmp_path / "tuning.json")


def test_a_tile_that_a_layer_cannot_have_is_refused(measured: list[str]) -> None:
    (key,) = lowered(nn.Linear(40, 48), 20, 40, tune_seconds=60).tiles
    with pytest.raises(ConfigError, match="cannot have tiles of 64 x 64 vectors"):
        lowered(nn.Linear(40, 48), 20, 40, options=Options(tiles={key: Tile(64, 64)}))


def test_tiles_of_other_layers_are_not_kept(measured: list[str]) -> None:
    (key,) = lowered(nn.Linear(40, 48), 20, 40, tune_seconds=60).tiles
    given = lowered(nn.Linear(40, 48), 20, 40, options=Options(tiles={key: Tile(3, 1), "conv of another program": Tile(1, 1)}))
    assert given.tiles == {key: Tile(3, 1)}
    assert given.remarks == ("tuning: 1 of its 2 tiles belong to layers of this program; a tile is for one layer at one batch size",)


def test_the_artifact_holds_what_was_chosen_and_compiles_to_the_same_bytes_again(measured: list[str], tmp_path: Path) -> None:
    first = compile_model(DIGITS, tmp_path / "first", tune=60)
    tiles = tuning.load_tiles(tmp_path / "first" / "tuning.json", CPU)
    assert tiles
    again = compile_model(DIGITS, tmp_path / "again", tuning=tmp_path / "first" / "tuning.json")
    assert again.manifest.digest == first.manifest.digest


def test_another_machine_is_not_measured_here(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--tune measures on this machine, .* give --tuning"):
        compile_model(nn.Linear(4, 4), tmp_path / "out", example_inputs=(torch.randn(2, 4),), target="riscv64", tune=1)
