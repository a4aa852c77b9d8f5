"""What effc asks of NVIDIA's driver, and how it tells what the driver refuses: `fake_cuda.cpp` is the driver."""

from __future__ import annotations

import ctypes
import threading
from dataclasses import replace

import pytest

from effc.errors import DataError, InternalError
from effc.lowering.cuda.emulation import host_compiler
from effc.runtime.artifact import Artifact
from effc.runtime.cuda.executor import CUBIN
from effc.runtime.cuda.libcuda import LibCuda
from tests.unit.runtime.fake_gpu import GRAPHS, RECORDED, session

pytestmark = pytest.mark.skipif(host_compiler() is None, reason="no C++ compiler (g++) to run CUDA C on this machine's CPU")


def test_launches_may_come_from_another_thread(digits: Artifact, driver: str) -> None:
    plan = digits.manifest.plan
    assert plan is not None
    launch = plan.steps[0].launches[0]
    gpu = LibCuda("sm_90", driver)
    gpu.load(digits.read(CUBIN), [launch])
    places = [gpu.allocate(1 << 20) for _ in launch.arguments]
    failed: list[BaseException] = []

    def start() -> None:
        try:
            gpu.launch(launch.kernel, launch.grid, launch.block, launch.shared, places)
        except InternalError as error:
            failed.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert not failed


def test_a_graph_that_cannot_be_made_ready_is_not_kept(digits: Artifact, driver: str, machine: ctypes.CDLL) -> None:
    before = machine.fake_count(RECORDED), machine.fake_count(GRAPHS)
    machine.fake_failing(2)
    with pytest.raises(InternalError, match="cuGraphInstantiateWithFlags"):
        session(digits, driver)
    assert (machine.fake_count(RECORDED), machine.fake_count(GRAPHS)) == before


def test_too_little_memory_is_said_in_bytes(digits: Artifact, driver: str, machine: ctypes.CDLL) -> None:
    machine.fake_room(ctypes.c_size_t(100))
    with pytest.raises(DataError, match=r"Fake GPU has no room for [\d,]+ bytes: of 83,886,080 bytes 100 are free; .*smaller batch"):
        session(digits, driver)


def test_shared_memory_is_what_is_declared_and_what_is_asked_for(digits: Artifact, driver: str, machine: ctypes.CDLL) -> None:
    plan = digits.manifest.plan
    assert plan is not None
    (launch,) = plan.steps[0].launches
    for declared, shared in ((40 << 10, 16 << 10), (0, 100 << 10)):
        machine.fake_declared(declared)
        gpu = LibCuda("sm_90", driver)
        gpu.load(digits.read(CUBIN), [replace(launch, shared=shared)])
        gpu.launch(launch.kernel, launch.grid, launch.block, shared, [gpu.allocate(1 << 20) for _ in launch.arguments])
    machine.fake_declared(200 << 10)
    with pytest.raises(InternalError, match=f"needs {228 << 10} bytes of shared memory, and Fake GPU has {227 << 10}"):
        LibCuda("sm_90", driver).load(digits.read(CUBIN), [replace(launch, shared=28 << 10)])


def test_a_launch_with_too_few_pointers_is_refused(digits: Artifact, driver: str) -> None:
    plan = digits.manifest.plan
    assert plan is not None
    (launch,) = plan.steps[0].launches
    count = len(launch.arguments)
    with pytest.raises(InternalError, match=f"takes {count} pointers, and a launch of the plan gives it {count - 1}"):
        LibCuda("sm_90", driver).load(digits.read(CUBIN), [launch, replace(launch, arguments=launch.arguments[:-1])])
