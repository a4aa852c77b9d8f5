"""Reading data and checking it against what a program expects; everything that is wrong is reported at once."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from effc.data.dataset import Dataset
from effc.data.images import read_images
from effc.data.preprocess import Preprocess
from effc.errors import DataError, Problem

__all__ = ["InputSpec", "load_dataset"]

Array = np.ndarray[Any, Any]
_LABELS = "y"


class InputSpec(Protocol):
    """What is known about an input of a program or an artifact."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> Sequence[int | str]: ...
    @property
    def dtype(self) -> str: ...


def load_dataset(
    path: str | Path, inputs: Sequence[InputSpec], *, preprocess: Preprocess | None = None, need_labels: bool = False
) -> Dataset:
    """Read data for a program.

    Args:
        path: `.npz` with one array per input, by the input's name (or `x` for a single input) and labels `y` (N,); `.npy` for a single
            input; a folder of images, whose subfolders are the classes in alphabetical order.
        inputs: the program's inputs. The leading axis counts samples.
        preprocess: how images become inputs.
        need_labels: labels must be there.

    Raises:
        DataError: the file, a name, a shape, a dtype or a value does not fit; all of them at once.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} does not exist; give a .npz, a .npy or a folder of images")
    if path.is_dir():
        if len(inputs) != 1:
            raise DataError(f"{path}: a folder of images serves programs with one input; this one has {len(inputs)}")
        images, labels = read_images(path, preprocess or Preprocess())
        arrays: Mapping[str, Array] = {inputs[0].name: images}
        hint = _preprocess_hint(inputs[0])
    else:
        found = _read(path)
        labels = found.pop(_LABELS, None) if _LABELS not in {spec.name for spec in inputs} else None
        arrays, hint = _by_input(found, inputs), ""
    problems = [problem for spec in inputs for problem in _faults(arrays.get(spec.name), spec, hint)]
    named = {spec.name for spec in inputs}
    problems += [Problem(name, "array", "no such input", f"inputs: {', '.join(sorted(named))}") for name in arrays if name not in named]
    problems += _label_faults(labels, arrays, need_labels)
    if problems:
        raise DataError(f"{path} does not fit the program", problems)
    kept = {spec.name: np.ascontiguousarray(arrays[spec.name]) for spec in inputs}
    return Dataset(kept, None if labels is None else labels.astype(np.int64), _unit(inputs))


def _preprocess_hint(spec: InputSpec) -> str:
    """The preprocessing that would give images the input's shape; empty where no image has it."""
    shape = list(spec.shape)
    if len(shape) != 4 or not any(shape[axis] in (1, 3) for axis in (1, 3)):
        return ""
    first = shape[1] in (1, 3)
    channels, height, width = (shape[1], shape[2], shape[3]) if first else (shape[3], shape[1], shape[2])
    return f"--preprocess size={height}x{width},channels={channels},layout={'nchw' if first else 'nhwc'}"


def _read(path: Path) -> dict[str, Array]:
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return {"x": content}
        with content:
            return {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is neither a sound .npz nor a .npy file: {error}") from error


def _by_input(found: Mapping[str, Array], inputs: Sequence[InputSpec]) -> dict[str, Array]:
    if len(inputs) == 1 and len(found) == 1 and "x" in found:
        return {inputs[0].name: found["x"]}
    return dict(found)


def _faults(array: Array | None, spec: InputSpec, shape_hint: str) -> list[Problem]:
    if array is None:
        return [Problem(spec.name, "array", "is missing", f"expected {spec.dtype}[N, {', '.join(map(str, spec.shape[1:]))}]")]
    problems = []
    expected = list(spec.shape[1:])
    if array.ndim != len(spec.shape) or list(array.shape[1:]) != expected:
        want = ", ".join(["N", *map(str, expected)])
        problems.append(Problem(spec.name, f"shape {list(array.shape)}", f"expected [{want}]", shape_hint))
    if array.dtype.name != spec.dtype:
        problems.append(Problem(spec.name, f"dtype {array.dtype.name}", f"expected {spec.dtype}", f".astype('{spec.dtype}') converts it"))
    if array.ndim and len(array) == 0:
        problems.append(Problem(spec.name, "samples", "there are none"))
    if array.dtype.kind == "f" and array.ndim and array.size:
        bad = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
        if bad.size:
            problems.append(Problem(spec.name, f"{bad.size} samples", f"hold NaN or infinity, the first at index {bad[0]}", "remove them"))
    unit = _fixed(spec)
    if unit is not None and not problems and len(array) % unit:
        problems.append(Problem(spec.name, f"{len(array)} samples", f"the program takes {unit} at a time", "give a multiple of that"))
    return problems


def _label_faults(labels: Array | None, arrays: Mapping[str, Array], needed: bool) -> list[Problem]:
    counts = {len(array) for array in arrays.values() if array.ndim}
    problems = []
    if len(counts) > 1:
        problems.append(Problem("inputs", f"numbers of samples {sorted(counts)}", "differ"))
    if labels is None:
        return [*problems, Problem(_LABELS, "labels", "are missing", "the metric needs them")] if needed else problems
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        problems.append(Problem(_LABELS, f"{labels.dtype.name}{list(labels.shape)}", "expected integers [N]"))
    elif counts and len(labels) not in counts:
        problems.append(Problem(_LABELS, f"{len(labels)} labels", f"for {max(counts)} samples"))
    return problems


def _fixed(spec: InputSpec) -> int | None:
    """The leading size where it is no free batch."""
    if getattr(spec, "batched", False) or not spec.shape or isinstance(spec.shape[0], str):
        return None
    return int(spec.shape[0])


def _unit(inputs: Sequence[InputSpec]) -> int | None:
    fixed = [unit for spec in inputs if (unit := _fixed(spec)) is not None]
    return fixed[0] if fixed else None
