"""The artifact on disk: a directory of files, listed with their hashes in `manifest.json`.

    manifest.json  model.so  params.safetensors  program.pt2  golden.npz  checks/NN-<pass>.npz  config.toml  [model.onnx]  [selftest]
    measurements.json  report.json  report.html        (outside the manifest: times are never the same twice)

For a machine without an operating system there is c/, C99 sources, instead of model.so; for a GPU, model.cubin, its machine code, and
model.cu, the CUDA C that it was compiled from.

`write_artifact` makes one or replaces one in a single step; `open_artifact` checks every byte before anything is used. An artifact holds
native code: open only what you trust.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effc.errors import AlteredArtifactError, DataError, EffcWarning, InputRejectedError, OutputError, Problem
from effc.runtime import exchange
from effc.runtime import manifest as manifests
from effc.runtime.manifest import MANIFEST, PARAMETERS, Manifest
from effc.runtime.tensors import Array, crc32, unpack_npz, unpack_safetensors

__all__ = ["GOLDEN", "SELF_TEST", "UNHASHED", "Artifact", "open_artifact", "preflight", "write_artifact"]

GOLDEN = "golden.npz"
SELF_TEST = "selftest"  # a static program, where the code is for another machine than the one that compiled it
_BUILT = re.compile(r"c/([^/]+\.[oa]|self_test|self_test\.elf|build_flags\.txt)")  # what the Makefile of C sources makes beside them
UNHASHED = ("measurements.json", "report.json", "report.html")


@dataclass(frozen=True)
class Artifact:
    """An artifact whose files were all checked."""

    path: Path
    manifest: Manifest

    def read(self, name: str) -> bytes:
        """One listed file. Raises AlteredArtifactError when it changed since the artifact was opened."""
        content = (self.path / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != self.manifest.files[name].sha256:
            raise AlteredArtifactError(f"{self.path / name} changed while it was in use")
        return content

    def parameters(self) -> dict[str, Array]:
        """The stored tensors, read-only. Raises AlteredArtifactError when one does not have the manifest's CRC."""
        if PARAMETERS not in self.manifest.files:
            return {}
        tensors = unpack_safetensors(self.read(PARAMETERS))
        stored = self.manifest.parameters
        same = {name for name in tensors.keys() & stored.keys() if crc32(tensors[name]) == stored[name].crc32}
        wrong = sorted((tensors.keys() | stored.keys()) - same)
        if wrong:
            raise AlteredArtifactError(
                f"{self.path / PARAMETERS} is not what its manifest says",
                [Problem(PARAMETERS, name, "is missing, unlisted or has another CRC") for name in wrong],
            )
        return tensors

    def golden(self) -> tuple[dict[str, Array], dict[str, Array]]:
        """Golden inputs and their expected outputs, keyed by the user's names."""
        arrays = unpack_npz(self.read(GOLDEN))

        def part(prefix: str) -> dict[str, Array]:
            return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}

        return part("input/"), part("output/")

    def checks(self) -> list[str]:
        """Names of the files with the outputs after each pass, in the order of the passes."""
        return sorted(name for name in self.manifest.files if name.startswith("checks/"))


def preflight(out: Path | str, *, force: bool = False) -> None:
    """Find out before minutes of work whether `out` can be written. Nothing is removed: the model may yet be refused.

    An artifact that a killed compile had moved aside comes back first.

    Raises:
        OutputError: `out` is a file, holds files that are not effc's (unless `force`), or cannot be written.
    """
    destination = _resolved(out)
    with _as_output_error(destination):
        exchange.recover(destination)
        _refuse_foreign(destination, force)
        ancestor = destination.parent
        while not ancestor.exists():
            ancestor = ancestor.parent
        exchange.probe(ancestor, destination.name)


def write_artifact(
    out: Path | str,
    files: Mapping[str, bytes],
    manifest_fields: Mapping[str, Any],
    measurements: Mapping[str, bytes] | None = None,
    force: bool = False,
) -> Manifest:
    """Write an artifact in one step; an older artifact in the same place is whole until then. Tidies up after killed compiles.

    Args:
        out: the directory; made with its parents when it is not there.
        files: relative name -> content of every file that the manifest shall hash.
        manifest_fields: the manifest without `schema`, `schema_version`, `files` and the digest, which are added here. Each entry of
            `parameters` (stored name -> {source, kind, permutation}) gets its `crc32` from `params.safetensors`.
        measurements: files outside the manifest, out of `UNHASHED`.
        force: replace a directory that holds other files.

    Raises:
        OutputError: the place holds someone's files, cannot be written, or the disk is full; nothing is left behind then.
    """
    destination = _resolved(out)
    measurements = measurements or {}
    content = _manifest_bytes(files, manifest_fields)
    checked = manifests.decode(content)  # what is written can be read
    unknown = sorted(set(measurements) - set(UNHASHED))
    if unknown:
        raise ValueError(f"{unknown} belong into the manifest; only {list(UNHASHED)} stay outside")
    preflight(destination, force=force)
    with _as_output_error(destination):
        exchange.remove_leftovers(destination, _is_artifact)
        exchange.replace_directory(destination, {**files, **measurements, MANIFEST: content}, programs=(SELF_TEST,))
    return checked


