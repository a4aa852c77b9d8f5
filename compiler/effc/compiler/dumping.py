"""`--dump-ir DIR`: the program's text before the first and after every pass, and in TVM's relax, as an extension's patterns meet it.

Texts of an earlier run are removed first.
"""

from __future__ import annotations

import re
from pathlib import Path

from effc.errors import OutputError
from effc.ir import Program
from effc.ir.printing import format_program
from effc.lowering import relax_text
from effc.passes import PASSES

__all__ = ["Dump"]

_OWN = re.compile(rf"\d\d+-({'|'.join(['source', 'relax', *(re.escape(kind.name) for kind in PASSES)])})\.txt")


class Dump:
    """Writes `NN-<pass>.txt` and `NN-relax.txt` into a folder; does nothing without one."""

    def __init__(self, folder: str | Path | None) -> None:
        self._folder = None if folder is None else Path(folder)
        self._begun = False

    def write(self, index: int, label: str, program: Program) -> None:
        """Write one text. Raises OutputError when the folder cannot be written."""
        if self._folder is not None:
            self._write(self._folder, index, label, format_program(program))

    def write_relax(self, index: int, program: Program, batch: int) -> None:
        """Write the program as it is before kernels are picked. Raises OutputError; UnsupportedModelError for what cannot be lowered."""
        if self._folder is not None:
            self._write(self._folder, index, "relax", relax_text(program, batch))

    def _write(self, folder: Path, index: int, label: str, text: str) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not self._begun:
                for old in folder.iterdir():
                    if _OWN.fullmatch(old.name):
                        old.unlink()
                self._begun = True
            (folder / f"{index:02}-{label}.txt").write_text(text, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"--dump-ir {folder}: {error.strerror}") from error
