"""Run an artifact: check what comes in, call the compiled code, hand out fresh arrays."""

from __future__ import annotations

import math
import platform
import shlex
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np

from effc.errors import AlteredArtifactError, DataError, Problem
from effc.runtime.artifact import SELF_TEST, Artifact, open_artifact
from effc.runtime.cuda.executor import CudaExecutor
from effc.runtime.cuda.loading import cuda_executor
from effc.runtime.cuda.sequence import CudaSequence
from effc.runtime.executor import CODE, Executor, PlanExecutor, VirtualMachineExecutor, aligned_empty
from effc.runtime.manifest import Manifest, TensorSpec
from effc.runtime.native import built_for
from effc.runtime.sequence import CallSequence
from effc.runtime.staging import Staging
from effc.runtime.tensors import Array, dtype_named
from effc.runtime.threads import available_threads, use_threads

__all__ = ["Session", "load", "refuse_foreign", "refuse_sources"]

_COPY_LIMIT = 128 * 1024  # bytes of all inputs and outputs; about what is copied while numpy says where the arrays lie


@dataclass(frozen=True)
class _FixedCall:
    """A call through arrays that stay where they are: `run` reads `inputs` and writes `outputs`."""

    inputs: list[Array]
    outputs: list[Array]
    run: Callable[[], object]


def load(path: Path | str, *, threads: int | None = None) -> Session:
    """Open an artifact, check every file of it, and make it ready to run.

    Args:
        path: the artifact's directory. It holds native code: load only what you trust.
        threads: worker threads; None takes the processors that this process may run on.

    Raises:
        DataError: no artifact there, or one for another processor.
        InputRejectedError, AlteredArtifactError: it is broken or was changed; nothing of it has run then.
    """
    return Session(open_artifact(path), threads=threads)


