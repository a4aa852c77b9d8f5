"""Programs from modules, exported programs and `.pt2` files."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim

from effc.errors import ConfigError, UnsupportedModelError, UsageError
from effc.frontends import load_program
from effc.ir import BATCH, check, source_of
from effc.ir.storage import save_program


class Residual(nn.Module):
    """What torchvision's networks are made of: in-place activations, `+=`, batch norm, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(48, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.norm(self.conv(x)))
        y += x
        y = self.relu(y)
        return self.head(torch.flatten(y, 1))


def test_a_module_gives_the_same_numbers_at_every_batch_and_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    module = Residual().train()
    module.head.eval()
    program = load_program(module, example_inputs=(torch.randn(1, 3, 4, 4),))
    assert (module.training, module.head.training, module.conv.training) == (True, False, True)
    assert program.interface.batch.symbolic
    assert [str(value) for value in program.interface.inputs] == ["x: float32[batch, 3, 4, 4]"]
    assert check(program) == []
    module.eval()
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 4, 4)
        kept = x.clone()
        assert torch.allclose(program.run({"x": x})["output"], module(x), atol=1e-6)
        assert torch.equal(x, kept)
    assert program.provenance.source == "Residual"
    assert len(program.provenance.sha256) == 64


def test_in_place_operators_become_functional_and_batch_norm_stays_whole() -> None:
    targets = [str(node.target) for node in load_program(Residual(), example_inputs=(torch.randn(2, 3, 4, 4),)).nodes]
    assert not any(target.split(".")[1].endswith("_") for target in targets if target.startswith("aten"))
    assert "aten.batch_norm.default" in targets
    assert "aten.add.Tensor" in targets
    sources = [source_of(node) for node in load_program(Residual(), example_inputs=(torch.randn(2, 3, 4, 4),)).nodes]
    assert {"conv", "norm", "relu", "head.1"} <= set(sources)


