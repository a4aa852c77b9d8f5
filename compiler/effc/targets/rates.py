"""How fast a processor computes products of a few rows, with all weights read and with rows skipped: what the cost model goes by.

The numbers of `STANDARD` are round ones for a current desktop or server core pair. `effc targets measure` fits them to the machine and
keeps them in the user's cache; a compile for this machine reads them there and writes what it used into the artifact (`rates.json`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from effc.errors import ConfigError

__all__ = ["STANDARD", "Level", "Rates", "dump_rates", "load_rates", "measured_rates", "rates_path"]


@dataclass(frozen=True)
class Level:
    """Weights that come from one place: the memory, or a core's own cache.

    Attributes:
        dense: bytes of weights that the dense kernel gets through in a nanosecond, all threads together.
        skipping: the same of the skipping kernel, of the rows that it reads.
        start: nanoseconds that each row costs beside its bytes.
    """

    dense: float
    skipping: float
    start: float


@dataclass(frozen=True)
class Rates:
    """One processor with some number of threads.

    Attributes:
        memory: weights of a network that no cache holds.
        cache: weights of a network that fits into the second-level caches.
        scan: nanoseconds of the skipping kernel for each input element: its value and its place in the index list.
        threads: that were measured with; 0 for the standard numbers.
    """

    memory: Level
    cache: Level
    scan: float
    threads: int = 0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


STANDARD = Rates(memory=Level(20.0, 20.0, 40.0), cache=Level(80.0, 80.0, 4.0), scan=1.0)


def rates_path(processor: str, threads: int) -> Path:
    """Where the user's cache keeps the rates of a processor."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "effc" / "targets"
    return folder / f"{re.sub('[^a-z0-9]+', '-', processor.lower())}-{threads}t.json"


def measured_rates(processor: str, threads: int) -> Rates | None:
    """What was measured on this processor; None where nothing was, or the file in the cache is none."""
    try:
        return load_rates(rates_path(processor, threads), processor)
    except ConfigError:
        return None


def dump_rates(rates: Rates, processor: str) -> str:
    """A JSON file that `load_rates` reads."""
    return json.dumps({"processor": processor, "rates": rates.as_json()}, indent=1) + "\n"


def load_rates(path: Path, processor: str) -> Rates:
    """The rates of a file. Raises ConfigError where it is missing, another, or of another processor."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        rates = _parsed(document["rates"])
        measured_on = document["processor"]
    except OSError as error:
        raise ConfigError(f"rates {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else "it is no text" if isinstance(error, UnicodeDecodeError) else error
        raise ConfigError(f"rates {path} is no file of measured rates ({why}); `effc targets measure` writes one") from error
    if measured_on != processor:
        hint = "measure there, or leave --rates out for standard ones"
        raise ConfigError(f"rates {path} were measured on another processor ({measured_on}); this one is {processor}: {hint}")
    return rates


def _parsed(values: Mapping[str, Any]) -> Rates:
    def level(given: Mapping[str, Any]) -> Level:
        return Level(**{field.name: _number(given[field.name], field.name) for field in fields(Level)})

    threads = values["threads"]
    if type(threads) is not int or threads < 0:
        raise ValueError("threads is no number of threads")
    return Rates(level(values["memory"]), level(values["cache"]), _number(values["scan"], "scan"), threads)


def _number(value: Any, name: str) -> float:
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not 0 <= value < 1e9
        or (value == 0 and name in ("dense", "skipping"))
    ):
        raise ValueError(f"{name} is {value!r}")
    return float(value)
