"""Elementary functions: error bounds, limits and NaN on numbers of all exponents, compiled in vectors through effc's own path."""

import ctypes
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from scipy import special
from tvm import relax, s_tir, te, tirx

from effc.lowering.chip import tvm_target
from effc.lowering.emit import kernels, object_code
from effc.lowering.expansion import VECTOR_MATH, expand, in_local_variables, in_vectors
from effc.lowering.toolchain import link_shared
from effc.runtime.plan import Buffer, Plan, Step
from effc.targets import Target, find_target

Array = np.ndarray[Any, Any]
SMALLEST = 2.0**-126


@dataclass(frozen=True)
class Case:
    """A call, what it means in float64, and its bound in ulp; an absolute bound where cancellation leaves no relative one."""

    build: Callable[[Any], Any]
    reference: Callable[[Array], Array]
    ulp: float
    absolute: float = SMALLEST


def to_the_power(exponent: float) -> Case:
    return Case(lambda x: tirx.pow(x, tirx.const(exponent, "float32")), lambda x: x**exponent, 4.0)


def gelu(x: Any) -> Any:
    return x * (tirx.const(0.5, "float32") + tirx.const(0.5, "float32") * tirx.erf(x * tirx.const(0.5**0.5, "float32")))


def mish(x: Any) -> Any:
    """Three functions of each other, as torch decomposes it; TVM's code generator must not put one into the next."""
    return x * tirx.tanh(tirx.Select(x > tirx.const(20.0, "float32"), x, tirx.log1p(tirx.exp(x))))


CASES = {
    "erf": Case(tirx.erf, special.erf, 2.1),
    "exp": Case(tirx.exp, np.exp, 1.2),
    "expm1": Case(lambda x: tirx.call_pure_extern("float32", "expm1f", x), np.expm1, 1.7),
    "gelu": Case(gelu, lambda x: x * special.ndtr(x), 4.0, 3e-7),
    "log": Case(tirx.log, np.log, 1.2),
    "log1p": Case(tirx.log1p, np.log1p, 1.8),
    "mish": Case(mish, lambda x: x * np.tanh(np.logaddexp(0, x)), 5.0, 2.0**-119),
    "nearest": Case(tirx.nearbyint, np.rint, 0.0),
    "power_-2": to_the_power(-2.0),
    "power_-1/2": Case(to_the_power(-0.5).build, lambda x: 1 / np.sqrt(x), 4.0),  # NaN of -inf, as torch has it
    "power_3/4": to_the_power(0.75),
    "power_5/2": to_the_power(2.5),
    "power_2": to_the_power(2.0),
    "power_7": to_the_power(7.0),
    "rsqrt": Case(tirx.rsqrt, lambda x: 1 / np.sqrt(x), 1.6),
    "sigmoid": Case(tirx.sigmoid, special.expit, 2.5),
    "silu": Case(lambda x: x * tirx.sigmoid(x), lambda x: x * special.expit(x), 3.0, 2.0**-120),
    "tanh": Case(tirx.tanh, np.tanh, 2.9),
    "without_nan": Case(lambda x: tirx.Select(tirx.isnan(x), tirx.const(7.0, "float32"), x), lambda x: np.where(np.isnan(x), 7.0, x), 0.0),
}
ODD = ("erf", "expm1", "log1p", "tanh")


def numbers() -> Array:
    rng = np.random.default_rng(0)
    every_exponent = (2.0 ** np.arange(-126, 128)[:, None] * (1 + rng.random((254, 100)))).ravel()
    bits = (1, 0x7FFFFF, 0x800000, 0x7F800001, 0x7FFFFFFF, 0xFF8001FF, 0xFFFFFFFF)  # around the smallest normal number; NaN
    special_ones = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 88.72283, 88.72284, -87.33654, -87.33655, -103.0, -104.0, -1e30]
    dense = [np.linspace(-20, 20, 40_001), np.linspace(-90, 90, 20_001), rng.uniform(-2, 2, 20_000), 1 + rng.uniform(-0.01, 0.01, 4000)]
    found = np.concatenate([every_exponent, -every_exponent, *dense, special_ones]).astype(np.float32)
    found = np.concatenate([found, np.array(bits, np.uint32).view(np.float32)])
    return np.pad(found, (0, -len(found) % 64), mode="edge")


