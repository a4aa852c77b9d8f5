"""What nvcc makes of the kernels that skip: loads of 16 bytes, and no register that goes through memory."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import torch

from effc.lowering.cuda.nvcc import OPTIONS, find_nvcc
from tests.unit.lowering.cuda.on_host import translated
from tests.unit.lowering.cuda.test_masked import Masked
from tests.unit.lowering.cuda.test_rows import Functions
from tests.unit.lowering.cuda.test_skipping import Layer, Side
from tests.unit.lowering.functions_of_torch import normal

NVCC = find_nvcc()
pytestmark = pytest.mark.skipif(NVCC is None, reason="no nvcc to compile CUDA C")
ARCHITECTURES = ("sm_80", "sm_90")
ROWS = (1, 2, 3, 4, 6, 8)
_WIDE = re.compile(r"\.v4\.[ubf]32|\.v2\.[ubf]64")


def _compiled(source: str, architecture: str, folder: Path, *options: str) -> str:
    """What nvcc says, or the file that it writes."""
    (folder / "model.cu").write_text(source, encoding="utf-8")
    command = [str(NVCC), f"-arch={architecture}", *OPTIONS, *options, "-o", "out", "model.cu"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return (folder / "out").read_text(encoding="utf-8") if "-ptx" in options else done.stderr


def _source(dtype: torch.dtype) -> str:
    """CUDA C of products of some numbers of inputs with weights of a type."""
    module, inputs = Side([Layer(700, 1100, dtype) for _ in ROWS]), [normal(rows, 700) for rows in ROWS]
    return translated(module, inputs)[1].code.decode()


def _spills(said: str) -> dict[str, int]:
    """Bytes that each kernel stores because it has too few registers, as ptxas tells."""
    kernels = re.findall(r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads", said, re.DOTALL)
    return {name: int(stores) + int(loads) for name, stores, loads in kernels}


@pytest.mark.parametrize(
    "dtype",
    [pytest.param(torch.float32, marks=pytest.mark.slow), torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.slow)],
    ids=str,
)
def test_rows_are_read_16_bytes_at_a_time_and_nothing_spills(dtype: torch.dtype, tmp_path: Path) -> None:
    source = _source(dtype)
    for architecture in ARCHITECTURES:
        spills = _spills(_compiled(source, architecture, tmp_path, "-cubin", "-Xptxas", "-v"))
        assert len(spills) == 2 * len(ROWS)  # the sums of slices, and the sum of those
        assert set(spills.values()) == {0}, spills
        text = _compiled(source, architecture, tmp_path, "-ptx")
        entries = {name: body for name, body in re.findall(r"\.entry (\w+)\((.*?)\n}", text, re.DOTALL) if name.endswith("launch0")}
        assert len(entries) == len(ROWS)
        counts = []
        for name, body in entries.items():
            loads = re.findall(r"ld\.global(?:\.\w+)*", body)
            counts.append(len([load for load in loads if _WIDE.search(load)]))
            assert len(loads) - counts[-1] <= max(ROWS), (name, loads)  # the inputs, one of each row
        # At once: 8 rows of weights for one input, 4 for two, ...: in the loop, which nvcc may unroll further, and behind it.
        assert all(count >= least for count, least in zip(sorted(counts), sorted(2 * max(1, 8 // rows) for rows in ROWS), strict=True)), (
            counts
        )


@pytest.mark.slow
def test_masked_products_read_16_bytes_at_a_time_and_spill_nothing(tmp_path: Path) -> None:
    for dtype, rows in ((torch.float32, 8), (torch.float16, 1), (torch.bfloat16, 4)):
        source = translated(Masked(1104, 300, dtype), [normal(rows, 1104), normal(rows, 300)])[1].code.decode()
        for architecture in ARCHITECTURES:
            spills = _spills(_compiled(source, architecture, tmp_path, "-cubin", "-Xptxas", "-v"))
            assert spills
            assert set(spills.values()) == {0}, spills
            assert _WIDE.search(_compiled(source, architecture, tmp_path, "-ptx"))


def test_rows_in_registers_spill_nothing(tmp_path: Path) -> None:
    """28,672 elements in the registers of 1,024 threads."""
    module = Functions([lambda x: torch.ops.effc.keep_top_k(x, 2000), lambda x: torch.ops.effc.statistical_top_k(x, 1.4, "hard")])
    source = translated(module, [normal(1, 28_672), normal(1, 28_672)])[1].code.decode()
    for architecture in ARCHITECTURES:
        spills = _spills(_compiled(source, architecture, tmp_path, "-cubin", "-Xptxas", "-v"))
        assert len(spills) == 2
        assert set(spills.values()) == {0}, spills
