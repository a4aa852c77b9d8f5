"""A package's library computes parts of a program: the example of tests/example_target, and what foreign code may do wrong."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.compiler import compile_model
from effc.compiler.blaming import foreign_steps
from effc.errors import EffcError, ForeignCodeError, MissingDependencyError
from effc.lowering import Lowered, lower, run_lowered
from effc.lowering.elf import dynamic_symbols
from effc.lowering.toolchain import compiler_for
from effc.runtime import load
from effc.targets import find_target
from tests.unit.lowering.foreign_targets import TARGET, program_of, steps_of
from tests.unit.targets.extension_packages import Install

# Takes every ReLU; {code} is what the function of the code generator does.
HOOKS = """
from effc.lowering.extensions import ExternalCode, Hooks
def patterns(target):
    from tvm.relax.dpl import is_op, wildcard
    return [("test.relu", is_op("relax.nn.relu")(wildcard()))]
def codegen(composites, target):
    symbols = [one.symbol for one in composites]
    {code}
HOOKS = Hooks(patterns=patterns, codegen=codegen)
"""


def relu_extension(install: Install, code: str, name: str = "acme", base: str = "cpu") -> str:
    """A target whose library computes ReLU."""
    install(name, TARGET.format(name=name, base=base, runs=base == "cpu") + HOOKS.format(code=code))
    return name


class Convolutions(nn.Module):
    """What the toy library takes, and what it must not: a residual is no bias, groups and dilation are not its."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=(1, 0))
        self.same = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.like = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2)
        self.dilated = nn.Conv2d(8, 4, (2, 1), dilation=2)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.first(x))
        x = self.like(self.same(x)) + x
        return self.dilated(functional.relu(self.grouped(x)))


def test_the_library_computes_what_it_takes_and_effc_the_rest(toy: str) -> None:
    torch.manual_seed(0)
    net, x = Convolutions(), torch.randn(1, 3, 11, 9)
    program = program_of(net, x)
    lowered, own = (lower(program, find_target(name)) for name in (toy, "cpu"))
    assert lowered.plan is not None and own.plan is not None
    taken = steps_of(lowered, "toy-npu")
    assert [step.ops for step in taken] == [("convolution", "relu"), ("convolution",), ("convolution",)]
    assert [step.sources for step in taken] == [("first", "relu"), ("same",), ("like",)]
    assert [step.macs for step in taken] == [6 * 4 * 8 * 27, 6 * 4 * 8 * 72, 6 * 4 * 8 * 72]
    assert sum(step.macs for step in lowered.plan.steps) == sum(step.macs for step in own.plan.steps)
    assert [step.kernel for step in taken] == ["effc_toy_npu_0", "effc_toy_npu_1", "effc_toy_npu_1"]  # two of one kind, one function
    assert [step.note for step in taken][:2] == ["toy_conv2d, 3x3 on 11x9, relu", "toy_conv2d, 3x3 on 6x4"]
    assert lowered.notes == (
        f"toy-npu (effc-toy-npu 0.1) computes 3 of {len(lowered.plan.steps)} steps, {_share(lowered):.1%} of the multiply-accumulates",
    )
    (got,) = run_lowered(lowered, program, {"x": x.numpy()}).values()
    np.testing.assert_allclose(got, net(x).detach().numpy(), rtol=0, atol=1e-5)


def _share(lowered: Lowered) -> float:
    assert lowered.plan is not None
    return sum(step.macs for step in steps_of(lowered, "toy-npu")) / sum(step.macs for step in lowered.plan.steps)


