"""What an accelerator is made of: an array of multipliers, its memories, and what each of its operations costs, read from a TOML file.

    name = "my-array"
    summary = "64 x 64, output-stationary"
    rows = 64
    columns = 64
    dataflow = "output-stationary"   # or weight-stationary, input-stationary, event-driven
    clock-hz = 1e9

    [skipping]                       # left out: nothing is skipped
    zeros = "element"                # none, element, or the number of neighbouring channels that are skipped together
    changes = "none"                 # the same for inputs that are what they were in the frame before
    scan = 32                        # inputs that are compared and listed in a cycle

    [bytes]                          # of one operand
    activation = 1
    weight = 1
    accumulator = 4
    index = 2                        # of an entry of a list, beside its value

    [sram]                           # bytes; double buffered (effc.cost.accelerator.memory)
    activations = 1048576
    weights = 1048576
    outputs = 2097152

    [dram]
    bytes-per-second = 12.8e9

    [energy]                         # picojoules: of a multiply-accumulate, of a byte, of an entry of a list, of an input that is compared
    mac = 0.3
    sram-read = 2.5
    sram-write = 2.5
    dram = 162.5
    event = 3.2
    compare = 0.03
    idle-milliwatts = 0

In the stationary dataflows operands move through the array in lockstep, so nothing can be left out: `zeros = "element"` means there that a
multiplier whose input is zero is gated (it saves the energy of the product, no time), and unchanged inputs cannot be skipped.

The files of this folder are the descriptions that effc ships; where a number is somebody's measurement, a comment beside it says whose.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from effc.errors import ConfigError, Problem

__all__ = ["Accelerator", "Dataflow", "find_accelerator", "read_accelerator", "shipped"]

Dataflow = Literal["weight-stationary", "output-stationary", "input-stationary", "event-driven"]
Count = Annotated[int, Field(ge=1, le=1 << 40)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Granularity = Literal["none", "element"] | Annotated[int, Field(ge=2, le=1 << 16)]
_STATIONARY = ("weight-stationary", "output-stationary", "input-stationary")
_FILES = "effc.cost.accelerator"
_MOST_BYTES = 1 << 20  # of a description


class _Table(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        populate_by_name=True,
        alias_generator=lambda name: name.replace("_", "-"),
        allow_inf_nan=False,
    )


class Skipping(_Table):
    """What is left out: see the module docstring."""

    zeros: Granularity = "none"
    changes: Granularity = "none"
    scan: Count = 32


class Bytes(_Table):
    """Of one operand; `index` is where an entry of a list says which input it is."""

    activation: Count = 1
    weight: Count = 1
    accumulator: Count = 4
    index: Count = 2


class Sram(_Table):
    """Bytes of the three memories beside the array."""

    activations: Count
    weights: Count
    outputs: Count


class Dram(_Table):
    """The memory outside of the chip."""

    bytes_per_second: Rate


class Energy(_Table):
    """Picojoules; what a chip draws without computing in milliwatts."""

    mac: Amount
    sram_read: Amount
    sram_write: Amount
    dram: Amount
    event: Amount = 0.0
    compare: Amount = 0.0
    idle_milliwatts: Amount = 0.0


class Accelerator(_Table):
    """One accelerator; the module docstring shows its file.

    Attributes:
        rows, columns: multipliers of the array.
        dataflow: which operand stays where it is while the others pass; or `event-driven`.
        clock_hz: cycles in a second.
    """

    name: Annotated[str, Field(min_length=1, max_length=100)]
    summary: str = ""
    rows: Annotated[int, Field(ge=1, le=1 << 16)]
    columns: Annotated[int, Field(ge=1, le=1 << 16)]
    dataflow: Dataflow
    clock_hz: Rate
    skipping: Skipping = Skipping()
    bytes: Bytes = Bytes()
    sram: Sram
    dram: Dram
    energy: Energy

    @property
    def multipliers(self) -> int:
        return self.rows * self.columns

    @property
    def is_event_driven(self) -> bool:
        return self.dataflow == "event-driven"

    def width(self, what: Literal["zeros", "changes"]) -> int | None:
        """How many neighbouring channels are skipped together; 1 for single inputs, None where none are."""
        given = getattr(self.skipping, what)
        return None if given == "none" else 1 if given == "element" else int(given)

    def as_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True)


def shipped() -> list[Accelerator]:
    """The descriptions in this package, by name."""
    files = [entry for entry in resources.files(_FILES).iterdir() if entry.name.endswith(".toml")]
    found = [read_accelerator(entry.read_bytes(), entry.name) for entry in files]
    return sorted(found, key=lambda one: one.name)


def find_accelerator(name: str | Path) -> Accelerator:
    """A shipped description by its name, or the one in a file.

    Raises:
        ConfigError: there is neither, or the file is wrong: everything in it at once.
    """
    known = {one.name: one for one in shipped()}
    if str(name) in known:
        return known[str(name)]
    path = Path(name)
    if path.suffix != ".toml" and not path.is_file():
        near = difflib.get_close_matches(str(name), known, 1)
        hint = f"did you mean {near[0]}?" if near else f"shipped are {', '.join(known)}."
        raise ConfigError(f"there is no accelerator {str(name)!r}: {hint} A description of your own is the path of a .toml file")
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"{path} is no description of an accelerator: it has over {_MOST_BYTES:,} bytes")
    return read_accelerator(content, str(path))


def read_accelerator(content: bytes, where: str) -> Accelerator:
    """The description in a file's content; `where` names it in errors. Raises ConfigError."""
    try:
        values = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where} is not TOML: {error}") from error
    try:
        found = Accelerator.model_validate(values, by_name=False, by_alias=True)
    except ValidationError as error:
        problems = _problems(error)
    else:
        problems = []
    known = {problem.where for problem in problems}
    problems += [one for one in _contradictions(values) if one.where not in known]
    if problems:
        raise ConfigError(f"{where} does not describe an accelerator", problems)
    return found


