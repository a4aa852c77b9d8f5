"""Running an artifact: any number of samples, any memory layout, errors all at once, threads, and a VM without tvm."""

from __future__ import annotations

import os
import platform
import struct
import subprocess
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from effc.errors import AlteredArtifactError, DataError, InputRejectedError, InternalError
from effc.runtime import Session, load, verify_golden, write_artifact
from effc.runtime.executor import PlanExecutor, VirtualMachineExecutor, aligned_empty
from effc.runtime.tensors import Array
from effc.runtime.threads import available_threads
from tests.unit.runtime.dense_artifact import BATCH, CODE, IN, OUT, PLAN, compile_c, dense, fields, files, weights


def samples(count: int, seed: int = 5) -> Array:
    return np.random.default_rng(seed).standard_normal((count, IN), dtype=np.float32)


def expected(x: Array) -> Array:
    return dense(x, weights()["w"], weights()["b"])


@pytest.fixture(params=["copied", "in place"])
def session(out: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Session:
    """Small tensors go through the session's own arrays, large ones do not; these are small."""
    if request.param == "in place":
        monkeypatch.setattr("effc.runtime.session._COPY_LIMIT", 0)
    return load(out)


@pytest.mark.parametrize("count", [1, BATCH - 1, BATCH, BATCH + 1, 3 * BATCH])
def test_any_number_of_samples(session: Session, count: int) -> None:
    x = samples(count)
    result = session.run({"x": x})
    np.testing.assert_allclose(result["y"], expected(x), rtol=1e-5, atol=1e-6)
    # Each call numbers its rows: the chunks are in order and the filling of the last is gone.
    assert result["row"].tolist() == [index % BATCH for index in range(count)]


@pytest.mark.parametrize("layout", ["transposed", "reversed", "strided", "unaligned", "read-only"])
def test_memory_layout_does_not_matter(session: Session, layout: str) -> None:
    x = samples(BATCH)
    block = np.empty(x.nbytes + 4, np.uint8)
    other = {
        "transposed": np.asfortranarray(x),
        "reversed": x[::-1].copy()[::-1],
        "strided": np.repeat(x, 2, axis=1)[:, ::2],
        "unaligned": np.ndarray(x.shape, x.dtype, block, 4),
        "read-only": x.copy(),
    }[layout]
    other.setflags(write=layout != "read-only")
    if layout == "unaligned":
        other[...] = x
    assert np.array_equal(session.run({"x": other})["y"], session.run({"x": x})["y"])


def test_results_are_new_arrays(session: Session) -> None:
    first = session.run({"x": samples(BATCH, 1)})["y"]
    kept = first.copy()
    second = session.run({"x": samples(BATCH, 2)})["y"]
    assert np.array_equal(first, kept)
    assert first.flags.writeable and first.flags.c_contiguous
    assert not np.shares_memory(first, second)


def test_any_mapping_and_any_array(session: Session) -> None:
    """What is not a plain dict of plain arrays is looked at more closely, and accepted."""
    x = samples(BATCH)
    wanted = session.run({"x": x})["y"]
    for inputs in (MappingProxyType({"x": x}), OrderedDict(x=x), {"x": x.view(np.ma.MaskedArray)}, {"x": list(x)}):
        np.testing.assert_array_equal(session.run(inputs)["y"], wanted)  # type: ignore[arg-type]


def test_large_arrays_are_read_in_place_wherever_they_lie(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effc.runtime.session._COPY_LIMIT", 0)
    session = load(out)
    room = aligned_empty((16 + BATCH * IN,), "float32")
    results = set()
    for start in range(16):  # every place of an element in a line of a cache
        x = room[start : start + BATCH * IN].reshape(BATCH, IN)
        x[...] = samples(BATCH)
        results.add(session.run({"x": x})["y"].tobytes())
        assert not session._staged._copies
    np.testing.assert_allclose(np.frombuffer(results.pop(), np.float32).reshape(expected(x).shape), expected(x), rtol=1e-5, atol=1e-6)
    assert not results  # the same bits from all of them
    odd = np.frombuffer(b"." + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)  # at no multiple of an element
    transposed = np.ascontiguousarray(x.T).T
    for given in (odd, transposed):
        np.testing.assert_array_equal(session.run({"x": given})["y"], session.run({"x": x})["y"])
    assert session._staged._copies


def test_all_input_errors_at_once(session: Session) -> None:
    with pytest.raises(DataError) as caught:
        session.run({"x": np.zeros((2, IN + 1)), "image": np.zeros(3)})
    text = str(caught.value)
    assert "dtype float64" in text
    assert ".astype('float32')" in text
    assert f"[2, {IN + 1}]" in text
    assert f"[N, {IN}]" in text
    assert "'image'" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: {"x": x.astype("float64")}, "dtype float64: must be float32"),
        (lambda x: {"x": x.astype(">f4")}, "dtype >f4: must be float32"),
        (lambda x: {"x": x.view("int32")}, "dtype int32: must be float32"),
        (lambda x: {"x": x.T}, rf"shape [{IN}, {BATCH}]: must be [N, {IN}]"),
        (lambda x: {"x": x[None]}, rf"shape [1, {BATCH}, {IN}]: must be [N, {IN}]"),
        (lambda x: {"x": x, "z": x}, "input 'z': the name: is unknown"),
        (lambda x: {"z": x}, "input 'x': nothing: is missing"),
        (lambda x: {"x": None}, "must be float32"),
    ],
)
def test_nearly_right_inputs(session: Session, change: Callable[[Array], dict[str, Array]], words: str) -> None:
    x = samples(BATCH)
    session.run({"x": x})
    with pytest.raises(DataError) as caught:
        session.run(change(x))
    assert words in str(caught.value)