class Views(nn.Module):
    """In-place changes through views, which only full functionalisation resolves."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        y[:, 0] += 1
        z = y.view(-1)
        z.mul_(3)
        y.relu_()
        return y + z.view(y.shape)


def test_in_place_changes_through_views_keep_their_meaning() -> None:
    program = load_program(Views(), example_inputs=(torch.randn(2, 5),))
    x = torch.randn(3, 5)
    assert torch.allclose(program.run({"x": x})["output"], Views()(x))
    assert check(program) == []


def test_a_module_that_overwrites_its_input_becomes_a_function() -> None:
    module = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2))
    program = load_program(module, example_inputs=(torch.randn(1, 4),))
    assert program.interface.batch.symbolic, program.interface.batch.reason
    x = torch.randn(3, 4)
    kept = x.clone()
    result = program.run({"input": x})["output"]
    assert torch.equal(x, kept)
    assert torch.allclose(result, module(x))


def test_a_module_whose_samples_mix_keeps_a_fixed_batch() -> None:
    class Mixing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x - x.mean(0, keepdim=True)

    batch = load_program(Mixing(), example_inputs=(torch.randn(4, 3),)).interface.batch
    assert not batch.symbolic
    assert "one by one" in batch.reason


def test_a_module_that_fixes_its_batch_says_so() -> None:
    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(2, 12)

    program = load_program(Fixed(), example_inputs=(torch.randn(2, 3, 4),))
    assert not program.interface.batch.symbolic
    assert program.interface.batch.reason
    assert program.interface.inputs[0].shape == (2, 3, 4)


def test_several_inputs_and_outputs_and_varargs() -> None:
    class Two(nn.Module):
        def forward(self, ids: torch.Tensor, *rest: torch.Tensor) -> dict[str, Any]:
            return {"a": ids.float() + rest[0], "b": (rest[0] * rest[1],)}

    program = load_program(Two(), example_inputs=(torch.tensor([[1, 9]]), torch.randn(1, 2), torch.randn(2)))
    assert [value.shape for value in program.interface.inputs] == [(BATCH, 2), (BATCH, 2), (2,)]
    assert [value.shape for value in program.interface.outputs] == [(BATCH, 2), (BATCH, 2)]
    assert [value.name for value in program.interface.outputs] == ["a", "b.0"]


class Returns(nn.Module):
    """Whatever a function makes of x."""

    def __init__(self, function: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


Scored = namedtuple("Scored", ["mask", "score"])


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (lambda x: x + 1, ["output"]),
        (lambda x: (x + 1, [x + 2]), ["output", "output_1"]),
        (lambda x: {"sum": x + 1, "prod": (x * 2, {"z": x * 3})}, ["sum", "prod.0", "prod.1.z"]),
        (lambda x: OrderedDict(out=x + 1, aux=x + 2), ["out", "aux"]),
        (lambda x: Scored(x + 1, x + 2), ["mask", "score"]),
        (lambda x: {"x": x + 1, "output.x": x + 2, "": x * 2}, ["output.x", "output.output.x", "output_2"]),
        (lambda x: {1: x + 1, "1": x + 2}, ["1", "output.1"]),
    ],
)
def test_outputs_are_called_by_the_keys_under_which_they_are_returned(
    function: Callable[[torch.Tensor], Any], names: list[str], tmp_path: Path
) -> None:
    """Names are distinct, from those of inputs too; a program that was saved has them still, whatever structure it returned."""
    x = torch.randn(2, 3)
    expected = torch.utils._pytree.tree_leaves(function(x))
    for source in (Returns(function), torch.export.export(Returns(function), (x,), strict=False)):
        program = load_program(source, example_inputs=(x,))
        (tmp_path / "p.pt2").write_bytes(save_program(program))
        for one in (program, load_program(tmp_path / "p.pt2")):
            results = one.run({"x": x})
            assert list(results) == names
            assert all(torch.equal(result, want) for result, want in zip(results.values(), expected, strict=True))


@pytest.mark.parametrize(
    ("function", "why"),
    [(lambda x: {"a": x + 1, "n": 3}, "n: 3: .*no tensor"), (lambda x: (x, None), "output_1: None: "), (lambda x: {}, "returns no tensor")],
)
def test_what_is_returned_must_be_tensors(function: Callable[[torch.Tensor], Any], why: str) -> None:
    with pytest.raises(UnsupportedModelError, match=why):
        load_program(Returns(function), example_inputs=(torch.randn(2, 3),))


def test_what_cannot_be_a_program_is_refused_with_the_reason() -> None:
    with pytest.raises(UsageError, match="example_inputs"):
        load_program(Residual())
    with pytest.raises(UsageError, match="argument 0: str"):
        load_program(Residual(), example_inputs=("x",))
    with pytest.raises(UsageError, match="itself fails"):
        load_program(Residual(), example_inputs=(torch.randn(1, 7),))
    with pytest.raises(ConfigError, match="only be given for ONNX"):
        load_program(Residual(), example_inputs=(torch.randn(1, 3, 4, 4),), input_shapes={"x": (1,)})

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.count += 1
            return x + self.count

    with pytest.raises(UnsupportedModelError, match="count: buffer mutation"):
        load_program(Counting(), example_inputs=(torch.randn(1, 3),))

    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(UnsupportedModelError, match="Branching"):
        load_program(Branching(), example_inputs=(torch.randn(1, 3),))


def exported(dynamic: bool) -> torch.export.ExportedProgram:
    shapes = ({0: Dim("n", min=1)},) if dynamic else None
    return torch.export.export(Residual().eval(), (torch.randn(3, 3, 4, 4),), dynamic_shapes=shapes)


@pytest.mark.parametrize("dynamic", [True, False])
def test_exported_programs_and_their_files(tmp_path: Path, dynamic: bool) -> None:
    source = exported(dynamic)
    nodes = [node.format_node() for node in source.graph.nodes]
    program = load_program(source)
    assert [node.format_node() for node in source.graph.nodes] == nodes  # the caller's is untouched
    assert program.interface.batch.symbolic == dynamic
    path = tmp_path / "m.pt2"
    torch.export.save(source, path)
    again = load_program(path)
    assert (again.provenance.source, again.provenance.format) == ("m.pt2", "pt2")
    x = {"x": torch.randn(3, 3, 4, 4)}
    assert torch.equal(again.run(x)["output"], program.run(x)["output"])
    assert torch.allclose(program.run(x)["output"], source.module()(x["x"]))


def test_an_exported_program_with_other_symbolic_sizes_is_refused() -> None:
    source = torch.export.export(nn.ReLU(), (torch.randn(3, 4),), dynamic_shapes=({1: Dim("width", min=1)},))
    with pytest.raises(UnsupportedModelError, match="besides the leading one"):
        load_program(source)


def test_a_file_that_effc_wrote_comes_back_with_everything(tmp_path: Path) -> None:
    program = load_program(exported(True)).with_pass("fold-constants")
    path = tmp_path / "p.pt2"
    path.write_bytes(save_program(program))
    again = load_program(path)
    assert again.provenance == program.provenance
    assert again.interface == program.interface


def test_pickled_checkpoints_and_other_files_are_no_models(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    path.write_bytes(b"x")
    with pytest.raises(UsageError, match="pickled checkpoint can run code"):
        load_program(path)
    with pytest.raises(UsageError, match="there is no model file"):
        load_program(tmp_path / "m.pt2")
