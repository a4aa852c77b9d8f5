"""Networks as C99 for microcontrollers: memory, flash, exactness under QEMU, and instructions of an inference.

Every network is compiled for Cortex-M4 and Cortex-M7 as a user would, and built with all warnings as errors.

    arena         bytes of RAM between layers; `nothing shared` is what the same plan would take were no result laid over what it is made of
    stack         the longest path by gcc's -fstack-usage; `stack seen`: what calls touched of a painted stack
    weights, code bytes of flash: of the file with the weights, and of everything else, with what it takes from the compiler's library;
                  `in the file`: all stored tensors of the ONNX file
    error         of the outputs under QEMU against onnxruntime without optimisations, of the largest magnitude; `output steps`: in steps of
                  the last quantiser, for int8 networks, which onnxruntime computes in float and rounds after every layer
    other values  int8: outputs under QEMU that are not, bit for bit, what the program computes in torch. For this the networks' float ends
                  are cut off: integers go in and come out. `distinct` samples have outputs of their own

The self-test that lies beside the C runs under QEMU, on this machine with sanitizers, and as a RISC-V Linux program. Instructions are
QEMU's count, not cycles. What is not installed is skipped, with a reason.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.embedded_build import MACHINES, Files, Machine, built, outside, self_test
from benchmarks.embedded_networks import NETWORKS, Network, parameter_bytes, with_integer_ends
from benchmarks.embedded_probe import Probe, probe
from benchmarks.harness import Claim, Options, Outcome, main
from benchmarks.models import Arrays, onnxruntime_reference
from effc.compiler import CompileResult, compile_model
from effc.compiler.golden import run_program
from effc.frontends.onnx.steps import in_steps, output_steps
from effc.runtime.plan import Plan
from effc.runtime.verify import TOLERANCE, compare

__all__ = ["EXACTNESS", "INSTRUCTIONS", "MEMORY", "PUBLISHED", "SELF_TESTS", "SHORT", "measure", "nothing_shared"]

MEMORY, EXACTNESS, SELF_TESTS = "Bytes of RAM and flash", "Exactness under QEMU", "Exit codes of the self-tests"
INSTRUCTIONS, PUBLISHED = "Instructions of one inference by layer, float ResNet-8 on Cortex-M4", "What others need, kB"
SHORT = (MEMORY, INSTRUCTIONS)
QUICK = ("digits", "keywords int8")
COUNTED = ("ResNet-8 float", "cortex-m4")  # whose instructions are shown layer by layer
CODE = 25_000  # bytes of flash that a network may take beside the tensors of its file
SAMPLES, INTEGER_SAMPLES = 4, 32
STEPS = 2  # between a softmax's logits, each one step of its quantiser off
BOARDS, OTHERS = ("cortex-m4", "cortex-m7"), ("sanitized", "riscv64")


@dataclass
class _Run:
    outcome: Outcome
    folder: Path
    quick: bool
    codes: list[int] = field(default_factory=list)  # of self-tests
    ends: dict[str, _Case] = field(default_factory=dict)  # networks of integers, by their name
    wrong: Counter[str] = field(default_factory=Counter)  # what no build may have
    builds: int = 0

    def add(self, table: str, **row: Any) -> None:
        self.outcome.rows.append({"table": table, **row})

    def claim(self, name: str, value: float, bar: float) -> None:
        self.outcome.claims.append(Claim(name, value, bar, "at most"))


@dataclass(frozen=True)
class _Case:
    """A network that was compiled for a machine."""

    network: Network
    source: Path
    machine: Machine
    folder: Path
    result: CompileResult
    files: Files

    @property
    def name(self) -> str:
        return f"{self.network.name}, {self.machine.name}"

    def probed(self, samples: Sequence[Arrays], *, watch: bool = False) -> Probe:
        inputs, outputs = self.result.manifest.inputs, self.result.manifest.outputs
        return probe(self.files, self.machine, inputs, outputs, samples, self.folder / ("watched" if watch else "probe"), watch=watch)


def measure(options: Options) -> Outcome:
    """All networks on all machines; quick: two small ones, on fewer."""
    networks = [one for one in NETWORKS if not options.quick or one.name in QUICK]
    boards = [name for name in (BOARDS[:1] if options.quick else (*BOARDS, "riscv32")) if not MACHINES[name].missing()]
    with tempfile.TemporaryDirectory() as folder:
        run = _Run(Outcome(), Path(folder), options.quick)
        for name in (*BOARDS, *OTHERS, "riscv32"):
            if why := MACHINES[name].missing():
                run.outcome.skip(MACHINES[name].name, why)
        for network in networks:
            path = network.path()
            if path is None:
                run.outcome.skip(network.name, f"$EFFC_DATA/{network.file} is missing")
                continue
            try:
                _network(run, network, path, boards)
            except Exception as error:  # noqa: BLE001 - a network that crashes effc is a missed claim, and the others are still measured
                run.outcome.rows.append({"model": network.name, "failed": f"{type(error).__name__}: {str(error)[:400]}"})
                run.claim(f"{network.name} failed", float("nan"), 0)
    for what, count in run.wrong.items():
        run.claim(f"{what}, in {run.builds} builds", count, 0)
    if run.codes:
        run.claim(f"self-tests with another exit code than 0, of {len(run.codes)}", sum(code != 0 for code in run.codes), 0)
    for network in networks:
        for one in network.published:
            of = "whole program" if one.whole else "activations; weights and code"
            run.add(PUBLISHED, model=network.name, tool=one.tool, RAM=one.ram, flash="" if one.flash is None else one.flash, of=of)
    return run.outcome


def nothing_shared(plan: Plan) -> int:
    """Bytes of the intermediates that are alive in one step, at most, were each in a place of its own: a result and what it is made of,
    too. What kernels need for themselves is left out."""
    buffers = [buffer for buffer in plan.in_room("arena") if ".temporary" not in buffer.name]
    return max((sum(one.size for one in buffers if one.first <= step <= one.last) for step in range(len(plan.steps))), default=0)


def _network(run: _Run, network: Network, path: Path, boards: Sequence[str]) -> None:
    codes: dict[str, int] = {}
    case: _Case | None = None
    for name in boards:
        case = _compiled(run, network, path, MACHINES[name])
        seen = None
        if name in BOARDS:
            samples = network.samples(case.result.manifest.inputs, SAMPLES)
            seen = case.probed(samples)
            _exactness(run, case, samples, seen)
            if (network.name, name) == COUNTED:
                _layers(run, case)
        _memory(run, case, seen)
        codes[case.machine.name] = self_test(case.files, case.machine, case.folder / "self-test")
    case = case or _compiled(run, network, path, MACHINES["sanitized"])  # the C is the same for all
    for name in OTHERS:
        if not MACHINES[name].missing():
            codes[MACHINES[name].name] = self_test(case.files, MACHINES[name], case.folder / name)
    run.codes += codes.values()
    run.add(SELF_TESTS, model=network.name, **codes)


def _compiled(run: _Run, network: Network, path: Path, machine: Machine) -> _Case:
    folder = run.folder / network.name / path.stem / machine.target
    folder.mkdir(parents=True)
    result = compile_model(path, folder / "out", target=machine.target)
    return _Case(network, path, machine, folder, result, Files.of(folder / "out"))


def _exactness(run: _Run, case: _Case, samples: Sequence[Arrays], seen: Probe) -> None:
    """Outputs of the board beside onnxruntime's; of an int8 network in steps of its last quantiser, and integers beside the program's."""
    import onnx

    reference = onnxruntime_reference(case.source)
    expected = [reference(sample) for sample in samples]
    row: dict[str, Any] = {"model": case.network.name, "target": case.machine.name, "instructions": seen.instructions}
    if case.network.integers:
        steps = output_steps(onnx.load(case.source).graph)
        pairs = [(got[name], want[name], steps[name]) for got, want in zip(seen.outputs, expected, strict=True) for name in want]
        row["output steps"] = float(max(np.abs(in_steps(*pair)).max() for pair in pairs))
        row |= _other_values(run, case)
        run.claim(f"{case.name}: output steps from onnxruntime", round(row["output steps"], 3), STEPS)
        run.claim(f"{case.name}: values that are not the integer reference's", row["other values"], 0)
    else:
        row["error"] = max(compare(got, want).worst for got, want in zip(seen.outputs, expected, strict=True))
        run.claim(f"{case.name}: error against onnxruntime", row["error"], TOLERANCE)
    run.add(EXACTNESS, **row)


def _other_values(run: _Run, case: _Case) -> dict[str, int]:
    """Of the integers that the board computes from random ones, how many the program's reference does not; how many there are; and how many
    samples have outputs of their own, as constants would have none."""
    if case.network.name not in run.ends:
        path = run.folder / f"{case.source.stem}_ends.onnx"
        with_integer_ends(case.source, path)
        run.ends[case.network.name] = _compiled(run, case.network, path, case.machine)
    first = run.ends[case.network.name]
    integers = replace(first, machine=case.machine, folder=first.folder / case.machine.name)  # the C is the same for all
    samples = case.network.samples(integers.result.manifest.inputs, INTEGER_SAMPLES)
    seen = integers.probed(samples).outputs
    different = count = 0
    for got, sample in zip(seen, samples, strict=True):
        for name, want in run_program(integers.result.program, sample).items():
            different += int((got[name] != want).sum())
            count += want.size
    own = {b"".join(array.tobytes() for array in got.values()) for got in seen}
    return {"other values": different, "of": count, "samples": len(seen), "distinct": len(own)}


def _memory(run: _Run, case: _Case, seen: Probe | None) -> None:
    plan, network = case.result.manifest.plan, case.network
    assert plan is not None
    sizes, stored = built(case.files, case.machine, case.folder / "build"), parameter_bytes(case.source)
    least = min((one.ram for one in network.published if not one.whole), default=None)
    run.add(
        MEMORY,
        model=network.name,
        target=case.machine.name,
        arena=case.files.arena,
        **{"nothing shared": nothing_shared(plan), "least published": "" if least is None else round(1000 * least)},
        stack=sizes.stack,
        **{"stack seen": "" if seen is None else seen.stack},
        weights=sizes.weights,
        **{"in the file": stored},
        code=sizes.code,
        flash=sizes.weights + sizes.code,
    )
    if network.arena is not None:
        run.claim(f"{case.name}: bytes of arena", case.files.arena, network.arena)
    run.claim(f"{case.name}: bytes of flash beside the tensors of the file", sizes.weights + sizes.code - stored, CODE)
    run.builds += 1
    run.wrong["bytes of writable variables"] += sizes.writable
    run.wrong["names from a C library besides memcpy and memset"] += len(outside(sizes.outside))
    run.wrong["bytes of stack used beyond the longest path"] += 0 if seen is None else max(0, seen.stack - sizes.stack)


def _layers(run: _Run, case: _Case) -> None:
    """The instructions of every step, watched from outside, which costs some thirty each."""
    plan = case.result.manifest.plan
    assert plan is not None
    seen = case.probed(case.network.samples(case.result.manifest.inputs, 1), watch=True)
    counts = [count for _, count in seen.kernels]
    whole, macs = sum(counts), sum(step.macs for step in plan.steps)

    def row(what: str, result: str, work: int, count: int) -> None:
        per = count / work if work else ""
        numbers = {"multiply-accumulates": work, "instructions": count, "share": count / whole, "instructions a multiply-accumulate": per}
        run.add(INSTRUCTIONS, step=what, result=result, **numbers)

    for step, count in zip(plan.steps, counts, strict=True):
        shape = plan.buffer(step.writes[0]).shape
        row(f"{', '.join(step.ops)} ({step.family})", "x".join(map(str, shape)), step.macs, count)
    row("all", "", macs, whole)


if __name__ == "__main__":
    sys.exit(main(measure))