class Session:
    """A loaded artifact.

    Attributes:
        artifact: the files behind it.
        inputs, outputs: name, shape (at the artifact's batch) and dtype, in declaration order, without resident states.
        threads: worker threads asked for; `threads_used` says what TVM's pool gave the last call.

    One session may be used from several threads; the calls run one after the other. It does not survive `os.fork`.
    """

    def __init__(self, artifact: Artifact, *, threads: int | None = None, executor: Executor | None = None) -> None:
        """`executor`: what runs instead of the artifact's library; for one that holds C sources, whoever built them."""
        manifest = artifact.manifest
        self.artifact = artifact
        self.inputs: tuple[TensorSpec, ...] = _framed(manifest, manifest.frame_inputs)
        self.outputs: tuple[TensorSpec, ...] = _framed(manifest, manifest.frame_outputs)
        self.threads = available_threads() if threads is None else threads
        if self.threads < 1:
            raise DataError(f"{threads} threads: at least one is needed")
        self.threads_used = 0
        self._lock = threading.Lock()
        self._input_kinds = [(spec.name, spec.shape, dtype_named(spec.dtype)) for spec in self.inputs]
        self._output_kinds = [(spec.shape, dtype_named(spec.dtype)) for spec in self.outputs]
        self._output_names = [spec.name for spec in self.outputs]
        if executor is None:
            executor = _executor(artifact)
        self._executor = executor
        self._staged = Staging(self._executor.alignment)
        self._fixed = self._fixed_call()

    @property
    def manifest(self) -> Manifest:
        """The checked manifest."""
        return self.artifact.manifest

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Stored names of the tensors that the code reads."""
        return tuple(self._executor.parameters)

    def parameter_view(self, name: str) -> Array:
        """A writable view of a parameter as the code reads it: the next call uses what is written here. Raises DataError."""
        try:
            return self._executor.parameters[name]
        except KeyError:
            raise DataError(f"no parameter {name!r}; the artifact has: {', '.join(self.parameter_names) or 'none'}") from None

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Compute all outputs.

        The code computes a fixed batch B in one call. Where the leading dimension is a batch, any number N >= 1 of samples is
        accepted: they run in ceil(N / B) calls, the last one filled up with copies of its last sample, whose results are dropped.
        The N samples of an artifact with resident states are one clip: N frames in order, of which the first is computed whole. Each run
        is a clip of its own; `Stream` goes on from frame to frame.

        Args:
            inputs: name -> array of the declared shape and dtype. Layout in memory does not matter.

        Returns:
            name -> a new array.

        Raises:
            DataError: names, shapes or dtypes do not fit; lists everything that is wrong.
        """
        if self.manifest.streams:
            return self._clip(inputs)
        fitting = self._fitting(inputs)
        if fitting is not None:
            return dict(zip(self._output_names, self._call(fitting), strict=True))
        samples = self._check(inputs)
        batch = self.manifest.batch
        arrays = [np.asarray(inputs[spec.name]) for spec in self.inputs]
        if samples is None or samples == batch:
            return dict(zip(self._output_names, self._call(arrays), strict=True))
        chunks = [self._call(self._part(arrays, start, batch)) for start in range(0, samples, batch)]
        return {
            spec.name: np.concatenate([chunk[index] for chunk in chunks])[:samples] if spec.batched else chunks[0][index]
            for index, spec in enumerate(self.outputs)
        }

    def call_into(self, inputs: Sequence[Array], outputs: Sequence[Array], states: Array | None = None) -> None:
        """One call of the code, unchecked: shape, dtype, layout and alignment are the caller's duty.

        Args:
            inputs, outputs: in the order of the manifest's `code_inputs` and `code_outputs`.
            states: the block of a sequence of calls, for code that keeps states.
        """
        with self._lock:
            self.threads_used = use_threads(self.threads)
            self._executor.call(inputs, outputs, states)

    def new_sequence(self, *, resident_only: bool = False) -> CallSequence:
        """Calls that keep states from one to the next, unchecked like `call_into`; `Stream` is what users want.

        With `resident_only`, states that a user declared are inputs and outputs like others.
        """
        if isinstance(self._executor, CudaExecutor):
            return CudaSequence(self.manifest, self._executor, self._lock, resident_only=resident_only)
        return CallSequence(
            self.manifest, self._executor.new_states(), self.call_into, self._executor.alignment, resident_only=resident_only
        )

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Nothing to do: memory is freed with the object, and the library stays mapped until the process ends."""

    def _fixed_call(self) -> _FixedCall | None:
        """The call through arrays of the session's own, for tensors so small that copying them is cheaper than anything else."""
        input_kinds = [(shape, dtype) for _, shape, dtype in self._input_kinds]
        total = sum(math.prod(shape) * dtype.itemsize for shape, dtype in input_kinds + self._output_kinds)
        if self.manifest.streams or total > _COPY_LIMIT:
            return None
        inputs = [aligned_empty(shape, dtype) for shape, dtype in input_kinds]
        outputs = [aligned_empty(shape, dtype) for shape, dtype in self._output_kinds]
        return _FixedCall(inputs, outputs, self._executor.prepare(inputs, outputs))

    def _clip(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs of frames in order, after a start from zeroed resident states; other states are fed like any input.

        Inputs without an axis of frames are the same for all of them; of outputs without one, those of the first frame are returned, as
        `effc.ir.streaming.run_clip` does.
        """
        samples = self._check(inputs)
        arrays = {spec.name: np.asarray(inputs[spec.name]) for spec in self.inputs}
        sequence = self.new_sequence(resident_only=True)
        frames = [
            sequence.run({spec.name: arrays[spec.name][index : index + 1] if spec.batched else arrays[spec.name] for spec in self.inputs})
            for index in range(1 if samples is None else samples)
        ]
        return {
            spec.name: np.concatenate([frame[spec.name] for frame in frames]) if spec.batched else frames[0][spec.name]
            for spec in self.outputs
        }

    def _call(self, arrays: list[Array]) -> list[Array]:
        fixed = self._fixed
        if fixed is not None:
            with self._lock:
                self.threads_used = use_threads(self.threads)
                for place, array in zip(fixed.inputs, arrays, strict=True):
                    place[...] = array
                fixed.run()
                return [place.copy() for place in fixed.outputs]
        outputs = [aligned_empty(shape, dtype) for shape, dtype in self._output_kinds]
        with self._lock:
            self.threads_used = use_threads(self.threads)
            staged = [self._staged(spec.name, array) for spec, array in zip(self.inputs, arrays, strict=True)]
            self._executor.call(staged, outputs)
        return outputs

    def _part(self, arrays: list[Array], start: int, batch: int) -> list[Array]:
        part = []
        for spec, array in zip(self.inputs, arrays, strict=True):
            if spec.batched:
                array = array[start : start + batch]
                if len(array) < batch:
                    array = np.concatenate([array, np.repeat(array[-1:], batch - len(array), axis=0)])
            part.append(array)
        return part

    def _fitting(self, inputs: Mapping[str, Array]) -> list[Array] | None:
        """The arrays in declaration order when each is plainly what one call takes; None leaves the judgement to `_check`."""
        if type(inputs) is not dict or len(inputs) != len(self._input_kinds):
            return None
        arrays = []
        for name, shape, dtype in self._input_kinds:
            array = inputs.get(name)
            if type(array) is not np.ndarray or array.shape != shape or array.dtype != dtype:
                return None
            arrays.append(array)
        return arrays

    def _check(self, inputs: Mapping[str, Array]) -> int | None:
        """The number of samples, None without a batch dimension. Raises DataError with everything that is wrong."""
        if not isinstance(inputs, Mapping):
            name = self.inputs[0].name if self.inputs else "x"
            raise DataError(f"run takes arrays by the names of the inputs, not a {type(inputs).__name__}: write run({{{name!r}: array}})")
        problems, samples = [], {}
        for spec in self.inputs:
            if spec.name not in inputs:
                problems.append(Problem(f"input {spec.name!r}", "nothing", "is missing", f"needed: {spec}"))
                continue
            given = inputs[spec.name]
            try:
                array = np.asarray(given)
            except (TypeError, ValueError, RuntimeError) as error:  # rows of different lengths, a tensor on another device
                problems.append(Problem(f"input {spec.name!r}", f"a {type(given).__name__}", f"numpy makes no array of it: {error}"))
                continue
            if array.dtype != dtype_named(spec.dtype):
                is_array = isinstance(given, np.ndarray)
                what = f"dtype {array.dtype}" if is_array else f"a {type(given).__name__}, dtype {array.dtype} to numpy"
                hint = f"convert it with {f'.astype({spec.dtype!r})' if is_array else f'numpy.asarray(values, {spec.dtype!r})'}"
                problems.append(Problem(f"input {spec.name!r}", what, f"must be {spec.dtype}", hint))
            free = spec.batched and (self.manifest.symbolic_batch or self.manifest.streams)
            if array.ndim != len(spec.shape) or array.shape[free:] != spec.shape[free:]:
                wanted = f"[{', '.join(['N'] * free + [str(size) for size in spec.shape[free:]])}]"
                problems.append(Problem(f"input {spec.name!r}", f"shape {list(array.shape)}", f"must be {wanted}"))
            elif free:
                samples[spec.name] = array.shape[0]
        known = [spec.name for spec in self.inputs]
        unknown = [name for name in inputs if name not in known]
        problems += [Problem(f"input {name!r}", "the name", "is unknown", f"inputs: {', '.join(known)}") for name in unknown]
        if 0 in samples.values():
            problems.append(Problem("inputs", "0 samples", "at least one is needed"))
        if len(set(samples.values())) > 1:
            problems.append(Problem("inputs", f"{samples}", "must have the same number of samples"))
        if problems:
            raise DataError("the inputs do not fit the compiled model", problems)
        count = next(iter(samples.values()), None)
        unbatched = [] if self.manifest.streams else [spec.name for spec in self.outputs if not spec.batched]
        if count is not None and count != self.manifest.batch and unbatched:
            # They may mix samples, so neither parts nor a batch filled up with copies would give the same.
            raise DataError(
                f"{count} samples: the outputs {unbatched} have no batch dimension, so exactly {self.manifest.batch} are needed"
            )
        return count


def _framed(manifest: Manifest, specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """What a user gives or gets: of a streaming program the leading axis of 1 counts frames, be its batch proved or not."""
    return tuple(replace(spec, batched=spec.batched or spec.shape[:1] == (1,)) for spec in specs) if manifest.streams else specs


def _executor(artifact: Artifact) -> Executor:
    manifest = artifact.manifest
    refuse_sources(artifact)
    if manifest.executor == "cuda":
        return cuda_executor(artifact)
    if CODE not in manifest.files:
        target = manifest.data["target"].get("name")
        raise AlteredArtifactError(f"{artifact.path} holds no {CODE}: it was compiled for target {target!r}, which cannot run here")
    refuse_foreign(artifact)
    code = artifact.path / CODE
    tensors = artifact.parameters()
    inputs, outputs = [spec.name for spec in manifest.code_inputs], [spec.name for spec in manifest.code_outputs]
    executor: Executor
    if manifest.plan is not None and manifest.executor == "plan":
        executor = PlanExecutor(manifest.plan, inputs, outputs, tensors, code)
    else:
        executor = VirtualMachineExecutor(manifest.data.get("vm") or {}, outputs, tensors, code)
    artifact.read(CODE)  # what was loaded is what was checked: the artifact was not replaced in between
    return executor


def refuse_sources(artifact: Artifact) -> None:
    """Raises DataError for an artifact that holds C sources: nothing of it runs here."""
    if artifact.manifest.executor != "c":
        return
    folder, target = shlex.quote(str(artifact.path)), artifact.manifest.data["target"].get("name")
    raise DataError(
        f"{artifact.path} holds C sources for {target!r}, not code that runs here: build them with "
        f"`make -C {shlex.quote(str(artifact.path / 'c'))} test`, or let `effc verify {folder}` build and run their self-test"
    )


def refuse_foreign(artifact: Artifact) -> None:
    """Raises DataError where the artifact's code is for another processor: the loader would call it a missing file."""
    if CODE not in artifact.manifest.files:
        return
    built, here = built_for(artifact.path / CODE), platform.machine()
    if not built or built == here:
        return
    target = artifact.manifest.data["target"].get("name")
    code = f"{artifact.path} holds code for {target} ({built}), and this machine is {here}"
    if SELF_TEST not in artifact.manifest.files:
        raise DataError(f"{code}: run it, and `effc verify`, on such a machine")
    test = f"its self-test is {artifact.path / SELF_TEST}, which needs nothing else there"
    raise DataError(f"{code}: {test}; `effc verify {shlex.quote(str(artifact.path))}` runs it under an emulator here")
