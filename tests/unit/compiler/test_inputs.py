"""What a compile reads: all of the data where nothing has to be held back, and a warning where the gate sees what passes saw."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from effc.compiler import compile_model
from effc.compiler.dumping import Dump
from effc.compiler.inputs import Inputs, check_files, read_inputs
from effc.compiler.settings import Settings
from effc.errors import DataError, EffcWarning, InputRejectedError, LimitError
from effc.frontends import load_program
from effc.ir import Program
from effc.passes import Context, Pass, parse_passes


class Chooser(Pass):
    name: ClassVar[str] = "chooser"
    exact: ClassVar[bool] = True
    needs_selection: ClassVar[bool] = True

    def run(self, program: Program, context: Context) -> Program:
        return program


@pytest.fixture
def program() -> Program:
    return load_program(nn.ReLU(), example_inputs=(torch.randn(2, 3),))


def write(path: Path, count: int, seed: int) -> Path:
    np.savez(path, x=np.random.default_rng(seed).standard_normal((count, 3), np.float32))
    return path


def read(program: Program, passes: Sequence[Pass], **paths: Path) -> Inputs:
    return read_inputs(Settings(**paths), program, passes)


def test_data_are_held_back_only_for_a_pass_that_chooses(program: Program, tmp_path: Path) -> None:
    data = write(tmp_path / "calib.npz", 50, 0)
    whole = read(program, parse_passes("ranger"), data=data)
    assert whole.fit is not None and len(whole.fit) == 50 and whole.selection is None
    parts = read(program, [*parse_passes("ranger"), Chooser()], data=data)
    assert parts.fit is not None and parts.selection is not None and (len(parts.fit), len(parts.selection)) == (40, 10)


def test_a_pass_that_chooses_says_what_it_lacks(program: Program) -> None:
    with pytest.raises(DataError, match="chooser needs data to choose by: give --data"):
        Chooser()(program, Context())


class Step(nn.Module):
    def __init__(self, *, swap: bool) -> None:
        super().__init__()
        self.cell, self.swap = nn.GRU(3, 4, 2, batch_first=True), swap

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, h = self.cell(x, h.transpose(0, 1).contiguous() if self.swap else h)
        return y, h.transpose(0, 1).contiguous() if self.swap else h


def test_states_that_no_sample_can_have_are_refused_and_the_other_way_works(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((6, 1, 3), np.float32)
    rest: dict[str, Any] = {"states": {"h": "output_1"}, "passes": "delta{mode=truncate,threshold=0.01,dense=never}"}
    given = (torch.zeros(1, 1, 3), torch.zeros(2, 1, 4))
    with pytest.raises(DataError, match="data cannot be used with this step") as caught:
        compile_model(Step(swap=False).eval(), tmp_path / "a", example_inputs=given, data={"x": x}, **rest)
    assert [problem.where for problem in caught.value.problems] == ["state 'h'"]
    given, data = (torch.zeros(1, 1, 3), torch.zeros(1, 2, 4)), {"x": x, "h": np.zeros((6, 2, 4), np.float32)}
    result = compile_model(Step(swap=True).eval(), tmp_path / "b", example_inputs=given, data=data, **rest)
    assert len(result.program.interface.resident) > 0


def test_the_same_samples_on_both_sides_are_said(program: Program, tmp_path: Path) -> None:
    data, copy, other = write(tmp_path / "a.npz", 9, 0), write(tmp_path / "b.npz", 9, 0), write(tmp_path / "c.npz", 9, 1)
    for held_out in (data, copy):
        with pytest.warns(EffcWarning, match="--data and --eval hold the same samples"):
            read(program, [], data=data, eval=held_out)
    with warnings.catch_warnings():
        warnings.simplefilter("error", EffcWarning)
        read(program, [], data=data, eval=other)


def test_files_that_are_not_there_are_all_said(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        check_files(Settings(data=tmp_path / "calib.npz", eval=tmp_path / "test.npz"))
    assert [problem.where for problem in caught.value.problems] == ["--data", "--eval"]


def test_a_dump_replaces_its_own_texts_and_no_others(program: Program, tmp_path: Path) -> None:
    for name in ("01-fold-batch-norm.txt", "02-ranger.txt", "03-notes.txt", "ranger.txt"):
        (tmp_path / name).write_text("old")
    dump = Dump(tmp_path)
    dump.write(0, "source", program)
    dump.write(1, "ranger", program)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00-source.txt", "01-ranger.txt", "03-notes.txt", "ranger.txt"]


@pytest.fixture(scope="module")
def linear() -> Program:
    torch.manual_seed(0)
    return load_program(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), example_inputs=(torch.randn(2, 3),))


def test_initial_parameters_are_read_by_the_names_of_the_source(linear: Program, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    given = {"0.weight": torch.randn(2, 3), "0.bias": torch.randn(2), "of.another": torch.randn(1)}
    save_file(given, tmp_path / "init.safetensors")
    found = read(linear, parse_passes("prune{ap=true}"), init=tmp_path / "init.safetensors")
    assert found.initial is not None and found.initial_sha256 is not None
    assert {name: torch.equal(value, given[name]) for name, value in found.initial.items()} == {"0.weight": True, "0.bias": True}


def test_what_no_pass_uses_is_said(linear: Program, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"0.bias": torch.zeros(2)}, tmp_path / "init.safetensors")
    with pytest.warns(EffcWarning, match="--init is not used"):
        read(linear, parse_passes("prune"), init=tmp_path / "init.safetensors")
    with pytest.warns(EffcWarning, match="--checkpoints is not used"):
        read(linear, parse_passes("ranger"), checkpoints=tmp_path)


@pytest.mark.filterwarnings("ignore:--init is not used")
def test_initial_parameters_that_do_not_fit_are_refused_all_at_once(linear: Program, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"0.weight": torch.randn(3, 3), "0.bias": torch.randn(2).double()}, tmp_path / "shape.safetensors")
    with pytest.raises(DataError) as error:
        read(linear, [], init=tmp_path / "shape.safetensors")
    assert {problem.where for problem in error.value.problems} == {"0.weight", "0.bias"}
    save_file({"model.0.weight": torch.randn(2, 3)}, tmp_path / "names.safetensors")
    with pytest.raises(DataError, match=r"none of the program's parameters: it has model\.0\.weight"):
        read(linear, [], init=tmp_path / "names.safetensors")
    save_file({"0.weight": torch.full((2, 3), torch.nan), "0.bias": torch.zeros(2)}, tmp_path / "nan.safetensors")
    with pytest.raises(DataError, match=r"0\.weight.*NaN"):
        read(linear, [], init=tmp_path / "nan.safetensors")
    (tmp_path / "hostile.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(InputRejectedError, match="no safetensors file"):
        read(linear, [], init=tmp_path / "hostile.safetensors")
    with pytest.raises(LimitError, match="data-bytes"):
        read_inputs(Settings(init=tmp_path / "nan.safetensors", limits={"data_bytes": 10}), linear, [])
    with pytest.raises(DataError, match="--init"):
        check_files(Settings(init=tmp_path / "none.safetensors"))
