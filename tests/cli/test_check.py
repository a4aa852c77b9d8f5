"""`effc check` on exported programs, and on what is no model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn
from torch.export import Dim

DIGITS = "examples/digits.onnx"


def save(path: Path, module: nn.Module, example: torch.Tensor, dynamic: bool = True) -> Path:
    shapes = ({0: Dim("N")},) if dynamic else None
    torch.export.save(torch.export.export(module.eval(), (example,), dynamic_shapes=shapes, strict=False), path)
    return path


class Calls(nn.Module):
    """Operators that TVM cannot take, and one that is no program's."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "data":
            return torch.nonzero(x)
        return torch.linalg.eigvalsh(x) + torch.linalg.det(x).unsqueeze(1)


def test_an_exported_program_is_checked_like_a_model(effc: Any, tmp_path: Path) -> None:
    layers = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3))
    path = save(tmp_path / "good.pt2", layers, torch.randn(3, 1, 5, 5))
    result = effc("check", path)
    assert result.exit_code == 0
    expected = ("good.pt2: exported program, 4 nodes", "input input: float32[batch, 1, 5, 5]", "aten.conv2d.default", "is supported")
    assert [part for part in expected if part not in result.stdout] == []
    document = json.loads(effc("check", path, "--json").stdout)
    assert (document["opset"], document["supported"], document["problems"]) == (None, True, [])


def test_what_an_exported_program_holds_that_effc_cannot_compile_is_listed(effc: Any, tmp_path: Path) -> None:
    path = save(tmp_path / "eigen.pt2", Calls("algebra"), torch.eye(3).repeat(3, 1, 1))
    result = effc("check", path, "--json")
    assert result.exit_code == 3
    refused = {problem["what"] for problem in json.loads(result.stdout)["problems"]}
    assert {"aten._linalg_eigh.default", "aten._linalg_det.default"} <= refused
    path = save(tmp_path / "data.pt2", Calls("data"), torch.ones(2, 3), dynamic=False)
    result = effc("check", path)
    assert result.exit_code == 3
    assert "aten.nonzero.default" in result.stdout


class Libm(nn.Module):
    """What needs TVM's runtime or libm, at several places, two of them in one kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.sin(self.fc(x)) + torch.atan(x)
        return torch.cumsum(torch.sort(y, dim=1)[0], dim=1)


def test_what_cannot_become_c_is_listed_by_the_models_names(effc: Any, tmp_path: Path) -> None:
    path = save(tmp_path / "libm.pt2", Libm(), torch.randn(3, 8))
    assert effc("check", path).exit_code == 0
    result = effc("check", path, "--target", "cortex-m4", "--json")
    assert result.exit_code == 3
    found = json.loads(result.stdout)["problems"]
    assert {problem["where"] for problem in found} == {"sin", "atan", "sort", "cumsum"}
    estimated = effc("estimate", path, "--target", "cortex-m4", "--json")
    assert (estimated.exit_code, json.loads(estimated.stdout)["error"]["problems"]) == (3, found), "the same function says it"


class SortsAndTurns(nn.Module):
    """What needs TVM's virtual machine, and what needs a C library."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sort(x)[0].cumsum(-1) + (x * 2).sin()


@pytest.mark.parametrize(
    ("target", "tool", "expected"),
    [
        ("hexagon-v67", "clang", [("sort", "sort"), ("cumsum", "cumsum"), ("sin", "sin (sinf)")]),
        ("cuda:sm_90", "nvcc", [("sort", "sort"), ("cumsum", "cumsum")]),
        ("cpu", "cc", []),
    ],
)
def test_what_a_target_without_tvms_runtime_lacks_is_listed_at_once(
    effc: Any, tmp_path: Path, target: str, tool: str, expected: list[tuple[str, str]]
) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    path = save(tmp_path / "net.pt2", SortsAndTurns(), torch.randn(2, 8), dynamic=False)
    result = effc("check", path, "--target", target, "--json")
    assert result.exit_code == (3 if expected else 0), result.output
    assert [(one["where"], one["what"]) for one in json.loads(result.stdout)["problems"]] == expected


def test_a_model_of_onnx_is_checked_for_a_target(effc: Any, tmp_path: Path) -> None:
    nodes = [helper.make_node("Sin", ["x"], ["s"], "the sine"), helper.make_node("Relu", ["s"], ["y"], "the bound")]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "sine.onnx")
    assert effc("check", tmp_path / "sine.onnx").exit_code == 0
    result = effc("check", tmp_path / "sine.onnx", "--target", "cortex-m4", "--json")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["supported"]) == (3, False)
    assert [problem["where"] for problem in document["problems"]] == ["the sine"]
    nodes.insert(1, helper.make_node("Tan", ["s"], ["t"], "the tangent"))
    nodes[2].input[0] = "t"
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "two.onnx")
    result = effc("check", tmp_path / "two.onnx", "--target", "cortex-m4", "--json")  # one kernel computes both
    assert {problem["where"] for problem in json.loads(result.stdout)["problems"]} == {"the sine", "the tangent"}
    nodes.append(helper.make_node("Foo", ["y"], ["z"], "unknown"))
    graph = helper.make_graph(nodes, "g", values[:1], [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 4])])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "foo.onnx")
    assert "what cortex-m4 lacks was not looked at" in effc("check", tmp_path / "foo.onnx", "--target", "cortex-m4").output
    good = effc("check", DIGITS, "--target", "cortex-m4")
    assert good.exit_code == 0 and "every node is supported by cortex-m4" in good.output


def test_what_is_no_model_is_the_users_error(effc: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    path.write_bytes(b"x")
    result = effc("check", path)
    assert (result.exit_code, "effc reads .onnx and .pt2 files" in result.stderr) == (2, True)
    good = save(tmp_path / "good.pt2", nn.ReLU(), torch.randn(3, 4))
    assert effc("check", good, "--input-shape", "x=1x4").exit_code == 2
    (tmp_path / "broken.pt2").write_bytes(good.read_bytes()[:-300])
    assert effc("check", tmp_path / "broken.pt2").exit_code == 4


def test_checking_an_onnx_file_loads_no_tvm() -> None:
    code = (
        f"import sys; from effc.compiler.checking import check_file; from effc.frontends import Limits; from pathlib import Path; "
        f"check_file(Path({DIGITS!r}), Limits()); assert 'tvm' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
