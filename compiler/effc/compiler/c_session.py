"""C sources of an artifact as a session of this machine: built as a shared library, called as any other program calls them."""

from __future__ import annotations

import ctypes
import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from effc.compiler.c_build import FOLDER, CannotTryError, build_library, c_files
from effc.compiler.scratch import scratch_folder
from effc.errors import AlteredArtifactError, InternalError
from effc.runtime import Session, open_artifact
from effc.runtime.artifact import Artifact
from effc.runtime.executor import address, aligned_empty, new_states
from effc.runtime.plan import Plan
from effc.runtime.tensors import Array, dtype_named

__all__ = ["c_session", "source_files"]

_HEADER = re.compile(rf"{FOLDER}/(effc_\w+)\.h")


def c_session(path: Path | str) -> Session:
    """Build the C sources of an artifact for this machine, and load them.

    Raises:
        CannotTryError: there is no C compiler here, or this machine is too small or too slow.
        VerificationError: the compiler refuses the sources.
        DataError, InputRejectedError, AlteredArtifactError: see `effc.runtime.load`.
    """
    artifact = open_artifact(path)
    return Session(artifact, executor=_SourcesExecutor(artifact))


def source_files(artifact: Artifact) -> dict[str, bytes]:
    """The C sources of an artifact, by their names in `FOLDER`."""
    return c_files({name: artifact.read(name) for name in artifact.manifest.files if name.startswith(f"{FOLDER}/")})


class _SourcesExecutor:
    """Calls `effc_<name>_run`; see `effc.runtime.executor.Executor`.

    Attributes:
        parameters: views of the weights in the library; they are read-only.
    """

    def __init__(self, artifact: Artifact) -> None:
        manifest = artifact.manifest
        plan = manifest.plan
        headers = [found[1] for name in manifest.files if (found := _HEADER.fullmatch(name))]
        if plan is None or len(headers) != 1:
            raise AlteredArtifactError(f"{artifact.path} holds no C sources that effc wrote")
        self._plan: Plan = plan
        prefix = headers[0]
        with scratch_folder() as folder:
            self._library = _loaded(build_library(source_files(artifact), folder))
        self._run = getattr(self._library, f"{prefix}_run")
        self._run.restype = ctypes.c_int32
        self._arena = aligned_empty((max(8, plan.arena_bytes),), "uint8")
        inputs, outputs = ([spec.name for spec in specs] for specs in (manifest.code_inputs, manifest.code_outputs))
        self._inputs = [inputs.index(buffer.name) for buffer in plan.in_room("input")]
        self._outputs = [outputs.index(buffer.name) for buffer in plan.in_room("output")]
        self.parameters: dict[str, Array] = {
            buffer.name: _weights(self._library, f"{prefix}_w{number}", buffer.shape, buffer.dtype)
            for number, buffer in enumerate(plan.in_room("parameter"))
        }

    @property
    def alignment(self) -> int:
        """1: C expects of a pointer the alignment of its element."""
        return 1

    def new_states(self) -> Array | None:
        """See `Executor`."""
        return new_states(self._plan)

    def call(self, inputs: Sequence[Array], outputs: Sequence[Array], states: Array | None = None) -> None:
        """Run the model. Raises InternalError where it returns anything but 0."""
        self.prepare(inputs, outputs, states)()

    def prepare(self, inputs: Sequence[Array], outputs: Sequence[Array], states: Array | None = None) -> Callable[[], object]:
        """See `Executor`."""
        given = [inputs[index] for index in self._inputs] + [outputs[index] for index in self._outputs]
        arrays = [self._arena, *([] if states is None else [states]), *given]
        return functools.partial(self._enter, [ctypes.c_void_p(address(array)) for array in arrays], arrays)

    def _enter(self, pointers: Sequence[Any], _arrays: Sequence[Array]) -> None:
        """One call. `_arrays` are what the pointers point into: a prepared call keeps them alive."""
        self._arena[:] = 0xFF  # nothing may depend on what an earlier call left
        status = self._run(*pointers)
        if status != 0:
            raise InternalError(f"the C sources return {status}")


def _loaded(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise CannotTryError(f"the library that was built cannot be loaded: {error}", "TMPDIR names another place for it") from error


def _weights(library: ctypes.CDLL, symbol: str, shape: Sequence[int], dtype: str) -> Array:
    kind = dtype_named(dtype)
    size = int(np.prod(shape)) * kind.itemsize
    raw = (ctypes.c_uint8 * max(1, size)).in_dll(library, symbol)
    view: Array = np.frombuffer(memoryview(raw), np.uint8, size).view(kind).reshape(tuple(shape))
    view.flags.writeable = False
    return view