def test_an_artifact_counts_its_calls_names_its_maker_and_needs_no_package(install: Install, tmp_path: Path) -> None:
    install("toy-npu", value="effc_toy_npu:EXTENSION", package="effc-toy-npu", version="0.1")
    results = [
        compile_model("examples/digits.onnx", tmp_path / name, passes="fold-batch-norm", target="toy-npu") for name in ("out", "again")
    ]
    assert results[0].manifest.digest == results[1].manifest.digest
    assert results[0].trial is not None and results[0].trial.verification.worst < 1e-5
    own = {"name": "toy-npu", "package": "effc-toy-npu", "version": "0.1"}
    assert results[0].manifest.data["target"]["extension"] == own
    assert 'target-package = "effc-toy-npu 0.1"' in (tmp_path / "out" / "config.toml").read_text()
    shutil.rmtree(tmp_path / "site" / "effc_toy_npu-0.1.dist-info")
    with pytest.raises(EffcError, match="no target 'toy-npu'"):
        find_target("toy-npu")
    plan = results[0].manifest.plan
    assert plan is not None
    assert foreign_steps(plan, "toy-npu") == {index: one.described for index, one in enumerate(plan.steps) if one.external}
    assert len(foreign_steps(plan, "toy-npu")) == 3
    assert foreign_steps(plan, "") == {}
    session = load(tmp_path / "out")
    calls = ctypes.c_int64.in_dll(ctypes.CDLL(str(tmp_path / "out" / "model.so")), "toy_npu_calls")
    before = calls.value
    session.run({"image": np.zeros((2, 1, 8, 8), np.float32)})
    assert calls.value - before == 2 * 3  # two samples, three convolutions


def test_programs_that_it_has_no_part_in_say_so(toy: str) -> None:
    x = torch.randn(2, 5)
    assert lower(program_of(nn.Linear(5, 3), x), find_target(toy)).notes == (
        "toy-npu (effc-toy-npu 0.1) computes nothing: no part of the program matched its patterns",
    )

    class Best(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(2, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.topk(self.first(x).flatten(1), 3).values

    net, x = Best(), torch.randn(1, 2, 5, 5)
    program = program_of(net, x)
    lowered = lower(program, find_target(toy))
    assert lowered.plan is None
    assert lowered.notes[-1] == "toy-npu (effc-toy-npu 0.1) computes nothing: its code is called from a plan"
    (got,) = run_lowered(lowered, program, {"x": x.numpy()}).values()
    np.testing.assert_allclose(got, net(x).detach().numpy(), rtol=0, atol=1e-5)


def test_a_step_whose_function_fails_is_named(install: Install) -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.softmax(functional.relu(torch.sin(x)), 0)

    body = "for (int i = 0; i < 3; ++i) y[i] = x[i] > 0 ? x[i] : 0; return x[0] > 0.5f ? 7 : 0;"
    relu_extension(install, f"return ExternalCode({{'a.c': 'int effc_acme_0(const float *x, float *y) {{ {body} }}'}})")
    x = torch.tensor([0.3, -1.0, 2.0])
    program = program_of(Net(), x)
    lowered = lower(program, find_target("acme"))
    (got,) = run_lowered(lowered, program, {"x": x.numpy()}).values()
    np.testing.assert_allclose(got, Net()(x).numpy(), rtol=0, atol=1e-6)
    said = r"step 1 \(relu; acme\) reported a failure: its function is of the extension acme, not of effc"  # the sine is step 0
    with pytest.raises(ForeignCodeError, match=said):
        run_lowered(lowered, program, {"x": x.numpy() + 1})


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise KeyError('x')", r"its codegen\(\) raises KeyError: 'x', at /.*/extension_of_a_test_\d+.py:12; --debug shows the traceback"),
        ("return {}", r"its codegen\(\) gives a dict, no ExternalCode"),
        ("return ExternalCode({'../a.c': ''})", "(?s)no code that can be built.*'../a.c': is no plain file name"),
        ("return ExternalCode({'a.c': b''})", "(?s)no code that can be built.*'a.c': holds a bytes"),
        ("return ExternalCode()", "nothing: is to be compiled"),
        ("return ExternalCode({'a.c': 'int x = ;'})", "(?s)a.c of its code does not compile: .* a.c.*expected expression"),
        (
            "return ExternalCode({'a.c': 'int other(void) { return 0; }'})",
            "pattern test.relu: effc_acme_0: is not defined, or hidden; "
            r"define int32_t effc_acme_0\(const float \*in0, float \*out0\)",
        ),
        (
            "return ExternalCode({'a.c': 'int lost(void); int effc_acme_0(void *x, void *y) { return lost(); }'})",
            "(?s)its code does not link: .*lost",
        ),
        (
            "return ExternalCode({'a.c': '__attribute__((visibility(\"hidden\"))) int effc_acme_0(void *x, void *y) { return 0; }'})",
            "(?s)lacks functions that it was asked for.*effc_acme_0: is not defined, or hidden",
        ),
        ("return ExternalCode(objects=(b'no object',))", "objects: 0: is neither ELF nor an archive: it begins with b'no objec'; give the"),
        ("return ExternalCode(objects=(open('/proc/self/exe', 'rb').read(),))", "objects: 0: is a (shared library|program); give the"),
        ("return ExternalCode(objects=(b'!<thin>' + bytes([10]),))", "objects: 0: is a thin archive"),
        ("return ExternalCode(['a.c'], notes=3, flags='-O3')", "(?s)sources: a list: .*notes: a int: is of the wrong type.*flags: a str: "),
    ],
)
def test_code_that_is_wrong_is_one_error_of_its_package(install: Install, code: str, said: str) -> None:
    relu_extension(install, code)
    with pytest.raises(MissingDependencyError, match=said) as caught:
        lower(program_of(nn.ReLU(), torch.randn(3)), find_target("acme"))
    assert str(caught.value).startswith("package acme 1.0, which adds target acme: ")


