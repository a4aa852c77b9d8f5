"""What a package with targets does in lowering: its kernel rules, the patterns that its library computes, and the code for them.

An `Extension` (`effc.targets`) names its `Hooks` by a dotted path. They are imported when something is compiled for one of its targets, so
that listing targets imports no TVM. docs/extending.md shows a whole package.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from effc.errors import EffcError, MissingDependencyError
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.inlining import NotInlinableError
from effc.lowering.relax_edit import operands
from effc.targets import Target
from effc.targets.places import place_in

__all__ = ["Composite", "ExternalCode", "Hooks", "Tensor", "blamed", "checking", "hooks_of", "is_stored", "origin_of", "rules_of"]

_STORED: ContextVar[frozenset[Any] | None] = ContextVar("stored", default=None)  # of the program whose parts checks are asked about
# What C has no type for is passed as its bits; a bool is a byte, 0 or 1.
_C_TYPES = {"float32": "float", "float64": "double", "float16": "uint16_t", "bfloat16": "uint16_t", "bool": "uint8_t"}

Rule = Callable[[Any, Sequence[bool], Target], Implementation | None]


@dataclass(frozen=True)
class Tensor:
    """What a pointer of an external function points to, row by row."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def c_type(self) -> str:
        """Of an element in C; float16 and bfloat16 are the bits in a `uint16_t`."""
        return _C_TYPES.get(self.dtype, f"{self.dtype}_t")


@dataclass(frozen=True)
class Composite:
    """A part of the program that matched a pattern, and the C function that must compute it.

    Attributes:
        symbol: name of the function `int32_t symbol(const T *input..., T *output...)`; 0 means that it did. Equal parts share one.
        pattern: the pattern's name.
        function: the part as a relax.Function of high-level operators, as `FuseOpsByPattern` makes it.
        inputs: its arguments, in the order in which its operators read them first; stored tensors are among them, in the layout that they
            have here. What is read several times is one argument: `relu(matmul(x, w) + x)` has two.
        outputs: its results: one, and a further one for each value inside that the rest of the program reads, too (`result`).
        stored: of each input, whether it is a stored tensor wherever the part occurs.
    """

    symbol: str
    pattern: str
    function: Any
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    stored: tuple[bool, ...] = ()

    @property
    def prototype(self) -> str:
        """Of the function, in C: `int32_t effc_acme_0(const float *in0, const float *in1, float *out0)`."""
        read = [f"const {one.c_type} *in{index}" for index, one in enumerate(self.inputs)]
        written = [f"{one.c_type} *out{index}" for index, one in enumerate(self.outputs)]
        return f"int32_t {self.symbol}({', '.join([*read, *written])})"

    @property
    def calls(self) -> tuple[Any, ...]:
        """The operators (relax.Call) in order; `call.attrs` holds strides, padding, ..."""
        from tvm import relax

        bindings = [binding.value for block in self.function.body.blocks for binding in block.bindings]
        return tuple(value for value in bindings if isinstance(value, relax.Call))

    def call(self, operator: str) -> Any:
        """The first call of an operator (`relax.nn.conv2d`), with its `args` and `attrs`; None where the part has none."""
        return next((call for call in self.calls if str(getattr(call.op, "name", "")) == operator), None)

    def place(self, operand: Any) -> int:
        """Which of the inputs an operand of a call (`call.args[1]`) is; -1 for a value that the part computes itself."""
        return next((index for index, argument in enumerate(self.function.params) if argument.same_as(operand)), -1)

    def result(self, call: Any) -> int:
        """Which of the outputs a call of the part gives; -1 for a value that only the part reads."""
        bindings = [binding for block in self.function.body.blocks for binding in block.bindings]
        variable = next((binding.var for binding in bindings if binding.value.same_as(call)), None)
        return next((index for index, one in enumerate(operands(self.function.body.body)) if one.same_as(variable)), -1)


