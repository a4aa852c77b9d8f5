"""Artifacts for GPUs on a machine without one: `fake_cuda.cpp` is the driver, and runs the CUDA C thread by thread."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from effc.data import Dataset
from effc.errors import AlteredArtifactError, DataError, InputRejectedError, InternalError, MissingDependencyError
from effc.faultsim.artifact_engine import ArtifactEngine
from effc.faultsim.artifact_subject import ArtifactSubject
from effc.faultsim.engine import ProgramEngine
from effc.faultsim.faults import Injection
from effc.faultsim.records import Record
from effc.faultsim.spec import CampaignSpec
from effc.lowering.cuda.emulation import host_compiler
from effc.runtime import Stream, load, verify_golden
from effc.runtime.artifact import Artifact
from effc.runtime.cuda.driver import fits
from effc.runtime.cuda.executor import CUBIN, SOURCE
from effc.runtime.cuda.loading import cuda_executor
from effc.runtime.manifest import decode, encode
from effc.runtime.plan import Plan
from tests.unit.runtime.fake_gpu import BLOCKS, DIGITS, GRAPHS, LAUNCHED, UPLOADED, session

pytestmark = pytest.mark.skipif(host_compiler() is None, reason="no C++ compiler (g++) to run CUDA C on this machine's CPU")


class Chain(nn.Module):
    """Two frames of memory, one of them smoothed."""

    def forward(self, frame: torch.Tensor, last: torch.Tensor, mean: torch.Tensor) -> tuple[torch.Tensor, ...]:
        smooth = 0.75 * mean + 0.25 * frame
        return torch.relu(frame - last) + smooth, frame * 1.0, smooth


@pytest.fixture(scope="module")
def chain(compiled: Callable[..., Artifact]) -> Artifact:
    example = tuple(torch.zeros(1, 300) for _ in range(3))
    return compiled(Chain().eval(), "chain", example_inputs=example, states={"last": "output_1", "mean": "output_2"})


def test_results_are_the_programs(digits: Artifact, driver: str) -> None:
    assert digits.manifest.executor == "cuda"
    assert "__global__" in digits.read(SOURCE).decode()
    verified = verify_golden(session(digits, driver))
    assert verified.passed and verified.worst < 1e-6


def test_launches_are_recorded_once_and_replayed_for_each_call(digits: Artifact, driver: str, machine: ctypes.CDLL) -> None:
    before = [machine.fake_count(which) for which in range(3)]
    one = session(digits, driver)
    assert machine.fake_count(LAUNCHED) == before[LAUNCHED]  # recording runs nothing
    inputs, _ = digits.golden()
    sample = {name: array[:1] for name, array in inputs.items()}
    results = [one.run(sample) for _ in range(3)]
    plan = digits.manifest.plan
    assert plan is not None
    count = sum(len(step.launches) for step in plan.steps)
    assert count == len(plan.steps) > 3
    after = [machine.fake_count(which) for which in range(3)]
    assert [b - a for a, b in zip(before, after, strict=True)] == [3 * count, 1, 3]
    for name, array in results[0].items():
        assert array.tobytes() == results[1][name].tobytes() == results[2][name].tobytes()


def test_a_written_parameter_is_on_the_device_at_the_next_call(digits: Artifact, driver: str, machine: ctypes.CDLL) -> None:
    one = session(digits, driver)
    inputs, _ = digits.golden()
    sample = {name: array[:1] for name, array in inputs.items()}
    (output,) = one.outputs
    before = one.run(sample)[output.name]
    plan = digits.manifest.plan
    assert plan is not None
    bias = next(name for name in plan.steps[-1].reads if name in one.parameter_names and one.parameter_view(name).shape == (10,))
    shown = machine.fake_count(UPLOADED)
    assert one.run(sample)[output.name].tobytes() == before.tobytes()
    assert machine.fake_count(UPLOADED) == shown + 1  # the input alone: nothing was written
    view = one.parameter_view(bias)
    clean = view.copy()
    view[3] += 8.0
    changed = one.run(sample)[output.name]
    np.testing.assert_allclose(changed - before, [[0, 0, 0, 8, 0, 0, 0, 0, 0, 0]], atol=1e-5)
    assert machine.fake_count(UPLOADED) == shown + 3
    view[...] = clean
    assert one.run(sample)[output.name].tobytes() == before.tobytes()


def test_a_not_a_number_that_was_written_is_uploaded_once(digits: Artifact, driver: str, machine: ctypes.CDLL) -> None:
    """NaN differs from itself: what is compared are bytes."""
    one = session(digits, driver)
    inputs, _ = digits.golden()
    one.parameter_view(one.parameter_names[0]).reshape(-1)[0] = np.nan
    one.run({name: array[:1] for name, array in inputs.items()})
    shown = machine.fake_count(UPLOADED)
    one.run({name: array[:1] for name, array in inputs.items()})
    assert machine.fake_count(UPLOADED) == shown + 1


def test_memory_is_given_back(digits: Artifact, driver: str, machine: ctypes.CDLL) -> None:
    before, graphs = machine.fake_count(BLOCKS), machine.fake_count(GRAPHS)
    one = session(digits, driver)
    assert machine.fake_count(BLOCKS) == before + 4  # arena, parameters, input, output
    assert machine.fake_count(GRAPHS) == graphs + 1
    del one
    assert (machine.fake_count(BLOCKS), machine.fake_count(GRAPHS)) == (before, graphs)


def test_streams_that_are_gone_leave_their_memory_to_others(chain: Artifact, driver: str, machine: ctypes.CDLL) -> None:
    one = session(chain, driver)
    stream = Stream(one)
    blocks = machine.fake_count(BLOCKS)
    for value in range(10):
        del stream
        stream = Stream(one, {"last": np.full((1, 300), value, np.float32)})
        assert machine.fake_count(BLOCKS) == blocks
        assert float(stream.states()["last"].min()) == value
    other = Stream(one)
    assert machine.fake_count(BLOCKS) == blocks + 2
    assert float(stream.states()["last"].min()) == 9 and not other.states()["last"].any()


def test_calls_from_another_thread_have_the_context(digits: Artifact, driver: str) -> None:
    one = session(digits, driver)
    passed = []
    thread = threading.Thread(target=lambda: passed.append(verify_golden(one).passed))
    thread.start()
    thread.join()
    assert passed == [True]


def test_states_stay_on_the_device(chain: Artifact, driver: str, machine: ctypes.CDLL) -> None:
    one = session(chain, driver)
    frames = np.random.default_rng(3).standard_normal((4, 1, 300)).astype(np.float32)

    def expected(initial: np.ndarray) -> list[np.ndarray]:
        last, mean = torch.zeros(1, 300), torch.from_numpy(initial)
        results = []
        for frame in frames:
            result, last, mean = Chain()(torch.from_numpy(frame), last, mean)
            results.append(result.numpy())
        return results

    stream, other = Stream(one), Stream(one, {"mean": np.full((1, 300), 2.0, np.float32)})
    uploaded = machine.fake_count(UPLOADED)
    (name,) = [spec.name for spec in stream.inputs]
    (output,) = [spec.name for spec in stream.outputs]
    pairs = zip(frames, expected(np.zeros((1, 300), np.float32)), expected(np.full((1, 300), 2.0, np.float32)), strict=True)
    for frame, from_zero, from_two in pairs:  # two streams of one session, in turns
        np.testing.assert_allclose(stream.run({name: frame})[output], from_zero, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(other.run({name: frame})[output], from_two, rtol=1e-6, atol=1e-6)
    assert machine.fake_count(UPLOADED) == uploaded + 2 * len(frames)  # frames only
    np.testing.assert_array_equal(stream.states()["last"], frames[-1])
    stream.reset()
    np.testing.assert_array_equal(stream.states()["mean"], np.zeros((1, 300), np.float32))


@pytest.fixture(scope="module")
def moving(compiled: Callable[..., Artifact]) -> Artifact:
    clip = np.random.default_rng(0).random((4, 1, 8, 8), np.float32)
    passes = "eliminate-dead,fold-constants,fold-batch-norm,delta{dense=never}"
    return compiled(DIGITS, "moving", passes=passes, data=clip)


def test_what_moved_alone_is_computed_on_the_device(moving: Artifact, driver: str, machine: ctypes.CDLL) -> None:
    plan = moving.manifest.plan
    assert plan is not None and plan.fresh
    one = session(moving, driver)
    stream, other, whole = Stream(one), Stream(one), Stream(one)
    frames = np.random.default_rng(1).random((1, 1, 1, 8, 8), np.float32).repeat(4, 0)
    frames[2:, ..., 2, 3] += 1
    frames[3] = 1 - frames[3]
    blocks = machine.fake_count(BLOCKS)
    for t, frame in enumerate(frames):
        launched = machine.fake_count(LAUNCHED)
        result = stream.run({"image": frame})["logits"]
        steps = (plan.steps[0], *(plan.fresh if t in (0, 3) else plan.steps[1:]))
        assert machine.fake_count(LAUNCHED) == launched + sum(len(step.launches) for step in steps)
        other.run({"image": frames[-1]})  # has a past of its own
        whole.reset()
        assert result.tobytes() == whole.run({"image": frame})["logits"].tobytes()
        activity = stream.activity()
        assert activity.whole is (t in (0, 3))
        if t == 1:
            assert activity.computed[1:5].tolist() == [0] * 4
        if t == 2:
            assert activity.computed[:2].tolist() == [1, 9]
            assert stream.resident_states()["stream.clock"].tolist() == [3]
    assert machine.fake_count(BLOCKS) == blocks
    del stream, other, whole
    Stream(one).run({"image": frames[0]})  # in a block that another stream has left
    assert machine.fake_count(BLOCKS) == blocks


def test_a_frame_that_failed_makes_the_next_one_whole(moving: Artifact, driver: str, machine: ctypes.CDLL) -> None:
    stream, frame = Stream(session(moving, driver)), {"image": np.ones((1, 1, 8, 8), np.float32)}
    expected = stream.run(frame)["logits"]
    machine.fake_failing(1)
    with pytest.raises(InternalError, match=r"cuGraphLaunch"):
        stream.run({"image": np.zeros((1, 1, 8, 8), np.float32)})
    machine.fake_failing(0)
    assert stream.run(frame)["logits"].tobytes() == expected.tobytes()
    assert stream.activity().whole


def test_a_failed_frame_leaves_the_states(chain: Artifact, driver: str, machine: ctypes.CDLL) -> None:
    stream = Stream(session(chain, driver))
    stream.run({"frame": np.ones((1, 300), np.float32)})
    machine.fake_failing(1)
    with pytest.raises(InternalError, match=r"cuGraphLaunch: unspecified launch failure"):
        stream.run({"frame": np.zeros((1, 300), np.float32)})
    machine.fake_failing(0)
    np.testing.assert_array_equal(stream.states()["last"], np.ones((1, 300), np.float32))


def test_no_driver_no_gpu_and_another_gpu_are_said(digits: Artifact, driver: str, machine: ctypes.CDLL) -> None:
    with pytest.raises(MissingDependencyError, match=r"compiled for cuda:sm_90: there is no usable driver .*no-such-libcuda"):
        cuda_executor(digits, "no-such-libcuda.so.1")
    machine.fake_machine(0, 9, 0)
    with pytest.raises(MissingDependencyError, match="finds no GPU"):
        cuda_executor(digits, driver)
    for capability, advice in (((8, 6), "sm_86"), ((10, 0), "sm_100")):
        machine.fake_machine(1, *capability)
        with pytest.raises(
            DataError, match=rf"for GPUs of architecture sm_90, and this machine has Fake GPU \({advice}\).*--target cuda:{advice}"
        ):
            cuda_executor(digits, driver)


def test_load_without_a_gpu_has_exit_code_6(digits: Artifact) -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        with pytest.raises(MissingDependencyError, match="there is no usable driver") as caught:
            load(digits.path)
        assert caught.value.exit_code == 6
    else:
        pytest.skip("this machine has NVIDIA's driver")


@pytest.mark.parametrize(
    ("architecture", "capability", "runs"),
    [
        ("sm_80", (8, 0), True),
        ("sm_80", (8, 6), True),
        ("sm_86", (8, 0), False),
        ("sm_86", (8, 9), True),
        ("sm_80", (8, 7), False),
        ("sm_87", (8, 7), True),
        ("sm_87", (8, 9), False),
        ("sm_80", (9, 0), False),
        ("sm_90", (10, 0), False),
        ("sm_100", (10, 0), True),
        ("sm_100", (10, 3), True),
        ("sm_90", (8, 9), False),
    ],
)
def test_which_code_runs_where(architecture: str, capability: tuple[int, int], runs: bool) -> None:
    assert fits(architecture, capability) is runs


def test_launches_survive_the_manifest(digits: Artifact) -> None:
    plan = digits.manifest.plan
    assert plan is not None
    assert Plan.from_json(plan.as_json()) == plan
    without = replace(plan, steps=tuple(replace(step, launches=()) for step in plan.steps))
    assert all("launches" not in step for step in without.as_json()["steps"])
    assert Plan.from_json(without.as_json()) == without


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("arguments", [0, 99], "a buffer that its step has not"),
        ("arguments", [-1], "no whole numbers"),
        ("block", [1024, 2, 1], "blocks of 2048 threads"),
        ("block", [1, 1, 65], "65 threads of a block in z"),
        ("grid", [1, 65536, 1], "65536 blocks in y; 65535 are the most"),
        ("grid", [1, 1, 65536], "65536 blocks in z"),
        ("grid", [2**31, 1, 1], "2147483648 blocks in x"),
        ("grid", [0, 1, 1], "has no blocks"),
        ("grid", [1, 1], "not three of them"),
        ("shared", 1.5, "no whole numbers"),
    ],
)
def test_launches_that_no_gpu_takes_are_refused(digits: Artifact, field: str, value: object, said: str) -> None:
    data = dict(digits.manifest.data)
    plan = digits.manifest.plan
    assert plan is not None
    data["plan"] = plan.as_json()
    data["plan"]["steps"][0]["launches"] = [dict(data["plan"]["steps"][0]["launches"][0], **{field: value})]
    with pytest.raises(InputRejectedError, match=said):
        decode(encode(data))


def test_an_artifact_without_its_cubin_is_refused(digits: Artifact, driver: str) -> None:
    files = {name: entry for name, entry in digits.manifest.files.items() if name != CUBIN}
    with pytest.raises(AlteredArtifactError, match=r"holds no model\.cubin"):
        cuda_executor(replace(digits, manifest=replace(digits.manifest, files=files)), driver)


@pytest.mark.slow
def test_a_stream_that_lists_cannot_serve_computes_frames_whole(
    compiled: Callable[..., Artifact], driver: str, machine: ctypes.CDLL
) -> None:
    """What did not move is kept, but not left out, in states that the code takes and gives."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)).eval()
    clip = np.random.default_rng(0).standard_normal((4, 1, 8, 8)).astype(np.float32)
    clip[2] = clip[1]  # a frame in which nothing moves
    with mock.patch("effc.lowering.lower.stripped", return_value=None):
        artifact = compiled(net, "delta", example_inputs=(torch.zeros(1, 1, 8, 8),), passes="delta{mode=exact,dense=never}", data=clip)
    assert artifact.manifest.streams
    (note,) = [note for note in artifact.manifest.data["notes"] if "computes every frame whole" in note]
    assert "its states are not those of the pass delta" in note
    one = session(artifact, driver)
    assert verify_golden(one).passed
    stream = Stream(one)
    (name,), (output,) = [spec.name for spec in stream.inputs], [spec.name for spec in stream.outputs]
    uploaded = machine.fake_count(UPLOADED)
    results = [stream.run({name: frame[None]})[output] for frame in clip]
    assert machine.fake_count(UPLOADED) == uploaded + len(clip)
    with torch.no_grad():
        np.testing.assert_allclose(np.concatenate(results), net(torch.from_numpy(clip)).numpy(), rtol=1e-5, atol=1e-5)


