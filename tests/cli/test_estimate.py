"""`effc estimate`: exact memory from the plan, ranges that the compiler's sizes lie in, errors with their exit codes, the page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from effc.compiler.code_size import BYTES
from effc.compiler.estimating import estimate_lowered
from effc.frontends import load_program
from effc.ir import Program
from effc.lowering import Lowered, lower
from effc.lowering.c99.driver import driver, header
from effc.lowering.c99.model import c_model
from effc.targets import all_targets, find_target

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples" / "digits.onnx"


@pytest.fixture(scope="module")
def estimated(effc: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The JSON document and the page."""
    page = tmp_path_factory.mktemp("estimate") / "digits.html"
    result = effc("estimate", DIGITS, "--target", "cortex-m4", "--json", "--report", page)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), page.read_text()


@pytest.fixture(scope="module")
def digits() -> tuple[Program, Lowered]:
    """The program and its C functions; they are the same for every microcontroller."""
    program = load_program(DIGITS, check_import=False)
    return program, lower(program, find_target("cortex-m4"))


def test_memory_is_that_of_the_plan(estimated: tuple[dict[str, Any], str], digits: tuple[Program, Lowered]) -> None:
    document, lowered = estimated[0], digits[1]
    plan = lowered.plan
    assert plan is not None
    assert document["arena_bytes"] == plan.arena_bytes
    assert document["weight_bytes"] == sum(array.nbytes for array in lowered.parameters.values())
    assert (document["input_bytes"], document["output_bytes"]) == (8 * 8 * 4, 10 * 4)
    assert document["macs"] == sum(layer["macs"] for layer in document["layers"]) == sum(step.macs for step in plan.steps)
    assert [layer["family"] for layer in document["layers"]] == [step.family for step in plan.steps]
    used = [layer["arena_bytes"] for layer in document["layers"]]
    assert max(used) <= plan.arena_bytes and used[document["peak_step"]] == max(used)
    assert document["library_bytes"] == [0, 0], "a Cortex-M4F has single precision in hardware"


@pytest.mark.parametrize("name", ["cortex-m0", "cortex-m4", "riscv32"])
def test_a_compilers_sizes_lie_in_the_ranges(digits: tuple[Program, Lowered], name: str, tmp_path: Path) -> None:
    target, (program, lowered) = find_target(name), digits
    if shutil.which(target.compiler) is None:
        pytest.skip(f"{target.compiler} is not installed")
    estimate = estimate_lowered(program, lowered, target)
    model = c_model("digits", lowered, name, "effc", ())
    (tmp_path / f"{model.prefix}.h").write_text(header(model))
    (tmp_path / "digits.c").write_text(driver(model, lowered.parameters))
    libraries = ["--specs=picolibc.specs"] if target.compiler.startswith("riscv") else []
    for level in ("-Os", "-O2"):
        build = [target.compiler, *target.flags, *libraries, "-std=c99", level, "-fstack-usage", "-c", "digits.c", "-o", "digits.o"]
        subprocess.run(build, cwd=tmp_path, check=True)
        size = [target.compiler.removesuffix("gcc") + "size", "-A", "digits.o"]
        sections = subprocess.run(size, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
        rows = re.findall(r"^\.s?(?:text|rodata)\S*\s+(\d+)", sections, re.MULTILINE)
        assert estimate.code_bytes[0] <= sum(map(int, rows)) <= estimate.code_bytes[1]
        lines = [line.split("\t") for path in tmp_path.glob("*.su") for line in path.read_text().splitlines()]
        frames = {line[0].rsplit(":", 1)[1]: int(line[1]) for line in lines}
        deepest = max(frame for function, frame in frames.items() if not function.startswith("effc_"))
        assert estimate.stack_bytes[0] <= deepest + frames[f"{model.prefix}_run"] <= estimate.stack_bytes[1]


def test_every_microcontroller_has_an_estimate() -> None:
    assert set(BYTES) <= {target.name for target in all_targets() if target.family == "c99"}
    assert all(0 < low <= high for table in BYTES.values() for low, high in table.values())


def test_the_page_shows_the_arena_over_time(estimated: tuple[dict[str, Any], str]) -> None:
    document, page = estimated
    assert "memory of the arena over the steps" in page and "<script" not in page
    assert page.count('class="block ') == len(document["memory"]["blocks"])
    assert f"{document['arena_bytes']:,} bytes" in page


def test_the_tables(effc: Any) -> None:
    result = effc("estimate", DIGITS, "--target", "cortex-m0", "--no-check-import", "--passes", "fold-batch-norm")
    assert result.exit_code == 0, result.output
    assert re.search(r"RAM +arena +[\d,]+ +most in use in step \d", result.stdout)
    assert re.search(r"flash +the compiler's arithmetic +[\d,]+ to [\d,]+", result.stdout)


def test_errors(effc: Any, tmp_path: Path) -> None:
    wrong = effc("estimate", DIGITS, "--target", "x86-64-v3", "--json")
    assert wrong.exit_code == 2 and "cortex-m4" in json.loads(wrong.stdout)["error"]["message"]
    assert effc("estimate", tmp_path / "none.onnx", "--target", "c99").exit_code == 2
    assert effc("estimate", DIGITS, "--target", "c99", "--report", tmp_path / "page.txt").exit_code == 2
    assert effc("estimate", DIGITS).exit_code == 2
    needy = effc("estimate", DIGITS, "--target", "c99", "--passes", "ranger")
    assert needy.exit_code == 2 and "--data" in needy.stderr
