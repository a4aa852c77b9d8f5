"""The contract of a pass.

A pass is a frozen dataclass; its fields are its options on the command line, in the config file and in the manifest. Authors write
`run(program, context)` (and `requires` where the pass needs something); they never override `__call__`, which does
requires -> run -> verify and records the pass in the program's provenance. A pass tells `context.log` for every site that it
considered what it did or why not: `effc compile --explain` prints that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, final

from torch import Tensor, fx

from effc.data import Dataset
from effc.errors import DataError
from effc.ir import Program, source_of, verify
from effc.passes.curve import Curve
from effc.targets import Target

__all__ = ["Advance", "Context", "Decision", "Pass", "Progress"]


class Advance(Protocol):
    """Says that some of the work is done; `note` is shown beside the bar until the next one: `layer3.2, bound 4.1, top1 0.912`."""

    def __call__(self, count: int, note: str = "") -> None: ...


Progress = Callable[[str, int], AbstractContextManager[Advance]]
"""`with progress("ranger: profiling", total) as advance: advance(1)`; the caller decides what is shown, and where."""


def silent(label: str, total: int) -> AbstractContextManager[Advance]:
    """A Progress that shows nothing."""

    def unseen(count: int, note: str = "") -> None:
        pass

    return nullcontext(unseen)


@dataclass(frozen=True)
class Decision:
    """What a pass did at one site, or why it left it alone.

    Attributes:
        pass_name: the pass.
        site: the node in the user's words.
        op: its operator.
        done: True for a rewrite, False for a site that was considered and left alone.
        why: one sentence with the numbers behind the decision.
    """

    pass_name: str
    site: str
    op: str
    done: bool
    why: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Context:
    """What a pass may use besides the program.

    Attributes:
        fit: the part of `--data` for calibration and training: all of it where no pass needs a selection part; None without data.
        selection: the part of `--data` for choosing among candidates; None without data and where no pass needs it.
        target: what the program will run on; None when only the graph matters.
        seed: the root of all randomness in passes.
        progress: shows long work.
        decisions: the log behind `--explain`.
        metric: what a search under `max_drop` judges by, one of `effc.evaluate.METRICS`; None takes the data's own (`effc.passes.quality`).
        curves: what such searches have measured, for the report.
        initial: parameters by the source's names from before training, for passes that rewind to them; None where none were given.
        checkpoints: a folder where training passes keep what they need to go on after an interruption; None keeps nothing.
    """

    fit: Dataset | None = None
    selection: Dataset | None = None
    target: Target | None = None
    seed: int = 0
    progress: Progress = silent
    decisions: list[Decision] = field(default_factory=list)
    metric: str | None = None
    curves: list[Curve] = field(default_factory=list)
    initial: Mapping[str, Tensor] | None = None
    checkpoints: Path | None = None

    def log(self, by: Pass, node: fx.Node | str, done: bool, why: str) -> None:
        """Record a decision about a node."""
        if isinstance(node, str):
            self.decisions.append(Decision(by.name, node, "", done, why))
        else:
            op = str(node.target).removesuffix(".default")
            self.decisions.append(Decision(by.name, source_of(node), op, done, why))


@dataclass(frozen=True)
class Pass(ABC):
    """Base of all passes; see the module docstring.

    Class attributes:
        name: kebab case; the class is the same words in CamelCase, the module in snake_case (a test checks it).
        exact: True when outputs are the same within `tolerance`; False for a pass that changes the function on purpose.
        tolerance: largest allowed difference relative to the output's largest magnitude, for exact passes; 0.0 means bit for bit.
            The pass's docstring defends any other value.
        after: passes that must come earlier in a pipeline when both are in it.
        needs_data: True when the pass cannot run without `--data`.
        idempotent: True when a second run changes nothing.
        in_order: True when samples are frames of a clip to it: where a part of `--data` is held back, in a pipeline with it, it is the end.
    """

    name: ClassVar[str]
    exact: ClassVar[bool]
    tolerance: ClassVar[float] = 0.0
    after: ClassVar[tuple[type[Pass], ...]] = ()
    needs_data: ClassVar[bool] = False
    idempotent: ClassVar[bool] = True
    in_order: ClassVar[bool] = False

    @property
    def needs_selection(self) -> bool:
        """True when it chooses among candidates by data that it was not fitted on; part of `--data` is then held back.

        A pass whose options decide overrides the property; one that always does says `needs_selection: ClassVar[bool] = True`.
        """
        return False

    @property
    def uses_initial(self) -> bool:
        """True when it rewinds to the parameters of `--init`."""
        return False

    @property
    def trains(self) -> bool:
        """True when it trains, and so keeps `--checkpoints`."""
        return False

    def requires(self, program: Program, context: Context) -> None:
        """Raise an EffcError (DataError, ConfigError, ...) when the pass cannot run here. Default: data where `needs_data`."""
        if self.needs_data and context.fit is None:
            raise DataError(f"pass {self.name} needs calibration data: give --data calib.npz")
        if self.needs_selection and context.selection is None:
            raise DataError(f"pass {self.name} needs data to choose by: give --data calib.npz")

    @abstractmethod
    def run(self, program: Program, context: Context) -> Program:
        """The rewritten program. `program` must not be changed; use `effc.ir.Edit`."""

    @final
    def __call__(self, program: Program, context: Context) -> Program:
        self.requires(program, context)
        result = self.run(program, context).with_pass(self.spec)
        verify(result, after=f"pass {self.spec}")
        return result

    @property
    def spec(self) -> str:
        """This pass with its non-default options, as text that parses back to an equal pass."""
        from effc.passes.spec import format_pass

        return format_pass(self)


def matching(program: Program, *targets: object) -> Iterator[fx.Node]:
    """The program's nodes whose operator is one of the given overloads, in execution order."""
    return (node for node in program.nodes if node.target in targets)
