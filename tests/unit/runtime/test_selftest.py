"""The static self-test, built with the host's compiler: passes on right vectors, fails on wrong ones, refuses data of another model."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from effc.errors import InputRejectedError
from effc.runtime.plan import Buffer, Plan
from effc.runtime.selftest import BLOB, HEADER, SOURCES, SelfTest, self_test
from effc.runtime.tensors import Array
from tests.unit.runtime.dense_artifact import BATCH, IN, PLAN, dense, weights

# The model of dense_artifact as TVM would emit it: the launcher behind a weak pointer.
MODEL = r"""
#include <stdint.h>
typedef struct { void *sync; int32_t tasks; } Group;
int (*__TVMBackendParallelLaunch)(int (*)(int, Group *, void *), void *, int) __attribute__((weak));
int (*__TVMBackendParallelBarrier)(int, Group *) __attribute__((weak));
typedef struct { float *hidden; const float *w, *b, *x; float *y; int seen; } Data;
static int product(int task, Group *group, void *raw) {
  Data *d = raw;
  if (task == 0) d->seen = group->tasks;
  for (int n = task; n < 4; n += group->tasks)
    for (int o = 0; o < 3; ++o) {
      float sum = d->b[o];
      for (int i = 0; i < 5; ++i) sum += d->x[n * 5 + i] * d->w[i * 3 + o];
      d->hidden[n * 3 + o] = sum;
    }
  if (__TVMBackendParallelBarrier(task, group)) return -1;
  for (int i = task; i < 12; i += group->tasks) d->y[i] = d->hidden[i] > 0 ? d->hidden[i] : 0;
  return 0;
}
int32_t run(uint8_t *arena, const uint8_t *parameters, const void *x, void *y, void *row, int32_t *status) {
  *status = 7;
  if ((uintptr_t)arena % 64 || (uintptr_t)parameters % 64 || (uintptr_t)x % 64 || (uintptr_t)y % 64) return 0;
  *status = 8;
  Data d = {(float *)arena, (const float *)parameters, (const float *)(parameters + 64), x, y, 0};
  for (int round = 0; round < 200; ++round)
    if (__TVMBackendParallelLaunch(product, &d, 0)) return 0;
  *status = 9;
  if (d.seen != THREADS) return 0;
  for (int i = 0; i < 4; ++i) ((int64_t *)row)[i] = i;
  *status = 0;
  return 0;
}
"""


def vectors() -> tuple[dict[str, Array], dict[str, Array]]:
    x = np.random.default_rng(3).standard_normal((BATCH, IN), dtype=np.float32)
    return {"x": x}, {"y": dense(x, weights()["w"], weights()["b"]), "row": np.arange(BATCH)}


def built(folder: Path, expected: dict[str, Array], threads: int = 3, flags: tuple[str, ...] = ()) -> Path:
    return build(folder, self_test(PLAN, weights(), vectors()[0], expected), MODEL, threads, flags)


def build(folder: Path, test: SelfTest, model: str, threads: int = 3, flags: tuple[str, ...] = ()) -> Path:
    cc = shutil.which("cc") or shutil.which("gcc")
    if cc is None:
        pytest.skip("no C compiler (cc, gcc) on this machine")
    (folder / HEADER).write_text(test.header)
    (folder / BLOB).write_bytes(test.blob)
    (folder / "dense.c").write_text(model)
    warnings = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-I.", f"-DTHREADS={threads}", *flags]
    subprocess.run([cc, *warnings, *map(str, SOURCES), "dense.c", "-o", "selftest", "-lm", "-lpthread"], cwd=folder, check=True)
    return folder / "selftest"


def run(program: Path, threads: int = 3) -> tuple[int, str]:
    done = subprocess.run([program], env={"EFFC_THREADS": str(threads)}, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def test_right_vectors_pass(tmp_path: Path) -> None:
    code, text = run(built(tmp_path, vectors()[1]))
    assert (code, text.splitlines()[-1].split(":")[0]) == (0, "PASS"), text


def test_without_threads(tmp_path: Path) -> None:
    assert run(built(tmp_path, vectors()[1], threads=1, flags=("-DEFFC_SERIAL",)))[0] == 0


@pytest.mark.parametrize("what", ["float", "integer", "nan"])
def test_wrong_vectors_fail(tmp_path: Path, what: str) -> None:
    expected = vectors()[1]
    if what == "integer":
        expected["row"][3] += 1
    else:
        expected["y"][3, 2] += np.float32(np.nan if what == "nan" else 0.01)
    code, text = run(built(tmp_path, expected))
    assert code == 1
    assert "FAIL" in text


def test_data_of_another_build_are_noticed(tmp_path: Path) -> None:
    """A compiler cache may keep the assembled-in file of an earlier build; a pass must not come from there."""
    built(tmp_path, vectors()[1])
    other = vectors()[1]
    other["y"] += 1
    (tmp_path / HEADER).write_text(self_test(PLAN, weights(), vectors()[0], other).header)
    program = tmp_path / "selftest"
    cc = shutil.which("cc") or "gcc"
    command = [cc, "-std=c11", "-I.", "-DTHREADS=3", *map(str, SOURCES), "dense.c", "-o", "selftest", "-lm", "-lpthread"]
    subprocess.run(command, cwd=tmp_path, check=True)
    code, text = run(program)
    assert code == 2
    assert "not the model's" in text


COUNTER = r"""
#include <stdint.h>
int32_t run(uint8_t *arena, const uint8_t *parameters, uint8_t *states, const float *x, float *y, int32_t *status) {
  (void)arena, (void)parameters;
  *status = (uintptr_t)states % 64 ? 5 : 0;
  *y = *(float *)states = 10 * *(float *)states + *x;
  return 0;
}
"""


@pytest.mark.parametrize(("expected", "code"), [(123.0, 0), (3.0, 1)])
def test_a_model_that_keeps_states_is_run_on_frames(tmp_path: Path, expected: float, code: int) -> None:
    buffers = (Buffer("x", "input", (1,), "float32", 0, 4), Buffer("y", "output", (1,), "float32", 0, 4))
    plan = Plan("run", (*buffers, Buffer("kept", "state", (1,), "float32", 0, 4)), (), 0, 0, state_bytes=64)
    frames = [{"x": np.array([value], np.float32)} for value in (1, 2, 3)]
    test = self_test(plan, {}, frames[-1], {"y": np.array([expected], np.float32)}, earlier=frames[:-1])
    assert run(build(tmp_path, test, COUNTER))[0] == code


def test_a_failing_model_is_not_a_failing_comparison(tmp_path: Path) -> None:
    code, text = run(built(tmp_path, vectors()[1], threads=2), threads=3)
    assert code == 2
    assert "code 9" in text


def test_vectors_that_do_not_fit_are_all_named() -> None:
    inputs, expected = vectors()
    del expected["row"]
    with pytest.raises(InputRejectedError) as caught:
        self_test(PLAN, weights(), {"x": inputs["x"][:2]}, expected)
    assert "'x'" in str(caught.value)
    assert "'row'" in str(caught.value)


def test_names_are_safe_in_c() -> None:
    buffers = (Buffer('a"\\??/\n', "input", (1,), "bool", 0, 1), Buffer("y", "output", (1,), "float16", 0, 2))
    plan = Plan("run", buffers, (), 0, 0)
    header = self_test(plan, {}, {buffers[0].name: np.ones(1, bool)}, {"y": np.ones(1, np.float16)}).header
    assert r'{"a\"\\?\?/?", UINT8, 1u, 0u}' in header
    assert '{"y", FLOAT16, 1u, 64u}' in header