def test_an_array_alone_is_told_the_name(session: Session) -> None:
    with pytest.raises(DataError, match=r"not a ndarray: write run\(\{'x': array\}\)"):
        session.run(samples(BATCH))  # type: ignore[arg-type]


def test_lists_are_told_the_dtype_and_how_to_convert(session: Session) -> None:
    values = samples(BATCH).tolist()
    with pytest.raises(DataError) as caught:
        session.run({"x": values})
    assert "a list, dtype float64 to numpy: must be float32; convert it with numpy.asarray(values, 'float32')" in str(caught.value)
    with pytest.raises(DataError, match="a list: numpy makes no array of it"):
        session.run({"x": [[1.0, 2.0], [3.0]]})  # type: ignore[dict-item]
    np.testing.assert_array_equal(session.run({"x": np.asarray(values, "float32")})["y"], session.run({"x": samples(BATCH)})["y"])


@pytest.mark.parametrize(("inputs", "word"), [({}, "missing"), ({"x": np.zeros((0, IN), np.float32)}, "0 samples")])
def test_nothing_to_compute(session: Session, inputs: dict[str, Array], word: str) -> None:
    with pytest.raises(DataError, match=word):
        session.run(inputs)


def test_a_fixed_batch_takes_no_other(library: bytes, tmp_path: Path) -> None:
    changes = {
        "inputs": [{"name": "x", "shape": [BATCH, IN], "dtype": "float32"}],
        "outputs": [{"name": "y", "shape": [BATCH, OUT], "dtype": "float32"}, {"name": "row", "shape": [BATCH], "dtype": "int64"}],
        "batch": {"size": 1, "symbolic": False, "reason": "because"},
    }
    write_artifact(tmp_path / "out", files(library), fields(**changes))
    session = load(tmp_path / "out")
    assert session.run({"x": samples(BATCH)})["y"].shape == (BATCH, OUT)
    with pytest.raises(DataError, match=rf"must be \[{BATCH}, {IN}\]"):
        session.run({"x": samples(1)})


def test_threads_share_a_session(session: Session) -> None:
    inputs = [samples(7, seed) for seed in range(6)]
    results: dict[int, Array] = {}

    def work(index: int) -> None:
        for _ in range(30):
            results[index] = session.run({"x": inputs[index]})["y"]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, x in enumerate(inputs):
        np.testing.assert_allclose(results[index], expected(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2])
def test_thread_count_follows_the_affinity(out: Path, count: int) -> None:
    """TVM's own default would take half of the processors and pin them, allowed or not."""
    if len(os.sched_getaffinity(0)) < count:
        pytest.skip(f"needs {count} processors")
    code = (
        "import os, sys, numpy as np; from effc.runtime import load\n"
        f"allowed = sorted(os.sched_getaffinity(0))[-{count}:]; os.sched_setaffinity(0, allowed)\n"
        f"s = load(sys.argv[1]); s.run({{'x': np.zeros(({BATCH}, {IN}), np.float32)}})\n"
        "print(s.threads, s.threads_used, sorted(os.sched_getaffinity(0)) == allowed, len({'torch', 'tvm', 'onnx'} & sys.modules.keys()))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TVM_")}
    done = subprocess.run([sys.executable, "-c", code, str(out)], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(count), str(count), "True", "0"]


def test_the_environment_sets_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVM_NUM_THREADS", "3")
    assert available_threads() == 3
    monkeypatch.setenv("TVM_NUM_THREADS", "0")
    with pytest.raises(Exception, match="positive number"):
        available_threads()


def test_no_threads_at_all(out: Path) -> None:
    with pytest.raises(DataError, match="at least one"):
        load(out, threads=0)


def test_a_changed_parameter_is_used_by_the_next_call(session: Session) -> None:
    x = samples(BATCH)
    session.parameter_view("b")[...] = 100
    np.testing.assert_allclose(session.run({"x": x})["y"], dense(x, weights()["w"], np.full(OUT, 100, np.float32)), rtol=1e-5)
    with pytest.raises(DataError, match="no parameter 'c'"):
        session.parameter_view("c")


