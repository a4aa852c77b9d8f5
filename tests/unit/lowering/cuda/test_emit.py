"""From TIR functions to launches, and their CUDA C on this machine's CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effc.errors import InternalError
from effc.lowering.chip import tvm_target
from effc.lowering.cuda.emit import CudaKernel, cuda_kernels, cuda_source
from effc.lowering.cuda.emulation import Emulation, host_source
from effc.lowering.kernels.cuda.schedules import ALONE, scheduled
from effc.runtime.plan import Launch
from tests.unit.lowering.cuda.on_host import TARGET, computed, needs_host


def kernel_of(function: object) -> tuple[CudaKernel, str]:
    """A function's launches and their CUDA C."""
    made = cuda_kernels({"k": function})["k"]
    assert isinstance(made, CudaKernel)
    return made, cuda_source({launch.kernel: body for launch, body in made.launches}, tvm_target(TARGET))


def run(made: CudaKernel, source: str, arrays: list[np.ndarray], descending: bool = False) -> None:
    """All launches of a kernel; temporaries begin as NaN."""
    temporaries = [np.full(shape, 0xFF, np.uint8).repeat(np.dtype(dtype).itemsize).view(dtype) for shape, dtype in made.temporaries]
    places = [*arrays, *temporaries]
    emulation = Emulation(source)
    for launch, _ in made.launches:
        emulation.launch(launch, [places[at] for at in launch.arguments], descending)


def te_function(build: object, *shapes: tuple[int, ...]) -> object:
    from tvm import te

    inputs = [te.placeholder(shape, "float32", name=f"x{index}") for index, shape in enumerate(shapes)]
    return te.create_prim_func([*inputs, build(*inputs)])  # type: ignore[operator]


def matmul(a: object, b: object) -> object:
    from tvm import te

    k = te.reduce_axis((0, a.shape[1]), name="k")  # type: ignore[attr-defined]
    return te.compute((a.shape[0], b.shape[1]), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="c")  # type: ignore[attr-defined,index]


@needs_host
@pytest.mark.parametrize(("rows", "depth", "columns"), [(33, 129, 65), (1, 300, 70), (64, 16, 32), (5, 3, 2), (130, 64, 31)])
def test_products_of_sizes_beside_the_tiles(rows: int, depth: int, columns: int) -> None:
    function = te_function(matmul, (rows, depth), (depth, columns))
    made, source = kernel_of(scheduled(function, TARGET).function)
    generator = np.random.default_rng(0)
    a, b = (generator.integers(-8, 8, shape).astype(np.float32) for shape in ((rows, depth), (depth, columns)))
    for descending in (False, True):
        c = np.full((rows, columns), np.nan, np.float32)
        run(made, source, [a, b, c], descending)
        np.testing.assert_array_equal(c, a @ b)  # sums of small integers are exact in any order


@needs_host
def test_a_kernel_of_two_launches_hands_over_a_temporary() -> None:
    """The sum of a whole matrix, subtracted from every element: there is no barrier between blocks."""
    from tvm import te

    def centred(x: object) -> object:
        i, j = (te.reduce_axis((0, size), name=name) for size, name in ((8, "i"), (8, "j")))
        total = te.compute((1,), lambda _: te.sum(x[i, j], axis=[i, j]), name="total")  # type: ignore[index]
        return te.compute((8, 8), lambda a, b: x[a, b] - total[0], name="y")  # type: ignore[index]

    made, source = kernel_of(scheduled(te_function(centred, (8, 8)), TARGET).function)
    assert len(made.launches) == 2 and len(made.temporaries) == 1
    first, second = (launch for launch, _ in made.launches)
    assert first.arguments == (0, 2) and second.arguments == (0, 1, 2)
    x = np.arange(64, dtype=np.float32).reshape(8, 8) % 7
    y = np.empty_like(x)
    run(made, source, [x, y])
    np.testing.assert_array_equal(y, x - x.sum())


