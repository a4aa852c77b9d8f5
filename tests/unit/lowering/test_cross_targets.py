"""Code for Hexagon, RISC-V with vectors and Arm with dot products: exact under an emulator, with the instructions that it should have."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tvm
import tvm_ffi
from torch import Tensor, nn
from tvm import tirx

from effc.compiler import compile_model
from effc.compiler.crosscheck import CannotEmulateError, build, run_emulated
from effc.compiler.golden import Checks
from effc.compiler.verification import verify_artifact
from effc.errors import AlteredArtifactError, DataError, EffcWarning, MissingDependencyError, UnsupportedModelError, VerificationError
from effc.ir import Program
from effc.lowering import Options, lower
from effc.lowering.chip import tvm_target
from effc.lowering.half_floats import needs_bits, with_bits
from effc.lowering.relax_edit import operator_name
from effc.lowering.toolchain import compiler_for, link_shared
from effc.runtime import load
from effc.runtime.selftest import sources
from effc.targets import Target, find_target
from effc.targets.emulators import emulator_for, emulator_install
from tests.unit.lowering.test_integer_kernels import CASES, Many, integers, program_of, scalar

OPS = torch.ops.effc
HEXAGON = "hexagon-v67"
TARGETS = (HEXAGON, "riscv64-v128", "riscv64-v256", "aarch64-dotprod")
# Which instructions compute the integer products, and how an assembler's listing is asked for.
PRODUCTS = {
    HEXAGON: (r"v\d+\.w \+= vrmpy\(v\d+\.b,v\d+\.b\)", "+hvxv67,+hvx-length128b"),
    "riscv64-v128": (r"\tvwmacc\.v", "+m,+a,+f,+d,+c,+v"),
    "riscv64-v256": (r"\tvwmacc\.v", "+m,+a,+f,+d,+c,+v"),
    "aarch64-dotprod": (r"\tsdot\t", "+dotprod"),
}


def linkable(name: str) -> Target:
    """The target; skips where this machine cannot link for it."""
    target = find_target(name)
    try:
        compiler_for(target, static=True)
    except MissingDependencyError as error:
        pytest.skip(f"no linker for {name}: {error}")
    return target


def emulated(name: str) -> Target:
    """The target; skips where this machine can neither link for it nor emulate it."""
    target = linkable(name)
    if emulator_for(target) is None:
        pytest.skip(emulator_install(target))
    return target


class Small(nn.Module):
    """A convolution, a depthwise one and a product of bytes, whose sums are turned into bytes again; 37 channels fill no vector."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        for name, shape in (("full", (37, 5, 3, 3)), ("each", (37, 1, 3, 3)), ("last", (37 * 30, 11))):
            self.register_buffer(name, integers(torch.int8, *shape))
        for name, size in (("full_scale", 37), ("each_scale", 37), ("last_scale", 11)):
            self.register_buffer(name, torch.rand(size) * 0.02)
        self.register_buffer("scale", scalar(0.1))
        self.register_buffer("zero", scalar(-7, torch.int8))
        self.register_buffer("none", scalar(0, torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        geometry = ([1, 1], [1, 1, 1, 1], [1, 1])
        own = (self.scale, self.zero)
        y = OPS.qlinear_conv(x, *own, self.full, self.full_scale, self.none, *own, None, *geometry, 1)
        y = OPS.qlinear_conv(y, *own, self.each, self.each_scale, self.none, *own, None, *geometry, 37)
        result: Tensor = OPS.qlinear_matmul(y.flatten(1), *own, self.last, self.last_scale, self.none, *own, None)
        return result


def small() -> Program:
    return program_of(Small().eval(), (integers(torch.int8, 1, 5, 5, 6),), ["x"])


def self_tested(program: Program, inputs: dict[str, Tensor], target: Target, expected: Sequence[Tensor] = ()) -> str:
    """What the self-test of a program's code says under the emulator: 0 for integers that are equal bit for bit, or it fails.

    Args:
        expected: the outputs, where they are not what torch computes.
    """
    lowered, checks = lower(program, target), Checks({name: tensor.numpy() for name, tensor in inputs.items()})
    checks.start(program)
    checks.outputs.update((value.name, tensor.numpy()) for value, tensor in zip(program.interface.outputs, expected, strict=False))
    executable = build(program, lowered, checks, target)
    assert executable is not None
    return run_emulated(executable, target).text


@pytest.mark.parametrize("name", TARGETS)
def test_quantised_layers_are_exact(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its C sources compile without a warning, too."""
    strict = [*compiler_for(emulated(name), static=True), "-Werror"]
    monkeypatch.setattr("effc.lowering.toolchain.compiler_for", lambda target, *, static: strict)
    said = self_tested(small(), {"x": integers(torch.int8, 1, 5, 5, 6)}, emulated(name))
    assert "11 elements, error 0 PASS" in said


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_all_sums_are_exact_and_no_large_one_saturates(name: str) -> None:
    """The cases of `test_integer_kernels`: every geometry, zero points at the ends of their ranges, sums of the largest bytes."""
    target, inputs = emulated(name), tuple(case.x for case in CASES)
    names = [f"x{number}" for number in range(len(CASES))]
    said = self_tested(program_of(Many(CASES).eval(), inputs, names), dict(zip(names, inputs, strict=True)), target)
    assert said.count("error 0 ") == len(CASES) and "PASS: largest error 0," in said


@pytest.mark.parametrize("name", TARGETS)
def test_products_of_bytes_are_the_processors_own_instructions(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    objdump = next((tool for tool in ("llvm-objdump", *(f"llvm-objdump-{n}" for n in range(24, 13, -1))) if shutil.which(tool)), None)
    if objdump is None:
        pytest.skip("llvm-objdump is not installed: apt install llvm")
    monkeypatch.setattr("effc.lowering.backends.link_shared", lambda objects, target: b"")  # no linker is needed to look at code
    lowered = lower(small(), find_target(name))
    (tmp_path / "code.o").write_bytes(lowered.objects[0])
    pattern, features = PRODUCTS[name]
    command = [objdump, "-d", f"--mattr={features}", *(["--mcpu=hexagonv67"] if name == HEXAGON else []), str(tmp_path / "code.o")]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    functions = dict(re.findall(r"<(k\d+_[^>]*)>:\n(.*?)(?=\n\n|\Z)", listing, re.DOTALL))
    assert lowered.plan is not None
    kernels = {step.family: functions[step.kernel] for step in lowered.plan.steps}
    assert {family for family, code in kernels.items() if re.search(pattern, code)} == {"integer_conv", "integer_matmul"}


ARITHMETIC = r"""
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
float sqrtf(float), floorf(float), ceilf(float), rintf(float), truncf(float);
double sqrt(double);
long lrintf(float);
static uint32_t state = 12345, hash = 2166136261u;
static uint32_t drawn(void) { return state ^= state << 13, state ^= state >> 17, state ^= state << 5; }
static void seen(const void *bytes, size_t count) {
  for (size_t i = 0; i < count; ++i) hash = (hash ^ ((const uint8_t *)bytes)[i]) * 16777619u;
}
static void single(float x) { if (isnan(x)) seen("nan", 3); else seen(&x, 4); }
static void twofold(double x) { if (isnan(x)) seen("nan", 3); else seen(&x, 8); }
#define WHOLE(type, value) do { type seen_value = (type)(value); seen(&seen_value, sizeof seen_value); } while (0)
static const uint32_t edges[] = {0, 0x80000000u, 1, 0x80000001u, 0x7fffff, 0x800000, 0x3f800000, 0xbf800000u, 0x7f7fffff, 0x7f800000,
  0xff800000u, 0x7fc00000, 0x34000000, 0x4b000000, 0x4b000001, 0x4affffff, 0x3f000000, 0xbf000000u, 0x3fc00000, 0x40200000};
enum { EDGES = sizeof edges / sizeof *edges };
static int puts_failure(void) { return printf("out of memory\n"), 4; }
int main(void) {
  for (uint32_t i = 0; i < 30000; ++i) {
    uint32_t a = i < EDGES * EDGES ? edges[i / EDGES] : drawn(), b = i < EDGES * EDGES ? edges[i % EDGES] : drawn();
    if (i % 7 == 3) a &= 0x007fffff; /* subnormal numbers */
    if (i % 11 == 5) b &= 0x80ffffff;
    volatile float x, y;
    volatile double p, q;
    uint64_t c = (uint64_t)a << 32 | drawn(), d = (uint64_t)b << 32 | drawn();
    if (i % 13 == 1) c &= 0x000fffffffffffff;
    memcpy((void *)&x, &a, 4), memcpy((void *)&y, &b, 4), memcpy((void *)&p, &c, 8), memcpy((void *)&q, &d, 8);
    single(x / y), single(sqrtf(x)), twofold(p / q), twofold(sqrt(p));
    if (!isnan(x)) single(floorf(x)), single(ceilf(x)), single(rintf(x)), single(truncf(x));
    if (fabs(x) < 1e9) WHOLE(int32_t, lrintf(x));
    uint32_t e = b | 1;
    uint64_t f = d >> (i % 60) | 1;
    WHOLE(uint32_t, a / e); WHOLE(uint32_t, a % e); WHOLE(uint64_t, c / f); WHOLE(uint64_t, c % f);
    if (e != 0xffffffffu) { WHOLE(int32_t, (int32_t)a / (int32_t)e); WHOLE(int32_t, (int32_t)a % (int32_t)e); }
    if (f != UINT64_MAX) { WHOLE(int64_t, (int64_t)c / (int64_t)f); WHOLE(int64_t, (int64_t)c % (int64_t)f); }
  }
  printf("%zu\n", (size_t)hash);
  static const double numbers[] = {0, 1, 9.994, 9.996, 999.4, 999.6, 1000, 12345, 0.001, 0.00012345, 0.000012345, 1.6e-7, -2.5, 1e300, 12};
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; ++i) printf("%.3g %d %s\n", numbers[i], -(int)i, "text");
  char *block = aligned_alloc(64, 128), *other = aligned_alloc(64, 64);
  memset(block, 7, 128), memcpy(other, block + 1, 63), memmove(block + 1, block, 100), block[5] = 9;
  memmove(block, block + 3, 100);
  for (int i = 0; i < 128; ++i) fputc('0' + block[i], stderr), printf("%d", block[i]);
  for (int i = 0; i < 3000; ++i) { /* more than there is, were nothing given back */
    void *one = aligned_alloc(64, 1 << 20), *two = aligned_alloc(128, 1 << 20);
    if (!one || !two || (uintptr_t)two % 128) return puts_failure();
    if (i % 2) free(one), free(two);
    else free(two), free(one);
  }
  printf(" %d %d\n", memcmp(other, block, 63) < 0, (int)((uintptr_t)other % 64));
  return 3;
}
"""


def test_hexagons_own_arithmetic_is_that_of_any_other_processor(tmp_path: Path) -> None:
    """Quotients, roots, remainders, rounding, printing and copying: the same text as this machine's compiler and C library give."""
    target = emulated(HEXAGON)
    cc = shutil.which("cc") or pytest.skip("no C compiler")
    (tmp_path / "arithmetic.c").write_text(ARITHMETIC)
    own = [source for source in sources("hexagon") if source.name not in ("selftest.c", "threads.c")]
    for source in own:
        shutil.copy(source, tmp_path)
    files = ["arithmetic.c", *(source.name for source in own if source.suffix == ".c")]
    bare = [*compiler_for(target, static=True), "-std=c11", "-O2", "-ffreestanding", "-static", "-I.", *files, "-o", "hexagon"]
    subprocess.run(bare, cwd=tmp_path, check=True)
    emulator = [str(emulator_for(target)), *target.emulator_flags, "./hexagon"]
    theirs = subprocess.run(emulator, cwd=tmp_path, capture_output=True, text=True, check=False)
    for header in tmp_path.glob("*.h"):
        header.unlink()  # or this machine's compiler takes them, too
    subprocess.run([cc, "-std=c11", "-O1", "-ffp-contract=off", "arithmetic.c", "-o", "here", "-lm"], cwd=tmp_path, check=True)
    ours = subprocess.run(["./here"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (theirs.returncode, theirs.stdout, theirs.stderr) == (3, ours.stdout, ours.stderr)


def test_an_artifact_for_hexagon_is_verified_by_its_self_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = emulated(HEXAGON)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 9), nn.Softmax(1), nn.Linear(9, 3)).eval()
    result = compile_model(model, tmp_path / "out", target=HEXAGON, example_inputs=(torch.randn(2, 7),))
    assert result.emulated is not None and "PASS" in result.emulated.text
    library = (tmp_path / "out" / "model.so").read_bytes()
    assert (library[:4], library[16], int.from_bytes(library[18:20], "little")) == (b"\x7fELF", 3, 164)  # a shared library of Hexagon
    with pytest.raises(DataError, match=r"none\.npz: does not exist"):
        verify_artifact(tmp_path / "out", data=tmp_path / "none.npz")
    np.savez(tmp_path / "some.npz", x=np.zeros((5, 7), np.float32))
    verdict = verify_artifact(tmp_path / "out", data=tmp_path / "some.npz")
    assert verdict.passed and [finding.passed for finding in verdict.findings] == [True, True]
    assert verdict.extent.startswith("the self-test passed on qemu-hexagon -cpu v67 (")
    assert verdict.notes == (
        "model.so itself was not loaded: the self-test is linked from the same object files",
        "the code was not run on the data: this machine cannot; they serve to compare its program with a source: give --source",
    )
    with pytest.raises(DataError, match=r"holds code for hexagon-v67 \(hexagon\).*`effc verify \S+out` runs it under an emulator"):
        load(tmp_path / "out")

    def fails(executable: bytes, target: Target) -> None:
        raise VerificationError("it failed")

    with monkeypatch.context() as patch:
        patch.setattr("effc.compiler.emulated.run_emulated", fails)
        assert not verify_artifact(tmp_path / "out").passed
    monkeypatch.setattr("effc.compiler.crosscheck.emulator_for", lambda target: None)
    with pytest.raises(MissingDependencyError, match="install qemu-hexagon") as caught:
        verify_artifact(tmp_path / "out")
    assert caught.value.exit_code == 6
    damaged = bytearray((tmp_path / "out" / "selftest").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "out" / "selftest").write_bytes(damaged)
    with pytest.raises(AlteredArtifactError):
        verify_artifact(tmp_path / "out")
    assert emulator_for(target) is not None


def test_an_emulator_that_breaks_is_no_failed_self_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asserted = "qemu-riscv64: ../../target/riscv/translate.c:213: decode_save_opc: Assertion `ctx->insn_start != NULL' failed."
    said, code = asserted, -11
    monkeypatch.setattr("effc.compiler.crosscheck.emulator_for", lambda target: "qemu-riscv64")

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[:2] == ["qemu-riscv64", "-cpu"]
        if not said:
            raise subprocess.TimeoutExpired(command, 600)
        return subprocess.CompletedProcess(command, code, "", said)

    monkeypatch.setattr("effc.compiler.crosscheck.subprocess.run", run)
    target = linkable("riscv64-v256")
    model = nn.Linear(3, 2).eval()
    for what, reason in ((asserted, "ended by an assertion of its own"), ("", "did not end within 600 s")):
        said = what
        with pytest.raises(CannotEmulateError, match=reason):
            run_emulated(b"", target)
        with pytest.warns(EffcWarning, match=reason):
            result = compile_model(model, tmp_path / "out", target=target.name, example_inputs=(torch.randn(1, 3),), force=True)
        assert result.emulated is None and any(reason in note and "Copy `selftest` there" in note for note in result.report.notes)
        with pytest.raises(MissingDependencyError, match=reason) as caught:
            verify_artifact(tmp_path / "out")
        assert "install" not in caught.value.message and "selftest on such a machine" in caught.value.message
    said = "Segmentation fault"
    with pytest.raises(VerificationError, match="code -11"):
        run_emulated(b"", find_target("riscv64-v256"))


@pytest.mark.parametrize(
    ("present", "said"), [((), "neither clang nor clang-14 is on the PATH"), (("clang-16",), "clang-16 is on the PATH, but")]
)
def test_without_clang_and_lld_there_is_one_error(
    present: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("effc.lowering.toolchain.shutil.which", lambda name: name if name in present else None)
    monkeypatch.setattr("effc.lowering.toolchain._has_lld", lambda clang: False)
    with pytest.raises(MissingDependencyError, match=f"{said}.*install clang and lld") as caught:
        compile_model("examples/digits.onnx", tmp_path / "out", target=HEXAGON)
    assert caught.value.exit_code == 6 and list(tmp_path.iterdir()) == []


def test_functions_that_no_library_brings_are_named_all_at_once() -> None:
    target = linkable(HEXAGON)

    class Waves(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sin(x) + torch.atan(x)

    with pytest.raises(UnsupportedModelError) as caught:
        lower(program_of(Waves().eval(), (torch.randn(1, 5),), ["x"]), target)
    assert [(problem.where, problem.what) for problem in caught.value.problems] == [("atan", "atan (atanf)"), ("sin", "sin (sinf)")]
    assert caught.value.exit_code == 3


def test_halves_in_tvms_virtual_machine_are_refused() -> None:
    class Sorted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.half().sort()[0].float()

    program = program_of(Sorted().eval(), (torch.randn(1, 5),), ["x"])
    with pytest.raises(UnsupportedModelError, match=r"target riscv64: .* computes in float16, which this processor does not have"):
        lower(program, linkable("riscv64"))


def test_what_needs_tvms_virtual_machine_is_refused_without_an_operating_system() -> None:
    class Sorted(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x.sort()[0], x.cumsum(1)

    with pytest.raises(UnsupportedModelError, match="there is no runtime of TVM") as caught:
        lower(program_of(Sorted().eval(), (torch.randn(1, 5),), ["x"]), find_target(HEXAGON))
    assert len(caught.value.problems) == 2


@pytest.mark.slow
def test_linking_twice_gives_the_same_bytes() -> None:
    target = linkable(HEXAGON)
    lowered = lower(small(), target, options=Options())
    assert link_shared(lowered.objects, target) == lowered.code


@pytest.mark.parametrize("name", ["riscv64", "riscv64-v128", HEXAGON])
def test_every_half_becomes_the_same_number_and_back(name: str) -> None:
    """All 65,536 patterns, and what lies between, on and beside the middle of neighbours, as float16."""
    target, patterns = emulated(name), torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(torch.float16)
    wide = patterns[: 31 << 10].float().abs()
    middle = (wide + torch.cat([wide[1:], wide[-1:] * 2])) / 2
    edges = torch.tensor([65519.99, 65520, 65536, 1e30, torch.inf, torch.nan, 2.0**-25, 2.0**-25 * 1.0001, 1e-30, 0, 2.0**-149])
    numbers = torch.cat([middle, torch.nextafter(middle, edges[9]), torch.nextafter(middle, edges[4]), edges])
    inputs = {"x": patterns[None], "y": torch.cat([numbers, -numbers])[None]}

    class Both(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return x.float() * 2, y.half()

    said = self_tested(program_of(Both().eval(), tuple(inputs.values()), list(inputs)), inputs, target)
    assert said.count("elements, error 0 ") == 2 and "PASS" in said


class Outputs(nn.Module):
    """A function of several outputs."""

    def __init__(self, function: Callable[..., tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.function(*inputs)


HALVES = ["riscv64-v128", pytest.param("riscv64", marks=pytest.mark.slow), HEXAGON]


@pytest.mark.parametrize("name", HALVES)
def test_every_kind_of_number_becomes_the_nearest_half(name: str) -> None:
    """Integers from where float16 and then float32 hold no longer all of them, to where float16 is infinite."""
    ends = [0, 1, 2047, 2048, 2049, 2051, 4098, 4102, 65503, 65504, 65519, 65520, 65521, 65535, 65536, 16777217, 2147483583, 2147483647]
    large = [*ends, 2147483648, (1 << 40) + 1, (1 << 62) + 1, (1 << 63) - 1]
    inputs = {
        "flags": torch.tensor([True, False, True, True, False] * 5),
        "bytes": torch.arange(-128, 128, dtype=torch.int8),
        "unsigned": torch.arange(256, dtype=torch.int32).to(torch.uint8),
        "short": torch.arange(-(1 << 15), 1 << 15, 3, dtype=torch.int32).to(torch.int16),
        "words": torch.tensor([*ends, *(-end for end in ends), -2147483648], dtype=torch.int32),
        "long": torch.tensor([*large, *(-one for one in large), -(1 << 63)], dtype=torch.int64),
    }
    inputs = {key: value[None] for key, value in inputs.items()}
    module = Outputs(lambda *given: tuple(one.half() for one in given))
    said = self_tested(program_of(module.eval(), tuple(inputs.values()), list(inputs)), inputs, emulated(name))
    assert said.count("elements, error 0 ") == len(inputs) and "PASS" in said


@pytest.mark.parametrize("name", HALVES)
def test_a_double_is_rounded_to_half_once(name: str) -> None:
    """The middle of neighbours and what float32 does not tell from it, expected as numpy has it: torch rounds to float32 first.

    What 1 is divided by tells one zero from the other.
    """
    wide = torch.arange(0, 31 << 10, 9, dtype=torch.int16).view(torch.float16).double()
    after = torch.arange(1, (31 << 10) + 1, 9, dtype=torch.int16).view(torch.float16).double().clamp(max=65536)
    middle, infinity, zero = (wide + after) / 2, torch.tensor(torch.inf).double(), torch.tensor(0.0).double()
    near = [torch.nextafter(middle, infinity), torch.nextafter(middle, zero), middle * (1 + 2.0**-25), middle * (1 - 2.0**-25)]
    edges = [0, 5e-324, 2.0**-149, 2.0**-126 * 1.1, 1e-320, 1e-40, 2.0**-25, 2.0**-24, 65504, 65520 - 2.0**-37, 65520, 65536, 3.5e38, 1e300]
    edges += [torch.inf, torch.nan, 1 + 2.0**-11 + 2.0**-40, 1 + 3 * 2.0**-11 - 2.0**-40, 2.0**-25 + 2.0**-70]
    numbers = torch.cat([wide, middle, *near, torch.tensor(edges, dtype=torch.float64)])
    x = torch.cat([numbers, -numbers])[None]
    with np.errstate(over="ignore"):
        halves = torch.from_numpy(x.numpy().astype(np.float16))
    assert not torch.equal(halves.nan_to_num(), x.half().nan_to_num())  # or these numbers are too easy
    module = Outputs(lambda x: (x.half(), 1 / x.half().float()))
    said = self_tested(program_of(module.eval(), (x,), ["x"]), {"x": x}, emulated(name), (halves, 1 / halves.float()))
    assert said.count("elements, error 0 ") == 2 and "PASS" in said


@pytest.mark.parametrize("name", HALVES)
def test_halves_are_added_compared_and_chosen_exactly(name: str) -> None:
    """Each operation rounds to float16, as torch does, whose NaN and signs of zero (what 1 is divided by) are the same, too."""
    patterns = torch.arange(-(1 << 15), 1 << 15, 37, dtype=torch.int32).to(torch.int16).view(torch.float16)
    finite = patterns[patterns.isfinite()]
    torch.manual_seed(3)
    inputs = {"x": patterns[None], "y": patterns[torch.randperm(len(patterns))][None], "z": finite[None]}

    def computed(x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, ...]:
        chain = ((z * 0.375 + 3) * z - 0.25) / (z.abs() + 0.75)
        compared = (x < y, x >= y, x == y, z != 0, x.isnan(), x.bool())
        return (x + y, x - y, x * y, x / y, 1 / (-x).float(), x.abs().sqrt(), z.floor(), z.clamp(-2.3, 700), chain, x.double(), *compared)

    def chosen(x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, ...]:
        return (*computed(x, y, z), torch.where(x > y, x, y * 2), torch.maximum(z, z.flip(1)), (x > 0).half() + x)

    said = self_tested(program_of(Outputs(chosen).eval(), tuple(inputs.values()), list(inputs)), inputs, emulated(name))
    assert said.count("elements, error 0 ") == 19 and "PASS" in said


@pytest.mark.parametrize("name", ["riscv64", HEXAGON])
def test_halves_become_integers(name: str) -> None:
    """Not for a RISC-V with vectors: their conversion of float32 to integers ends QEMU 8 by an assertion of its own."""
    x = torch.cat([torch.arange(-128, 128) * 0.99, torch.tensor([-0.0, 2.0**-24, 0.9995, -0.9995])]).half()[None]
    inputs = {"x": x, "y": x.abs(), "z": (x * 500)}
    module = Outputs(lambda x, y, z: (x.to(torch.int8), y.to(torch.uint8), z.to(torch.int32), z.to(torch.int64)))
    said = self_tested(program_of(module.eval(), tuple(inputs.values()), list(inputs)), inputs, emulated(name))
    assert said.count("elements, error 0 ") == 4 and "PASS" in said


def test_halves_are_only_moved_and_what_has_no_exact_code_is_refused() -> None:
    buffer, pointer = tirx.decl_buffer((8,), "float16", name="x"), tirx.Var("p", tvm.ir.PointerType(tvm.ir.PrimType("float16"), "global"))

    def rewritten(value: Any) -> Any:
        body = tirx.SeqStmt([tirx.DeclBuffer(buffer, data=pointer), tirx.BufferStore(buffer, value, [tirx.IntImm("int32", 1)])])
        return with_bits(tirx.PrimFunc([pointer], body).with_attr("global_symbol", "k0_next"))

    half, moves = tirx.BufferLoad(buffer, [tirx.IntImm("int32", 0)]), {"TensorLoad", "Var", "Select", "tirx.reinterpret"}
    chosen = tirx.Select(half < half * half, tirx.exp(half), half + tirx.FloatImm("float16", 0.1))
    found: list[Any] = []
    body = rewritten(tirx.Max(chosen, tirx.Cast("float16", tirx.IntImm("int32", 3)))).body
    tvm_ffi.structural_walk(body, ((tvm.ir.Expr, found.append),))
    assert {operator_name(one) or type(one).__name__ for one in found if str(getattr(one.ty, "dtype", "")) == "float16"} == moves
    eighth = tirx.Cast("float16", tirx.Cast("float8_e4m3fn", half))
    with pytest.raises(UnsupportedModelError, match=r"k0_next: tirx\.nextafter of float16: there is no exact code") as caught:
        rewritten(tirx.nextafter(half, half) + eighth)
    assert len(caught.value.problems) == 3 and caught.value.exit_code == 3


@pytest.mark.parametrize(("name", "needs"), [("riscv64-v128", True), (HEXAGON, True), ("aarch64-dotprod", False), ("x86-64-v3", False)])
def test_only_processors_without_float16_need_its_bits(name: str, needs: bool) -> None:
    assert needs_bits(tvm_target(find_target(name))) == needs
