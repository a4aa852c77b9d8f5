"""The manifest: what an artifact is, and the hash of every file in it.

The file is canonical JSON and carries its own digest, so that no byte of it can change unnoticed. A digest is no signature: it tells
damage from soundness, not friend from foe (SECURITY.md).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from effc.errors import AlteredArtifactError, InputRejectedError, Problem
from effc.runtime.manifest_checks import check_plan, check_states
from effc.runtime.plan import Plan
from effc.runtime.tensors import dtype_named

__all__ = [
    "BATCH",
    "BESIDE",
    "MANIFEST",
    "PARAMETERS",
    "SCHEMA",
    "SCHEMA_VERSION",
    "FileEntry",
    "Manifest",
    "StateSpec",
    "StoredTensor",
    "TensorSpec",
]

MANIFEST = "manifest.json"
PARAMETERS = "params.safetensors"
SCHEMA = "effc.artifact"
SCHEMA_VERSION = 1
BATCH = "batch"
BESIDE = "masks, lists and counters"  # what code keeps in its block beside the states, as people read it
DIGEST = "manifest_sha256"
SIZE_LIMIT = 256 * 2**20  # bytes of a manifest that is read at all

Executor = Literal["plan", "vm", "c", "cuda"]

_REQUIRED: dict[str, type | tuple[type, ...]] = {
    "schema": str,
    "schema_version": int,
    "executor": str,
    "inputs": list,
    "outputs": list,
    "states": list,
    "batch": dict,
    "preprocess": (dict, type(None)),
    "target": dict,
    "passes": list,
    "versions": dict,
    "source": dict,
    "parameters": dict,
    "plan": (dict, type(None)),
    "files": dict,
    DIGEST: str,
}


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    Attributes:
        name: the user's name.
        shape: concrete, at the artifact's batch.
        dtype: numpy's name.
        batched: the leading dimension counts samples.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    batched: bool

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}{list(self.shape)}"

    @property
    def bytes(self) -> int:
        """Of all elements."""
        return math.prod(self.shape) * dtype_named(self.dtype).itemsize


@dataclass(frozen=True)
class StateSpec:
    """One state of a streaming program: input `input` takes the old value, output `output` gives the new one.

    A `resident` state is effc's own: users neither give nor get it. Code that keeps its states itself has neither the input nor the output.
    """

    input: str
    output: str
    resident: bool = False


@dataclass(frozen=True)
class FileEntry:
    """What the manifest says about one file."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor of params.safetensors came from.

    Attributes:
        crc32: of the stored elements.
        source: the tensor's name in the source model; None when lowering made it.
        kind: `same`, `permutation` (axes reordered), `packed` (axes reordered, some cut into blocks) or `transformed`.
        permutation: which source axis comes where: stored = source.transpose(permutation) for kind `permutation`.
        blocks: (source axis, size of a block) for each of the last axes of a tensor of kind `packed`: an axis that is cut has its number
            of blocks in its own place, the elements of a block stand at the end, and the last block is filled up with zeros.
    """

    crc32: int
    source: str | None
    kind: str
    permutation: tuple[int, ...] | None
    blocks: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True)
class Manifest:
    """A manifest that was checked; `data` is its JSON, the rest are the parts that the runtime uses.

    Attributes:
        executor: `plan`: a shared library with the plan's entry; `vm`: one for TVM's virtual machine; `c`: C sources, nothing that runs;
            `cuda`: a cubin, whose functions the steps of the plan launch.
        batch: samples of one call (1 for a program without a batch dimension).
        symbolic_batch: the leading dimension is a proved batch, so other numbers of samples run in several calls.
    """

    data: Mapping[str, Any]
    executor: Executor
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    states: tuple[StateSpec, ...]
    batch: int
    symbolic_batch: bool
    parameters: Mapping[str, StoredTensor]
    files: Mapping[str, FileEntry]
    plan: Plan | None

    @property
    def streams(self) -> bool:
        """Whether samples are frames that follow each other: there are resident states."""
        return any(state.resident for state in self.states)

    @property
    def keeps_states(self) -> bool:
        """Whether the code has resident states in a block of its own. Else they are inputs and outputs of the code, like other states."""
        return self.executor != "vm" and self.plan is not None and self.plan.state_bytes > 0

    @property
    def passed_states(self) -> tuple[StateSpec, ...]:
        """The states that are inputs and outputs of the code."""
        return tuple(state for state in self.states if not (state.resident and self.keeps_states))

    @property
    def frame_inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs that a user gives: without resident states."""
        hidden = {state.input for state in self.states if state.resident}
        return tuple(spec for spec in self.inputs if spec.name not in hidden)

    @property
    def frame_outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs that a user gets: without resident states."""
        hidden = {state.output for state in self.states if state.resident}
        return tuple(spec for spec in self.outputs if spec.name not in hidden)

    @property
    def stream_inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs that a `Stream` takes with every frame: all but states."""
        kept = {state.input for state in self.states}
        return tuple(spec for spec in self.inputs if spec.name not in kept)

    @property
    def code_inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs that the code takes, in its order."""
        return self.frame_inputs if self.keeps_states else self.inputs

    @property
    def code_outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs that the code writes, in its order."""
        return self.frame_outputs if self.keeps_states else self.outputs

    @property
    def state_bytes(self) -> int:
        """What the states of one stream take: the code's block, and both buffers of each state that is passed in and out."""
        block = self.plan.state_bytes if self.plan is not None and self.keeps_states else 0
        sizes = {spec.name: spec.bytes for spec in self.inputs}
        return block + 2 * sum(sizes[state.input] for state in self.passed_states)

    @property
    def state_sizes(self) -> dict[str, int]:
        """Bytes of every state of one stream, by the name of its input, and of what code keeps beside them; the sum is `state_bytes`."""
        sizes = {spec.name: spec.bytes for spec in self.inputs}
        block = self.plan.in_room("state") if self.plan is not None and self.keeps_states else ()
        found = {buffer.name: buffer.size for buffer in block if buffer.name in sizes}
        found |= {state.input: 2 * sizes[state.input] for state in self.passed_states}
        beside = self.state_bytes - sum(found.values())
        return {**found, **({BESIDE: beside} if beside else {})}

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest without this field; it covers every file's hash, so it names the artifact."""
        return str(self.data[DIGEST])


