"""Streaming programs for GPUs, run on this machine's CPU thread by thread: what moved alone is computed, with the bits of whole frames."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effc.errors import UnsupportedModelError
from effc.ir import Program
from effc.lowering import lower
from effc.lowering.cuda.emulation import EmulatedDriver, Emulation
from effc.lowering.streaming.keeping import NoListsError
from effc.runtime.cuda.executor import CudaExecutor, DeviceStates
from effc.runtime.executor import aligned_empty
from tests.unit.lowering import streams
from tests.unit.lowering.cuda.on_host import TARGET, needs_host
from tests.unit.lowering.streams import Array, special, streaming, wrong
from tests.unit.lowering.test_compact_streams import Kinds
from tests.unit.lowering.test_streaming_plans import Eighths, Movement, drifting, states_of
from tests.unit.lowering.test_streaming_random import Random

pytestmark = needs_host


class _Executor:
    """A CUDA executor whose blocks of states are arrays: its device is this machine's memory."""

    def __init__(self, executor: CudaExecutor) -> None:
        self._executor = executor
        self._blocks: dict[int, DeviceStates] = {}

    def new_states(self) -> Array:
        states = self._executor.take_states()
        assert states is not None
        size = self._executor.plan.state_bytes
        block = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(states.address))
        clock = self._executor.plan.buffer(self._executor.plan.clock).offset
        block[clock : clock + 4] = 0  # everything else holds NaN
        self._blocks[states.address] = states
        return block

    def call(self, inputs: Sequence[Array], outputs: Sequence[Array], states: Array) -> None:
        executor, device = self._executor, self._blocks[int(states.__array_interface__["data"][0])]
        for name, array in zip(executor._inputs, inputs, strict=True):
            executor.driver.upload(executor.place(name), array)
        executor.start(device)
        for name, array in zip(executor._outputs, outputs, strict=True):
            executor.driver.download(array, executor.place(name))


class Compiled(streams.Compiled):
    """A streaming program's CUDA C. Raises NoListsError where it computes all frames whole."""

    def __init__(self, program: Program, descending: bool = False) -> None:
        self.program = program
        with mock.patch("effc.lowering.cuda.backend.compile_cubin", lambda source, architecture: source.encode()):
            lowered = lower(program, TARGET)
        self.notes, plan = lowered.notes, lowered.plan
        assert plan is not None
        if not plan.state_bytes:
            raise NoListsError("; ".join(self.notes) or "nothing streams")
        self.plan, self.source = plan, lowered.source
        taken, given = program.interface.frame_inputs, program.interface.frame_outputs
        self._emulation = Emulation(lowered.source)
        self._given = [v.name for v in taken], [v.name for v in given], lowered.parameters, b""
        self.executor = self._on(descending)
        self.inputs = [aligned_empty(value.at_batch(1), value.dtype) for value in taken]
        self.outputs = {value.name: aligned_empty(value.at_batch(1), value.dtype) for value in given}

    def _on(self, descending: bool) -> _Executor:
        return _Executor(CudaExecutor(self.plan, *self._given, EmulatedDriver(self._emulation, descending)))

    def other_order(self) -> None:
        """Threads and blocks run the other way round from here on."""
        self.executor = self._on(descending=True)


def few(shape: Sequence[int]) -> Array:
    """Of `special`: nothing, corners, patches, a scene cut and none, zeros of both signs, what is no number and leaves again."""
    return special(shape)[[0, 1, 2, 3, 5, 7, 8, 9, 10, 11, 13, 20, 21]]


def test_what_moved_has_the_bits_of_whole_frames() -> None:
    torch.manual_seed(0)
    clip = few((3, 12, 8))
    program = streaming(Kinds(), clip)
    code = Compiled(program)
    assert set(code.listed.values()) == {"listed conv", "listed depthwise", "listed pool", "listed map"}
    assert wrong(code, program, clip) == []
    ascending = code.clip(clip[:6])
    code.other_order()
    for one, other in zip(ascending, code.clip(clip[:6]), strict=True):
        assert one.clock == other.clock
        assert one.active == other.active
        assert all(one.outputs[name].tobytes() == other.outputs[name].tobytes() for name in one.outputs)


