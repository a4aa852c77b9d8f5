"""`effc doctor`."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from effc.cli.console import common_options, emit_json, note, progress_bars, table

if TYPE_CHECKING:
    from effc.targets import Target

__all__ = ["command"]

_MISSING = 6
_REQUIRED = {  # import name -> distribution
    "torch": "torch",
    "tvm": "apache-tvm",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "onnxscript": "onnxscript",
    "numpy": "numpy",
    "scipy": "scipy",
    "pydantic": "pydantic",
    "jinja2": "jinja2",
    "safetensors": "safetensors",
}
_OPTIONAL = {  # import name -> (distribution, extra, what for)
    "pytorch_lightning": ("pytorch-lightning", "", "passes that train"),
    "PIL": ("pillow", "vision", "folders of images"),
    "av": ("av", "video", "effc stream on video files and cameras"),
    "torchvision": ("torchvision", "vision", "torchvision models"),
    "ziglang": ("ziglang", "cross", "linking for other machines"),
    "openvino": ("openvino", "peers", "effc bench --against openvino"),
}
_DEBIAN = {  # tool -> its packages
    "arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "qemu-system-arm": "qemu-system-arm",
    "riscv64-unknown-elf-gcc": "gcc-riscv64-unknown-elf picolibc-riscv64-unknown-elf",
    "qemu-system-riscv32": "qemu-system-misc",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `fix` says how to get it where it is not well."""

    what: str
    found: str
    well: bool
    required: bool
    fix: str = ""


@click.command("doctor")
@common_options
def command(as_json: bool) -> int:
    """Say what is installed, what is missing, and how to get it; exit code 6 when something that effc needs is missing."""
    with progress_bars() as progress, progress("importing packages", len(_REQUIRED)) as advance:
        findings = [Finding("Python", platform.python_version(), sys.version_info >= (3, 11), True, "install Python 3.11 or newer")]
        for name, distribution in _REQUIRED.items():
            findings.append(_package(name, distribution))
            advance(1)
    findings += [_optional(name, *entry) for name, entry in _OPTIONAL.items()]
    findings += _machine() if all(finding.well for finding in findings if finding.required) else []
    sick = [finding for finding in findings if finding.required and not finding.well]
    if as_json:
        emit_json({"well": not sick, "findings": [asdict(finding) for finding in findings]})
    else:
        rows = [(_mark(finding), finding.what, finding.found, "" if finding.well else finding.fix) for finding in findings]
        table(("", "what", "found", "to do"), rows)
        note(f"{len(sick)} things that effc needs are missing" if sick else "effc has everything that it needs", bad=bool(sick))
    return _MISSING if sick else 0


def _mark(finding: Finding) -> str:
    return "ok" if finding.well else "MISSING" if finding.required else "-"


def _package(name: str, distribution: str) -> Finding:
    """Imports the package: an installation can be broken although its metadata is there."""
    fix = f"pip install --force-reinstall {distribution}"
    try:
        importlib.import_module(name)
        return Finding(distribution, importlib.metadata.version(distribution), True, True)
    except Exception as error:  # noqa: BLE001 - a broken package fails in its own way, and that is the finding
        return Finding(distribution, f"{type(error).__name__}: {error}".splitlines()[0][:100], False, True, fix)


def _optional(name: str, distribution: str, extra: str, purpose: str) -> Finding:
    fix = f"pip install 'effc[{extra}]'" if extra else f"pip install {distribution}"
    if importlib.util.find_spec(name) is None:
        return Finding(f"{distribution} ({purpose})", "not installed", False, False, fix)
    return Finding(f"{distribution} ({purpose})", importlib.metadata.version(distribution), True, False)


def _machine() -> list[Finding]:
    from effc.errors import MissingDependencyError
    from effc.lowering.toolchain import compiler_for
    from effc.runtime.threads import available_threads
    from effc.targets import all_targets, extensions_found
    from effc.targets.emulators import emulator_for, emulator_install

    findings = [Finding("threads", str(available_threads()), True, True)]
    for target in (*all_targets(), *(target for one in extensions_found() for target in one.targets)):
        if target.family == "cuda":
            continue  # one row for all of them, below
        if target.board:
            findings += _board(target)
            continue
        here = target.name == "cpu"
        try:
            linker = " ".join(compiler_for(target, static=False))
        except MissingDependencyError as error:
            fix = error.message.rpartition("; ")[2]
            findings.append(Finding(f"linker for {target.name}", "none", False, here, fix))
            continue
        findings.append(Finding(f"linker for {target.name}", linker.replace(sys.executable, "python"), True, here))
        if target.emulator and not target.runs_here:
            emulator = emulator_for(target)
            found = emulator is not None
            findings.append(
                Finding(f"emulator for {target.name}", emulator or "none", found, False, "" if found else emulator_install(target))
            )
    return [*findings, *_gpu(), *_other_targets()]


def _board(target: Target) -> list[Finding]:
    """What building for a microcontroller and trying that on an emulated board need; its C is made without either."""
    from effc.lowering.c99.building import emulator

    findings = []
    for what, tool in (("compiler", target.compiler), ("emulator", emulator(target)[0])):
        found = shutil.which(tool) is not None
        fix = "" if found else f"install {tool}" + f" (Debian: {_DEBIAN[tool]})" * (tool in _DEBIAN)
        findings.append(Finding(f"{what} for {target.name}", tool if found else "none", found, False, fix))
    return findings


def _other_targets() -> list[Finding]:
    """Packages that add targets, and what is wrong with them."""
    from effc.targets import extensions_found

    found = extensions_found()
    if not found:
        return [Finding("targets of other packages", "none", True, False)]
    return [
        Finding(
            f"targets of {one.package}",
            ", ".join(target.name for target in one.targets) or f"{one.name} cannot be used",
            not one.fault,
            False,
            one.fault and f"{one.fault}: mend or update it",
        )
        for one in found
    ]


def _gpu() -> list[Finding]:
    """What compiling for GPUs needs, and what running on one needs."""
    from effc.errors import MissingDependencyError
    from effc.lowering.cuda.nvcc import nvcc_version, require_nvcc
    from effc.runtime.cuda.libcuda import devices

    try:
        nvcc = require_nvcc("cuda:*")
        compiler = Finding("compiler for cuda:*", f"{nvcc} {nvcc_version(nvcc)}".rstrip(), True, False)
    except MissingDependencyError as error:
        compiler = Finding("compiler for cuda:*", "none", False, False, error.message.partition("; ")[2])
    try:
        found = [f"{name} (sm_{major}{minor})" for name, (major, minor) in devices()]
    except MissingDependencyError:
        found = []
    fix = "running such artifacts needs an NVIDIA GPU with its driver; compiling for one does not"
    return [compiler, Finding("GPU for cuda:*", ", ".join(found) or "none", bool(found), False, "" if found else fix)]