def encode(fields: Mapping[str, Any]) -> bytes:
    """Canonical bytes of a manifest with its digest added. Raises ValueError or TypeError when `fields` is not plain JSON."""
    body = {key: value for key, value in fields.items() if key != DIGEST}
    return _canonical({**body, DIGEST: hashlib.sha256(_canonical(body)).hexdigest()})


def decode(content: bytes) -> Manifest:
    """The checked manifest.

    Raises:
        InputRejectedError: not an effc manifest, or one of a newer effc; all faults at once.
        AlteredArtifactError: the bytes are not those that were written.
    """
    data = parse(content)
    if data["schema_version"] != SCHEMA_VERSION:
        raise InputRejectedError(
            f"{MANIFEST}: schema version {data['schema_version']!r}, but this effc reads version {SCHEMA_VERSION}; "
            "compile the model again, or use the effc that wrote the artifact"
        )
    if DIGEST not in data or not _is_canonical(data, content):
        raise AlteredArtifactError(f"{MANIFEST} was altered: its content does not match its own digest; compile the model again")
    problems = _faults(data)
    if problems:
        raise InputRejectedError(f"{MANIFEST} is malformed", problems)
    try:
        return _build(data)
    except (KeyError, TypeError, ValueError, StopIteration) as error:
        raise InputRejectedError(f"{MANIFEST} is malformed: {type(error).__name__}: {error}") from error


