"""Reading data and checking it against what a program expects; everything that is wrong is reported at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from effc.data.arrays import DATA_BYTES, UNNAMED, Array, ArrayFile, Header
from effc.data.dataset import Dataset
from effc.data.held import HeldArrays
from effc.data.images import read_images
from effc.data.preprocess import Preprocess, preprocess_hint
from effc.errors import DataError, Problem, counted

__all__ = ["InputSpec", "load_dataset"]

_LABELS = "y"
_LABELS_BESIDE_Y = "labels"  # where the program has an input called y
_MEANT = frozenset({"y", "label", "labels", "target", "targets", "class", "classes", "y_true", "y_test", "y_train"})
_SHOWN = 20  # arrays that nobody asked for, in one message


class InputSpec(Protocol):
    """What is known about an input of a program or an artifact."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> Sequence[int | str]: ...
    @property
    def dtype(self) -> str: ...


def load_dataset(
    given: str | Path | HeldArrays,
    inputs: Sequence[InputSpec],
    *,
    preprocess: Preprocess | None = None,
    need_labels: bool = False,
    max_bytes: int = DATA_BYTES,
) -> Dataset:
    """Read data for a program.

    Args:
        given: `.npz` with one array per input, by the input's name (or `x` for a single input) and labels `y`, or `labels` where an input
            is called `y`: integers (N,), or (N, T) for sequences; `.npy` for a single input; a folder of images, whose subfolders are the
            classes in alphabetical order; arrays in memory as in an `.npz` or `.npy`.
        inputs: the program's inputs. The leading axis counts samples.
        preprocess: how images become inputs.
        need_labels: labels must be there.
        max_bytes: of the arrays of a `.npz` or `.npy`. Arrays that do not fit, and those that nobody asked for, are not read at all.

    Raises:
        DataError: the file, a name, a shape, a dtype or a value does not fit; all of them at once.
        LimitError: the arrays are over `max_bytes`, or over this machine's memory.
    """
    if isinstance(given, HeldArrays):
        name, source = given.name, _arrays(given, given.name, inputs, max_bytes)
    else:
        name, source = str(given), _stored(Path(given), inputs, preprocess, max_bytes)
    faults = {spec.name: _faults(source.headers.get(spec.name), spec, source.hint) for spec in inputs}
    problems = [problem for found in faults.values() for problem in found]
    expected = f"inputs: {', '.join(sorted(spec.name for spec in inputs))}"
    key = _label_key(inputs)
    problems += [Problem(name, "array", "no such input", _unknown_hint(name, expected, key)) for name in source.unknown[:_SHOWN]]
    problems += _label_faults(source.labels, source.headers, need_labels, key)
    arrays, labels = source.read([name for name in source.headers if not faults[name]], source.labels is not None and not problems)
    problems += [problem for name, array in arrays.items() for problem in _values(name, array)]
    if problems:
        raise DataError(f"{name} does not fit the program", problems)
    kept = {spec.name: np.ascontiguousarray(arrays[spec.name]) for spec in inputs}
    return Dataset(kept, None if labels is None else labels.astype(np.int64), _unit(inputs))


@dataclass(frozen=True)
class _Source:
    """Data that were found and not yet read: what each input gets, the labels, the arrays that no input takes.

    `read` gives the arrays of some inputs and, when asked, the labels. `hint` says what would mend a wrong shape.
    """

    headers: Mapping[str, Header]
    labels: Header | None
    unknown: Sequence[str]
    hint: str
    read: Callable[[Sequence[str], bool], tuple[Mapping[str, Array], Array | None]]


def _stored(path: Path, inputs: Sequence[InputSpec], preprocess: Preprocess | None, max_bytes: int) -> _Source:
    if not path.exists():
        raise DataError(f"{path} does not exist; give a .npz, a .npy or a folder of images")
    return _images(path, inputs, preprocess) if path.is_dir() else _arrays(ArrayFile(path), str(path), inputs, max_bytes)


def _images(path: Path, inputs: Sequence[InputSpec], preprocess: Preprocess | None) -> _Source:
    if len(inputs) != 1:
        raise DataError(f"{path}: a folder of images serves programs with one input; this one has {len(inputs)}")
    name = inputs[0].name
    images, labels = read_images(path, preprocess or Preprocess())

    def read(names: Sequence[str], with_labels: bool) -> tuple[Mapping[str, Array], Array | None]:
        return {name: images} if name in names else {}, labels if with_labels else None

    described = None if labels is None else Header(labels.shape, labels.dtype)
    return _Source({name: Header(images.shape, images.dtype)}, described, [], preprocess_hint(inputs[0].shape), read)


