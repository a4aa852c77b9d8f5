"""Streams: states stay inside, streams do not see each other, nothing bad gets into a state, and a hostile manifest is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effc.errors import DataError, InputRejectedError, InternalError
from effc.runtime import Session, Stream, load, open_artifact, verify_golden, write_artifact
from effc.runtime.plan import Buffer, Plan
from tests.unit.runtime.dense_artifact import compile_c
from tests.unit.runtime.streaming_artifact import (
    DENSE_CODE,
    DENSE_PLAN,
    SIZE,
    SPARSE_CODE,
    SPARSE_PLAN,
    clip,
    expected,
    streaming_fields,
    streaming_files,
)

KINDS = {"sparse": (SPARSE_CODE, SPARSE_PLAN), "dense": (DENSE_CODE, DENSE_PLAN)}


@pytest.fixture(scope="module")
def libraries(cc: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return {kind: compile_c(cc, code, tmp_path_factory.mktemp(kind)) for kind, (code, _) in KINDS.items()}


def write(folder: Path, library: bytes, plan: Plan, **changes: Any) -> Path:
    write_artifact(folder, streaming_files(library), streaming_fields(plan, **changes))
    return folder


@pytest.fixture(params=["sparse", "dense"])
def session(request: pytest.FixtureRequest, libraries: dict[str, bytes], tmp_path: Path) -> Session:
    """Once with a block of states, once with states that are inputs and outputs of the code."""
    return load(write(tmp_path / "out", libraries[request.param], KINDS[request.param][1]))


@pytest.fixture
def sparse(libraries: dict[str, bytes], tmp_path: Path) -> Session:
    return load(write(tmp_path / "sparse", libraries["sparse"], SPARSE_PLAN))


def test_users_do_not_see_resident_states(session: Session) -> None:
    assert [spec.name for spec in session.inputs] == ["x", "total"]
    assert [spec.name for spec in session.outputs] == ["y", "total_next"]
    stream = Stream(session)
    assert [spec.name for spec in stream.inputs] == ["x"] and [spec.name for spec in stream.outputs] == ["y"]
    assert list(stream.states()) == ["total"]
    assert {"stream.clock", "stream.x"} <= stream.resident_states().keys()
    with pytest.raises(DataError, match=r"'stream.x': the name: is unknown; known: total"):
        stream.reset({"stream.x": np.zeros((1, SIZE), np.float32)})


def test_frames_in_order(session: Session) -> None:
    x = clip(23)
    y, totals = expected(x)
    assert not np.array_equal(y, 10 * x)  # something was kept
    stream = Stream(session)
    for index, frame in enumerate(x):
        assert np.array_equal(stream.run({"x": frame[None]})["y"], y[index : index + 1])
        np.testing.assert_allclose(stream.states()["total"], totals[index : index + 1], rtol=1e-5, atol=1e-6)
    assert stream.frames == 23
    stream.reset({"total": np.full((1, 1), 7, np.float32)})
    assert stream.frames == 0
    assert np.array_equal(stream.run({"x": x[5:6]})["y"], 10 * x[5:6])
    np.testing.assert_allclose(stream.states()["total"], 7 + x[5:6].sum(), rtol=1e-6)


def test_a_run_is_a_clip_from_a_reset(session: Session) -> None:
    """States of the user's are inputs like others then, one value a frame."""
    x = clip(9, seed=3)
    for _ in range(2):
        outputs = session.run({"x": x, "total": np.zeros((9, 1), np.float32)})
        assert np.array_equal(outputs["y"], expected(x)[0])
        np.testing.assert_allclose(outputs["total_next"], x.sum(1, keepdims=True), rtol=1e-5, atol=1e-6)
    assert verify_golden(session).passed
    with pytest.raises(DataError, match="same number of samples"):
        session.run({"x": x, "total": np.zeros((3, 1), np.float32)})


