"""Files that are the old one or the new one, never a part, whatever is killed when; also after a power cut.

New content is written to `.NAME.effc-PID-RANDOM` beside its destination, synced, and renamed. While it is written it is locked, so that
others can tell a file that is being written from one that a killed process left.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

from effc.runtime.exchange import is_alive, sync_folder

__all__ = ["remove_leftovers", "write_all", "write_whole"]

_LEFTOVER = re.compile(r"\..+\.effc-([1-9][0-9]{0,8})-[0-9a-f]{8}")
_BLOCK = 1 << 20


def write_whole(path: Path, content: bytes) -> None:
    """Write a file. Raises OSError; then the old one is still there."""
    write_all({path: [content]})


def write_all(files: Mapping[Path, Iterable[bytes]]) -> None:
    """Write several files: first all beside their destinations, then all into place.

    Args:
        files: the pieces of each content, which may be more than memory holds.

    Raises:
        OSError: a file cannot be written. Then none has been replaced, unless the system failed while renaming.
    """
    staged: dict[Path, tuple[Path, IO[bytes]]] = {}
    with ExitStack() as stack:
        for path, pieces in files.items():
            beside = path.with_name(f".{path.name}.effc-{os.getpid()}-{secrets.token_hex(4)}")
            stack.callback(_remove, beside)
            file: IO[bytes] = stack.enter_context(open(beside, "x+b"))
            staged[path] = beside, file
            with suppress(OSError):  # a file system without locks: the process id alone must do
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        for path, (beside, file) in staged.items():
            try:
                os.replace(beside, path)
            except FileNotFoundError:
                # tidied away by another machine that shares the folder: no loss where that has written the same
                if not _holds(path, file):
                    raise
    for folder in {path.parent for path in files}:
        sync_folder(folder)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes were writing in a folder. What a living process writes stays, here and where locks work also elsewhere.

    A folder that is missing, or from which nothing can be removed, is left as it is.
    """
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            match = _LEFTOVER.fullmatch(entry.name)
            # this process left nothing, but a killed one may have had its id
            gone = match and (int(match[1]) == os.getpid() or not is_alive(int(match[1])))
            if gone and entry.is_file(follow_symlinks=False):
                _remove_unlocked(Path(entry.path))


def _remove_unlocked(path: Path) -> None:
    with suppress(OSError), open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # a process of another machine, or of another container, writes it
        except OSError:
            pass  # no locks here: the process id alone must do
        path.unlink()


def _holds(path: Path, file: IO[bytes]) -> bool:
    """Whether a file is there that has the content of an open one."""
    file.seek(0)
    try:
        with open(path, "rb") as other:
            while piece := file.read(_BLOCK):
                if other.read(len(piece)) != piece:
                    return False
            return not other.read(1)
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)