@needs_host
def test_short_sums_have_a_thread_each_and_long_ones_a_block() -> None:
    from tvm import te

    def row_sums(x: object) -> object:
        k = te.reduce_axis((0, x.shape[1]), name="k")  # type: ignore[attr-defined]
        return te.compute((x.shape[0],), lambda i: te.sum(x[i, k], axis=k), name="s")  # type: ignore[attr-defined,index]

    for width, family in ((64, "generic"), (1000, "reduction")):
        implementation = scheduled(te_function(row_sums, (3, width)), TARGET)
        assert implementation.family == family
        made, source = kernel_of(implementation.function)
        x = (np.arange(3 * width, dtype=np.float32).reshape(3, width)) % 5
        for descending in (False, True):
            s = np.empty(3, np.float32)
            run(made, source, [x, s], descending)
            np.testing.assert_array_equal(s, x.sum(1))


@needs_host
def test_what_no_schedule_takes_runs_in_one_thread() -> None:
    """A running sum as plain loops, as TVM writes scatter and its kind."""
    import tvm
    from tvm import tirx

    x, y = (tirx.decl_buffer((6,), "float32", name=name) for name in "xy")
    i = tirx.Var("i", tvm.ir.PrimType("int32"))
    zero, one = (tirx.IntImm("int32", value) for value in (0, 1))
    step = tirx.BufferStore(y, tirx.BufferLoad(y, [i]) + tirx.BufferLoad(x, [i]), [i + one])
    body = tirx.SeqStmt(
        [tirx.BufferStore(y, tirx.const(0.0, "float32"), [zero]), tirx.For(i, zero, tirx.IntImm("int32", 5), tirx.ForKind.SERIAL, step)]
    )
    made, source = kernel_of(tirx.PrimFunc([x, y], body))
    ((launch, _),) = made.launches
    assert (launch.grid, launch.block) == ((1, 1, 1), (1, 1, 1))
    given, result = np.arange(6, dtype=np.float32), np.empty(6, np.float32)
    run(made, source, [given, result])
    np.testing.assert_array_equal(result, [0, 0, 1, 3, 6, 10])


@needs_host
def test_what_a_launch_allocates_has_room_for_all_of_its_threads() -> None:
    """The largest values, of which only the positions are a result, through two blocks of threads."""
    from tvm import te, tirx

    def position(x: Any) -> Any:
        def later(some: Any, other: Any) -> tuple[Any, Any]:
            return tuple(tirx.Select(some[1] >= other[1], a, b) for a, b in zip(some, other, strict=True))  # type: ignore[return-value]

        largest = te.comm_reducer(later, lambda index, value: (tirx.const(-1, index), tirx.min_value(value)), name="largest")
        k = te.reduce_axis((0, 3), name="k")
        return te.compute((1100,), lambda i: largest((k.var, x[i, k]), axis=k), name="position")[0]

    made, source = kernel_of(scheduled(te_function(position, (1100, 3)), TARGET).function)
    ((launch, _),) = made.launches
    assert launch.grid[0] > 1
    assert made.temporaries == (((1100,), "float32"),)
    x = np.random.default_rng(0).standard_normal((1100, 3)).astype(np.float32)
    for descending in (False, True):
        found = np.full(1100, -1, np.int32)
        run(made, source, [x, found], descending)
        np.testing.assert_array_equal(found, x.argmax(1))


class Positions(nn.Module):
    """Of extremes of a matrix."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        along = tuple(function(x, dim) for function in (torch.argmax, torch.argmin) for dim in (0, -1))
        return *along, x.argmin(1, keepdim=True), x.argmax(), x.nan_to_num(0, 9, -9).int().argmax(1)


class Pooled(nn.Module):
    """Means of windows, of which some are larger than others."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        pooled = tuple(F.adaptive_avg_pool2d(x, size) for size in ((3, 2), (7, 8), (1, 2)))
        return *pooled, F.adaptive_avg_pool1d(x[0], 3), F.interpolate(x, size=(4, 3), mode="area")


