"""A directory replaced in one step: readers see all of the old one or all of the new one, whatever is killed when.

    1. the new content is written to `.NAME.effc-PID-RANDOM` beside the destination, and every file and folder is synced;
    2. the two names are exchanged by `renameat2(RENAME_EXCHANGE)`, and the old content is removed under the temporary name.

Where the exchange is missing (older kernels, some network file systems), the old directory first moves to `.NAME.effc-old`, a name that no
user gives to a folder of theirs. A crash between those two renames leaves no NAME; `recover` puts the old one back, and readers look there
(`effc.runtime.artifact.open_artifact`).

What a killed writer leaves behind is removed by the next one that writes: a writer holds a lock on its temporary directory, which dies with
it, and the old directory is dropped once NAME is there again.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["former", "is_alive", "probe", "recover", "remove_leftovers", "replace_directory", "sync_folder"]

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


def former(destination: Path) -> Path:
    """Where the old content waits while two names cannot be exchanged in one step."""
    return destination.with_name(f".{destination.name}.effc-old")


def probe(folder: Path, name: str) -> None:
    """Raise OSError unless directories can be made in `folder`; tried, because permission bits mean little to root."""
    with _temporary_sibling(folder / name):
        pass


def replace_directory(destination: Path, files: Mapping[str, bytes], programs: Collection[str] = ()) -> None:
    """Make `destination` a directory that holds exactly `files` (relative name -> content). Raises OSError; then nothing has changed.

    `programs` are those among them that whoever may read them may run.
    """
    with _made_parents(destination.parent), _temporary_sibling(destination) as fresh:
        for name, content in files.items():
            target = fresh / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, "xb") as file:
                file.write(content)
                file.flush()
                if name in programs:
                    mode = os.fstat(file.fileno()).st_mode
                    os.fchmod(file.fileno(), mode | (mode & 0o444) >> 2)
                os.fsync(file.fileno())
        for folder, _, _ in os.walk(fresh):
            sync_folder(Path(folder))
        _put_in_place(fresh, destination)
        sync_folder(destination.parent)


def recover(destination: Path) -> None:
    """Mend a crash between the two renames of the fallback: where `destination` is gone, its old content comes back. Removes nothing."""
    old = former(destination)
    if not os.path.lexists(destination) and old.is_dir():
        os.rename(old, destination)


def remove_leftovers(destination: Path, is_ours: Callable[[Path], bool]) -> None:
    """Remove what dead writers to `destination` left: their temporary directories, and the old content where the new one is in place."""
    old = former(destination)
    if os.path.lexists(destination) and is_ours(old):
        doomed = _temporary_name(destination)
        os.rename(old, doomed)  # a kill while it is removed leaves a leftover, not half an artifact
        shutil.rmtree(doomed)
    pattern = re.compile(re.escape(f".{destination.name}.effc-") + r"(\d+)-[0-9a-f]{8}")
    with suppress(FileNotFoundError, NotADirectoryError):
        for entry in list(os.scandir(destination.parent)):
            match = pattern.fullmatch(entry.name)
            if match and entry.is_dir(follow_symlinks=False) and not is_alive(int(match[1])) and _is_unlocked(entry.path):
                shutil.rmtree(entry.path)


@contextmanager
def _made_parents(folder: Path) -> Iterator[None]:
    """The folder and those above it; those that were made here go again when the body fails."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    made: list[Path] = []
    try:
        for path in reversed(missing):
            with suppress(FileExistsError):  # another writer was faster
                path.mkdir()
                made.append(path)
        yield
    except BaseException:
        for path in reversed(made):
            with suppress(OSError):  # someone else uses it by now
                path.rmdir()
        raise


def _temporary_name(destination: Path) -> Path:
    return destination.with_name(f".{destination.name}.effc-{os.getpid()}-{secrets.token_hex(4)}")


@contextmanager
def _temporary_sibling(destination: Path) -> Iterator[Path]:
    """A locked new directory beside `destination`, gone at the end whatever it holds by then."""
    path = _temporary_name(destination)
    path.mkdir()
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with suppress(OSError):  # a file system without locks: the process id alone must do
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield path
        finally:
            os.close(lock)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _put_in_place(fresh: Path, destination: Path) -> None:
    if not os.path.lexists(destination):
        os.rename(fresh, destination)
        return
    if _exchange(fresh, destination):
        return
    old = former(destination)
    if os.path.lexists(old):
        raise OSError(errno.EEXIST, f"{old.name} is in the way and holds files that are not effc's", str(old))
    os.rename(destination, old)
    try:
        os.rename(fresh, destination)
    except BaseException:
        os.rename(old, destination)
        raise
    os.rename(old, fresh)  # removed under the temporary name, whose leftovers are known for what they are


def _exchange(one: Path, other: Path) -> bool:
    """Swap two directory entries atomically; False where the system cannot."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    if function(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), ctypes.c_uint(_RENAME_EXCHANGE)) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(other))


def sync_folder(path: Path) -> None:
    """Make renames inside a folder last through a power cut. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_alive(process: int) -> bool:
    """Whether a process of this machine has that id."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it exists, but is someone else's
        return True
    return True


def _is_unlocked(path: str) -> bool:
    """Whether no writer holds the directory, not even one in another container, whose process ids mean nothing here."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    finally:
        os.close(handle)
    return True
