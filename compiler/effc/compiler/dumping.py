"""`--dump-ir DIR`: the program's text before the first and after every pass. Texts of an earlier run are removed first."""

from __future__ import annotations

import re
from pathlib import Path

from effc.errors import OutputError
from effc.ir import Program
from effc.ir.printing import format_program
from effc.passes import PASSES

__all__ = ["Dump"]

_OWN = re.compile(rf"\d\d+-({'|'.join(['source', *(re.escape(kind.name) for kind in PASSES)])})\.txt")


class Dump:
    """Writes `NN-<pass>.txt` into a folder; does nothing without one."""

    def __init__(self, folder: str | Path | None) -> None:
        self._folder = None if folder is None else Path(folder)
        self._begun = False

    def write(self, index: int, label: str, program: Program) -> None:
        """Write one text. Raises OutputError when the folder cannot be written."""
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not self._begun:
                for old in self._folder.iterdir():
                    if _OWN.fullmatch(old.name):
                        old.unlink()
                self._begun = True
            (self._folder / f"{index:02}-{label}.txt").write_text(format_program(program), encoding="utf-8")
        except OSError as error:
            raise OutputError(f"--dump-ir {self._folder}: {error.strerror}") from error
