"""Threads: as many of the operating system's threads run a kernel as were asked for, whatever the environment says."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from effc.errors import MissingDependencyError
from effc.runtime import Session, load, write_artifact
from effc.runtime.native import call_global, set_max_concurrency
from effc.runtime.threads import available_threads, use_threads
from tests.unit.runtime.dense_artifact import BATCH, IN, compile_c, fields, files

T = TypeVar("T")

# Each task of a parallel kernel writes down its thread, in output `row` of dense_artifact's plan.
NOTE = r"""
#include <pthread.h>
#include <stdint.h>
typedef struct { void *sync; int32_t tasks; } Group;
extern int TVMBackendParallelLaunch(int (*)(int, Group *, void *), void *, int);
static int note(int task, Group *group, void *row) {
  if (task < 4) ((int64_t *)row)[task] = (int64_t)pthread_self();
  return 0;
}
int32_t run(uint8_t *arena, const uint8_t *parameters, const void *x, float *y, int64_t *row, int32_t *status) {
  for (int i = 0; i < 12; ++i) y[i] = 0;
  for (int i = 0; i < 4; ++i) row[i] = 0;
  *status = TVMBackendParallelLaunch(note, row, 0) ? 1 : 0;
  return 0;
}
"""


@pytest.fixture(scope="module")
def noting(cc: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("noting")
    write_artifact(folder / "out", files(compile_c(cc, NOTE, folder)), fields())
    return folder / "out"


def in_new_thread(function: Callable[[], T]) -> T:
    """A thread has a pool of its own, so what other tests did to theirs does not matter."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(function).result()


def who(session: Session) -> list[int]:
    """The threads of one call, the calling one first."""
    row = session.run({"x": np.zeros((BATCH, IN), np.float32)})["row"].tolist()
    assert row[0] == threading.get_ident()
    taking_part = [thread for thread in row if thread]
    assert len(set(taking_part)) == len(taking_part)
    return taking_part


@pytest.mark.parametrize("environment", [{}, {"TVM_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "1"}, {"TVM_NUM_THREADS": "4"}])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_as_many_threads_as_asked(noting: Path, count: int, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TVM_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def work() -> None:
        session = load(noting, threads=count)
        for _ in range(3):
            assert len(who(session)) == count
            assert session.threads_used == count

    in_new_thread(work)


def test_sessions_of_one_thread_differ(noting: Path) -> None:
    def work() -> None:
        most = max(3, available_threads())
        sessions = {count: load(noting, threads=count) for count in (most, 1, 2)}
        for _ in range(3):
            for count, session in sessions.items():
                assert len(who(session)) == min(count, 4)  # the kernel notes four
                assert session.threads_used == count

    in_new_thread(work)


def test_threads_with_pools_of_their_own(noting: Path) -> None:
    counts = (1, 2, 3, 2)
    start = threading.Barrier(len(counts))

    def work(count: int) -> set[int]:
        session = load(noting, threads=count)
        start.wait(60)
        seen = set()
        for _ in range(20):
            threads = who(session)
            assert len(threads) == session.threads_used == count
            seen |= set(threads)
        start.wait(60)  # the pool of a thread that has ended frees its numbers for others
        return seen

    with ThreadPoolExecutor(len(counts)) as executor:
        seen = list(executor.map(work, counts))
    assert [len(threads) for threads in seen] == list(counts)
    assert len(set.union(*seen)) == sum(counts)


@pytest.mark.parametrize("size", [1, 2])
def test_a_pool_that_was_made_smaller(noting: Path, size: int) -> None:
    def work() -> None:
        set_max_concurrency(size)
        call_global("runtime.NumThreads")  # TVM makes its pool
        session = load(noting, threads=3)
        assert len(who(session)) == session.threads_used == size

    in_new_thread(work)


def test_the_environment_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVM_BIND_THREADS", "0")
    before = dict(os.environ)
    assert in_new_thread(lambda: use_threads(2)) == 2
    assert dict(os.environ) == before


def test_a_runtime_without_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effc.runtime.native._SET_MAX_CONCURRENCY", "no_such_function")
    with pytest.raises(MissingDependencyError, match=r"no function no_such_function; effc needs apache-tvm 0\.27"):
        in_new_thread(lambda: use_threads(2))