def _arrays(file: ArrayFile | HeldArrays, name: str, inputs: Sequence[InputSpec], max_bytes: int) -> _Source:
    if not file.named and len(inputs) != 1:
        wanted = ", ".join(spec.name for spec in inputs)
        what, better = ("it is", "a mapping") if isinstance(file, HeldArrays) else ("a .npy holds", "an .npz")
        raise DataError(f"{name}: {what} one array, and the program has {len(inputs)} inputs; give {better} with the arrays {wanted}")
    stored, key = _by_input(file.names, inputs), _label_key(inputs)
    has_labels = key in file.names
    taken = {*stored.values(), *([key] if has_labels else [])}

    def read(names: Sequence[str], with_labels: bool) -> tuple[Mapping[str, Array], Array | None]:
        content = file.read([*(stored[name] for name in names), *([key] if with_labels else [])], max_bytes)
        return {name: content[stored[name]] for name in names}, content[key] if with_labels else None

    headers = {name: file.header(array) for name, array in stored.items()}
    unknown = [name for name in file.names if name not in taken]
    return _Source(headers, file.header(key) if has_labels else None, unknown, "", read)


def _label_key(inputs: Sequence[InputSpec]) -> str:
    """The array that holds labels: `y`, unless an input of the program is called so."""
    return _LABELS_BESIDE_Y if any(spec.name == _LABELS for spec in inputs) else _LABELS


def _unknown_hint(name: str, expected: str, key: str) -> str:
    if name.lower() not in _MEANT:
        return expected
    return f"labels go under {key!r}" + (": y is an input of this program" if key != _LABELS else "")


def _by_input(names: Sequence[str], inputs: Sequence[InputSpec]) -> dict[str, str]:
    """The file's name for each input that it holds: the input's own, or `x` for a single input."""
    if len(inputs) == 1 and inputs[0].name not in names and UNNAMED in names:
        return {inputs[0].name: UNNAMED}
    return {spec.name: spec.name for spec in inputs if spec.name in names}


def _faults(header: Header | None, spec: InputSpec, shape_hint: str) -> list[Problem]:
    """What can be told without the elements."""
    if header is None:
        return [Problem(spec.name, "array", "is missing", f"expected {spec.dtype}[N, {', '.join(map(str, spec.shape[1:]))}]")]
    problems = []
    shape, expected = list(header.shape), list(spec.shape[1:])
    if len(shape) != len(spec.shape) or shape[1:] != expected:
        want = ", ".join(["N", *map(str, expected)])
        problems.append(Problem(spec.name, f"shape {shape}", f"expected [{want}]", shape_hint))
    if header.dtype.name != spec.dtype:
        problems.append(Problem(spec.name, f"dtype {header.dtype.name}", f"expected {spec.dtype}", f".astype('{spec.dtype}') converts it"))
    if shape and shape[0] == 0:
        problems.append(Problem(spec.name, "samples", "there are none"))
    unit = _fixed(spec)
    if unit is not None and not problems and shape[0] % unit:
        problems.append(Problem(spec.name, counted(shape[0], "sample"), f"the program takes {unit} at a time", "give a multiple of that"))
    return problems


def _values(name: str, array: Array) -> list[Problem]:
    if array.dtype.kind == "f" and array.ndim and array.size:
        bad = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
        if bad.size:
            verb = "holds" if bad.size == 1 else "hold"
            return [
                Problem(name, counted(bad.size, "sample"), f"{verb} NaN or infinity, the first at index {bad[0]}", "remove what holds it")
            ]
    return []


def _label_faults(labels: Header | None, arrays: Mapping[str, Header], needed: bool, key: str) -> list[Problem]:
    counts = {array.shape[0] for array in arrays.values() if array.shape}
    problems = []
    if len(counts) > 1:
        problems.append(Problem("inputs", f"numbers of samples {sorted(counts)}", "differ"))
    if labels is None:
        hint = "the metric needs them: an array of N integers, or of N x T for sequences"
        return [*problems, Problem(key, "labels", "are missing", hint)] if needed else problems
    if len(labels.shape) not in (1, 2) or 0 in labels.shape[1:] or labels.dtype.kind not in "iu":
        problems.append(Problem(key, f"{labels.dtype.name}{list(labels.shape)}", "expected integers [N], or [N, T] for sequences"))
    elif counts and labels.shape[0] not in counts:
        noun = ("label",) if len(labels.shape) == 1 else ("row of labels", "rows of labels")
        problems.append(Problem(key, counted(labels.shape[0], *noun), f"for {counted(max(counts), 'sample')}"))
    return problems


def _fixed(spec: InputSpec) -> int | None:
    """The leading size where it is no free batch."""
    if getattr(spec, "batched", False) or not spec.shape or isinstance(spec.shape[0], str):
        return None
    return int(spec.shape[0])


def _unit(inputs: Sequence[InputSpec]) -> int | None:
    fixed = [unit for spec in inputs if (unit := _fixed(spec)) is not None]
    return fixed[0] if fixed else None
