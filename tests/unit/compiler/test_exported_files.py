"""From `torch.export.save` to running code: `.pt2` files with a dynamic batch, and the programs that artifacts hold."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim

from effc.compiler import compile_model
from effc.frontends import load_program
from effc.ir.storage import load_program_bytes, save_program
from effc.lowering.fix_batch import fix_batch
from effc.runtime import load


class Mean(nn.Module):
    """A reduction and a size that is computed from the batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)).reshape(x.shape[0], -1, 1) * 2


MODULES = {
    "linear": (nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3)), (6,)),
    "conv": (nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(48, 2)), (2, 6, 6)),
    "mean": (Mean(), (2, 4, 4)),
}


def saved(name: str, folder: Path) -> tuple[Path, nn.Module, tuple[int, ...]]:
    torch.manual_seed(0)
    module, shape = MODULES[name]
    exported = torch.export.export(module.eval(), (torch.randn(3, *shape),), dynamic_shapes=({0: Dim("N")},))
    torch.export.save(exported, folder / "m.pt2")
    return folder / "m.pt2", module, shape


@pytest.mark.parametrize("name", MODULES)
def test_a_saved_program_with_a_dynamic_batch_compiles_and_so_does_what_the_artifact_holds(name: str, tmp_path: Path) -> None:
    path, module, shape = saved(name, tmp_path)
    compile_model(path, tmp_path / "first", batch=2)
    compile_model(tmp_path / "first" / "program.pt2", tmp_path / "second", batch=4)
    assert (tmp_path / "second" / "program.pt2").read_bytes() == (tmp_path / "first" / "program.pt2").read_bytes()
    rows = np.random.default_rng(0).standard_normal((5, *shape), np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(rows)).numpy()
    for out in ("first", "second"):
        session = load(tmp_path / out)
        outputs = session.run({session.inputs[0].name: rows})
        np.testing.assert_allclose(outputs["output"], expected, atol=1e-5)


TWICE = """
import hashlib, pathlib, torch
from effc.compiler import compile_model
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3)).eval()
for out in ("first", "second"):
    compile_model(net, out, example_inputs=(torch.zeros(1, 5),))
    print(hashlib.sha256(pathlib.Path(out, "program.pt2").read_bytes()).hexdigest())
"""


@pytest.mark.slow
def test_a_module_that_is_exported_again_gives_the_same_bytes(tmp_path: Path) -> None:
    """In one process, where torch traces otherwise the first time; and in another one, elsewhere, that hashes otherwise."""
    digests = []
    for seed in ("1", "2"):
        (tmp_path / seed).mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", TWICE]
        done = subprocess.run(command, cwd=tmp_path / seed, env=environment, capture_output=True, text=True, check=True)
        digests += done.stdout.split()
    assert len(digests) == 4 and len(set(digests)) == 1


def test_a_batch_can_be_fixed_in_programs_however_they_came(tmp_path: Path) -> None:
    """torch gives results fake values of their own when it reads a file; so do its decompositions."""
    path, module, shape = saved("linear", tmp_path)
    read = torch.export.load(path)
    for program in (load_program(read), load_program(read.run_decompositions({})), load_program_bytes(save_program(load_program(path)))):
        fixed = fix_batch(program, 4)
        assert fixed.interface.inputs[0].shape == (4, *shape)
        x = torch.randn(4, *shape)
        assert torch.allclose(fixed.call(x)[0], module(x), atol=1e-6)