WRONG = """return ExternalCode({'a.c': ''.join(
        'int %s(const float *x, float *y) { y[0] = x[0] + 1; return 0; }\\n' % symbol for symbol in symbols)})"""


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        ("return ExternalCode({'a.c': 'int x = ;'})", MissingDependencyError, "does not compile"),
        (WRONG, ForeignCodeError, "the compiled code differs from the program .* where that passes, the code of acme 1.0 is wrong"),
        (
            "return ExternalCode({'a.c': ''.join('int %s(void *x, void *y) { return 7; }' % one for one in symbols)})",
            ForeignCodeError,
            r"package acme 1.0, which adds target acme: step 1 \(node_relu; acme\) reported a failure",
        ),
    ],
)
def test_where_the_code_is_wrong_nothing_is_written(install: Install, tmp_path: Path, code: str, kind: type[EffcError], said: str) -> None:
    relu_extension(install, code)
    with pytest.raises(kind, match=said) as caught:
        compile_model("examples/digits.onnx", tmp_path / "out", target="acme", check_import=False)
    if code == WRONG:  # either may be at fault: the steps are named that effc did not compute
        assert [one.where for one in caught.value.problems] == ["output logits", "step 1", "step 3", "step 5"]
        assert caught.value.problems[1].what == "node_relu; acme"
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


@pytest.mark.parametrize(
    ("hooks", "said"),
    [
        ("1 / 0", "importing its hooks, .*:HOOKS, raises ZeroDivisionError"),
        ("", "importing its hooks, .*:HOOKS, raises AttributeError"),
        ("HOOKS = 3", ":HOOKS is a int, no effc.lowering.extensions.Hooks"),
        ("HOOKS = Hooks(patterns=lambda target: [])", "has patterns or codegen without the other"),
        ("HOOKS = Hooks(patterns=lambda target: 1 / 0, codegen=print)", r"its patterns\(\) raises ZeroDivisionError: .*acme_hooks.py:2; "),
        ("HOOKS = Hooks(patterns=lambda target: None, codegen=print)", "its patterns: a NoneType: is no sequence"),
        (
            "HOOKS = Hooks(patterns=lambda target: [3, ('a',)], codegen=print)",
            "pattern 0: a int: is no .*pattern 1: a tuple of 1: is no ",
        ),
        (
            "HOOKS = Hooks(patterns=lambda target: [('a', 'b', 3, 4)], codegen=print)",
            r"pattern 0 \(a\): its second part is a str: .*its annotations: must be.*its check is a int: must be a function",
        ),
        (
            "from tvm.relax.dpl import is_op, wildcard\ndef check(context):\n    return context.annotated_expr['none']\n"
            "one = is_op('relax.nn.relu')(wildcard())\nHOOKS = Hooks(patterns=lambda target: [('a.relu', one, {}, check)], codegen=print)",
            "its check of pattern a.relu raises KeyError: .*acme_hooks.py:4; --debug",
        ),
        ("HOOKS = Hooks(rules=(lambda fused, fixed, target: 3,))", "its rule <lambda> gives a int, no Implementation"),
        ("HOOKS = Hooks(rules=(lambda fused, fixed, target: fused.nothing,))", "its rule <lambda> raises AttributeError"),
    ],
)
def test_hooks_that_are_wrong_are_an_error_of_their_package(install: Install, tmp_path: Path, hooks: str, said: str) -> None:
    (tmp_path / "site" / "acme_hooks.py").write_text(f"from effc.lowering.extensions import Hooks\n{hooks}\n")
    install("acme", TARGET.format(name="acme", base="cpu", runs=True).replace('__name__ + ":HOOKS"', '"acme_hooks:HOOKS"'))
    x = torch.randn(2, 5)
    with pytest.raises(MissingDependencyError, match=f"(?s)package acme 1.0, which adds target acme: .*{said}"):
        lower(program_of(nn.Sequential(nn.Linear(5, 3), nn.ReLU()), x), find_target("acme"))


