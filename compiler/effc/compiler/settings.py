"""What can be chosen for a compile: one schema for flags, config file and `compile_model`. A flag beats the file, the file the default.

# effc.toml
passes = "fold-batch-norm,ranger"
data = "calibration.npz"           # relative to this file
eval = "test.npz"
max-drop = 0.01
emit = "onnx"

[input-shapes]
image = [1, 3, 32, 32]
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from effc.errors import ConfigError, DataError, Problem

__all__ = ["Settings", "load_settings", "settings_of"]

_MOST_SAMPLES = 1 << 16  # of one call
_PATHS = ("data", "eval", "init", "tuning", "rates")
_NAMED = ("data", "eval", "init")  # files that an artifact does not hold itself
_LONGEST = 200  # characters of a wrong value that a message repeats
_SHARES = (None, "top1", "agreement")  # metrics that are a share of the samples; None becomes one of the two
_NAMES_ONLY = """\
# Of data files only the names are kept. A config's names are relative to its folder: put the files there, or give --data, --eval, --init.
"""
_WANTED = {  # what each of pydantic's error types means, in words; {} from its context
    "literal_error": "must be {expected}",
    "greater_than_equal": "must be at least {ge:g}",
    "greater_than": "must be more than {gt:g}",
    "byte_count": "must be a count of bytes, as 65536, 64k or 1M",
    "finite_number": "must be a finite number",
    "string_type": "must be text",
    "path_type": "must be the name of a file",
    "dict_type": "must be a table",
    "tuple_type": "must be a list",
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_parsing", "float_type"), "must be a number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "must be true or false"),
}
LimitName = Literal["model_bytes", "nodes", "tensor_elements", "folded_bytes", "nesting", "data_bytes"]


class Settings(BaseModel):
    """The effective configuration of a compile.

    Attributes:
        passes: `fold-batch-norm,ranger{option=value}`; empty for none.
        data: calibration and training data.
        eval: held-out data for the gate and the report; no pass sees them.
        init: a safetensors file of parameters from before training, for passes that rewind to them.
        checkpoints: a folder where passes that train keep how far they are, so that an interrupted compile goes on; no part of the result.
        metric: how quality is judged; None takes top1 with labels, else agreement with the source (max-error where it has no classes).
        max_drop: largest loss of the metric that is accepted; None only reports it.
        preprocess: how images become inputs.
        input_shapes: sizes by input name where the model leaves more than the batch open.
        states: of a streaming program: each input that is a state, and the output that is its new value.
        target: what to compile for.
        target_package: name and version of the package that adds the target, as an artifact's configuration keeps them; only for messages.
        batch: samples of one call of the compiled code.
        emit: further files to write into the artifact.
        seed: the root of all randomness.
        limits: raised limits on untrusted models by name.
        check_import: whether an ONNX import is compared with onnxruntime.
        winograd: whether 3x3 convolutions may use Winograd's algorithm: `auto`, `off`, or always one of its forms, `f2` or `f4`.
        tune: seconds to measure tiles on this machine; 0 lets the model choose.
        tuning: a file of measured tiles, such as the artifact's tuning.json.
        max_ram, max_flash: bytes of a microcontroller that the program may need at most, or text as `64k` or `1M` (of 1024); None accepts
            any.
        rates: a file of the processor's measured rates, such as the artifact's rates.json; without it those that `effc targets measure`
            left on this machine, or standard ones.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=False, populate_by_name=True, alias_generator=lambda name: name.replace("_", "-")
    )

    passes: str = ""
    data: Path | None = None
    eval: Path | None = None
    init: Path | None = None
    checkpoints: Path | None = None
    metric: Literal["top1", "agreement", "kl", "perplexity", "max-error"] | None = None
    max_drop: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    preprocess: str | None = None
    input_shapes: dict[str, tuple[Annotated[int, Field(gt=0)], ...]] = {}
    states: dict[str, str] = {}
    target: str = "cpu"
    target_package: str = ""
    batch: Annotated[int, Field(ge=1, le=_MOST_SAMPLES)] = 1
    emit: tuple[Literal["onnx"], ...] = ()
    seed: Annotated[int, Field(ge=0)] = 0
    check_import: bool = True
    winograd: Literal["auto", "off", "f2", "f4"] = "auto"
    tune: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    tuning: Path | None = None
    rates: Path | None = None
    max_ram: Annotated[int, Field(ge=0)] | None = None
    max_flash: Annotated[int, Field(ge=0)] | None = None
    limits: dict[LimitName, Annotated[int, Field(gt=0)]] = {}

    @field_validator("passes", mode="before")
    @classmethod
    def _joined(cls, value: Any) -> Any:
        return ",".join(value) if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value) else value

    @field_validator("emit", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("max_ram", "max_flash", mode="before")
    @classmethod
    def _bytes(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        written = re.fullmatch(r"(\d+)([kKmM]?)", value, re.ASCII)
        if written is None:
            raise PydanticCustomError("byte_count", "no count of bytes")
        return int(written[1]) * {"": 1, "k": 1 << 10, "m": 1 << 20}[written[2].lower()]

    def as_toml(self) -> str:
        """A config file with every value that is set. Data files appear by their names only: a folder would leak into the artifact."""
        import tomli_w

        values = self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"tune", "checkpoints"})
        for name in _PATHS:
            if name in values:
                values[name] = Path(values[name]).name
        text = tomli_w.dumps({name: value for name, value in values.items() if value not in ([], {}, "")})
        return _NAMES_ONLY + text if any(name in values for name in _NAMED) else text