def _contradictions(values: Mapping[str, Any]) -> list[Problem]:
    """What no such array can do, as far as a file's values tell: others of them may be wrong."""
    dataflow, skipping = values.get("dataflow"), values.get("skipping")
    if dataflow not in _STATIONARY or not isinstance(skipping, dict):
        return []
    zeros, changes = skipping.get("zeros", "none"), skipping.get("changes", "none")
    problems = []
    why = f"operands of {'an' if dataflow[0] in 'aeiou' else 'a'} {dataflow} array move in lockstep"
    if zeros not in ("none", "element"):
        hint = "give none, or element for multipliers that are gated"
        problems.append(Problem("skipping.zeros", repr(zeros), f"{why}: channels cannot be left out together", hint))
    if changes != "none":
        hint = "give none, or dataflow event-driven"
        problems.append(Problem("skipping.changes", repr(changes), f"{why}: unchanged inputs cannot be left out", hint))
    return problems


def _problems(error: ValidationError) -> list[Problem]:
    """One for each place: the parts of a union complain one by one about the same value."""
    found: dict[str, Problem] = {}
    for entry in error.errors():
        where = ".".join(str(part) for part in entry["loc"] if isinstance(part, str) and not part.startswith(("literal", "constrained")))
        found.setdefault(where, _problem(where, entry))
    return list(found.values())


def _problem(where: str, entry: Mapping[str, Any]) -> Problem:
    kind, context = entry["type"], entry.get("ctx", {})
    if kind == "missing":
        return Problem(where, "the key", "is missing", "effc model-npu --list --json shows shipped ones with all keys")
    if kind == "extra_forbidden":
        return Problem(where, "the key", "is unknown", _near(where))
    if where.endswith((".zeros", ".changes")):
        why = 'must be "none", "element" or a number of channels of at least 2'
    else:
        words = {
            "greater_than_equal": "must be at least {ge:g}",
            "greater_than": "must be more than {gt:g}",
            "less_than_equal": "must be at most {le:g}",
            "literal_error": "must be {expected}",
            "finite_number": "must be a finite number",
            "int_type": "must be a whole number, written without a point or an exponent",
            "float_type": "must be a number",
            "string_type": "must be a text",
            "string_too_short": "must not be empty",
            "string_too_long": "must have at most {max_length} letters",
            "model_type": "must be a table of keys",
        }
        why = words[kind].format(**context) if kind in words else str(entry["msg"])
    return Problem(where, _shown(entry.get("input")), why)


def _near(where: str) -> str:
    *tables, key = where.split(".")
    model: Any = Accelerator
    for table in tables:
        model = model.model_fields[table].annotation
    known = [name.replace("_", "-") for name in model.model_fields]
    near = difflib.get_close_matches(key, known, 1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) < 100) else type(value).__name__