def test_faults_on_the_device_do_what_they_do_in_the_program(digits: Artifact, driver: str) -> None:
    """Bit 30 of stored parameters, 8 images a fault; afterwards everything is undone."""
    held_out = np.load(DIGITS.with_name("digits_test.npz"))
    data = Dataset({"image": held_out["x"]}, held_out["y"].astype(np.int64))
    subject, spec = ArtifactSubject(digits.path, "digits"), CampaignSpec(images=8, faults=1)
    images = subject.images(data, spec, subject.batch(spec))
    mapped = [one for one in subject.held if not one.site.stands_for and one.sources]
    one = session(digits, driver)
    before = {name: one.parameter_view(name).copy() for name in one.parameter_names}
    compiled = ArtifactEngine(one, mapped, images)
    in_torch = ProgramEngine(subject.program, [one.sources[0] for one in mapped], images)
    generator = np.random.default_rng(3)
    elements = [int(generator.integers(site.site.elements)) for site in mapped]
    injections = [Injection(0, i, 1, np.array([i]), np.array([element]), np.array([30])) for i, element in enumerate(elements)]
    found, expected = compiled.run(injections), in_torch.run(injections)
    assert len(found) == len(mapped) > 5
    fields = ("masked", "critical", "due", "correct", "lost", "before", "after", "flips")

    def told(records: list[Record]) -> list[list[object]]:
        return [[getattr(record, name) for name in fields] for record in records]

    assert told(found) == told(expected)
    assert sum(record.critical for record in found) > 0
    for name, array in before.items():
        assert one.parameter_view(name).tobytes() == array.tobytes()
    assert verify_golden(one).passed