def test_rules_of_a_package_are_asked_first_and_their_steps_are_its(install: Install) -> None:
    hooks = """
def products(fused, fixed, target):
    from effc.lowering.kernels import matmul
    return matmul.product(fused, fixed, target)
from effc.lowering.extensions import Hooks
HOOKS = Hooks(rules=(products,))
"""
    install("acme", TARGET.format(name="acme", base="cpu", runs=True) + hooks)
    x = torch.randn(2, 5)
    net = nn.Sequential(nn.Linear(5, 3), nn.Softmax(-1))
    program = program_of(net, x)
    lowered = lower(program, find_target("acme"))
    (step,) = steps_of(lowered, "acme")
    assert step.ops == ("addmm",) and step.note.startswith("matmul; ") and step.macs == 30
    (got,) = run_lowered(lowered, program, {program.interface.inputs[0].name: x.numpy()}).values()
    np.testing.assert_allclose(got, net(x).detach().numpy(), rtol=0, atol=1e-6)


def test_patterns_for_sources_are_refused_by_name(install: Install) -> None:
    relu_extension(install, "return None", base="cortex-m4")
    with pytest.raises(MissingDependencyError, match="need a plan that calls C functions, of family cpu, but the target is of family c99"):
        lower(program_of(nn.ReLU(), torch.randn(3)), find_target("acme"))


def test_the_self_test_of_another_machine_holds_the_library(install: Install, tmp_path: Path) -> None:
    if not shutil.which("riscv64-linux-gnu-gcc") or not (shutil.which("qemu-riscv64") or shutil.which("qemu-riscv64-static")):
        pytest.skip("riscv64-linux-gnu-gcc and qemu-user are not both installed")
    install("toy-riscv", TARGET.format(name="toy-riscv", base="riscv64", runs=False).replace('__name__ + ":', '"effc_toy_npu.hooks" + ":'))
    result = compile_model("examples/digits.onnx", tmp_path / "out", passes="fold-batch-norm", target="toy-riscv", check_import=False)
    assert result.emulated is not None and "PASS" in result.emulated.text
    code = (tmp_path / "out" / "model.so").read_bytes()
    assert {"effc_run", "effc_toy_riscv_0", "toy_conv2d"} <= dynamic_symbols(code)
    assert result.manifest.plan is not None
    assert sum(step.family == "toy-riscv" for step in result.manifest.plan.steps) == 3


def test_defined_symbols_of_a_library(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no ELF"):
        dynamic_symbols(b"")
    (tmp_path / "a.c").write_text(
        'int here(void) { return 1; } extern int there(void); __attribute__((visibility("hidden"))) int kept(void) { return there(); }'
        "static int own = 3; int *given(void) { return &own; } int number = 4;"
    )
    command = [*compiler_for(find_target("cpu"), static=False), "-shared", "-fPIC", "a.c", "-o", "a.so"]
    subprocess.run(command, cwd=tmp_path, check=True)
    found = dynamic_symbols((tmp_path / "a.so").read_bytes())
    assert {"here", "given", "number"} <= found
    assert not found & {"there", "kept", "own"}