@needs_host
def test_positions_of_extremes_are_the_first_ones_and_those_of_nan_come_before() -> None:
    ties = torch.randint(-2, 3, (9, 70), generator=torch.Generator().manual_seed(0)).float()
    odd = ties.clone()
    odd[1, 3:], odd[2, 9], odd[2, 60] = float("nan"), float("nan"), float("nan")
    odd[2, 5], odd[3], odd[4], odd[5, 0] = float("inf"), float("-inf"), float("inf"), float("-inf")
    module = Positions()
    made = computed(module, [ties], [odd])
    assert ALONE not in made.families
    for given, results in zip((ties, odd), made.outputs, strict=True):
        for want, got in zip(module(given), results, strict=True):
            np.testing.assert_array_equal(got, want.numpy())


@needs_host
def test_uneven_windows_have_a_thread_each() -> None:
    """The threads of a block cannot share out sums of differing lengths."""
    x, module = torch.randn(2, 3, 10, 7, generator=torch.Generator().manual_seed(0)), Pooled()
    made = computed(module, [x])
    assert set(made.families) == {"generic"}
    for want, got in zip(module(x), made.outputs[0], strict=True):
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-6)


def test_an_implementation_without_threads_says_so() -> None:
    """Blocks that are neither spatial nor a reduction."""
    from tvm.script import tirx as T

    @T.prim_func(private=True, s_tir=True)
    def scan(x: T.Buffer((8,), "float32"), y: T.Buffer((8,), "float32")):  # type: ignore[no-untyped-def,valid-type]
        for i in range(7):
            with T.sblock("scan"):
                vi = T.axis.opaque(7, i)
                y[vi + 1] = y[vi] + x[vi]

    implementation = scheduled(scan, TARGET)
    assert implementation.family in (ALONE, "generic")


HEAD = 'extern "C" __global__ void __launch_bounds__(64) f(float* __restrict__ x, float* __restrict__ y) '
LAUNCH = Launch("f", (1, 1, 1), (64, 1, 1), 0, (0, 1))


@needs_host
def test_a_missing_barrier_shows_in_descending_order() -> None:
    body = "{{ __shared__ alignas(64) float s[64]; s[threadIdx.x] = x[threadIdx.x]; {barrier} y[threadIdx.x] = s[63 - threadIdx.x]; }}"
    x = np.arange(64, dtype=np.float32)
    for barrier, same in (("__syncthreads();", True), ("", False)):
        emulation, results = Emulation(HEAD + body.format(barrier=barrier)), []
        for descending in (False, True):
            y = np.full(64, -1, np.float32)
            emulation.launch(LAUNCH, [x, y], descending)
            results.append(y)
        assert np.array_equal(results[0], results[1]) is same
        assert np.array_equal(results[0], x[::-1]) is same


@needs_host
def test_shuffles_ballots_and_the_lanes_that_take_part() -> None:
    body = """{ const int t = threadIdx.x; float v = x[t];
        for (int by = 16; by; by /= 2) v += __shfl_down_sync(0xffffffffu, v, by, 32);
        y[t] = __shfl_sync(0xffffffffu, v, 0, 32);
        if (t < 8) { unsigned lanes = 0xffu; y[t] += __shfl_xor_sync(lanes, (float)t, 1, 32) + (float)__popc(lanes); }
        if (t == 40) y[t] = 0.5f; else if (t >= 32) return;
        unsigned votes = __ballot_sync(t < 32 ? 0xffffffffu : 0x100u, t % 2); if (t < 32) y[t] += 0.25f * (votes == 0xaaaaaaaau); }"""
    x, y = np.arange(64, dtype=np.float32), np.empty(64, np.float32)
    for descending in (False, True):
        Emulation(HEAD + body).launch(LAUNCH, [x, y], descending)
        expected = np.repeat(np.array([496, 496 + 1024], np.float32), 32)
        expected[:8] += np.arange(8) ^ 1
        expected[:8] += 8
        expected[:32] += 0.25
        expected[40] = 0.5
        np.testing.assert_array_equal(y, expected)


