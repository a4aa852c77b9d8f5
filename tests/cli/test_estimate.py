"""`effc estimate`: exact memory from the plan, ranges that the compiler's sizes lie in, errors with their exit codes, the page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from effc.compiler.budget import over_budget, refuse_budget
from effc.compiler.code_size import BYTES
from effc.compiler.estimating import estimate_lowered
from effc.compiler.settings import settings_of
from effc.errors import ConfigError, GateFailed, InconclusiveError
from effc.frontends import load_program
from effc.ir import Program
from effc.lowering import Lowered, lower
from effc.lowering.c99.driver import driver, header
from effc.lowering.c99.model import c_model
from effc.report import Block, EstimateLayer, EstimateReport, Memory
from effc.report.arena_svg import unused
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
    beside = sum(document[name] for name in ("arena_bytes", "state_bytes", "input_bytes", "output_bytes"))
    assert document["ram_bytes"] == [beside + end for end in document["stack_bytes"]]
    assert document["flash_bytes"] == [document["weight_bytes"] + end for end in document["code_bytes"]]


@pytest.mark.parametrize("name", ["cortex-m0", "cortex-m4", "riscv32"])
def test_a_compilers_sizes_lie_in_the_ranges(digits: tuple[Program, Lowered], name: str, tmp_path: Path) -> None:
    target, (program, lowered) = find_target(name), digits
    if shutil.which(target.compiler) is None:
        pytest.skip(f"{target.compiler} is not installed")
    estimate = estimate_lowered(program, lowered, target)
    model = c_model("digits", lowered, "effc", ())
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


def test_tensors_of_the_arena_have_the_models_names(estimated: tuple[dict[str, Any], str]) -> None:
    document = estimated[0]
    layers = [layer["name"].split(", ") for layer in document["layers"]]
    assert all(block["name"].removeprefix("scratch of ") in layers[block["first"]] for block in document["memory"]["blocks"])


def report_of(ram: tuple[int, int], flash: tuple[int, int]) -> EstimateReport:
    """Of a program with so many bytes of RAM, the first 1,000 in the arena, and of flash, all of it code."""
    layer = EstimateLayer("conv, relu", "conv2d + relu", "conv", 10, 0, 600, 800)
    stack = (ram[0] - 1000, ram[1] - 1000)
    memory = Memory(1000, 0, 1, (Block("relu", 0, 600, 0, 1), Block("scratch of relu", 800, 200, 0, 0)))
    return EstimateReport("m", "cortex-m4", 1000, 0, 0, 0, 0, 0, 10, flash, (0, 0), stack, (layer,), memory)


def test_a_budget_is_kept_missed_or_open() -> None:
    report = report_of((1100, 1300), (5000, 6000))

    def verdict(**budget: Any) -> GateFailed | InconclusiveError | None:
        return over_budget(settings_of(budget), report)

    assert verdict() is None and verdict(max_ram=1300, max_flash="6k") is None
    missed = verdict(max_ram="1k", max_flash=5500)
    assert isinstance(missed, GateFailed) and missed.exit_code == 1
    assert "RAM is over its budget of 1,024 bytes by 76 to 276" in missed.message and "flash may be over" in missed.message
    assert str(missed.problems[0]) == "RAM: arena, 1,000 bytes: most of it in step 0, conv, relu"
    between = verdict(max_ram=1200)
    assert isinstance(between, InconclusiveError) and between.exit_code == 7
    for wrong in ("2k5", "-1", "1.5M", "²"):
        with pytest.raises(ConfigError, match="64k or 1M"):
            settings_of({"max_ram": wrong})
    with pytest.raises(ConfigError, match="x86-64-v3"):
        refuse_budget(settings_of({"max_ram": 1}), find_target("x86-64-v3"))


def test_free_bytes_of_the_arena_are_explained() -> None:
    (sentence,) = unused(report_of((1100, 1300), (0, 0)).memory)
    assert "At most 800 of the arena's 1,000 bytes" in sentence
    assert unused(Memory(8, 0, 1, (Block("a", 0, 8, 0, 0),))) == []


def test_the_page_shows_the_arena_over_time(estimated: tuple[dict[str, Any], str]) -> None:
    document, page = estimated
    assert "memory of the arena over the steps" in page and "<script" not in page
    assert page.count('class="block ') == len(document["memory"]["blocks"])
    assert f"{document['arena_bytes']:,} bytes" in page


def test_the_tables_and_a_missed_budget(effc: Any) -> None:
    result = effc("estimate", DIGITS, "--target", "cortex-m0", "--no-check-import", "--passes", "fold-batch-norm", "--max-ram", "1k")
    assert result.exit_code == 1 and "RAM is over its budget of 1,024 bytes" in result.stderr, result.output
    assert re.search(r"RAM +arena +[\d,]+ +at most [\d,]+ in use, in step \d", result.stdout)
    assert re.search(r"RAM +inputs +256 ", result.stdout) and re.search(r"RAM +outputs +40 ", result.stdout)
    assert max(map(len, result.stdout.split("multiply-accumulates")[0].splitlines())) <= 100
    assert re.search(r"flash +the compiler's arithmetic +[\d,]+ to [\d,]+", result.stdout)


def test_errors(effc: Any, tmp_path: Path) -> None:
    wrong = effc("estimate", DIGITS, "--target", "x86-64-v3", "--json")
    assert wrong.exit_code == 2 and "cortex-m4" in json.loads(wrong.stdout)["error"]["message"]
    assert effc("estimate", tmp_path / "none.onnx", "--target", "c99").exit_code == 2
    assert effc("estimate", DIGITS, "--target", "c99", "--report", tmp_path / "page.txt").exit_code == 2
    assert effc("estimate", DIGITS).exit_code == 2
    wrong = effc("estimate", DIGITS, "--target", "c99", "--data", tmp_path / "none.npz")
    assert wrong.exit_code == 2 and "none.npz" in wrong.stderr and "--init" not in wrong.stderr
    needy = effc("estimate", DIGITS, "--target", "c99", "--passes", "ranger")
    assert needy.exit_code == 2 and "--data" in needy.stderr