@dataclass(frozen=True)
class ExternalCode:
    """The C functions of composites, and what they call: all of it is linked into the artifact's code.

    Attributes:
        sources: file name -> C11, or a header that it includes; each `.c` is compiled for the target.
        objects: object files or static archives for the target.
        flags: further flags of the compiler.
        notes: symbol -> what the report says of such a step, as the library's function that it calls.
    """

    sources: Mapping[str, str] = field(default_factory=dict)
    objects: tuple[bytes, ...] = ()
    flags: tuple[str, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Hooks:
    """What an extension does while a program is lowered for one of its targets.

    Attributes:
        rules: tried before effc's own: (a fused function, which of its arguments are stored tensors, the target) -> a kernel, or None.
            See `effc.lowering.kernels`.
        patterns: the target -> what its library computes, each a `relax.transform.FusionPattern` or the tuple of its arguments (name,
            pattern, annotations, check), larger patterns first. Operators have their channels last, weights are arguments.
        codegen: (the composites that were found, the target) -> the code.
    """

    rules: tuple[Rule, ...] = ()
    patterns: Callable[[Target], Sequence[Any]] | None = None
    codegen: Callable[[Sequence[Composite], Target], ExternalCode] | None = None


def is_stored(operand: Any) -> bool:
    """For checks of patterns: whether an operand is a stored tensor (a weight, a bias), and no activation.

    Args:
        operand: what a part of the pattern matched, `context.annotated_expr["bias"]`.

    Raises:
        RuntimeError: nobody asks a check.
    """
    stored = _STORED.get()
    if stored is None:
        raise RuntimeError("is_stored answers inside the check of a pattern, while a program is lowered")
    return operand in stored


@contextmanager
def checking(stored: frozenset[Any]) -> Iterator[None]:
    """While checks are asked: what `is_stored` says yes to."""
    token = _STORED.set(stored)
    try:
        yield
    finally:
        _STORED.reset(token)


def origin_of(target: Target) -> str:
    """Who is to blame, as messages say it: `package effc-toy-npu 0.1, which adds target toy-npu`."""
    return f"package {target.origin.package if target.origin else 'effc'}, which adds target {target.name}"


@contextmanager
def blamed(target: Target, what: str) -> Iterator[None]:
    """Whatever a package's own code raises is its error, and says so, with the line; errors of effc's own pass."""
    try:
        yield
    except (EffcError, NotInlinableError):
        raise
    except Exception as error:
        why = str(error).strip().splitlines()
        text = f"{type(error).__name__}: {why[-1] if why else ''}"
        place = place_in(error, target.origin.hooks.partition(":")[0]) if target.origin is not None else ""
        raise MissingDependencyError(f"{origin_of(target)}: {what} raises {text}{place}; --debug shows the traceback") from error


def hooks_of(target: Target) -> Hooks:
    """An extension's hooks; none for a target of effc's own. Raises MissingDependencyError where they cannot be had."""
    path = target.origin.hooks if target.origin is not None else ""
    if not path:
        return Hooks()
    module, _, name = path.partition(":")
    with blamed(target, f"importing its hooks, {path},"):
        hooks = getattr(importlib.import_module(module), name)
    if not isinstance(hooks, Hooks):
        raise MissingDependencyError(f"{origin_of(target)}: {path} is a {type(hooks).__name__}, no effc.lowering.extensions.Hooks")
    if (hooks.patterns is None) != (hooks.codegen is None):
        raise MissingDependencyError(f"{origin_of(target)}: {path} has patterns or codegen without the other: it takes both")
    return hooks


def rules_of(target: Target) -> tuple[Rule, ...]:
    """An extension's kernel rules; the steps of their kernels are of its family."""
    return tuple(functools.partial(_ruled, rule) for rule in hooks_of(target).rules)


def _ruled(rule: Rule, fused: Any, fixed: Sequence[bool], target: Target) -> Implementation | None:
    named = getattr(rule, "__name__", repr(rule))
    with blamed(target, f"its rule {named}"):
        made = rule(fused, fixed, target)
    if made is not None and not isinstance(made, Implementation):
        raise MissingDependencyError(f"{origin_of(target)}: its rule {named} gives a {type(made).__name__}, no Implementation")
    if made is None or target.origin is None:
        return None
    return replace(made, family=target.origin.extension, note="; ".join(filter(None, (made.family, made.note))))
