"""A program as bytes and back: a `.pt2` archive that torch can read, with effc's own knowledge beside it.

The same program gives the same bytes: the archive is written through a buffer (a path would be embedded), and notes that name source
files or differ from run to run are left out. Interface, facts and provenance travel as `extra/effc.json`. Reading vets the bytes first
(`vetting`): a doctored archive is refused before torch sees it.
"""

from __future__ import annotations

import io
import json
import warnings
from typing import Any

import torch
from torch.export import ExportedProgram

from effc.errors import InputRejectedError, InternalError
from effc.ir.edit import Edit
from effc.ir.facts import Facts
from effc.ir.interface import Interface
from effc.ir.program import Program, Provenance, own_notes
from effc.ir.verify import verify
from effc.ir.vetting import vet_archive

__all__ = ["load_program_bytes", "read_archive", "save_program"]

_EXTRA = "effc.json"
_FORMAT = 1


def save_program(program: Program) -> bytes:
    """The program as a `.pt2` archive; the same bytes for the same program."""
    exported = Edit(program).done().exported  # a private copy of the graph
    for node in exported.graph.nodes:
        kept = {"val": node.meta["val"]} if "val" in node.meta else {}  # the output node has none
        node.meta = {**kept, "custom": own_notes(node)}
    extra = {
        "format": _FORMAT,
        "interface": program.interface.as_json(),
        "facts": program.facts.as_json(),
        "provenance": program.provenance.as_json(),
    }
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about its own deprecated calls
        torch.export.save(exported, buffer, extra_files={_EXTRA: json.dumps(extra, sort_keys=True)})
    return buffer.getvalue()


def load_program_bytes(data: bytes, *, name: str = "the program", max_bytes: int = 8 << 30, max_elements: int = 1 << 30) -> Program:
    """Read what `save_program` wrote.

    Args:
        data: the archive.
        name: what messages call it.
        max_bytes, max_elements: bounds on the archive and on each of its tensors.

    Raises:
        InputRejectedError: broken, doctored, or not written by effc.
        LimitError: over a bound.
    """
    exported, extra = read_archive(data, name, max_bytes, max_elements)
    if extra is None:
        raise InputRejectedError(f"{name} is an exported program, but effc did not write it; import it with load_program")
    try:
        program = Program(
            exported=exported,
            interface=Interface.from_json(extra["interface"]),
            facts=Facts.from_json(extra["facts"]),
            provenance=Provenance.from_json(extra["provenance"]),
        )
        verify(program, after="load")
    except InternalError as error:
        raise InputRejectedError(f"{name} is no well-formed program", error.problems) from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputRejectedError(f"{name}: its {_EXTRA} is malformed ({type(error).__name__}: {error})") from error
    return program


def read_archive(data: bytes, name: str, max_bytes: int, max_elements: int) -> tuple[ExportedProgram, dict[str, Any] | None]:
    """Vet and load any `.pt2`; the second result is effc's own knowledge, None where another program wrote it. Errors as above."""
    vet_archive(data, name, max_bytes, max_elements)
    extra = {_EXTRA: ""}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.load(io.BytesIO(data), extra_files=extra)
    except Exception as error:  # torch's deserialiser raises whatever the malformed part makes it raise
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputRejectedError(f"{name} cannot be loaded: {why}") from error
    if not extra[_EXTRA]:
        return exported, None
    try:
        known = json.loads(extra[_EXTRA])
    except (ValueError, RecursionError) as error:
        raise InputRejectedError(f"{name}: its {_EXTRA} is malformed") from error
    if not isinstance(known, dict) or known.get("format") != _FORMAT:
        raise InputRejectedError(f"{name} was written by another version of effc (its {_EXTRA} is not of format {_FORMAT})")
    return exported, known
