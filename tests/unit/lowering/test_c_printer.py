"""Kernels as C text: numbers read back exactly, and what is done with vectors is what TIR says."""

from __future__ import annotations

import ctypes
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effc.lowering.c99.expressions import Expressions
from effc.lowering.c99.printer import HELPERS, c_function, c_number
from effc.lowering.emit import kernels
from effc.lowering.kernels.code import allocated, flat_function, integer, load, store, vector
from effc.lowering.kernels.integer_vectors import vector_load, vector_store, whole, whole_store

needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
REALS = [0.0, -0.0, 1.0, -1.5, 0.1, 1e-45, 1.1754942e-38, 3.4028235e38, 16777217.0, 1 / 3]
WHOLES = [
    ("int8", -128),
    ("uint8", 255),
    ("int32", -(1 << 31)),
    ("uint32", (1 << 32) - 1),
    ("int64", -(1 << 63)),
    ("uint64", (1 << 64) - 1),
]


def built(text: str, folder: Path) -> ctypes.CDLL:
    source = folder / "text.c"
    source.write_text("#include <math.h>\n#include <stdbool.h>\n#include <stdint.h>\n#include <string.h>\n" + text)
    flags = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-pedantic", "-shared", "-fPIC"]
    done = subprocess.run(["gcc", *flags, str(source), "-o", str(folder / "text.so")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(folder / "text.so"))


@needs_compiler
def test_numbers_read_back_exactly(tmp_path: Path) -> None:
    reals = [np.float32(value) for value in [*REALS, *np.random.default_rng(0).standard_normal(50)]]
    listed = ", ".join(c_number(value, "float32") for value in reals)
    wholes = "".join(f"const {kind}_t whole{i} = {c_number(value, kind)};\n" for i, (kind, value) in enumerate(WHOLES))
    doubles = "const double precise[2] = {" + ", ".join(c_number(value, "float64") for value in (0.1, -5e-324)) + "};\n"
    library = built(
        f"const float reals[] = {{{listed}, {c_number(np.inf, 'float32')}, {c_number(np.nan, 'float32')}}};\n{wholes}{doubles}", tmp_path
    )
    found = bytes((ctypes.c_uint8 * (4 * len(reals) + 8)).in_dll(library, "reals"))
    assert found[:-8] == np.array(reals).tobytes()
    assert found[-8:-4] == struct.pack("<f", np.inf) and np.isnan(struct.unpack("<f", found[-4:])[0])
    for i, (kind, value) in enumerate(WHOLES):
        assert getattr(ctypes, f"c_{kind}").in_dll(library, f"whole{i}").value == value
    assert list((ctypes.c_double * 2).in_dll(library, "precise")) == [0.1, -5e-324]


def ran(function: Any, folder: Path, *arrays: np.ndarray) -> None:
    """Compile a TIR function of buffers and run it on arrays."""
    import tvm
    from tvm import tirx

    lowering = tvm.transform.Sequential([tirx.transform.BindTarget(tvm.target.Target("c")), tirx.transform.LowerIntrin()])
    flat = kernels({"kernel": function})["kernel"].function
    printed = c_function(lowering(tvm.IRModule({"kernel": flat}))["kernel"], "kernel")
    library = built("".join(HELPERS[name] for name in printed.helpers) + printed.text.replace("static void", "void", 1), folder)
    assert len(printed.types) == len(printed.constant) == len(arrays)
    library.kernel(*(ctypes.c_void_p(array.ctypes.data) for array in arrays))


def buffer(size: int, name: str, dtype: str = "float32") -> Any:
    from tvm import tirx

    return tirx.decl_buffer((size,), dtype, name=name)


@needs_compiler
def test_a_vector_is_read_whole_before_it_is_stored_over_what_it_reads(tmp_path: Path) -> None:
    memory = buffer(9, "memory")
    values = np.arange(9, dtype=np.float32)
    ran(flat_function([memory], vector_store(memory, vector_load(memory, [integer(0)], 8), [integer(1)], 8)), tmp_path, values)
    assert values.tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 7]


@needs_compiler
def test_lanes_of_bytes_are_combined_and_local_vectors_kept(tmp_path: Path) -> None:
    from tvm import tirx

    given, found, doubled = buffer(16, "given", "uint8"), buffer(2, "found", "uint8"), buffer(16, "doubled", "uint8")

    def body() -> Any:
        local = tirx.decl_buffer((16,), "uint8", name="local")
        lines = [whole_store(local, vector_load(given, [integer(0)], 16) + vector_load(given, [integer(0)], 16))]
        for at, kind in enumerate(("or", "add")):
            lines.append(store(found, tirx.call_llvm_pure_intrin("uint8", f"llvm.vector.reduce.{kind}.v16i8", whole(local)), [integer(at)]))
        return allocated([local], [*lines, vector(16, lambda lane: store(doubled, load(local, [lane]), [lane]))])

    values = np.array([3, 250, *[0] * 14], np.uint8)
    results, twice = np.zeros(2, np.uint8), np.zeros(16, np.uint8)
    ran(flat_function([given, found, doubled], body()), tmp_path, values, results, twice)
    assert twice[:2].tolist() == [6, 244]  # bytes wrap
    assert results.tolist() == [6 | 244, 250]


