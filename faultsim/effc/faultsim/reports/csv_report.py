"""Lists of faults as CSV, in the form of the published ones (dnn-benchmarks, Politecnico di Torino), written and read.

    Injection,Layer,TensorIndex,Bit,n_injections,masked,non_critical,critical
    0,conv1,"(3, 0, 2, 1)",15,10000,14,9985,1

Bit 0 is the least significant one, so bit 31 of a float32 is its sign and bit 30 the top of its exponent. A layer's name means that
module's weight; what is not a layer's `weight` is written with the full name of its tensor, so that a list replays what it describes. Rows
with one injection number are faults of one injection, wherever they stand.

A list comes from somebody: it is read with limits, and nothing in it is evaluated.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from effc.errors import DataError, LimitError, Problem, counted
from effc.faultsim.reports.texts import visible
from effc.faultsim.summary import FaultRow

__all__ = ["COLUMNS", "MAX_BYTES", "ListedFault", "csv_chunks", "parse_faults", "read_faults", "read_list"]

COLUMNS = ("Injection", "Layer", "TensorIndex", "Bit", "n_injections", "masked", "non_critical", "critical")
MAX_BYTES = 1 << 26  # 64 MiB, above a million rows; the published lists have about one
_NEEDED = COLUMNS[:4]
_CHUNK = 10_000  # rows that are formatted together
_SHOWN = 20  # bad rows that an error lists
_LONGEST_NAME = 1000
_DIMENSIONS = 16
_NUMBER = re.compile(r"[0-9]{1,18}")
_INDEX = re.compile(r"\(([0-9, ]*)\)|\[([0-9, ]*)\]|([0-9]+)")


@dataclass(frozen=True, slots=True)
class ListedFault:
    """One row of a list.

    Attributes:
        injection: its number; faults of one injection share it.
        layer: as it is written: a module, or a tensor.
        index: the element's position.
        bit: 0 is the least significant one.
        line: where in the file it ends, from 1; for messages, and no part of what the fault is.
    """

    injection: int
    layer: str
    index: tuple[int, ...]
    bit: int
    line: int = field(default=0, compare=False)


class _Row(NamedTuple):
    line: int
    cells: Mapping[str, str]


def csv_chunks(rows: Iterable[FaultRow]) -> Iterator[bytes]:
    """The file in UTF-8, in pieces: a list may be larger than memory."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for number, row in enumerate(rows, 1):
        where = row.layer if row.tensor in ("", row.layer, f"{row.layer}.weight") else row.tensor
        writer.writerow((row.injection, where, str(row.index), row.bit, row.inferences, row.masked, row.non_critical, row.critical))
        if number % _CHUNK == 0:
            yield buffer.getvalue().encode(errors="backslashreplace")
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue().encode(errors="backslashreplace")


def read_faults(path: Path, max_bytes: int = MAX_BYTES) -> list[ListedFault]:
    """`read_list` and `parse_faults`: their errors."""
    return parse_faults(read_list(path, max_bytes), str(path))


def read_list(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """A list's bytes. They are read once and in order: a pipe (`<(...)` of a shell) is a file, too.

    Raises:
        DataError: it cannot be read.
        LimitError: it is larger than `max_bytes`.
    """
    where = repr(visible(str(path)))
    try:
        with open(path, "rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise DataError(f"there is no readable list of faults {where}: {error.strerror}") from error
    if len(content) > max_bytes:
        raise LimitError(f"the list of faults {where} is larger than {max_bytes:,} bytes; split it into several campaigns")
    return content


def parse_faults(content: bytes, where: str) -> list[ListedFault]:
    """A list in the file's order; columns besides the four that say what a fault is are not looked at, and may be missing.

    Positions are written `(3, 0, 2, 1)`, `[3,0,2,1]` or `3`; `()` is the one element of a scalar.

    Args:
        content: the file. `where`: its name, for messages.

    Raises:
        DataError: it has no such columns, has no rows, or some rows are wrong; lists them with their lines.
    """
    where = repr(visible(where))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"the list of faults {where} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    faults, problems, wrong = _parsed(_rows(text, where))
    if wrong:
        left = f"; the first {_SHOWN} are" if wrong > _SHOWN else ""
        raise DataError(f"{counted(wrong, 'row')} of the list of faults {where} cannot be understood{left}", problems)
    if not faults:
        raise DataError(f"the list of faults {where} has no rows")
    return faults


def _rows(text: str, where: str) -> Iterator[_Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        places = _places(header, where)
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield _Row(reader.line_num, {name: cells[at].strip() if at < len(cells) else "" for name, at in places.items()})
    except csv.Error as error:
        raise DataError(f"the list of faults {where} is not CSV: line {reader.line_num}: {error}") from error


def _places(header: list[str], where: str) -> dict[str, int]:
    problems = [
        Problem("header", name, "is missing" if not header.count(name) else "is there twice", f"the columns are {', '.join(_NEEDED)}")
        for name in _NEEDED
        if header.count(name) != 1
    ]
    if problems:
        raise DataError(f"the list of faults {where} has another header", problems)
    return {name: header.index(name) for name in _NEEDED}


def _parsed(rows: Iterable[_Row]) -> tuple[list[ListedFault], list[Problem], int]:
    """Faults, the first problems, and how many rows have one."""
    faults: list[ListedFault] = []
    problems: list[Problem] = []
    seen: dict[ListedFault, int] = {}
    wrong = 0
    for row in rows:
        found = _fault(row)
        if isinstance(found, ListedFault) and found in seen:
            why = f"is also in line {seen[found]} of the same injection; two flips of one bit would cancel"
            found = Problem(f"line {row.line}", "the same bit", why, "remove one, or give it an injection of its own")
        if isinstance(found, Problem):
            wrong += 1
            if len(problems) < _SHOWN:
                problems.append(found)
        elif not wrong:  # once one is wrong, only problems matter
            seen[found] = row.line
            faults.append(found)
    return faults, problems, wrong


def _fault(row: _Row) -> ListedFault | Problem:
    where, cells = f"line {row.line}", row.cells
    injection, layer, position, bit = (cells[name] for name in _NEEDED)
    if not _NUMBER.fullmatch(injection):
        return Problem(where, f"Injection {_quoted(injection)}", "is no number of an injection", "write 0, 1, 2, ...")
    if not layer or len(layer) > _LONGEST_NAME:
        return Problem(where, f"Layer {_quoted(layer)}", "is empty" if not layer else f"has more than {_LONGEST_NAME} characters")
    index = _index(position)
    if index is None:
        return Problem(where, f"TensorIndex {_quoted(position)}", "is no position in a tensor", "write (3, 0, 2, 1), [3,0,2,1] or 3")
    if not _NUMBER.fullmatch(bit) or int(bit) > 63:
        return Problem(where, f"Bit {_quoted(bit)}", "is no bit from 0 to 63", "bit 0 is the least significant one")
    return ListedFault(int(injection), layer, index, int(bit), row.line)


def _index(text: str) -> tuple[int, ...] | None:
    match = _INDEX.fullmatch(text)
    if match is None:
        return None
    inside = next(group for group in match.groups() if group is not None).strip()
    parts = [part.strip() for part in inside.removesuffix(",").split(",")] if inside else []
    if len(parts) > _DIMENSIONS or not all(_NUMBER.fullmatch(part) for part in parts):
        return None
    return tuple(map(int, parts))


def _quoted(text: str) -> str:
    return repr(text[:60] + ("…" if len(text) > 60 else ""))