def open_artifact(path: Path | str) -> Artifact:
    """Check the manifest, then every file that it lists.

    Where a compile was killed in between, on a file system without atomic exchange, the artifact from before it is opened, with an
    `EffcWarning`.

    Raises:
        DataError: there is no artifact at `path`.
        InputRejectedError: the manifest is no manifest of this effc.
        AlteredArtifactError: a file is missing or has changed; names all of them.
    """
    root = Path(path)
    former = exchange.former(_resolved(root))
    if not root.exists() and _is_artifact(former):
        root = former  # a compile was killed between its two renames
        warnings.warn(
            f"{path} is missing because a compile was killed while it replaced it; the artifact from before, which waits in {former}, "
            f"is used (`effc compile MODEL -o {path}` puts it back)",
            EffcWarning,
            stacklevel=2,
        )
    if not (root / MANIFEST).is_file():
        what = "there is nothing there" if not root.exists() else "it is a file" if root.is_file() else f"it has no {MANIFEST}"
        raise DataError(f"{path} is not an artifact: {what}; make one with `effc compile MODEL -o {path}`")
    if (root / MANIFEST).stat().st_size > manifests.SIZE_LIMIT:
        raise InputRejectedError(f"{root / MANIFEST} is over {manifests.SIZE_LIMIT} bytes: not a manifest")
    manifest = manifests.decode((root / MANIFEST).read_bytes())
    problems = [problem for name, entry in manifest.files.items() if (problem := _file_problem(root, name, entry)) is not None]
    if problems:
        raise AlteredArtifactError(f"{path}: files are not what the manifest says; compile the model again", problems)
    return Artifact(root, manifest)


def _manifest_bytes(files: Mapping[str, bytes], fields: Mapping[str, Any]) -> bytes:
    bad = [name for name in files if not manifests.is_safe_name(name) or name == MANIFEST or name in UNHASHED]
    if bad:
        raise ValueError(f"not names for files of an artifact: {bad}")
    tensors = unpack_safetensors(files[PARAMETERS]) if PARAMETERS in files else {}
    described = fields.get("parameters", {})
    if described.keys() != tensors.keys():
        raise ValueError(f"parameters described and stored differ: {sorted(described.keys() ^ tensors.keys())}")
    return manifests.encode(
        {
            **fields,
            "schema": manifests.SCHEMA,
            "schema_version": manifests.SCHEMA_VERSION,
            "parameters": {name: {**described[name], "crc32": crc32(tensors[name])} for name in tensors},
            "files": {name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)} for name, content in files.items()},
        }
    )


def _file_problem(root: Path, name: str, entry: manifests.FileEntry) -> Problem | None:
    path = root / name
    try:
        if not path.resolve(strict=True).is_relative_to(root.resolve()):
            return Problem(name, "the file", "is a link out of the artifact")
        size = path.stat().st_size
        if size != entry.bytes:
            return Problem(name, f"{size} bytes", f"the manifest says {entry.bytes}")
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return Problem(name, "the file", error.strerror or "cannot be read")
    return None if digest == entry.sha256 else Problem(name, "the content", "does not have the manifest's SHA-256")


def _is_artifact(path: Path) -> bool:
    """Whether a directory holds a manifest of effc, of whatever version, sound or altered."""
    try:
        manifests.parse((path / MANIFEST).read_bytes())
    except (OSError, InputRejectedError):
        return False
    return True


def _refuse_foreign(destination: Path, force: bool) -> None:
    if not destination.exists():
        return
    if not destination.is_dir():
        raise OutputError(f"{destination} is a file; give a directory with -o")
    protected = [Path.cwd(), Path.home()]
    foreign = _foreign_files(destination)
    if foreign and not force:
        shown = ", ".join(foreign[:3]) + (f" and {len(foreign) - 3} more" if len(foreign) > 3 else "")
        raise OutputError(f"{destination} holds files that are not effc's ({shown}); choose another -o, or --force to replace all of it")
    if foreign and any(path.is_relative_to(destination) for path in protected):
        raise OutputError(f"{destination} holds your working or home directory; it is not replaced even with --force")


def _foreign_files(folder: Path) -> list[str]:
    """Names in a directory that no effc manifest there accounts for."""
    present = sorted(
        str(path.relative_to(folder))
        for top, folders, names in os.walk(folder)
        for path in [*(Path(top, name) for name in names), *(Path(top, name) for name in folders)]
        if not path.is_dir() or path.is_symlink() or not any(path.iterdir())
    )
    try:
        data = manifests.parse((folder / MANIFEST).read_bytes())
    except (OSError, InputRejectedError):
        return present
    listed = data.get("files")
    known = {MANIFEST, *UNHASHED, *(listed if isinstance(listed, dict) else ())}
    built = _BUILT if data.get("executor") == "c" else None
    return [name for name in present if name not in known and not (built and built.fullmatch(name))]


def _resolved(out: Path | str) -> Path:
    """Links are followed: the directory behind a link is replaced, not the link."""
    return Path(os.path.realpath(out))


@contextmanager
def _as_output_error(destination: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        why = "the disk is full" if full else error.strerror or str(error)
        place = destination
        with suppress(TypeError):
            place = Path(error.filename)
        what = "free some space or choose another -o" if full else "choose another -o"
        raise OutputError(f"cannot write {destination}: {why} ({place}); {what}") from error
