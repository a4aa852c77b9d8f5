"""`compile_model` from Python: modules, fixed batches, what is checked and what is refused before work starts."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effc.compiler import compile_model
from effc.compiler.golden import Checks, golden_inputs
from effc.data import Dataset, load_dataset
from effc.errors import ConfigError, MissingDependencyError, OutputError, UsageError, VerificationError
from effc.frontends import load_program
from effc.ir import Program
from effc.passes import Context, Pass
from effc.runtime import load


class TwoInputs(nn.Module):
    """Two inputs, an integer one, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.linear = nn.Linear(3, 4)

    def forward(self, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        mixed = self.linear(x) + self.table(index)
        return torch.relu(mixed), mixed.argmax(1)


@pytest.fixture(scope="module")
def module() -> TwoInputs:
    torch.manual_seed(0)
    return TwoInputs().eval()


@pytest.fixture(scope="module")
def examples() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 3), torch.tensor([1, 2])


def test_a_module_becomes_an_artifact(module: TwoInputs, examples: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    result = compile_model(module, tmp_path / "out", example_inputs=examples, batch=2)
    assert result.trial is not None
    assert result.trial.verification.passed
    session = load(tmp_path / "out")
    x, index = np.random.default_rng(0).standard_normal((5, 3), np.float32), np.array([0, 1, 2, 3, 4])
    outputs = session.run({"x": x, "index": index})
    expected = module(torch.from_numpy(x), torch.from_numpy(index))
    np.testing.assert_allclose(outputs["output"], expected[0].detach().numpy(), atol=1e-6)
    np.testing.assert_array_equal(outputs["output_1"], expected[1].numpy())


def test_torch_says_nothing_about_itself(tmp_path: Path) -> None:
    """It warns of its own tree specs whenever it, or effc, copies them."""
    layers = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(18, 3))
    exported = torch.export.export(layers.eval(), (torch.randn(2, 1, 5, 5),))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compile_model(layers, tmp_path / "module", example_inputs=(torch.randn(2, 1, 5, 5),), passes="fold-batch-norm")
        compile_model(exported, tmp_path / "exported")
    assert [str(warning.message) for warning in caught] == []


def test_golden_inputs_are_data_where_there_is_data(module: TwoInputs, examples: tuple[Tensor, Tensor]) -> None:
    program = load_program(module, example_inputs=examples)
    data = Dataset({"x": np.ones((20, 3), np.float32), "index": np.arange(20) % 5})
    assert golden_inputs(program, data, 0)["index"].tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    noise, again, other = (golden_inputs(program, None, seed) for seed in (1, 1, 2))
    assert set(noise["index"].tolist()) <= {0, 1}
    assert (noise["x"] == again["x"]).all()
    assert (noise["x"] != other["x"]).any()


class Mixes(nn.Module):
    """No batch: every row sees the others."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)


def test_a_fixed_batch_takes_one_whole_batch_of_data(tmp_path: Path) -> None:
    program = load_program(Mixes(), example_inputs=(torch.randn(4, 3),))
    assert not program.interface.batch.symbolic
    rows = np.arange(36, dtype=np.float32).reshape(12, 3)
    np.save(tmp_path / "x.npy", rows)
    data = load_dataset(tmp_path / "x.npy", program.interface.inputs)
    np.testing.assert_array_equal(golden_inputs(program, data, 0)["x"], rows[:4])
    with pytest.raises(ConfigError, match="batch 3: the batch of this model is fixed"):
        compile_model(Mixes(), tmp_path / "out", example_inputs=(torch.randn(4, 3),), batch=3)
    assert compile_model(Mixes(), tmp_path / "out", example_inputs=(torch.randn(4, 3),), batch=4).manifest.inputs[0].shape == (4, 3)


class Doubles(nn.Module):
    """Whole numbers that are no indices."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2


@pytest.mark.parametrize(("dtype", "low", "high"), [("int8", -128, 127), ("uint8", 0, 255), ("int32", 0, 255), ("int64", 0, 255)])
def test_noise_for_integers_is_no_single_bit(dtype: str, low: int, high: int) -> None:
    program = load_program(Doubles(), example_inputs=(torch.ones(2, 500, dtype=getattr(torch, dtype)),))
    noise = golden_inputs(program, None, 0)["x"]
    assert noise.dtype.name == dtype
    assert noise.min() <= low + 5
    assert noise.max() >= high - 5


def test_bfloat16_goes_through_a_whole_compile(tmp_path: Path) -> None:
    result = compile_model(Doubles(), tmp_path / "out", example_inputs=(torch.ones(2, 8, dtype=torch.bfloat16),))
    assert result.trial is not None
    inputs, outputs = load(tmp_path / "out").artifact.golden()
    assert {array.dtype.name for array in (*inputs.values(), *outputs.values())} == {"bfloat16"}
    np.testing.assert_array_equal(outputs["output"], inputs["x"] * 2)


@dataclass(frozen=True)
class Spoil(Pass):
    """Adds one to a bias, which it calls exact."""

    name: ClassVar[str] = "spoil"
    exact: ClassVar[bool] = True

    def run(self, program: Program, context: Context) -> Program:
        program.tensors["p_linear_bias"].data += 1.0
        return program


def test_an_exact_pass_that_changes_outputs_is_caught(examples: tuple[Tensor, Tensor]) -> None:
    program = load_program(TwoInputs().eval(), example_inputs=examples)
    checks = Checks(golden_inputs(program, None, 0))
    checks.start(program)
    spoil = Spoil()
    with pytest.raises(VerificationError, match="pass spoil changed outputs") as caught:
        checks.after(spoil, spoil(program, Context()))
    assert "output" in caught.value.problems[0].where


@pytest.mark.parametrize("target", ["aarch64", "riscv64"])
def test_without_a_cross_linker_it_says_what_to_install(
    module: TwoInputs, examples: tuple[Tensor, Tensor], tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", _without("ziglang"))
    with pytest.raises(MissingDependencyError, match=r"effc\[cross\]"):
        compile_model(module, tmp_path / "out", example_inputs=examples, target=target)
    assert list(tmp_path.iterdir()) == []


def test_the_place_is_checked_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"notes\.txt"):
        compile_model("missing.onnx", tmp_path)
    with pytest.raises(UsageError, match=r"missing\.onnx"):
        compile_model(tmp_path / "missing.onnx", tmp_path / "out")


def _without(name: str) -> Callable[[str], object]:
    import importlib.util

    real = importlib.util.find_spec
    return lambda wanted: None if wanted == name else real(wanted)