def test_a_clip_where_the_batch_is_fixed(libraries: dict[str, bytes], tmp_path: Path) -> None:
    fixed = streaming_fields(SPARSE_PLAN)
    fixed["batch"] = {"size": 1, "symbolic": False, "reason": "a test"}
    for tensor in (*fixed["inputs"], *fixed["outputs"]):
        tensor["shape"][0] = 1
    write_artifact(tmp_path / "out", streaming_files(libraries["sparse"]), fixed)
    x = clip(6)
    assert np.array_equal(load(tmp_path / "out").run({"x": x, "total": np.zeros((6, 1), np.float32)})["y"], expected(x)[0])


def test_streams_do_not_see_each_other(session: Session) -> None:
    clips = [clip(12, seed) for seed in range(3)]
    streams = [Stream(session) for _ in clips]
    for index in range(12):
        for stream, x in zip(streams, clips, strict=True):
            assert np.array_equal(stream.run({"x": x[index : index + 1]})["y"], expected(x)[0][index : index + 1])


def test_streams_in_threads(session: Session) -> None:
    failures: list[BaseException] = []

    def feed(seed: int) -> None:
        x, stream = clip(200, seed), Stream(session)
        try:
            got = np.concatenate([stream.run({"x": frame[None]})["y"] for frame in x])
            assert np.array_equal(got, expected(x)[0])
        except BaseException as error:  # noqa: BLE001 - shown by the test
            failures.append(error)

    threads = [threading.Thread(target=feed, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize(
    "bad",
    [
        lambda x: {"x": x.astype(np.float64)},
        lambda x: {"x": x[0]},
        lambda x: {"x": np.repeat(x, 2, axis=0)},
        lambda x: {},
        lambda x: {"x": x, "stream.x": x},
        lambda x: {"x": x, "total": np.zeros((1, 1), np.float32)},
    ],
)
def test_a_frame_that_does_not_fit_changes_nothing(session: Session, bad: Callable[[Any], dict[str, Any]]) -> None:
    x = clip(4)
    stream = Stream(session)
    for index in range(4):
        with pytest.raises(DataError, match="do not fit the compiled model"):
            stream.run(bad(x[index : index + 1]))
        assert stream.frames == index
        assert np.array_equal(stream.run({"x": x[index : index + 1]})["y"], expected(x)[0][index : index + 1])


def test_after_a_failure_of_the_code_the_next_frame_is_right(session: Session) -> None:
    """What was in a block is half written: it is forgotten. States that are passed in and out are as they were."""
    x = clip(4)
    stream = Stream(session)
    stream.run({"x": x[:1]})
    before = stream.states()["total"]
    with pytest.raises(InternalError):
        stream.run({"x": np.full((1, SIZE), 99, np.float32)})
    assert np.array_equal(stream.states()["total"], before)
    got = stream.run({"x": x[1:2]})["y"]
    rest = 10 * x[1:2] if session.manifest.keeps_states else expected(x)[0][1:2]
    assert np.array_equal(got, rest)


def test_activity_counts_what_was_computed(sparse: Session) -> None:
    stream = Stream(sparse)
    with pytest.raises(DataError, match="no frame was run"):
        stream.activity()
    frames = np.array([[0, 0, 0, 0], [0, 3, 0, 0], [0, 6, 2, 5], [0, 6, 2, 5], [9, 9, 9, 9]], np.float32)
    found = []
    for frame in frames:
        stream.run({"x": frame[None]})
        found.append(stream.activity())
    assert [one.whole for one in found] == [True, False, False, False, True]
    # The convolution has 300 of 400 MACs, and computes what moved; the sum is always computed.
    assert [one.share for one in found] == [1.0, *(0.25 + 0.75 * moved / 4 for moved in (1, 3, 0)), 1.0]
    middle = found[1].steps
    assert [(step.computed, step.positions, step.is_sparse, step.share) for step in middle] == [
        (0, 0, False, 1.0),
        (1, 4, True, 0.25),
        (0, 0, False, 1.0),
    ]
    assert (middle[1].name, middle[1].ops, middle[1].family, middle[1].macs) == ("head.conv", "conv2d + relu", "delta_conv", 300)
    assert found[4].steps[1].computed == 4


def test_dense_code_computes_everything(libraries: dict[str, bytes], tmp_path: Path) -> None:
    stream = Stream(load(write(tmp_path / "out", libraries["dense"], DENSE_PLAN)))
    for frame in clip(3):
        stream.run({"x": frame[None]})
        activity = stream.activity()
        assert activity.whole and activity.share == 1.0 and [step.macs for step in activity.steps] == [300]


def test_memory_of_the_states(libraries: dict[str, bytes], tmp_path: Path) -> None:
    sparse, dense = (open_artifact(write(tmp_path / kind, libraries[kind], plan)).manifest for kind, (_, plan) in KINDS.items())
    assert sparse.state_bytes == 192 + 2 * 4  # the block, and the total twice
    assert dense.state_bytes == 2 * (4 + 4 + 16)


def replaced(name: str, **changes: Any) -> Plan:
    """The sparse plan with one state changed."""
    buffers = tuple(replace(one, **changes) if one.name == name else one for one in SPARSE_PLAN.buffers)
    return replace(SPARSE_PLAN, buffers=buffers)


COUNTING = replace(SPARSE_PLAN.steps[1], active="stream.x")
HOSTILE: dict[str, tuple[Plan, str]] = {
    "behind the block": (replaced("stream.active", offset=192), "stream.active lies outside its state block"),
    "before the block": (replaced("stream.active", offset=-64), "lies outside its state block"),
    "longer than its room": (replaced("stream.x", shape=(1, 5)), "stream.x lies outside"),
    "not aligned": (replaced("stream.active", offset=130), "multiples of the alignment"),
    "broken offset": (replaced("stream.active", offset=64.0), "whole numbers"),
    "no block": (replace(SPARSE_PLAN, state_bytes=0), "the plan's inputs"),
    "short block": (replace(SPARSE_PLAN, state_bytes=64), "lies outside its state block"),
    "no clock": (replace(SPARSE_PLAN, clock=""), "clock '' is no int32"),
    "a clock outside": (replace(SPARSE_PLAN, clock="x"), "clock 'x' is no int32"),
    "two clocks": (replaced("stream.clock", shape=(2,), size=8), "clock 'stream.clock' is no int32"),
    "counters that are numbers": (replace(SPARSE_PLAN, steps=(COUNTING,)), "no int32 state"),
    "no positions": (replace(SPARSE_PLAN, steps=(replace(SPARSE_PLAN.steps[1], positions=0),)), "or has none"),
    "no counters": (replaced("stream.active", shape=(0,), size=0), "or has none"),
    "an input more": (
        replace(SPARSE_PLAN, buffers=(*SPARSE_PLAN.buffers, Buffer("stream.y", "input", (1, SIZE), "float32", 0, 16))),
        "the plan's inputs",
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_plan_is_refused(libraries: dict[str, bytes], tmp_path: Path, what: str) -> None:
    plan, words = HOSTILE[what]
    with pytest.raises(InputRejectedError, match="malformed") as caught:
        open_artifact(write(tmp_path / "out", libraries["sparse"], plan))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda one: one["outputs"][3].update(shape=["batch", 99]), "becomes stream.x_next"),
        (lambda one: one["outputs"][1].update(dtype="float64"), "becomes total_next"),
        (lambda one: one["states"].append({"input": "x", "output": "z", "resident": False}), "is no input and output"),
        (lambda one: one["states"].append(dict(one["states"][0])), "occurs twice"),
        (lambda one: one["batch"].update(size=2), "frames come one by one"),
    ],
)
def test_hostile_states_are_refused(
    libraries: dict[str, bytes], tmp_path: Path, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    hostile = streaming_fields(DENSE_PLAN)
    hostile["states"] = [dict(state) for state in hostile["states"]]
    change(hostile)
    with pytest.raises(InputRejectedError, match="malformed") as caught:
        write_artifact(tmp_path / "out", streaming_files(libraries["dense"]), hostile)
    assert words in str(caught.value)