@needs_compiler
@pytest.mark.parametrize(
    ("name", "meaning"),
    [("effc_nearest_float", np.rint), ("effc_floor", np.floor), ("effc_ceil", np.ceil), ("effc_trunc", np.trunc), ("effc_sqrt", np.sqrt)],
)
def test_helpers_compute_what_the_c_library_does(name: str, meaning: Callable[[np.ndarray], np.ndarray], tmp_path: Path) -> None:
    library = built(HELPERS[name].replace("static float", "float", 1), tmp_path)
    function = getattr(library, name)
    function.restype, function.argtypes = ctypes.c_float, [ctypes.c_float]
    generator = np.random.default_rng(0)
    values = [*REALS, 0.5, 1.5, 2.5, -0.5, -0.2, 8388607.5, -8388609.0, np.inf, *(generator.standard_normal(200) * 100)]
    numbers = np.abs(np.array(values, np.float32)) if name == "effc_sqrt" else np.array([*values, -np.inf], np.float32)
    found = np.array([function(float(number)) for number in numbers], np.float32)
    assert found.tobytes() == meaning(numbers).astype(np.float32).tobytes()


@needs_compiler
def test_the_nearest_integer_is_exact_up_to_the_last_fraction(tmp_path: Path) -> None:
    values = np.float32([0.5, 1.5, 2.5, -0.5, -2.5, 4194305.5, -4194305.5, 4194304.5, 8388607.5, 8388608.0, -8388609.0, 2.0**31, np.nan])
    source = tmp_path / "nearest.c"
    source.write_text(
        "#include <stdint.h>\n" + HELPERS["effc_nearest"] + "void all(const float *x, int32_t *y, int n) {\n"
        "  int i;\n  for (i = 0; i < n; ++i) y[i] = effc_nearest(x[i]);\n}\n"
    )
    library = tmp_path / "nearest.so"
    subprocess.run(["gcc", "-std=c99", "-O2", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    got = np.zeros(len(values), np.int32)
    code = ctypes.CDLL(str(library))
    code.all(values.ctypes.data_as(ctypes.c_void_p), got.ctypes.data_as(ctypes.c_void_p), len(values))
    expected = [0, 2, 2, 0, -2, 4194306, -4194306, 4194304, 8388608, 8388608, -8388609, -(2**31), -(2**31)]
    assert got.tolist() == expected


@needs_compiler
@pytest.mark.parametrize(("sign", "test"), [("And", "NE"), ("Or", "EQ")])
def test_the_second_operand_of_a_logical_operator_is_computed_only_where_it_counts(sign: str, test: str, tmp_path: Path) -> None:
    """It may be what must not be read, or end the process; and it may need statements of its own."""
    from tvm import tirx

    given, found = buffer(3, "given", "int32"), buffer(3, "found", "int32")

    def element(at: int) -> Any:
        divisor = load(given, [integer(at)])
        twice = tirx.Var("twice", divisor.ty)
        large = tirx.Let(twice, divisor * 2, twice * twice > twice + 20)
        second = tirx.if_then_else(tirx.truncdiv(integer(100), divisor) > 3, large, tirx.const(False, "bool"))
        known = getattr(tirx, test)(divisor, integer(0))
        return store(found, tirx.Cast("int32", getattr(tirx, sign)(known, second)), [integer(at)])

    values, results = np.array([0, 5, 50], np.int32), np.full(3, -1, np.int32)
    ran(flat_function([given, found], tirx.SeqStmt([element(at) for at in range(3)])), tmp_path, values, results)
    assert results.tolist() == [int(sign == "Or"), 1, 0]


def test_operands_of_logical_operators_are_written_once() -> None:
    """However deep they lie in one another."""
    from tvm import tirx

    number = tirx.Var("number", "int32")
    chain = number > 0
    for depth in range(12):
        value = tirx.Var("value", "int32")
        chain = tirx.And(number > depth, tirx.Let(value, number * (depth + 2), tirx.Or(value < 20, chain)))
    writer = Expressions(None, "kernel")
    writer.names[number] = "number"
    writer.expression(chain)
    assert len([line for line in writer.lines if "const int32_t value" in line]) == 12
    assert len([line for line in writer.lines if "if (number" in line]) == 12
