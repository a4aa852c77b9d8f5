"""Schedules change speed, never results: what no hand-written kernel takes, scheduled and as plain loops, on shapes at the edges."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import te, topi

from effc.lowering.kernels import implement
from effc.targets import Target, find_target

TARGET = tvm.target.Target({"kind": "llvm", "mcpu": str(tvm.get_global_func("target.llvm_get_system_cpu")())})


def function(build: Callable[..., Any], *shapes: Sequence[int], dtype: str = "float32") -> Any:
    """The TIR function of a topi expression over inputs of these shapes."""
    inputs = [te.placeholder(shape, dtype, name=f"x{index}") for index, shape in enumerate(shapes)]
    result = build(*inputs)
    return te.create_prim_func([*inputs, *(result if isinstance(result, (list, tuple)) else [result])])


def arrays(prim: Any) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    made = []
    for buffer in prim.params:
        shape, dtype = [int(size) for size in buffer.shape], str(buffer.dtype)
        made.append(rng.standard_normal(shape).astype(dtype) if dtype.startswith("float") else rng.integers(-100, 100, shape).astype(dtype))
    return made


def run(prim: Any, inputs: list[np.ndarray]) -> list[np.ndarray]:
    tensors = [tvm.runtime.tensor(value) for value in inputs]
    tvm.compile(tvm.IRModule({"main": prim.with_attr("global_symbol", "main")}), target=TARGET)["main"](*tensors)
    return [tensor.numpy() for tensor in tensors]


def check(prim: Any, family: str | None = None, target: Target | None = None) -> Any:
    """Run a function with and without its schedule; returns the scheduled one."""
    implementation = implement(prim, [False] * len(prim.params), target or find_target("cpu"))
    scheduled = implementation.function
    assert implementation.family == (family or implementation.family)
    inputs = arrays(prim)
    for value, expected in zip(run(scheduled, inputs), run(prim, inputs), strict=True):
        if expected.dtype.kind == "f":
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
        else:
            np.testing.assert_array_equal(value, expected)
    return scheduled


@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "pad"), [((2, 3, 9, 11), 3, 2, 1), ((1, 17, 16, 16), 2, 2, 0), ((1, 8, 64, 64), 3, 1, 1)]
)
def test_pooling(kind: str, shape: tuple[int, ...], kernel: int, stride: int, pad: int) -> None:
    def build(x: Any) -> Any:
        return topi.nn.pool2d(x, [kernel] * 2, [stride] * 2, [1, 1], [pad] * 4, kind, count_include_pad=False)

    check(function(build, shape))


@pytest.mark.parametrize("shape", [(3, 17), (2, 5, 64), (1, 1), (4, 300, 65)])
def test_softmax_and_layer_norm(shape: tuple[int, ...]) -> None:
    check(function(lambda x: topi.nn.softmax(x, axis=-1), shape))
    check(function(lambda x, g, b: topi.nn.layer_norm(x, g, b, [len(shape) - 1], 1e-5), shape, shape[-1:], shape[-1:]))


@pytest.mark.parametrize("axis", [0, 1, (0, 2), (2, 3), (0, 1, 2, 3)])
def test_reductions(axis: Any) -> None:
    check(function(lambda x: topi.sum(x, axis), (2, 17, 9, 48)))
    check(function(lambda x: topi.nn.relu(topi.max(x, axis)), (2, 17, 9, 48)))
    check(function(lambda x: topi.sum(x, axis), (2, 17, 9, 48), dtype="int32"))


def test_elementwise() -> None:
    check(function(lambda x, y: topi.nn.relu(topi.add(topi.multiply(x, 2.0), y)), (3, 17, 5), (17, 1)), "elementwise")
    check(function(lambda x: topi.transpose(x, (0, 2, 1)), (2, 33, 64)), "elementwise")
    check(function(lambda x: topi.concatenate([x, topi.exp(x)], 1), (40, 33)), "elementwise")


def test_convolutions_in_other_layouts() -> None:
    """TVM's own operators, where something else than a channels-last convolution is left, are right without being fast."""

    def build(x: Any, w: Any) -> Any:
        y = topi.nn.conv2d_nchw(x, w, 1, 1, 1)
        return [topi.nn.relu(y), topi.transpose(y, (0, 2, 3, 1))]

    check(function(build, (1, 3, 8, 8), (16, 3, 3, 3)))
    check(function(lambda x, w: topi.nn.conv2d_nchw(x, w, 2, 1, 1, out_dtype="int32"), (1, 5, 9, 9), (32, 5, 3, 3), dtype="int8"))
    check(function(topi.nn.dense, (37, 20), (48, 20)))


def test_small_work_starts_no_threads() -> None:
    def parallel(prim: Any) -> bool:
        return "T.parallel" in check(prim).script()

    assert not parallel(function(topi.nn.relu, (1, 1000)))
    assert parallel(function(topi.nn.relu, (64, 10000)))


def test_narrow_vectors() -> None:
    """The rules read the target: eight lanes and sixteen registers, with the same results."""
    narrow = find_target("x86-64-v3")
    check(function(lambda x, y: topi.nn.relu(topi.add(x, y)), (17, 33), (17, 33)), "elementwise", narrow)
    check(function(lambda x: topi.sum(x, 1), (17, 33)), None, narrow)