@needs_host
def test_a_mask_of_absent_lanes_ends_the_launch() -> None:
    body = "{ if (threadIdx.x < 4) y[threadIdx.x] = __shfl_down_sync(0xffu, x[threadIdx.x], 1, 32); else __syncthreads(); }"
    with pytest.raises(InternalError, match="f: lanes that the mask of a warp's operation names do not come to it"):
        Emulation(HEAD + body).launch(LAUNCH, [np.zeros(64, np.float32)] * 2)


@needs_host
def test_a_lane_outside_of_the_mask_is_not_a_number() -> None:
    body = "{ if (threadIdx.x < 4) y[threadIdx.x] = __shfl_down_sync(0xfu, x[threadIdx.x], 1, 32); }"
    y = np.zeros(64, np.float32)
    Emulation(HEAD + body).launch(LAUNCH, [np.arange(64, dtype=np.float32), y])
    np.testing.assert_array_equal(y[:4], [1, 2, 3, np.nan])


@needs_host
@pytest.mark.parametrize("mask", ["0xfeu", "__activemask()"])
def test_masks_that_cuda_promises_nothing_for_show(mask: str) -> None:
    """One that does not name its own lane is an error; which lanes `__activemask` finds together is open, so it is the one alone."""
    emulation = Emulation(HEAD + f"{{ if (threadIdx.x < 8) y[threadIdx.x] = __shfl_xor_sync({mask}, x[threadIdx.x], 1, 32); }}")
    arrays = [np.arange(64, dtype=np.float32), np.zeros(64, np.float32)]
    if mask == "0xfeu":
        with pytest.raises(InternalError, match="whose mask does not name it"):
            emulation.launch(LAUNCH, arrays)
    else:
        emulation.launch(LAUNCH, arrays)
        assert np.isnan(arrays[1][:8]).all()


@needs_host
def test_every_block_finds_anything_in_shared_memory() -> None:
    """It would find there what the block before it left, which no GPU promises."""
    body = "{ __shared__ alignas(64) float s[1]; y[blockIdx.x] = s[0]; __syncthreads(); s[0] = x[0]; }"
    y = np.zeros(64, np.float32)
    Emulation(HEAD + body).launch(Launch("f", (3, 1, 1), (1, 1, 1), 0, ()), [y.copy(), y])
    assert np.isnan(y[:3]).all()


@needs_host
@pytest.mark.parametrize(("grid", "block"), [((1, 65_536, 1), (64, 1, 1)), ((1, 1, 65_536), (64, 1, 1)), ((1, 1, 1), (1, 1, 65))])
def test_launches_that_no_gpu_starts(grid: tuple[int, int, int], block: tuple[int, int, int]) -> None:
    with pytest.raises(InternalError, match=r"f: a (grid|block) must have 1 to"):
        Emulation(HEAD + "{ y[0] = 1.0f; }").launch(Launch("f", grid, block, 0, ()), [np.zeros(64, np.float32)] * 2)


@needs_host
def test_more_products_than_a_grid_has_rows_get_another_schedule() -> None:
    """dlight's tiles count them in the grid's y, which ends at 65,535."""
    from tvm import te

    def products(count: int) -> Any:
        a, b = (te.placeholder((count, 3, 2), "float32", name=name) for name in "ab")
        k = te.reduce_axis((0, 2), name="k")
        return te.create_prim_func([a, b, te.compute((count, 3, 3), lambda n, i, j: te.sum(a[n, i, k] * b[n, j, k], axis=k), name="c")])

    assert scheduled(products(65_535), TARGET).family == "matmul"
    implementation = scheduled(products(65_600), TARGET)
    assert implementation.family == "generic"
    made, source = kernel_of(implementation.function)
    a, b = (np.random.default_rng(seed).integers(-8, 8, (65_600, 3, 2)).astype(np.float32) for seed in (0, 1))
    c = np.full((65_600, 3, 3), np.nan, np.float32)
    run(made, source, [a, b, c])
    np.testing.assert_array_equal(c, a @ b.swapaxes(1, 2))


