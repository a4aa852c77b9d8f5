"""Every error that effc raises on purpose, under one root, each class with the exit code of its command.

    EffcError                    70  (never raised itself)
    ├── GateFailed                1  a quality or resilience gate was missed
    ├── UsageError                2  the command was used wrongly
    │   ├── ConfigError              a flag, a config file, a pass spec
    │   ├── DataError                input data: name, shape, dtype, NaN, too little of it
    │   └── OutputError              the output cannot be written, or holds someone else's files
    ├── UnsupportedModelError     3  the model is well-formed, but effc cannot handle parts of it
    ├── InputRejectedError        4  a file is broken, hostile, over a limit, or altered
    │   ├── LimitError               over a limit on untrusted models (a flag raises it)
    │   └── AlteredArtifactError     a file of an artifact is not what its manifest says
    ├── VerificationError         5  effc's own result differs from its reference: our bug
    │   └── ForeignCodeError         steps that another package's code computes differ, or report a failure: not ours
    ├── MissingDependencyError    6  a package or a tool of the system is not installed
    ├── InconclusiveError         7  a gate could not be decided
    └── InternalError            70  an invariant of effc broke: our bug
        └── PassError                a pass failed; carries the pass and those before it

Codes without a class: 0 success, 130 interrupted. Messages say what, where (node, op, shape), why, and what to do.
Several problems of one kind travel together in one error (`problems`), so that nobody mends them one run at a time.
What went well in a way that the user should know of is an `EffcWarning`; the command line shows it on stderr.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

__all__ = [
    "AlteredArtifactError",
    "ConfigError",
    "DataError",
    "EffcError",
    "EffcWarning",
    "ForeignCodeError",
    "GateFailed",
    "InconclusiveError",
    "InputRejectedError",
    "InternalError",
    "LimitError",
    "MissingDependencyError",
    "OutputError",
    "PassError",
    "Problem",
    "UnsupportedModelError",
    "UsageError",
    "VerificationError",
    "counted",
]


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 sample`, `2 samples`, `1,347 samples`: a count as messages say it."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong at one place.

    Attributes:
        where: the place in the user's words: a node's name, an input's name, a file.
        what: what is there: the operator, the field, the value.
        why: why that is a problem.
        hint: what to do about it, or the nearest thing that works; may be empty.
    """

    where: str
    what: str
    why: str
    hint: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}: {self.why}"
        return f"{text}; {self.hint}" if self.hint else text

    def as_json(self) -> dict[str, str]:
        """The same four fields as a JSON object."""
        return asdict(self)


class EffcError(Exception):
    """Root of the tree. `exit_code` is what the command returns; `problems` may list several causes."""

    exit_code: int = 70

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join([self.message, *(f"  {problem}" for problem in self.problems)])


class EffcWarning(UserWarning):
    """Something that effc did on its own and that the user should know; the work went on."""


class GateFailed(EffcError):  # noqa: N818 - a missed gate is a verdict, not a mistake
    """A quality or resilience gate was missed."""

    exit_code = 1


class UsageError(EffcError):
    """The command or function was used wrongly: a missing file, a wrong option, wrong data."""

    exit_code = 2


class ConfigError(UsageError):
    """A flag, a config file or a pass spec is wrong."""


class DataError(UsageError):
    """Input data does not fit: name, shape, dtype, NaN, or too little of it."""


class OutputError(UsageError):
    """The output cannot be written, or the place holds files that are not effc's."""


class UnsupportedModelError(EffcError):
    """The model is well-formed, but parts of it are beyond effc; `problems` lists all of them."""

    exit_code = 3


class InputRejectedError(EffcError):
    """A file is truncated, malformed or hostile."""

    exit_code = 4


class LimitError(InputRejectedError):
    """An untrusted model is over a limit; the message names the flag that raises it."""


class AlteredArtifactError(InputRejectedError):
    """A file of an artifact is missing or is not what its manifest says."""


class VerificationError(EffcError):
    """A lowering or an exact pass differs from its reference. That is a bug of effc: please report it."""

    exit_code = 5


class ForeignCodeError(VerificationError):
    """Code of an extension computes steps of the plan, and the results are not the program's, or its function reports a failure."""


class MissingDependencyError(EffcError):
    """A package or a tool of the system is missing; the message says how to install it."""

    exit_code = 6


class InconclusiveError(EffcError):
    """A gate could be decided neither way with the samples, or the ranges, at hand."""

    exit_code = 7


class InternalError(EffcError):
    """An invariant of effc broke. That is a bug of effc: please report it."""


class PassError(InternalError):
    """A pass failed or broke the program; names the pass, its node and the passes that ran before it."""

    def __init__(self, spec: str, before: Sequence[str], why: str, problems: Sequence[Problem] = ()) -> None:
        ran = ", ".join(before) if before else "none"
        super().__init__(f"pass {spec} failed: {why} (passes before it: {ran})", problems)
        self.spec = spec
        self.before = tuple(before)
