"""Networks on Hexagon with HVX, RISC-V with vectors and Arm with dot products: exactness under QEMU, size, and what dot products save.

Every network is compiled as a user would, which builds a program with golden vectors and runs it under the target's emulator; exit code 0
says that it passed.

    error         of the outputs against the program in torch, of the largest magnitude
    wrong tensors int8: tensors that are not, bit for bit, what the program's integer reference computes, in a run of eight samples of
                  random integers. For this the networks' float ends are cut off, once with the last layer's integers as output, as the
                  network is fused, and once with those of every layer. `of`: how many there are; `values`: how many integers in them
    code          bytes of the shared library (stripped; weights are apart)
    instructions  of one inference, int8: QEMU's count (for Hexagon of packets, which hold up to four), not cycles; `plain` is the trivial
                  baseline: the same kernels and vectors without the processor's own products, in the compiler's words

A network that does not compile, or fails, misses every claim that it would have been held to. What is not installed is skipped, with a
reason. No such processor was at hand: nothing here is a time.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.embedded_networks import NETWORKS, Network, with_integer_ends
from benchmarks.harness import Claim, Options, Outcome, main
from effc.compiler import CompileResult, compile_model
from effc.errors import MissingDependencyError, VerificationError
from effc.lowering import Lowered, lower
from effc.lowering.toolchain import compiler_for, emulator_for, link_static
from effc.runtime import open_artifact
from effc.runtime.selftest import BLOB, HEADER, self_test, sources
from effc.runtime.verify import TOLERANCE
from effc.targets import Target, find_target

__all__ = ["EXACTNESS", "INSTRUCTIONS", "TARGETS", "Measured", "largest_error", "measure", "tensors"]

TARGETS = ("hexagon-v67", "riscv64-v128", "riscv64-v256", "aarch64-dotprod")
EXACTNESS, INSTRUCTIONS = "Exactness under QEMU, and size", "Instructions of one inference, int8"
NAMES = ("digits", "ResNet-8 float", "ResNet-8 int8", "keywords int8")  # visual wake words takes QEMU ten minutes a target
QUICK_NETWORKS, QUICK_TARGETS = ("digits", "keywords int8"), ("hexagon-v67", "riscv64-v256")
SAMPLES = 8  # of integers, in one call
PLAIN = "vmacc"  # multiplies lanes of 32 bits, which is no product of narrow integers
FEWER = 1.25  # times the instructions of plain products, at least: a bar against products that gain nothing, no aim


@dataclass
class Measured:
    """What a network on a target is held to. Nothing measured is missed.

    Attributes:
        network, target: whose.
        count: whether instructions are counted.
        error: the largest of the outputs.
        wrong: tensors of integers that are not the reference's.
        ratio: instructions with plain products by those with the processor's own.
    """

    network: Network
    target: str
    count: bool
    error: float = math.inf
    wrong: float = math.inf
    ratio: float = 0.0

    @property
    def claims(self) -> list[Claim]:
        whose = f"{self.network.name}, {self.target}"
        found = [Claim(f"{whose}: error", self.error, TOLERANCE, "at most")]
        if self.network.integers:
            found.append(Claim(f"{whose}: tensors of integers that are not the reference's", self.wrong, 0, "at most"))
            if self.count:
                found.append(Claim(f"{whose}: instructions of plain products by those of its own", self.ratio, FEWER, "at least"))
        return found


def measure(options: Options) -> Outcome:
    """Four networks on all targets; quick: two small ones on two, without counting."""
    outcome, codes, passed = Outcome(), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for name in QUICK_TARGETS if options.quick else TARGETS:
            target = find_target(name)
            if why := _missing(target):
                outcome.skip(name, why)
                continue
            for network in NETWORKS:
                path = network.path()
                if network.name not in (QUICK_NETWORKS if options.quick else NAMES):
                    continue
                if path is None:
                    outcome.skip(network.name, f"$EFFC_DATA/{network.file} is missing")
                    continue
                codes += 1
                found = Measured(network, name, count=not options.quick)
                try:
                    _network(outcome, network, path, target, Path(folder) / name / path.stem, found)
                    passed += 1
                except Exception as error:  # noqa: BLE001 - a network that fails is a missed claim, and the others are still measured
                    outcome.rows.append({"model": network.name, "failed": f"{name}: {type(error).__name__}: {str(error)[:400]}"})
                outcome.claims += found.claims
    if codes:
        outcome.claims.append(Claim(f"self-tests under QEMU that did not end with 0, of {codes} networks", codes - passed, 0, "at most"))
    return outcome


def _missing(target: Target) -> str:
    """Which tool this machine lacks; empty where it has all."""
    try:
        compiler_for(target, static=True)
    except MissingDependencyError as error:
        return str(error)
    return "" if emulator_for(target) else f"{target.emulator} is not installed"


def _network(outcome: Outcome, network: Network, path: Path, target: Target, folder: Path, found: Measured) -> None:
    """Raises whatever keeps a self-test from passing; `found` then holds what was measured until there."""
    folder.mkdir(parents=True)
    result, said = _compiled(path, folder / "out", target, 1)
    found.error = largest_error(said)
    result = _passed(result, said)
    code = (folder / "out" / "model.so").stat().st_size
    row: dict[str, Any] = {"table": EXACTNESS, "model": network.name, "target": target.name, "error": found.error, "code": code}
    if network.integers:
        parts = []
        for name, inside in (("ends", False), ("inside", True)):
            with_integer_ends(path, folder / f"{name}.onnx", inside=inside)
            parts.append(_compiled(folder / f"{name}.onnx", folder / name, target, SAMPLES))
        compared = [one for _, text in parts for one in tensors(text)]
        found.wrong = sum(error != 0 for _, error in compared)
        for part in parts:
            _passed(*part)
        row |= {"wrong tensors": found.wrong, "of": len(compared), "values": sum(values for values, _ in compared)}
    outcome.rows.append(row)
    if network.integers and found.count:
        found.ratio = _instructions(outcome, network, target, result, folder)


def _compiled(path: Path, out: Path, target: Target, batch: int) -> tuple[CompileResult | None, str]:
    """The compile and what its self-test printed; no compile where that failed."""
    try:
        result = compile_model(path, out, target=target.name, batch=batch)
    except VerificationError as error:
        return None, str(error)
    return result, "" if result.emulated is None else result.emulated.text


def _passed(result: CompileResult | None, said: str) -> CompileResult:
    """Raises RuntimeError with what the self-test printed where it did not pass."""
    if result is None or "PASS: largest error" not in said:
        raise RuntimeError(said or "the self-test did not run")
    return result


def largest_error(said: str) -> float:
    """Of what a self-test printed, whether it passed or not; infinity where it printed none."""
    found = re.search(r"(?:PASS|FAIL): largest error ([^\s,]+),", said)
    return float(found[1]) if found else math.inf


def tensors(said: str) -> list[tuple[int, float]]:
    """(elements, error) of every output in what a self-test printed, whether it passed or not. Raises RuntimeError where there is none."""
    found = [(int(elements), float(error)) for elements, error in re.findall(r": (\d+) elements, error ([^\s,]+)", said)]
    if not found:
        raise RuntimeError(said or "the self-test did not run")
    return found


def _instructions(outcome: Outcome, network: Network, target: Target, result: CompileResult, folder: Path) -> float:
    """The row of both counts; plain by own."""

    def counted(lowered: Lowered) -> int:
        once, twice = (_executed(lowered, target, folder, calls) for calls in (1, 2))
        return twice - once

    own = counted(lower(result.program, target))
    plain = counted(lower(result.program, replace(target, dots=tuple(dot for dot in target.dots if dot == PLAIN))))
    row: dict[str, Any] = {"table": INSTRUCTIONS, "model": network.name, "target": target.name}
    outcome.rows.append(row | {"instructions": own, "plain": plain, "plain / own": plain / own})
    return plain / own


def _executed(lowered: Lowered, target: Target, folder: Path, calls: int) -> int:
    """Instructions of the self-test that calls the model so often on the same input: all but the calls stays the same."""
    assert lowered.plan is not None
    inputs, expected = open_artifact(folder / "out").golden()
    first = [{name: array[:1] for name, array in arrays.items()} for arrays in (inputs, expected)]
    described = self_test(lowered.plan, lowered.parameters, *first)
    (call,) = re.findall(rf"\(({lowered.plan.entry}\(.*\)), effc_status\)", described.header)
    header = described.header.replace(f"({call}, effc_status)", f"({', '.join([call] * calls)}, effc_status)")
    own = sources("" if target.hosted else target.architecture)
    program = folder / f"called{calls}"
    program.write_bytes(link_static(lowered.objects, own, {HEADER: header, BLOB: described.blob}, target))
    program.chmod(0o755)
    emulator = str(emulator_for(target))
    offered = subprocess.run([emulator, "--help"], capture_output=True, text=True, check=False).stdout
    single = "-one-insn-per-tb" if "-one-insn-per-tb" in offered else "-singlestep"
    command = [emulator, *target.emulator_flags, single, "-d", "exec,nochain", str(program)]
    environment, count, end = {**os.environ, "EFFC_THREADS": "1"}, 0, b""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stderr is not None
        while part := process.stderr.read(1 << 20):
            count += (end + part).count(b"Trace ")
            end = part[-5:]  # a word that two parts share
    if process.returncode != 0 or not count:
        raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}, {count} instructions counted")
    return count


if __name__ == "__main__":
    sys.exit(main(measure))