def load_settings(config: Path | None, flags: Mapping[str, Any]) -> Settings:
    """The settings from a config file (None for none) and the flags that were given (by field name).

    Raises:
        ConfigError: the file is missing or no TOML, a key is unknown, a value does not fit; all of them at once.
        DataError: data files that it names are not there.
    """
    values: dict[str, Any] = {}
    if config is not None:
        values = {key.replace("-", "_"): value for key, value in _read(config).items()}
        for name in (*_PATHS, "checkpoints"):
            if isinstance(values.get(name), str):
                values[name] = config.parent / values[name]
    given = {name: value for name, value in flags.items() if value is not None}
    if "target" in given:  # the file says where its own target came from
        values.pop("target_package", None)
    if config is not None:
        _check_files(config, {name: values[name] for name in _PATHS if isinstance(values.get(name), Path) and name not in given})
    return settings_of({**values, **given}, str(config) if config is not None else "", frozenset(given))


def settings_of(values: Mapping[str, Any], origin: str = "", flags: Set[str] = frozenset()) -> Settings:
    """Checked settings by field name.

    Args:
        values: field name -> value.
        origin: the file that values are from.
        flags: the fields that came from the command line instead.

    Raises:
        ConfigError: lists everything wrong.
    """
    problems, settings = [], None
    try:
        settings = Settings.model_validate(dict(values))
    except ValidationError as error:
        problems = [_problem(entry, flags) for entry in error.errors()]
    checked = values if settings is None else settings.model_dump()
    drop, metric = checked.get("max_drop"), checked.get("metric")
    if isinstance(drop, (int, float)) and drop > 1 and metric in _SHARES:
        hint = f"for {drop:g} points write {drop / 100:g}" if drop <= 100 else ""
        why = f"is over 1: {metric or 'top1 or agreement'} is a share, 0.05 of it is 5 points"
        problems.append(Problem(_shown("max_drop", flags), f"{drop:g}", why, hint))
    if settings is None or problems:
        what = f"the configuration in {origin}" if origin else "the configuration"
        raise ConfigError(f"{what} is wrong", problems)
    return settings


def _read(config: Path) -> dict[str, Any]:
    try:
        with open(config, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"--config {config}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {config} is not TOML: {error}") from error


def _check_files(config: Path, paths: Mapping[str, Path]) -> None:
    hints = {name: f"its names are relative to its folder, and an artifact's config.toml keeps no folders: give --{name}" for name in paths}
    problems = [Problem(name, str(path), "does not exist", hints[name]) for name, path in paths.items() if not path.exists()]
    if problems:
        raise DataError(f"{config} names data that are not there", problems)


def _shown(field: str, flags: Set[str]) -> str:
    """A field as the user wrote it: `--max-drop` on the command line, `max-drop` in a file."""
    name = field.replace("_", "-")
    return f"--{name.removesuffix('s') if field in ('limits', 'input_shapes') else name}" if field in flags else name


def _problem(entry: Mapping[str, Any], flags: Set[str]) -> Problem:
    path = [str(part) for part in entry["loc"] if part != "[key]"]
    field = (path[0] if path else "settings").replace("-", "_")
    name = field.replace("_", "-")
    where = ".".join([_shown(field, flags), *(path[1:] if field != "emit" else [])])
    if entry["type"] == "extra_forbidden":
        known = [field.replace("_", "-") for field in Settings.model_fields]
        near = difflib.get_close_matches(name, known, 1)
        return Problem(where, "the key", "is unknown", f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}")
    words = _WANTED.get(entry["type"], "is no valid value").format(**entry.get("ctx", {}))
    return Problem(where, _written(entry.get("input")), words)


def _written(value: object) -> str:
    """A value as it was written; of what has no short form only the kind: no message repeats an array."""
    plain = value is None or isinstance(value, bool | int | float | str | Path)
    text = repr(str(value) if isinstance(value, Path) else value) if plain else ""
    return text if plain and len(text) <= _LONGEST else f"a {type(value).__name__}"