def parse(content: bytes) -> dict[str, Any]:
    """The JSON object, when it is some effc manifest; nothing further is checked."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise AlteredArtifactError(f"{MANIFEST} is not JSON any more: {error}; compile the model again") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or "schema_version" not in data:
        raise InputRejectedError(f"{MANIFEST} is not a manifest of effc")
    return data


def is_safe_name(name: str) -> bool:
    """A relative path that stays inside its directory, spelled in one way only."""
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and str(path) == name and "\\" not in name and "\0" not in name


def _canonical(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _is_canonical(data: Mapping[str, Any], content: bytes) -> bool:
    try:
        return encode(data) == content
    except (ValueError, RecursionError):  # NaN, half of a surrogate pair, endless nesting: JSON that effc never writes
        return False


def _faults(data: Mapping[str, Any]) -> list[Problem]:
    problems = []
    for key, kind in _REQUIRED.items():
        if key not in data:
            problems.append(Problem(MANIFEST, key, "is missing"))
        elif not isinstance(data[key], kind) or isinstance(data[key], bool):
            problems.append(Problem(MANIFEST, key, f"is a {type(data[key]).__name__}"))
    if problems:
        return problems
    if data["executor"] not in ("plan", "vm", "c", "cuda"):
        problems.append(Problem(MANIFEST, "executor", f"is {data['executor']!r}", "known: plan, vm, c, cuda"))
    if data["executor"] in ("plan", "c", "cuda") and data["plan"] is None:
        problems.append(Problem(MANIFEST, "plan", f"is missing although the executor is {data['executor']!r}"))
    unsafe = [name for name in data["files"] if not is_safe_name(name)]
    problems += [Problem(MANIFEST, f"files[{name!r}]", "leaves the artifact's directory") for name in unsafe]
    if data["parameters"] and PARAMETERS not in data["files"]:
        problems.append(Problem(MANIFEST, "parameters", f"are listed, but {PARAMETERS} is not among the files"))
    return problems


def _build(data: Mapping[str, Any]) -> Manifest:
    batch = data["batch"]
    size = int(batch["size"])
    if size < 1:
        raise ValueError(f"batch size {size}")

    def specs(entries: list[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
        return tuple(_spec(entry, size) for entry in entries)

    inputs, outputs = specs(data["inputs"]), specs(data["outputs"])
    states = tuple(StateSpec(state["input"], state["output"], bool(state.get("resident", False))) for state in data["states"])
    plan = None if data["plan"] is None else Plan.from_json(data["plan"])
    manifest = Manifest(
        data=data,
        executor=data["executor"],
        inputs=inputs,
        outputs=outputs,
        states=states,
        batch=size,
        symbolic_batch=bool(batch["symbolic"]),
        parameters={name: _stored(entry) for name, entry in data["parameters"].items()},
        files={name: FileEntry(str(entry["sha256"]), int(entry["bytes"])) for name, entry in data["files"].items()},
        plan=plan,
    )
    for names in ([spec.name for spec in inputs], [spec.name for spec in outputs]):
        if len(set(names)) != len(names):
            raise ValueError(f"a name occurs twice in {names}")
    check_states(manifest)
    if plan is not None:
        check_plan(manifest, plan)
    return manifest


def _spec(entry: Mapping[str, Any], batch: int) -> TensorSpec:
    shape = tuple(batch if size == BATCH else int(size) for size in entry["shape"])
    if min(shape, default=0) < 0:
        raise ValueError(f"{entry['name']}: negative size in {list(shape)}")
    dtype_named(entry["dtype"])
    return TensorSpec(str(entry["name"]), shape, str(entry["dtype"]), bool(entry["shape"]) and entry["shape"][0] == BATCH)


def _stored(entry: Mapping[str, Any]) -> StoredTensor:
    permutation = entry.get("permutation")
    source = entry.get("source")
    blocks = entry.get("blocks")
    return StoredTensor(
        int(entry["crc32"]),
        source,
        str(entry["kind"]),
        None if permutation is None else tuple(permutation),
        None if blocks is None else tuple((int(axis), int(size)) for axis, size in blocks),
    )