def test_golden_vectors(session: Session) -> None:
    assert verify_golden(session).passed
    session.parameter_view("w")[0, 0] += 0.5
    verification = verify_golden(session)
    assert not verification.passed
    assert {entry.name: entry.relative > 1e-4 for entry in verification.differences} == {"y": True, "row": False}


def test_code_that_fails_says_so(out: Path) -> None:
    tensors, code = load(out).artifact.parameters(), out / "model.so"
    executor = PlanExecutor(PLAN, ["x"], ["y", "row"], tensors, code)
    odd = np.ndarray((BATCH, OUT), np.float32, aligned_empty((512,), "uint8"), 4)
    with pytest.raises(InternalError, match="code 7"):
        executor.call([aligned_empty((BATCH, IN), "float32")], [odd, aligned_empty((BATCH,), "int64")])


def test_a_prepared_call_computes_what_is_there_then(out: Path) -> None:
    executor = PlanExecutor(PLAN, ["x"], ["y", "row"], load(out).artifact.parameters(), out / "model.so")
    x, y, row = aligned_empty((BATCH, IN), "float32"), aligned_empty((BATCH, OUT), "float32"), aligned_empty((BATCH,), "int64")
    run = executor.prepare([x], [y, row])
    for seed in (1, 2):
        x[...] = samples(BATCH, seed)
        run()
        np.testing.assert_allclose(y, expected(x), rtol=1e-5, atol=1e-6)
    kept = weakref.ref(x)
    del x
    assert kept() is not None  # the code would read freed memory


def test_code_without_the_plans_entry(library: bytes, tmp_path: Path) -> None:
    cc = "cc"
    content = files(library) | {"model.so": compile_c(cc, "int other(void) { return 0; }", tmp_path)}
    write_artifact(tmp_path / "out", content, fields())
    with pytest.raises(AlteredArtifactError, match="no function 'run'"):
        load(tmp_path / "out")


@pytest.mark.parametrize("self_test", [True, False])
def test_code_for_another_machine(library: bytes, tmp_path: Path, self_test: bool) -> None:
    other, number = ("x86_64", 62) if platform.machine() == "aarch64" else ("aarch64", 183)
    code = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, number) + bytes(44)
    content = files(library) | {"model.so": code} | ({"selftest": b"a program"} if self_test else {})
    write_artifact(tmp_path / "out", content, fields())
    with pytest.raises(DataError, match=rf"holds code for \S+ \({other}\), and this machine is {platform.machine()}: ") as caught:
        load(tmp_path / "out")
    assert ("out/selftest" in str(caught.value)) == self_test
    assert "shared object" not in str(caught.value)


def test_code_that_no_machine_loads(library: bytes, tmp_path: Path) -> None:
    write_artifact(tmp_path / "out", files(library) | {"model.so": b"\x7fELF" + bytes(60)}, fields())
    with pytest.raises(InputRejectedError, match="damaged, or for another system"):
        load(tmp_path / "out")


def test_parameters_that_the_plan_does_not_expect(out: Path) -> None:
    tensors = load(out).artifact.parameters() | {"b": np.zeros(OUT + 1, np.float32)}
    with pytest.raises(AlteredArtifactError, match="parameter b"):
        PlanExecutor(PLAN, ["x"], ["y", "row"], tensors, out / "model.so")


def test_a_vm_entry_that_names_unknown_parameters(out: Path) -> None:
    with pytest.raises(AlteredArtifactError, match="vm field"):
        VirtualMachineExecutor({"function": "main", "parameters": ["w"]}, ["y"], {}, out / "model.so")


def test_the_same_place_compiled_anew_runs_the_new_code(out: Path, library: bytes, tmp_path: Path) -> None:
    """The dynamic loader knows libraries by their names: asked for the same path again, it would hand out the old code."""
    first = load(out)
    content = files(library) | {"model.so": compile_c("cc", CODE.replace("] > 0 ?", "] > 2 ?"), tmp_path)}
    write_artifact(out, content, fields())
    x = samples(BATCH)
    old, new = first.run({"x": x})["y"], load(out).run({"x": x})["y"]
    assert ((old > 0) & (old < 2)).any()
    np.testing.assert_array_equal(new, np.where(old > 2, old, 0))


def test_outputs_of_a_whole_batch_need_a_whole_batch(library: bytes, tmp_path: Path) -> None:
    """Filling up with copies would change an output that mixes samples."""
    changes = {"outputs": [{"name": "y", "shape": ["batch", OUT], "dtype": "float32"}, {"name": "row", "shape": [BATCH], "dtype": "int64"}]}
    write_artifact(tmp_path / "out", files(library), fields(**changes))
    session = load(tmp_path / "out")
    assert session.run({"x": samples(BATCH)})["row"].shape == (BATCH,)
    for count in (1, BATCH + 1):
        with pytest.raises(DataError, match="no batch dimension"):
            session.run({"x": samples(count)})
