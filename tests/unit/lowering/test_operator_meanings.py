"""Operators whose meaning TVM's own code misses, each against torch: NaN, interpolation, indices, truth values, integer division."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effc.errors import InternalError, UnsupportedModelError
from effc.ir import Batch, Program, Provenance
from effc.ir.arrays import to_numpy
from effc.lowering import lower, run_lowered
from effc.runtime.executor import PlanExecutor, aligned_empty
from effc.targets import find_target

NAN, INF = float("nan"), float("inf")
ODD = torch.tensor([[NAN, INF, -INF, 0.0, -0.0, 1e30, -1e30, 2.5, 3.5, -2.5, -0.5, 0.5, 1e-40, 88.0, -100.0, 1000.0]])
GRID = torch.rand(2, 4, 6, 2, generator=torch.Generator().manual_seed(1)) * 2.6 - 1.3
IMAGE = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))


class Several(nn.Module):
    """Many functions of one input, lowered at once."""

    def __init__(self, functions: list[Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.functions = functions

    def forward(self, *x: Tensor) -> tuple[Tensor, ...]:
        return tuple(function(*x) for function in self.functions)


def check(functions: dict[str, Callable[..., Tensor]], *inputs: Tensor, rtol: float = 1e-5) -> None:
    """Compare compiled code with torch; the message names every function that differs."""
    module = Several(list(functions.values())).eval()
    exported = torch.export.export(module, inputs)
    names = [f"x{index}" for index in range(len(inputs))]
    program = Program.from_exported(exported, Provenance("several", "torch", "0" * 64), batch=Batch(False, "ops"), input_names=names)
    lowered = lower(program, find_target("cpu"))
    got = run_lowered(lowered, program, {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)})
    wrong = {}
    for (name, function), result in zip(functions.items(), got.values(), strict=True):
        want = function(*inputs).numpy()
        scale = float(np.abs(want[np.isfinite(want)]).max(initial=0.0)) if want.dtype.kind == "f" else 0.0
        same = want.dtype == result.dtype and np.allclose(result, want, rtol=rtol, atol=1e-6 * min(scale, 1.0), equal_nan=True)
        if not same:
            wrong[name] = (result, want)
    assert not wrong


ELEMENTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "the sign of a product with 0": lambda x: 1 / (x * 0.0),
    "the sign of a product with -0": lambda x: 1 / (x * -0.0),
    "relu6": F.relu6,
    "clamp": lambda x: torch.clamp(x, -1, 1),
    "clamp with low above high": lambda x: torch.clamp(x, 2, 1),
    "clamp from below": lambda x: torch.clamp(x, min=0.5),
    "clamp from above": lambda x: torch.clamp(x, max=0.5),
    "clamp integers": lambda x: torch.clamp(torch.nan_to_num(x).clamp(-100, 100).to(torch.int64), min=-3),
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "elu": F.elu,
    "elu with alpha": lambda x: F.elu(x, 0.3),
    "selu": F.selu,
    "celu": lambda x: F.celu(x, 1.7),
    "leaky relu": F.leaky_relu,
    "silu": F.silu,
    "mish": F.mish,
    "softplus": F.softplus,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "sign": torch.sign,
    "abs": torch.abs,
    "floor": torch.floor,
    "round": torch.round,
    "maximum": lambda x: torch.maximum(x, x.flip(1)),
    "minimum": lambda x: torch.minimum(x, x.flip(1)),
    "maximum with a scalar tensor": lambda x: torch.maximum(x, torch.tensor(1.0)),
    "threshold": lambda x: F.threshold(x, 0.5, 0.1),
    "hardshrink": F.hardshrink,
    "softshrink": F.softshrink,
    "isnan": lambda x: torch.isnan(x).float(),
    "not equal to a number": lambda x: (x != 0).float(),
    "not equal": lambda x: (x != x.flip(1)).float(),
    "equal": lambda x: (x == x.flip(1)).float(),
    "truth": lambda x: x.bool().float(),
    "not": lambda x: torch.logical_not(x).float(),
    "or": lambda x: torch.logical_or(x, x.flip(1)).float(),
}
REDUCED: dict[str, Callable[[Tensor], Tensor]] = {
    "argmax": lambda x: x.argmax(1),
    "argmax without NaN": lambda x: x[:, 1:].argmax(1),
    "argmin": lambda x: x.argmin(1, keepdim=True),
    "argmax of everything": lambda x: x.argmax(),
    "argmax of lowest numbers": lambda x: torch.stack([x[0, 2:3], x[0, 2:3]]).argmax(0),
    "argmax of integers": lambda x: torch.nan_to_num(x).clamp(-100, 100).to(torch.int32).argmax(1),
    "amax": lambda x: x.amax(1),
    "max pool, padded": lambda x: F.max_pool2d(x.reshape(1, 1, 4, 4), 2, padding=1),
    "max pool, overlapping": lambda x: F.max_pool2d(x.reshape(1, 1, 4, 4), 3, stride=2, padding=1),
    "max pool, ceil": lambda x: F.max_pool2d(x.reshape(1, 1, 4, 4), 3, stride=2, ceil_mode=True),
    "max pool, dilated": lambda x: F.max_pool2d(x.reshape(1, 1, 4, 4), 2, dilation=2, stride=1),
    "max pool of a line": lambda x: F.max_pool1d(x.reshape(1, 1, 16), 3, padding=1),
    "adaptive max pool": lambda x: F.adaptive_max_pool2d(x.reshape(1, 1, 4, 4), 2),
}
INTERPOLATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "nearest to a size": lambda x: F.interpolate(x, size=(9, 9)),
    "nearest, doubled": lambda x: F.interpolate(x, scale_factor=2),
    "nearest by a factor": lambda x: F.interpolate(x, scale_factor=1.7),
    "nearest-exact": lambda x: F.interpolate(x, size=(9, 9), mode="nearest-exact"),
    "bilinear by a factor": lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear"),
    "bilinear, factor recomputed": lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear", recompute_scale_factor=True),
    "bilinear to a size": lambda x: F.interpolate(x, size=(3, 11), mode="bilinear"),
    "bilinear, corners aligned": lambda x: F.interpolate(x, size=9, mode="bilinear", align_corners=True),
    "bilinear, antialiased": lambda x: F.interpolate(x, size=(2, 3), mode="bilinear", antialias=True),
    "bicubic": lambda x: F.interpolate(x, size=(9, 9), mode="bicubic"),
    "bicubic, antialiased": lambda x: F.interpolate(x, size=(2, 2), mode="bicubic", antialias=True),
    "linear": lambda x: F.interpolate(x[:, :, 0], size=4, mode="linear"),
    "trilinear by factors": lambda x: F.interpolate(x[:, None], scale_factor=(1.3, 2, 0.7), mode="trilinear"),
    "nearest in space": lambda x: F.interpolate(x[:, None], size=(4, 4, 4)),
    "area": lambda x: F.interpolate(x, size=(3, 3), mode="area"),
}


def _assigned(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, -3:-1, 1] = 7.0
    y[:, ::2, 0] = 1.0
    return y


INDICES: dict[str, Callable[[Tensor], Tensor]] = {
    "slice assignment": _assigned,
    "rows put": lambda x: x.index_put((torch.tensor([1, 0]),), torch.ones(2, 3, 5, 7) * x[:1]),
    "rows added": lambda x: x.index_add(1, torch.tensor([2, 0]), x[:, :2]),
    "same row added twice": lambda x: x.index_put((torch.tensor([1, 1]),), torch.ones(2, 3, 5, 7), accumulate=True),
    "adjacent indices broadcast": lambda x: x[:, :, torch.tensor([[1], [0]]), torch.tensor([3, -1])],
    "indices apart": lambda x: x[torch.tensor([1, 0]), :, torch.tensor([4, -5])],
    "elements added": lambda x: x.scatter_add(1, torch.tensor([[[[2, 0, 2]]], [[[1, 1, 0]]]]), x[:, 1:2, 2:3, :3]),
    "elements summed": lambda x: x.scatter_reduce(3, torch.tensor([[[[6, 0, -0]]]]), torch.ones(1, 1, 1, 3), "sum"),
    "grid, bilinear": lambda x: F.grid_sample(x, GRID, mode="bilinear", padding_mode="zeros", align_corners=False),
    "grid, bicubic": lambda x: F.grid_sample(x, GRID, mode="bicubic", padding_mode="reflection", align_corners=True),
    "grid, at the border": lambda x: F.grid_sample(x, GRID, padding_mode="border", align_corners=False),
    "unfold": lambda x: F.unfold(x, 3, padding=1),
    "fold": lambda x: F.fold(F.unfold(x, 3, padding=1), (5, 7), 3, padding=1),
    "group norm without weights": lambda x: F.group_norm(x, 3),
    "pool without strides": lambda x: F.max_pool2d(x, 2, padding=1),
    "average pool without strides": lambda x: F.avg_pool2d(x, 2, padding=1),
    "sum pool": lambda x: F.avg_pool2d(x, 2, divisor_override=1),
    "average pool by a divisor": lambda x: F.avg_pool2d(x, (2, 3), (1, 2), (1, 0), True, False, divisor_override=7),
    "volume by a divisor": lambda x: F.avg_pool3d(x[None], 3, 2, 1, ceil_mode=True, divisor_override=5),
}
TRUTHS: dict[str, Callable[[Tensor], Tensor]] = {
    "==": lambda x: (x > 0) == (x > 1),
    "!=": lambda x: (x > 0) != (x > 1),
    "<": lambda x: (x > 0) < (x > 1),
    "== True": lambda x: (x > 0) == True,  # noqa: E712 - the comparison is what is tried
    "bucketize": lambda x: torch.bucketize(x, torch.tensor([-1.0, 0.0, 1.0])),
}


@pytest.mark.parametrize("functions", [ELEMENTWISE, REDUCED], ids=["elementwise", "reduced"])
def test_nan_and_infinity_go_where_torch_lets_them_go(functions: dict[str, Callable[[Tensor], Tensor]]) -> None:
    check(functions, ODD)


@pytest.mark.parametrize("functions", [INTERPOLATIONS, INDICES, TRUTHS], ids=["interpolations", "indices", "truths"])
def test_images(functions: dict[str, Callable[[Tensor], Tensor]]) -> None:
    check(functions, IMAGE)


def test_matrices_times_vectors() -> None:
    matrix, vector = torch.randn(37, 53), torch.randn(53)
    check({"stored": lambda x: matrix @ x, "from the left": lambda x: x @ matrix.T}, vector)
    check({"computed": lambda w, x: w @ x, "behind it": lambda w, x: torch.relu(w @ x)}, matrix, vector)


def test_means_and_sums_of_nothing() -> None:
    check({"mean": lambda x: x.mean(1), "sum": lambda x: x.sum(1), "all": lambda x: x.mean((0, 1))}, torch.zeros(2, 0, 3))


def test_bytes_divide_without_a_sign() -> None:
    a, b = torch.tensor([200, 255, 7, 3], dtype=torch.uint8), torch.tensor([7, 255, 2, 200], dtype=torch.uint8)
    floor = {"floor": lambda x, y: torch.div(x, y, rounding_mode="floor"), "trunc": lambda x, y: torch.div(x, y, rounding_mode="trunc")}
    check({**floor, "remainder": torch.remainder, "fmod": torch.fmod}, a, b)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_integers_become_real_before_they_are_divided_or_multiplied_by_fractions(dtype: torch.dtype) -> None:
    x, y = torch.arange(-7, 8).to(dtype), torch.arange(1, 16).to(dtype)
    functions: dict[str, Any] = {
        "a number": lambda x, y: x / 8,
        "each other": lambda x, y: x / y,
        "a fraction": lambda x, y: x * 0.5 + 0.25,
        "of a fraction": lambda x, y: 2.0 / y,
        "a power": lambda x, y: 0.5**y,
        "functions": lambda x, y: torch.exp(x) + torch.sigmoid(y),
        "chosen": lambda x, y: torch.where(x > 0, x / 2, y),
    }
    check(functions, x, y)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_integer_division_rounds_as_torch_and_a_divisor_of_zero_ends_no_process(dtype: torch.dtype) -> None:
    low = torch.iinfo(dtype).min
    a = torch.tensor([-7, 7, -7, 7, 5, low + 1], dtype=dtype)
    b = torch.tensor([2, -2, -3, 3, -1, -1], dtype=dtype)
    functions: dict[str, Any] = {
        "trunc": lambda x, y: torch.div(x, y, rounding_mode="trunc"),
        "floor": lambda x, y: torch.div(x, y, rounding_mode="floor"),
        "remainder": torch.remainder,
        "fmod": torch.fmod,
    }
    check(functions, a, b)
    exported = torch.export.export(Several(list(functions.values())), (a, b))
    program = Program.from_exported(exported, Provenance("d", "torch", "0" * 64), batch=Batch(False, "ops"), input_names=["a", "b"])
    kind = "int32" if dtype == torch.int32 else "int64"
    zeros, odd = np.zeros(6, kind), np.array([low, low, 1, 0, -1, 3], kind)
    got = run_lowered(lower(program, find_target("cpu")), program, {"a": odd, "b": zeros})
    assert [int(np.abs(array).max()) for array in got.values()] == [0, 0, 0, 0]
    run_lowered(lower(program, find_target("cpu")), program, {"a": odd, "b": zeros - 1})  # the lowest integer by -1 traps, too


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sums_in_float32_and_rounds_once(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 10), nn.Softmax(-1)).eval().to(dtype)
    x = torch.randn(2, 3, 4, 4).to(dtype)
    program = Program.from_exported(
        torch.export.export(net, (x,)), Provenance("h", "torch", "0" * 64), batch=Batch(False, "one"), input_names=["x"]
    )
    (got,) = run_lowered(lower(program, find_target("cpu")), program, {"x": to_numpy(x)}).values()
    want = net.float()(x.float()).detach().numpy()
    assert np.abs(got.astype(np.float32) - want).max() <= 4 * torch.finfo(dtype).eps * want.max()


def test_products_of_float64_keep_their_digits_and_convolutions_are_refused() -> None:
    net = nn.Sequential(nn.Linear(30, 20), nn.Tanh(), nn.Linear(20, 5)).double().eval()
    x = torch.randn(4, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    origin = Provenance("d", "torch", "0" * 64)
    program = Program.from_exported(torch.export.export(net, (x,)), origin, batch=Batch(False, "one"), input_names=["x"])
    (got,) = run_lowered(lower(program, find_target("cpu")), program, {"x": x.numpy()}).values()
    np.testing.assert_allclose(got, net(x).detach().numpy(), rtol=1e-12)
    image = torch.randn(1, 3, 5, 5, dtype=torch.float64)
    exported = torch.export.export(nn.Conv2d(3, 4, 3).double(), (image,))
    with pytest.raises(UnsupportedModelError, match="cannot be lowered") as caught:
        lower(Program.from_exported(exported, origin, batch=Batch(False, "one"), input_names=["x"]), find_target("cpu"))
    assert "float64" in caught.value.problems[0].why


def test_a_stored_tensor_called_like_an_input_or_output_keeps_its_own_memory() -> None:
    class Namesakes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.output = nn.Parameter(torch.tensor([2.0, 3.0])), nn.Parameter(torch.tensor([5.0, 7.0]))

        def forward(self, weight: Tensor) -> Tensor:
            return weight * self.weight + self.output

    net, x = Namesakes().eval(), torch.tensor([[1.0, 10.0]])
    exported = torch.export.export(net, (x,))
    program = Program.from_exported(exported, Provenance("n", "torch", "0" * 64), batch=Batch(False, "one"), input_names=["weight"])
    assert [value.name for value in program.interface.outputs] == ["output"]
    lowered = lower(program, find_target("cpu"))
    (got,) = run_lowered(lowered, program, {"weight": x.numpy()}).values()
    np.testing.assert_array_equal(got, net(x).detach().numpy())
    assert {source.name for source in lowered.sources.values()} == {"weight", "output"}


def test_a_kernel_that_cannot_start_its_threads_is_an_error_that_names_the_layer() -> None:
    net = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()).eval()
    x = torch.randn(1, 16, 32, 32)
    program = Program.from_exported(
        torch.export.export(net, (x,)), Provenance("t", "torch", "0" * 64), batch=Batch(False, "one"), input_names=["x"]
    )
    lowered = lower(program, find_target("cpu"))
    assert lowered.plan is not None
    refuse = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)(lambda *_: -1)
    with tempfile.TemporaryDirectory() as folder:
        code = Path(folder, "model.so")
        code.write_bytes(lowered.code)
        executor = PlanExecutor(lowered.plan, ["x"], ["output"], lowered.parameters, code)
        inputs, outputs = [aligned_empty((1, 16, 32, 32), "float32")], [aligned_empty((1, 32, 32, 32), "float32")]
        launch = ctypes.c_void_p.in_dll(executor._library, "__TVMBackendParallelLaunch")
        kept, launch.value = launch.value, ctypes.cast(refuse, ctypes.c_void_p).value
        with pytest.raises(InternalError, match="worker threads could not run"):
            executor.call(inputs, outputs)
        launch.value = kept
        executor.call(inputs, outputs)
