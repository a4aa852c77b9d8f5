"""The example package of docs/extending.md: installed as users install it, listed, compiled with, missed when it is gone."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples" / "digits.onnx"
WRONG = """
from dataclasses import replace
from effc.targets import Extension, find_target
EXTENSION = Extension("acme", (replace(find_target("cpu"), name="acme"),), "acme:HOOKS")
from effc.lowering.extensions import ExternalCode, Hooks
def patterns(target):
    from tvm.relax.dpl import is_op, wildcard
    return [("acme.relu", is_op("relax.nn.relu")(wildcard()))]
def codegen(composites, target):
    code = "".join(one.prototype + " { out0[0] = in0[0] + 1; return 0; }" for one in composites)
    return ExternalCode({"a.c": "#include <stdint.h>\\n" + code}, notes={one.symbol: "acme_relu" for one in composites})
HOOKS = Hooks(patterns=patterns, codegen=codegen)
"""


def effc(site: Path | None, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A command of effc, with the folder of packages on its path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    roots = [str(ROOT / name) for name in ("compiler", "passes", "runtime", "faultsim")]
    environment["PYTHONPATH"] = os.pathsep.join([*roots, *([str(site)] if site else [])])
    command = [sys.executable, "-c", "from effc.cli.main import cli; cli()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pip has put the example package; it may write into the folder that it builds, so that is a copy."""
    if importlib.util.find_spec("pip") is None:
        pytest.skip("pip is not installed")
    folder = tmp_path_factory.mktemp("example")
    source = shutil.copytree(ROOT / "tests" / "example_target", folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder / "site"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def test_it_is_listed_compiled_with_and_missed_when_it_is_gone(site: Path, tmp_path: Path) -> None:
    listed = json.loads(effc(site, "targets", "--json").stdout)
    (own,) = [target for target in listed["targets"] if target["origin"]]
    assert own["name"] == "toy-npu" and own["origin"]["package"] == {"name": "effc-toy-npu", "version": "0.1"}
    assert listed["broken"] == []

    out = tmp_path / "out"
    made = effc(site, "compile", DIGITS, "--passes", "fold-batch-norm", "--target", "toy-npu", "-o", out, "--json")
    assert made.returncode == 0, made.stderr
    document = json.loads(made.stdout)
    assert document["verification"]["passed"] is True
    assert "toy-npu (effc-toy-npu 0.1) computes 3 of 7 steps, 99.4% of the multiply-accumulates" in document["notes"]
    manifest: dict[str, Any] = json.loads((out / "manifest.json").read_text())
    assert manifest["target"]["extension"] == {"name": "toy-npu", "package": "effc-toy-npu", "version": "0.1"}
    assert [step["family"] for step in manifest["plan"]["steps"]].count("toy-npu") == 3
    assert "toy_conv2d, 3x3 on 8x8, relu" in (out / "report.html").read_text()

    verified = effc(None, "verify", out, "--json")
    assert verified.returncode == 0, verified.stderr
    absent = effc(None, "compile", DIGITS, "--target", "toy-npu", "-o", tmp_path / "other")
    assert absent.returncode == 2 and "there is no target 'toy-npu'" in absent.stderr
    again = effc(None, "compile", DIGITS, "--config", out / "config.toml", "-o", tmp_path / "other")
    assert again.returncode == 2
    assert "it came from the package effc-toy-npu 0.1, which is not installed; pip install effc-toy-npu==0.1" in again.stderr
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_wrong_results_of_a_package_are_not_called_effcs(tmp_path: Path) -> None:
    info = tmp_path / "site" / "acme-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[effc.targets]\nacme = acme:EXTENSION\n")
    (tmp_path / "site" / "acme.py").write_text(WRONG)
    made = effc(tmp_path / "site", "compile", DIGITS, "--target", "acme", "-o", tmp_path / "out")
    assert made.returncode == 5 and not (tmp_path / "out").exists()
    assert "package acme 1.0, which adds target acme: the compiled code differs" in made.stderr
    assert "step 1: node_relu; acme: acme_relu: is computed by its code" in made.stderr
    assert "bug of effc" not in made.stderr
    doctor = effc(tmp_path / "site", "doctor", "--json")
    (row,) = [one for one in json.loads(doctor.stdout)["findings"] if one["what"].startswith("targets of ")]
    assert (row["what"], row["found"], row["well"], row["required"]) == ("targets of acme 1.0", "acme", True, False)
    (tmp_path / "site" / "acme.py").write_text("1 / 0")
    doctor = effc(tmp_path / "site", "doctor", "--json")
    (row,) = [one for one in json.loads(doctor.stdout)["findings"] if one["what"].startswith("targets of ")]
    assert (row["found"], row["well"]) == ("acme cannot be used", False)
    assert row["fix"].endswith(f"raises ZeroDivisionError: division by zero, at {tmp_path / 'site' / 'acme.py'}:1: mend or update it")


@pytest.mark.slow
def test_a_broken_package_is_named_and_hides_nothing(site: Path, tmp_path: Path) -> None:
    broken = tmp_path / "acme-1.0.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (broken / "entry_points.txt").write_text("[effc.targets]\nacme = effc_acme_is_not_here:EXTENSION\n")
    both = Path(f"{site}{os.pathsep}{tmp_path}")
    listed = effc(both, "targets")
    assert listed.returncode == 0
    assert "acme of package acme 1.0 cannot be used: importing effc_acme_is_not_here:EXTENSION raises" in listed.stdout
    assert "[effc-toy-npu 0.1]" in listed.stdout and "cortex-m4" in listed.stdout
    chosen = effc(both, "compile", DIGITS, "--target", "acme", "-o", tmp_path / "out")
    assert chosen.returncode == 6
    assert "target acme of package acme 1.0 cannot be used" in chosen.stderr
    assert not (tmp_path / "out").exists()
