"""The structure that the design promises: folders, floors, names, complete tables, light start-up."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = ("compiler", "passes", "runtime", "faultsim")
SOURCES = sorted(path for root in SOURCE_ROOTS for path in (ROOT / root).rglob("*.py"))


def test_effc_is_a_namespace_over_four_roots() -> None:
    """One `effc/__init__.py` would hide the other three roots from every tool."""
    assert [str(path) for root in SOURCE_ROOTS for path in [ROOT / root / "effc" / "__init__.py"] if path.exists()] == []
    assert [str(path) for root in SOURCE_ROOTS for path in (ROOT / root).rglob("*") if path.is_symlink()] == []


def test_every_package_is_typed() -> None:
    packages = [path for root in SOURCE_ROOTS for path in (ROOT / root / "effc").iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert [str(path) for path in packages if not (path / "py.typed").exists()] == []


def test_the_floors_hold() -> None:
    result = subprocess.run([str(Path(sys.executable).with_name("lint-imports"))], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_one_idea(path: Path) -> None:
    """400 lines is the hard stop; every module says in its docstring what it is."""
    text = path.read_text()
    assert len(text.splitlines()) <= 400, f"{path} has grown over 400 lines: split it by idea"
    assert ast.get_docstring(ast.parse(text)), f"{path} has no module docstring"


@functools.cache
def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def users_of(module: str) -> set[str]:
    return {
        str(path.relative_to(ROOT)) for path in SOURCES if any(name == module or name.startswith(f"{module}.") for name in imports_of(path))
    }


def test_onnx_is_used_only_where_models_are_read_or_written() -> None:
    allowed = ("compiler/effc/frontends/", "compiler/effc/lowering/onnx.py", "compiler/effc/compiler/peers/")
    assert {user for user in users_of("onnx") if not user.startswith(allowed)} == set()


def test_tvm_is_used_only_in_lowering_targets_and_runtime() -> None:
    allowed = ("compiler/effc/lowering/", "compiler/effc/targets/", "runtime/effc/runtime/")
    assert {user for user in users_of("tvm") if not user.startswith(allowed)} == set()


def test_torch_export_is_used_only_in_ir_frontends_and_passes() -> None:
    allowed = ("compiler/effc/ir/", "compiler/effc/frontends/", "passes/effc/passes/", "compiler/effc/lowering/onnx.py")
    assert {user for user in users_of("torch.export") if not user.startswith(allowed)} == set()


def test_one_door_for_lightning_and_torchvision() -> None:
    users = users_of("pytorch_lightning") | users_of("torchvision") | users_of("lightning")
    assert users <= {"compiler/effc/ir/torch_compat.py"}


def test_nothing_is_unpickled() -> None:
    assert users_of("pickle") <= {"compiler/effc/ir/vetting.py"}  # it catches UnpicklingError; see the next line
    assert "pickle.load" not in (ROOT / "compiler/effc/ir/vetting.py").read_text()
    assert users_of("dill") | users_of("cloudpickle") | users_of("joblib") == set()


def test_only_the_command_line_prints() -> None:
    printing = {
        str(path.relative_to(ROOT))
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    workers = {user for user in printing if "worker" in user}  # a worker's protocol is its stdout
    assert {user for user in printing - workers if not user.startswith("compiler/effc/cli/")} == set()


def test_help_and_completion_start_without_the_heavy_packages() -> None:
    script = (
        "import sys; sys.argv = ['effc', '--help']\n"
        "from effc.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'tvm', 'numpy', 'scipy', 'pytorch_lightning'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "compile" in result.stdout


def test_every_family_of_targets_has_its_backends() -> None:
    """How its code is made, and what a compile does with the code."""
    from effc.compiler import backends as tried
    from effc.lowering import backends as made
    from effc.targets import all_targets

    families = {target.family for target in all_targets()}
    assert families == made.BACKENDS.keys() == tried.BACKENDS.keys()


def test_every_effc_op_is_complete() -> None:
    """An op needs a TVM kernel besides what its definition forces on it; one without is named here."""
    from effc.ir.ops import OPS
    from effc.lowering.ops import OP_KERNELS

    lowered = {kernel.op.name for kernel in OP_KERNELS}
    assert {op.name for op in OPS} - lowered == set(), "these ops have no TVM kernel in effc/lowering/ops"
    files = {path.stem for path in (ROOT / "compiler/effc/ir/ops").glob("*.py")}
    assert {op.name for op in OPS} <= files, "one file per op, named like it"
    assert all(op.summary and callable(op.onnx()) for op in OPS)