@needs_host
def test_sums_of_products_are_rounded_once_and_nothing_else() -> None:
    """x * x - x * x of products that no float holds: with the sum contracted, what the first rounding lost is left."""
    from tvm import te

    one = np.float32(1 + 2**-12)  # its square needs 25 bits
    a, b = np.array([[-1, one]], np.float32), np.array([[one * one], [one]], np.float32)
    made, source = kernel_of(scheduled(te_function(matmul, (1, 2), (2, 1)), TARGET).function)
    assert "fmaf(" in source
    c = np.empty((1, 1), np.float32)
    run(made, source, [a, b, c])
    assert c[0, 0] == np.float32(float(one) ** 2 - float(one * one)) != 0
    apart = te_function(lambda x, y: te.compute((1, 1), lambda i, j: x[i, j] * x[i, j] - y[i, j], name="z"), (1, 1), (1, 1))
    made, source = kernel_of(scheduled(apart, TARGET).function)
    run(made, source, [a[:, 1:], b[:1], c])
    assert c[0, 0] == 0


@needs_host
@pytest.mark.parametrize("shape", [(3, 1000), (70, 300)])
def test_shuffles_of_sums_name_whole_warps(shape: tuple[int, int]) -> None:
    from tvm import te

    def row_sums(x: Any) -> Any:
        k = te.reduce_axis((0, shape[1]), name="k")
        return te.compute((shape[0],), lambda i: te.sum(x[i, k], axis=k), name="s")

    _, source = kernel_of(scheduled(te_function(row_sums, shape), TARGET).function)
    code = source[source.index("__global__") :]
    assert "__shfl_down_sync" in code
    assert "__activemask" not in code


@needs_host
def test_half_precision_is_that_of_numpy() -> None:
    """Every half, to float and back, and rounding to nearest even of what lies between."""
    head = 'extern "C" __global__ void __launch_bounds__(1024) h(half* __restrict__ a, float* __restrict__ wide, half* __restrict__ back) '
    body = "{ int i = blockIdx.x * 1024 + threadIdx.x; wide[i] = (float)a[i]; back[i] = (half)(wide[i] * 1.0004f); }"
    bits = np.arange(1 << 16, dtype=np.uint16)
    a, wide, back = bits.view(np.float16), np.empty(1 << 16, np.float32), np.empty(1 << 16, np.float16)
    Emulation(head + body).launch(Launch("h", (64, 1, 1), (1024, 1, 1), 0, ()), [a, wide, back])
    np.testing.assert_array_equal(wide, a.astype(np.float32))
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(back, (wide * np.float32(1.0004)).astype(np.float16))


@needs_host
def test_dynamic_shared_memory_and_wrong_calls() -> None:
    body = """{ extern __shared__ alignas(64) uchar room[];
        ((float*)room)[threadIdx.x] = x[threadIdx.x]; __syncthreads(); y[threadIdx.x] = ((float*)room)[0]; }"""
    source = HEAD + body
    assert "extern __shared__" not in host_source(source)
    emulation = Emulation("#define uchar unsigned char\n" + source)
    x, y = np.arange(64, dtype=np.float32) + 3, np.empty(64, np.float32)
    emulation.launch(Launch("f", (1, 1, 1), (64, 1, 1), 256, ()), [x, y])
    np.testing.assert_array_equal(y, np.full(64, 3))
    with pytest.raises(InternalError, match="f takes 2 pointers, not 1"):
        emulation.launch(LAUNCH, [x])
    with pytest.raises(InternalError, match="has no function g"):
        emulation.launch(Launch("g", (1, 1, 1), (1, 1, 1), 0, ()), [x])
