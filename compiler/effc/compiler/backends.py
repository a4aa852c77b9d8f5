"""What a compile does with the code of a family of targets: the files it makes, and how it is tried before anything is written.

The table is `BACKENDS`; its other half, how the code is made, is `effc.lowering.backends`.
"""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from effc.compiler import crosscheck
from effc.compiler.blaming import blaming
from effc.compiler.c_build import FOLDER
from effc.compiler.c_self_tests import SourcesTrial
from effc.compiler.c_vectors import golden_calls
from effc.compiler.crosscheck import CannotEmulateError, SelfTestRun
from effc.compiler.cuda_trial import emulated, gpu_here
from effc.compiler.golden import Checks
from effc.compiler.trial import Trial, try_out, try_out_sources
from effc.errors import EffcWarning
from effc.ir import Program
from effc.lowering import Lowered
from effc.lowering.c99.sources import c_sources
from effc.lowering.cuda.nvcc import require_nvcc
from effc.lowering.toolchain import compiler_for
from effc.passes.base import Progress
from effc.runtime.cuda.executor import CUBIN, SOURCE
from effc.runtime.executor import CODE
from effc.targets import C99, CUDA, Target

__all__ = ["BACKENDS", "Backend", "Compiled", "Tried", "backend_of"]

_SUFFIXES = (".onnx", ".pt2", ".pt", ".pth")


@dataclass(frozen=True)
class Compiled:
    """What a compile has made so far."""

    program: Program
    lowered: Lowered
    checks: Checks
    target: Target


@dataclass(frozen=True)
class Tried:
    """How the code did, as far as it could be tried on this machine.

    Attributes:
        trial, emulated, sources: see `CompileResult`.
        files: what trying made that belongs into the artifact: a self-test.
        unable: why that did not run, where the emulator failed and not the code.
    """

    trial: Trial | None = None
    emulated: SelfTestRun | None = None
    sources: SourcesTrial | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    unable: str = ""


class Backend(Protocol):
    """What one family does."""

    def require(self, target: Target) -> None:
        """Raises MissingDependencyError where a tool is missing, before minutes of work."""

    def executor(self, lowered: Lowered) -> str:
        """What the manifest says of how the code is run."""

    def code(self, made: Compiled) -> dict[str, bytes]:
        """The artifact's files of code, by relative name."""

    def tried(self, made: Compiled, files: Mapping[str, bytes], fields: Mapping[str, Any], progress: Progress) -> Tried:
        """Run it. Raises VerificationError where its results are not the program's.

        Args:
            made: the program and its code.
            files, fields: of the artifact.
            progress: shows what runs.
        """


class _Processor:
    """A processor with an operating system, or one that is emulated: a shared library."""

    def require(self, target: Target) -> None:
        compiler_for(target, static=not target.runs_here)

    def executor(self, lowered: Lowered) -> str:
        return "plan" if lowered.plan is not None else "vm"

    def code(self, made: Compiled) -> dict[str, bytes]:
        return {CODE: made.lowered.code}

    def tried(self, made: Compiled, files: Mapping[str, bytes], fields: Mapping[str, Any], progress: Progress) -> Tried:
        origin = made.target.origin
        whose = "" if origin is None else f" with that of {origin.package}"  # a crash of foreign code ends the process: this is seen then
        if made.target.runs_here:
            with progress(f"checking the compiled code{whose}", 1) as advance, blaming(made.target, made.lowered.plan):
                trial = try_out(files, fields, made.program)
                advance(1)
            return Tried(trial)
        with progress("building and running the self-test", 1) as advance:
            emulated, unable = None, ""
            executable = crosscheck.build(made.program, made.lowered, made.checks, made.target)
            if executable is not None:
                try:
                    with blaming(made.target, made.lowered.plan):
                        emulated = crosscheck.run_emulated(executable, made.target)
                except CannotEmulateError as error:
                    if error.installed:
                        unable = error.why
                        warnings.warn(error.message, EffcWarning, stacklevel=2)
            if emulated is None:
                crosscheck.rehearse(made.program, made.checks, made.lowered.batch)
            advance(1)
        return Tried(emulated=emulated, files={} if executable is None else {crosscheck.SELF_TEST: executable}, unable=unable)


class _Sources:
    """A machine without an operating system: C99."""

    def require(self, target: Target) -> None:
        """Nothing: sources are written without a compiler."""

    def executor(self, lowered: Lowered) -> str:
        return "c"

    def code(self, made: Compiled) -> dict[str, bytes]:
        program, lowered = made.program, made.lowered
        origin = program.provenance
        name = Path(origin.source).name
        name = next((name.removesuffix(suffix) for suffix in _SUFFIXES if name.lower().endswith(suffix)), name)
        version = f"effc {importlib.metadata.version('effc')}" + (f", model {origin.sha256[:12]}" if origin.sha256 else "")
        states = [(state.input, state.output) for state in program.interface.states]
        calls = golden_calls(program, made.checks.inputs, lowered)
        sources = c_sources(name, lowered, calls, made.target, version, states=states)
        return {f"{FOLDER}/{path}": content for path, content in sources.items()}

    def tried(self, made: Compiled, files: Mapping[str, bytes], fields: Mapping[str, Any], progress: Progress) -> Tried:
        with progress("building and running the C sources", 1) as advance, blaming(made.target, made.lowered.plan):
            sources = try_out_sources(files, fields, made.program, made.target)
            advance(1)
        return Tried(emulated=sources.runs[-1] if sources.runs else None, sources=sources)


class _Gpu:
    """An NVIDIA GPU: machine code, and the CUDA C that it was compiled from."""

    def require(self, target: Target) -> None:
        require_nvcc(target.name)

    def executor(self, lowered: Lowered) -> str:
        return "cuda"

    def code(self, made: Compiled) -> dict[str, bytes]:
        return {CUBIN: made.lowered.code, SOURCE: made.lowered.source.encode()}

    def tried(self, made: Compiled, files: Mapping[str, bytes], fields: Mapping[str, Any], progress: Progress) -> Tried:
        if gpu_here(made.target.cpu):
            with progress("checking the compiled code", 1) as advance, blaming(made.target, made.lowered.plan):
                trial = try_out(files, fields, made.program)
                advance(1)
            return Tried(trial)
        with progress("running the CUDA code on the CPU", 1) as advance:
            with blaming(made.target, made.lowered.plan):
                run = emulated(files, fields, made.program)
            if run is None:
                crosscheck.rehearse(made.program, made.checks, made.lowered.batch)
            advance(1)
        return Tried(emulated=run)


BACKENDS: Mapping[str, Backend] = {"cpu": _Processor(), C99: _Sources(), CUDA: _Gpu()}


def backend_of(target: Target) -> Backend:
    """The backend of a target's family."""
    return BACKENDS[target.family]