@pytest.mark.slow
def test_as_many_positions_are_computed_as_on_a_cpu() -> None:
    torch.manual_seed(0)
    clip = few((3, 16, 12))[:7]
    program = streaming(Kinds(), clip)
    frames, others = Compiled(program).clip(clip), streams.Compiled(program).clip(clip)
    assert [frame.clock for frame in frames] == [frame.clock for frame in others]
    known = others[0].active  # a CPU computes grouped convolutions whole
    counted = [{name: frame.active[name] for name in known} for frame in frames if frame.clock > 1]
    assert counted == [frame.active for frame in others if frame.clock > 1]
    assert any(0 < active["stream.second"] < 48 for active in counted)


NETS = {
    "listed": Eighths,
    "compared": lambda: Movement(lambda x: x * x.mean((2, 3), keepdim=True), 4),
    "compared planes": lambda: Movement(lambda x: x.reshape(-1, 8, 4, 8), 8),
}


COMPARED = {"listed": [], "compared": [(1, 8, 8, 4)], "compared planes": [(1, 8, 4, 8)]}


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind == "compared planes")) for kind in NETS])
def test_thresholds_and_clocks_are_the_programs_in_every_bit(kind: str) -> None:
    """Sums are exact there, in whatever order; what is reshaped or hangs on the whole image is computed whole and compared."""
    clip = drifting(12) if kind == "listed" else drifting(12)[:, :, 10:18, 12:20]
    program = streaming(NETS[kind](), clip[:5], "mode=truncate,threshold=0.1,refresh=6,scene-cut=0.3")
    expected = states_of(program, clip)
    code = Compiled(program)
    shapes = [code.plan.buffer(step.writes[0]).shape for step in code.plan.steps if step.family == "compared"]
    assert shapes == COMPARED[kind]
    for t, frame in enumerate(code.clip(clip)):
        for name, output in frame.outputs.items():
            np.testing.assert_array_equal(output, expected[t][name], f"{name} in frame {t}")
        assert frame.clock == expected[t][code.plan.clock]


class OneChannel(nn.Module):
    """Of one channel a picture lies alike in both layouts, so nothing transposes it in front of what reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 1, 3, 1, 1), nn.Conv2d(1, 1, 3, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.pad(F.max_pool2d(self.first(x), 2)[:, :, ::2, ::2], (0, 1, 0, 1))
        return x * 1, self.second(x)


@pytest.mark.parametrize("code", [streams.Compiled, Compiled])
def test_one_channel(code: type[streams.Compiled]) -> None:
    torch.manual_seed(1)
    clip = few((2, 8, 12))
    program = streaming(OneChannel(), clip)
    assert wrong(code(program), program, clip) == []


def checked(seed: int) -> list[str]:
    """Families of the kernels over lists of a random network, which was run."""
    net = Random(seed)
    frames = few(net.frame)
    program = streaming(net, frames)
    code = Compiled(program)
    assert wrong(code, program, frames) == [], f"seed {seed}"
    return list(code.listed.values())


@pytest.mark.parametrize("seed", [3, *(pytest.param(one, marks=pytest.mark.slow) for one in (8, 34))])
def test_random_networks(seed: int) -> None:
    assert checked(seed)


@pytest.mark.slow
def test_many_random_networks() -> None:
    families: list[str] = []
    whole = 0
    for seed in range(40):
        _, height, width = Random(seed).frame
        if height * width > 1500:  # a CPU takes long to emulate it
            continue
        try:
            families += checked(seed)
        except UnsupportedModelError:  # no convolution reads the frame
            continue
        except NoListsError:
            whole += 1
    assert whole <= 3
    for family in ("conv", "depthwise", "pool", "map"):
        assert families.count(f"listed {family}") >= 5