def vectorised(build: Callable[[Any], Any], size: int, lanes: int, dtype: str = "float32") -> Any:
    """The TIR function y[i] = build(x[i]) in vectors."""
    x = te.placeholder((size,), dtype, name="x")
    y = te.compute((size,), lambda i: build(tirx.Cast(dtype, x[i])), name="y")
    return in_lanes(te.create_prim_func([x, y]), "y", lanes)


def in_lanes(function: Any, block: str, lanes: int) -> Any:
    sch = s_tir.Schedule(function)
    sch.vectorize(sch.split(sch.get_loops(sch.get_sblock(block))[-1], [None, lanes])[1])
    return expand(sch.mod["main"])


def run(functions: Mapping[str, Any], x: Array, target: Target, folder: Path, *, bindings: bool = False) -> dict[str, Array]:
    """Outputs of functions that each read x and write an array like it; asserts that vectors stayed vectors."""
    symbols = {name: f"kernel{index}" for index, name in enumerate(functions)}
    compiled = kernels({symbols[name]: function for name, function in functions.items()})
    compiled = {symbol: replace(kernel, function=in_local_variables(kernel.function)) for symbol, kernel in compiled.items()}
    for name, symbol in symbols.items():
        text = str(compiled[symbol].function)
        assert "T.grid" not in text, f"{name}: TVM made a loop of a vector"
        assert ("T.Let" in text) == bindings
    buffers = [Buffer(name, "input" if name == "x" else "output", x.shape, str(x.dtype), 0, x.nbytes) for name in ("x", *functions)]
    steps = [Step(symbol, "", ("x",), (name,), (), (), 0, 0) for name, symbol in symbols.items()]
    objects = object_code(compiled, Plan("run", tuple(buffers), tuple(steps), 64, 64), tvm_target(target))
    assert not re.search(rb"\0(expf?|erff?|tanhf?|logf?|log1pf?|expm1f?|powf?|nearbyintf?)\0", objects[0])
    library = folder / "mathematics.so"
    library.write_bytes(link_shared(objects, target))
    results = {name: np.empty_like(x) for name in functions}
    arena, status = np.zeros(128, np.uint8), np.ones(1, np.int32)
    arrays = [arena, arena[64:], x, *results.values(), status]
    ctypes.CDLL(str(library)).run(*(ctypes.c_void_p(array.ctypes.data) for array in arrays))
    assert status[0] == 0
    return results


@pytest.fixture(scope="module", params=["cpu", "x86-64-v3"])
def computed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Array, dict[str, Array]]:
    target = find_target(request.param)
    if not target.runs_here:
        pytest.skip(f"{target.name} does not run here")
    x = numbers()
    functions = {name: vectorised(case.build, len(x), target.lanes) for name, case in CASES.items()}
    return x, run(functions, x, target, tmp_path_factory.mktemp("mathematics"))


@pytest.mark.parametrize("name", CASES)
def test_error_and_limits(name: str, computed: tuple[Array, dict[str, Array]]) -> None:
    x, case, result = computed[0], CASES[name], computed[1][name]
    with np.errstate(all="ignore"):
        exact = case.reference(x.astype(np.float64))
        rounded = exact.astype(np.float32)
    np.testing.assert_array_equal(np.isnan(result), np.isnan(exact))
    np.testing.assert_array_equal(result[np.isinf(rounded)], rounded[np.isinf(rounded)])
    finite = np.isfinite(rounded)
    error = np.abs(result[finite] - exact[finite])
    unit = np.spacing(np.abs(rounded[finite])).astype(np.float64)
    allowed = np.maximum(case.ulp * unit, 0.0 if case.ulp == 0 else case.absolute)
    worst = int(np.argmax(error - allowed))
    assert error[worst] <= allowed[worst], f"{name}({x[finite][worst]!r}): {error[worst] / unit[worst]} ulp"


