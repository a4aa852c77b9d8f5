"""Bytes of code per 100 words of C, by processor and kernel family: the table of `effc.compiler.code_size`, and whether its ranges hold.

    python -m benchmarks.code_sizes

builds the kernels of the networks of `benchmarks.embedded` that are there, one by one, with the compilers that are installed, at -Os and
-O2; then the whole sources, whose size must lie in the range that `effc estimate` gives.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from benchmarks.embedded_networks import NETWORKS
from effc.compiler.code_size import code_sizes, words
from effc.frontends import load_program
from effc.lowering import Lowered, lower
from effc.lowering.c99.driver import driver, header
from effc.lowering.c99.model import c_model
from effc.lowering.c99.printer import HELPERS
from effc.targets import Target, find_target

PROCESSORS = ("cortex-m0", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33", "riscv32")
TABLED = ("cortex-m0", "cortex-m3", "cortex-m4", "riscv32")
HEAD = "#include <math.h>\n#include <stdbool.h>\n#include <stdint.h>\n#include <string.h>\n"


def main() -> int:
    targets = [find_target(name) for name in PROCESSORS]
    targets = [target for target in targets if shutil.which(target.compiler)]
    models = [(network.name, network.path()) for network in NETWORKS]
    programs = {name: lower(load_program(path, check_import=False), targets[0]) for name, path in models if path is not None}
    ratios: dict[tuple[str, str], list[float]] = defaultdict(list)
    wrong = 0
    for target in targets:
        for name, lowered in programs.items():
            if target.name in TABLED:
                for family, ratio in kernel_ratios(lowered, target):
                    ratios[target.name, family].append(ratio)
            assert lowered.plan is not None
            span = code_sizes(lowered.functions, lowered.plan, target).code
            sizes = [whole(lowered, target, level) for level in ("-Os", "-O2")]
            holds = all(span[0] <= size <= span[1] for size in sizes)
            wrong += not holds
            estimated = f"estimated {span[0]:,} to {span[1]:,}{'' if holds else ', WRONG'}"
            print(f"{target.name:11} {name:28} -Os {sizes[0]:6,}  -O2 {sizes[1]:6,}  {estimated}")
    for processor in TABLED:
        rows = {family: found for (one, family), found in sorted(ratios.items()) if one == processor}
        print(f'    "{processor}": {{')
        for family, found in rows.items():
            print(f'        "{family}": ({int(100 * min(found))}, {int(100 * max(found)) + 1}),')
        print("    },")
    return wrong > 0


def kernel_ratios(lowered: Lowered, target: Target) -> list[tuple[str, float]]:
    """(family, bytes per word) of every kernel at both levels."""
    assert lowered.plan is not None
    families = {step.kernel: step.family for step in (*lowered.plan.steps, *lowered.plan.fresh)}
    used = {helper for one in lowered.functions for helper in one.helpers}
    helpers = "".join(text for name, text in HELPERS.items() if name in used)
    text = HEAD + helpers + "".join(re.sub("^static void", "void", one.text, count=1) for one in lowered.functions)
    found = []
    for level in ("-Os", "-O2"):
        sizes = symbols(text, target, level)
        found += [(families[one.name], sizes[one.name] / words(one.text)) for one in lowered.functions]
    return found


def whole(lowered: Lowered, target: Target, level: str) -> int:
    """Bytes of code and constants of the driver with its kernels."""
    model = c_model("network", lowered, "effc", ())
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f"{model.prefix}.h").write_text(header(model))
        built(driver(model, lowered.parameters), target, level, folder)
        lines = output([tool(target, "size"), "-A", f"{folder}/x.o"]).splitlines()
    rows = [line.split() for line in lines]
    return sum(int(row[1]) for row in rows if len(row) == 3 and row[0].startswith((".text", ".rodata", ".srodata")))


def symbols(text: str, target: Target, level: str) -> dict[str, int]:
    """Bytes of each function."""
    with tempfile.TemporaryDirectory() as folder:
        built(text, target, level, folder)
        rows = [line.split() for line in output([tool(target, "nm"), "-S", "--defined-only", f"{folder}/x.o"]).splitlines()]
    return {row[3]: int(row[1], 16) for row in rows if len(row) == 4 and row[2] in "tT"}


def built(text: str, target: Target, level: str, folder: str) -> None:
    (Path(folder) / "x.c").write_text(text)
    library = ["--specs=picolibc.specs"] if target.compiler.startswith("riscv") else []
    output([target.compiler, *target.flags, *library, "-std=c99", level, "-c", "-I", folder, f"{folder}/x.c", "-o", f"{folder}/x.o"])


def tool(target: Target, name: str) -> str:
    return target.compiler.removesuffix("gcc") + name


def output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
