"""Run a stream and write down, frame by frame, how long it took, how much was computed, and how far that is from computing all of it."""

from __future__ import annotations

import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from effc.errors import ConfigError, DataError
from effc.runtime.executor import aligned_empty
from effc.runtime.session import Session
from effc.runtime.stream import Stream
from effc.runtime.tensors import Array

__all__ = ["Against", "StepShare", "StreamRecord", "StreamRecorder"]

Frame = Mapping[str, Array]
_WARM_UP = 2  # frames before the first that counts: they start threads and touch memory
_USUAL = 99.9  # percentile of a frame's errors that is kept besides the largest


@dataclass(frozen=True)
class StepShare:
    """One step of the plan over all frames.

    Attributes:
        name, ops, family, note: as in the plan. macs: of the step where it computes everything.
        positions: output positions; 0 for a step that always computes all of them.
        share: mean share of positions that were computed, over the frames that were not computed whole; None where there were none.
    """

    name: str
    ops: str
    family: str
    note: str
    macs: int
    positions: int
    share: float | None


@dataclass(frozen=True, eq=False)
class Against:
    """The same frames computed whole, each after a reset.

    Attributes:
        nanoseconds: float64 (T,). The two took turns in groups of frames, on the same threads.
        errors: float64 (T,): largest difference of an output, relative to the largest magnitude that this output has over all whole frames;
            the worst of the outputs. Infinity where NaN or infinity is on one side only.
        usual_errors: float64 (T,): the same for the 99.9th percentile of an output's differences in the frame.
    """

    nanoseconds: Array
    errors: Array
    usual_errors: Array


@dataclass(frozen=True, eq=False)
class StreamRecord:
    """What was written down of T frames.

    Attributes:
        nanoseconds: float64 (T,): of `Stream.run` on a frame that lies where the code can read it.
        shares: float64 (T,): of the multiply-accumulates that were computed, 0 to 1.
        whole: bool (T,): the frame was computed whole.
        steps: of the plan.
        against: None where it was not asked for.
    """

    nanoseconds: Array
    shares: Array
    whole: Array
    steps: tuple[StepShare, ...]
    against: Against | None

    def __len__(self) -> int:
        return len(self.nanoseconds)


class StreamRecorder:
    """Feeds one stream.

    Attributes:
        stream: what is fed.
        frames: fed so far.
    """

    def __init__(self, session: Session, *, reset_every: int = 0, against_whole: bool = False) -> None:
        """Begin at a reset.

        Args:
            session: of an artifact with states.
            reset_every: forget the past before every so many frames; 0 never does.
            against_whole: compute every frame whole as well, on a second stream that is reset before each.

        Raises:
            DataError: the artifact has no states. ConfigError: it has none that the second stream could do without.
        """
        self.stream = Stream(session)
        self.frames = 0
        if against_whole and not session.manifest.streams:
            raise ConfigError("there is nothing to compare with: no pass `delta` was applied, so every frame is computed whole")
        self._whole_stream = Stream(session) if against_whole else None
        self._reset_every = reset_every
        self._times, self._shares, self._whole = array("d"), array("d"), array("b")
        self._whole_times = array("d")
        self._differences = {spec.name: (array("d"), array("d")) for spec in self.stream.outputs}
        self._magnitudes = dict.fromkeys(self._differences, 0.0)
        self._partial = 0
        self._computed: Array = np.zeros(len(session.manifest.plan.steps) if session.manifest.plan is not None else 0, np.int64)

    def feed(self, frames: Sequence[Frame]) -> list[dict[str, Array]]:
        """Run the next frames and return the stream's outputs.

        With a comparison all of them run through the stream and then through the other: to take turns after every frame would time each
        with its weights thrown out of the caches by the other.

        Raises:
            DataError: a frame does not fit; those before it in `frames` were run.
        """
        placed = [_placed(frame) for frame in frames]
        if not self.frames and placed:
            for _ in range(_WARM_UP):
                Stream(self.stream.session).run(placed[0])
        before, results = [], []
        for frame in placed:
            if self._reset_every and self.frames % self._reset_every == 0:
                self.stream.reset()
            before.append(self.stream.states())
            results.append(_timed(self.stream, frame, self._times))
            self._count()
            self.frames += 1
        if self._whole_stream is not None:
            for frame, states, result in zip(placed, before, results, strict=True):
                self._whole_stream.reset(states)
                self._compare(result, _timed(self._whole_stream, frame, self._whole_times))
        return results

    @property
    def last(self) -> tuple[float, float]:
        """Of the last frame: nanoseconds, and the share that was computed."""
        return self._times[-1], self._shares[-1]

    def record(self) -> StreamRecord:
        """All of it. Raises DataError where no frame was fed."""
        if not self.frames:
            raise DataError("there was no frame, so nothing was measured")
        plan = self.stream.session.manifest.plan
        rows = []
        for step, computed in zip(plan.steps if plan is not None else (), self._computed, strict=True):
            positions = step.positions if step.active else 0
            share = None if not self._partial else float(computed) / self._partial / positions if positions else 1.0
            name = ", ".join(step.sources) or step.kernel
            rows.append(StepShare(name, " + ".join(step.ops), step.family, step.note, step.macs, positions, share))
        against = None
        if self._whole_stream is not None:
            against = Against(np.array(self._whole_times), self._worst(0), self._worst(1))
        return StreamRecord(np.array(self._times), np.array(self._shares), np.array(self._whole, bool), tuple(rows), against)

    def _count(self) -> None:
        activity = self.stream.activity()
        self._shares.append(activity.share)
        self._whole.append(activity.whole)
        if not activity.whole:
            self._partial += 1
            self._computed += activity.computed

    def _compare(self, result: Mapping[str, Array], whole: Mapping[str, Array]) -> None:
        for name, (largest, usual) in self._differences.items():
            gap = _gap(result[name], whole[name])
            largest.append(float(gap.max(initial=0.0)))
            usual.append(float(np.percentile(gap, _USUAL, method="lower")) if gap.size else 0.0)
            wide = np.abs(whole[name].astype(np.float64))
            self._magnitudes[name] = max(self._magnitudes[name], float(wide[np.isfinite(wide)].max(initial=0.0)))

    def _worst(self, place: int) -> Array:
        """Relative errors of the worst output in each frame."""
        rows = [np.array(both[place]) / (self._magnitudes[name] or 1.0) for name, both in self._differences.items()]
        return np.max(rows, axis=0) if rows else np.zeros(self.frames)


def _timed(stream: Stream, frame: Frame, times: array[float]) -> dict[str, Array]:
    start = time.perf_counter_ns()
    results = stream.run(frame)
    times.append(time.perf_counter_ns() - start)
    return results


def _placed(frame: Frame) -> dict[str, Array]:
    """Copies that compiled code reads where they are."""
    placed = {name: aligned_empty(given.shape, given.dtype) for name, given in frame.items()}
    for name, given in frame.items():
        placed[name][...] = given
    return placed


def _gap(left: Array, right: Array) -> Array:
    """Absolute differences; 0 where both are the same NaN or infinity, infinity where only one side has one."""
    one, other = left.astype(np.float64), right.astype(np.float64)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    with np.errstate(invalid="ignore"):
        gap = np.where(same, 0.0, np.abs(one - other))
    return np.where(np.isnan(gap), np.inf, gap)