@pytest.mark.parametrize("name", ODD)
def test_sign_of_zero(name: str, computed: tuple[Array, dict[str, Array]]) -> None:
    zeros = computed[0] == 0
    np.testing.assert_array_equal(np.signbit(computed[1][name][zeros]), np.signbit(computed[0][zeros]))


@pytest.mark.parametrize("name", ["erf", "tanh"])
def test_never_beyond_one(name: str, computed: tuple[Array, dict[str, Array]]) -> None:
    x, result = computed[0], computed[1][name]
    assert np.nanmax(np.abs(result)) == 1
    assert (np.abs(result[np.abs(x) >= 10]) == 1).all()


def test_half_precision_is_computed_in_float32(tmp_path: Path) -> None:
    target = find_target("cpu")
    x = np.linspace(-11, 11, 4096).astype(np.float16)
    result = run({"exp": vectorised(tirx.exp, len(x), target.lanes, "float16")}, x, target, tmp_path)["exp"]
    np.testing.assert_array_equal(result, np.exp(x.astype(np.float64)).astype(np.float16))


def test_gelu_by_tanh(tmp_path: Path) -> None:
    target = find_target("cpu")
    x = np.linspace(-12, 12, 4096).astype(np.float32)
    builder = relax.BlockBuilder()
    argument = relax.Var("x", relax.TensorType(x.shape, "float32"))
    with builder.function("main", [argument]):
        builder.emit_func_output(builder.emit(relax.op.nn.gelu_tanh(argument)))
    module = relax.transform.LegalizeOps(VECTOR_MATH)(builder.get())
    function = module["gelu_tanh"].without_attr("global_symbol").with_attr("global_symbol", "main")
    result = run({"gelu": in_lanes(function, "gelu_tanh", target.lanes)}, x, target, tmp_path)["gelu"]
    wide = x.astype(np.float64)
    expected = wide / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)))
    np.testing.assert_allclose(result, expected, rtol=4e-7, atol=1e-7)


def test_a_binding_in_a_branch_stays_there(tmp_path: Path) -> None:
    """What it reads may be there in that branch only."""

    def in_a_branch(x: Any) -> Any:
        return tirx.exp(x) + tirx.if_then_else(x > tirx.const(0.0, "float32"), tirx.exp(tirx.exp(x)), tirx.const(0.0, "float32"))

    x = np.linspace(-2, 2, 64).astype(np.float32)
    result = run({"y": vectorised(in_a_branch, len(x), 1)}, x, find_target("cpu"), tmp_path, bindings=True)["y"]
    wide = np.exp(x.astype(np.float64))
    np.testing.assert_allclose(result, wide + np.where(x > 0, np.exp(wide), 0), rtol=1e-6)


def test_vectors_are_taken_as_they_are() -> None:
    """Kernels written by hand are in vectors from the beginning."""
    x = tirx.Var("x", tvm.ir.PrimType("float32x8"))
    calls = [tirx.erf(x), tirx.exp(x), tirx.log(x), tirx.log1p(x), tirx.pow(x, tirx.const(1.5, "float32x8")), tirx.sigmoid(x), tirx.tanh(x)]
    for call in calls:
        expanded = expand(tirx.PrimFunc([x], tirx.Evaluate(call))).body.value
        assert not isinstance(expanded, tvm.ir.Call)
        assert str(expanded.ty.dtype) == "float32x8"


def test_what_is_left_to_tvm() -> None:
    single, double = (tirx.Var("x", tvm.ir.PrimType(kind)) for kind in ("float32", "float64"))
    assert all(in_vectors(call) for call in (tirx.exp(single), tirx.sqrt(double), tirx.pow(single, tirx.const(1.5, "float32"))))
    left = (tirx.exp(double), tirx.sin(single), tirx.pow(single, tirx.const(1.7, "float32")), tirx.pow(single, single))
    assert not any(in_vectors(call) for call in left)
    function = vectorised(tirx.exp, 64, 16, "float64")
    assert "T.exp" in str(function)
