"""Schedules change speed, never results: every family scheduled against its plain loops, on shapes at the edges of the rules."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import te, topi

from effc.lowering.kernels import schedule
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
    scheduled = schedule(tvm.IRModule({"main": prim}), target or find_target("cpu"))["main"]
    if family is not None:
        assert scheduled.attrs["effc.family"] == family
    inputs = arrays(prim)
    for value, expected in zip(run(scheduled, inputs), run(prim, inputs), strict=True):
        if expected.dtype.kind == "f":
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
        else:
            np.testing.assert_array_equal(value, expected)
    return scheduled


def conv2d(
    batch: int, channels: int, size: tuple[int, int], outputs: int, kernel: int, stride: int, pad: int, dilation: int, groups: int
) -> Any:
    def build(x: Any, w: Any, b: Any) -> Any:
        if groups == 1:
            y = topi.nn.conv2d_nchw(x, w, stride, pad, dilation)
        else:
            y = topi.nn.group_conv2d_nchw(x, w, stride, pad, dilation, groups)
        return topi.nn.relu(topi.add(y, b))

    return function(build, (batch, channels, *size), (outputs, channels // groups, kernel, kernel), (1, outputs, 1, 1))


@pytest.mark.parametrize(
    "case",
    [
        (1, 3, (9, 14), 16, 3, 1, 1, 1, 1),
        (2, 17, (13, 11), 32, 3, 2, 1, 1, 1),
        (1, 4, (8, 7), 24, 1, 1, 0, 1, 1),
        (1, 5, (12, 15), 64, 3, 1, 2, 2, 1),
        (2, 32, (7, 7), 96, 3, 1, 1, 1, 2),
        (1, 16, (1, 1), 48, 1, 1, 0, 1, 1),
        (1, 3, (17, 31), 64, 7, 2, 3, 1, 1),
    ],
)
def test_convolution_in_tiles(case: tuple[Any, ...]) -> None:
    check(conv2d(*case), "conv2d")


@pytest.mark.parametrize(
    "case",
    [
        (1, 1, (5, 5), 1, 3, 1, 1, 1, 1),
        (2, 3, (8, 9), 3, 3, 1, 1, 1, 3),
        (1, 17, (16, 16), 17, 3, 2, 1, 1, 17),
        (1, 32, (28, 28), 32, 3, 1, 1, 1, 32),
        (1, 32, (14, 48), 64, 5, 1, 4, 2, 32),
        (1, 6, (8, 8), 17, 3, 1, 0, 1, 1),
        (1, 8, (9, 64), 3, 3, 1, 1, 1, 1),
    ],
)
def test_convolution_whose_channels_fill_no_vector(case: tuple[Any, ...]) -> None:
    check(conv2d(*case), "depthwise")


def test_convolution_of_integers_is_exact() -> None:
    def build(x: Any, w: Any) -> Any:
        return topi.nn.conv2d_nchw(x, w, 1, 1, 1, out_dtype="int32")

    check(function(build, (1, 5, 9, 9), (32, 5, 3, 3), dtype="int8"), "conv2d")


def test_convolution_read_by_two() -> None:
    def build(x: Any, w: Any) -> Any:
        y = topi.nn.conv2d_nchw(x, w, 1, 1, 1)
        return [topi.nn.relu(y), topi.transpose(y, (0, 2, 3, 1))]

    check(function(build, (1, 3, 8, 8), (16, 3, 3, 3)))


@pytest.mark.parametrize(
    ("rows", "inner", "columns", "batch"),
    [
        (1, 17, 1000, ()),
        (3, 5, 7, ()),
        (5, 3, 1, ()),
        (17, 33, 40, ()),
        (197, 24, 48, ()),
        (64, 64, 64, (3,)),
        (19, 1, 100, (2,)),
        (40, 20, 17, ()),
    ],
)
def test_matrix_product(rows: int, inner: int, columns: int, batch: tuple[int, ...]) -> None:
    def build(a: Any, b: Any) -> Any:
        return topi.nn.relu(topi.nn.batch_matmul(a, b, transpose_b=False) if batch else topi.matmul(a, b))

    check(function(build, (*batch, rows, inner), (*batch, inner, columns)))


def test_matrix_product_with_transposed_right_operand() -> None:
    check(function(topi.nn.dense, (37, 20), (48, 20)), "matmul")
    check(function(topi.nn.batch_matmul, (3, 10, 21), (3, 33, 21)), "matmul")


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


def test_small_work_starts_no_threads() -> None:
    def parallel(prim: Any) -> bool:
        return "T.parallel" in check(prim).script()

    assert not parallel(conv2d(1, 1, (8, 8), 16, 3, 1, 1, 1, 1))
    assert not parallel(function(topi.nn.relu, (1, 1000)))
    assert parallel(conv2d(1, 64, (28, 28), 64, 3, 1, 1, 1, 1))


def test_equal_functions_are_scheduled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import effc.lowering.kernels as kernels

    calls = []
    monkeypatch.setattr(kernels, "RULES", (("counted", lambda sch, target: bool(calls.append(1)) or True),))
    first, second = (function(topi.nn.relu, (4, 4)).with_attr("global_symbol", name) for name in ("a", "b"))
    scheduled = schedule(tvm.IRModule({"a": first, "b": second}), find_target("cpu"))
    assert len(calls) == 1
    assert [str(scheduled[name].attrs["global_symbol"]) for name in ("a", "b")] == ["a", "b"]


def test_narrow_vectors() -> None:
    """The rules read the target: eight lanes and sixteen registers give other tiles, with the same results."""
    narrow = find_target("x86-64-v3")
    check(conv2d(1, 3, (9, 14), 16, 3, 1, 1, 1, 1), "conv2d", narrow)
    check(function(topi.matmul, (17, 33), (33, 40)), "matmul", narrow)
