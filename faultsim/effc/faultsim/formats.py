"""Number views: which bits a number is made of. Bit 0 is the least significant one, bit `bits - 1` the sign (or the most significant one).

    f32   31 sign, 30..23 exponent, 22..0 mantissa        int8     7 sign (weighs -128)         q15.16   31 sign (weighs -2^15), 16 is one,
    f16   15 sign, 14..10 exponent,  9..0 mantissa        int16   15 sign (weighs -32768)                15..0 the fraction
    bf16  15 sign, 14..7  exponent,  6..0 mantissa        uint8    7 weighs 128                 qM.N     1 + M + N bits, two's complement

A view is one of two kinds.

- *Stored*: the words are the tensor's own bytes (`stored_view`). Nothing is converted: NaN payloads, infinities and -0.0 stay as they are.
- *Emulated*: a float32 tensor stands for numbers that the device keeps in another format (`view_named`). Conversion rounds half to even.
  f16 and bf16 become infinite beyond their range, as IEEE 754 says, and keep the upper bits of a NaN's payload. Integers and fixed point
  saturate, infinities included; NaN has no word there and is an error.

`encode` makes words of values and `decode` values of words. Words narrower than the integer that holds them (q3.8 has 12 bits of 16) are
sign-extended. The words are the truth: one with more than 24 significant bits decodes to the nearest float32, so a flip of its lowest bits
can leave the emulated value as it was.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from effc.errors import ConfigError, DataError, InternalError, Problem, counted

__all__ = ["NumberView", "stored_view", "view_for", "view_named"]

_FIXED = re.compile(r"q(0|[1-9][0-9]?)\.(0|[1-9][0-9]?)")  # no leading zeros: one name for one format
_INT = re.compile(r"int([2-9]|1[0-6])")
_KNOWN = (
    "f32, f16, bf16, int8, int16 (any int2 to int16), q15.16 (any qM.N with 1 + M + N from 2 to 32); f64, uint8, int32, int64 as stored"
)


@dataclass(frozen=True)
class NumberView(ABC):
    """One number format.

    Attributes:
        name: `f32`, `int8`, `q15.16`, ...
        bits: bits of a word; bit 0 is the least significant one, `bits - 1` the sign or the most significant one.
        words: the integer type that holds a word.
        carrier: dtype of the tensor whose numbers are seen this way, and of what `decode` returns.
    """

    name: str
    bits: int
    words: torch.dtype
    carrier: torch.dtype

    @property
    def stored(self) -> bool:
        """Whether the words are the tensor's own bytes."""
        return False

    @property
    def holds_nan(self) -> bool:
        """Whether NaN has a word; if not, encoding one is an error."""
        return self.carrier.is_floating_point

    def fitted(self, values: Tensor) -> NumberView:
        """The view with its scale set for these values; intN views of float tensors have one, others return themselves.

        The scale of intN is symmetric and per tensor: max|w| / (2^(N-1) - 1), so that the largest magnitude is the largest word. It is at
        least the smallest normal float32. A tensor without elements or of zeros alone has no scale; 1.0 is taken, so a flip of bit b there
        is worth 2^b.

        Raises:
            DataError: values are NaN or infinite, so there is no scale.
        """
        return self

    @abstractmethod
    def encode(self, values: Tensor) -> Tensor:
        """Words of values of dtype `carrier`, in the same shape.

        Raises:
            DataError: NaN, and the view has no word for it.
            ConfigError: values of another dtype.
        """

    @abstractmethod
    def decode(self, words: Tensor) -> Tensor:
        """Values, dtype `carrier`, of words, in the same shape."""

    def _require_carrier(self, values: Tensor) -> None:
        if values.dtype != self.carrier:
            hint = "see it as it is stored, or convert the model"
            problem = Problem(f"view {self.name}", str(values.dtype), f"the view is one of {self.carrier} tensors", hint)
            raise ConfigError("a number view does not fit a tensor", [problem])


@dataclass(frozen=True)
class _Stored(NumberView):
    """The tensor's own bytes. Words share memory with values, and values with words."""

    @property
    def stored(self) -> bool:
        return True

    def encode(self, values: Tensor) -> Tensor:
        self._require_carrier(values)
        return values.view(self.words)

    def decode(self, words: Tensor) -> Tensor:
        return words.view(self.carrier)


@dataclass(frozen=True)
class _Half(NumberView):
    """f16 or bf16 carried by float32. NaN is moved as bits: processors would set the quiet bit of a signalling one."""

    half: torch.dtype
    shift: int  # mantissa bits that float32 has more
    exponent: int  # the bits that are all one in NaN and Inf

    def encode(self, values: Tensor) -> Tensor:
        self._require_carrier(values)
        raw = values.view(torch.int32)
        upper = (raw >> self.shift) & ~(self.exponent | -0x8000)  # what is kept of the mantissa
        quiet = (self.exponent & -self.exponent) >> 1  # set where the kept part is zero: that would read as Inf
        nan = (raw >> 16 & 0x8000) | self.exponent | torch.where(upper == 0, quiet, upper)
        return torch.where(values.isnan(), nan.to(torch.int16), values.to(self.half).view(torch.int16))

    def decode(self, words: Tensor) -> Tensor:
        values = words.view(self.half)
        wide = words.to(torch.int32)
        mantissa = (wide & ~(self.exponent | -0x8000)) << self.shift
        nan = (wide & -0x80000000) | 0x7F800000 | mantissa
        return torch.where(values.isnan(), nan, values.to(torch.float32).view(torch.int32)).view(torch.float32)


@dataclass(frozen=True)
class _Integer(NumberView):
    """w = scale * word with a word of N bits, two's complement."""

    scale: float | None = None  # a float32 number; None until fitted

    @property
    def holds_nan(self) -> bool:
        return False

    def fitted(self, values: Tensor) -> NumberView:
        self._require_carrier(values)
        _refuse(~values.isfinite(), values, self.name, "the largest magnitude sets the scale, and it is not finite")
        largest = values.abs().max().item() if values.numel() else 0.0
        smallest = torch.finfo(torch.float32).tiny
        scale = torch.tensor(max(largest / (2 ** (self.bits - 1) - 1), smallest), dtype=torch.float32).item() if largest else 1.0
        return replace(self, scale=scale)

    def encode(self, values: Tensor) -> Tensor:
        self._require_carrier(values)
        return _rounded(self, values, values.double() / self._scale())

    def decode(self, words: Tensor) -> Tensor:
        return words.to(self.carrier) * self._scale()

    def _scale(self) -> float:
        if self.scale is None:
            raise InternalError(f"view {self.name} is used before `fitted` gave it a scale")
        return self.scale


@dataclass(frozen=True)
class _Fixed(NumberView):
    """Qm.n: w = word / 2^n, in [-2^m, 2^m - 2^-n]."""

    fraction: int  # n

    @property
    def holds_nan(self) -> bool:
        return False

    def encode(self, values: Tensor) -> Tensor:
        self._require_carrier(values)
        return _rounded(self, values, values.double() * 2.0**self.fraction)

    def decode(self, words: Tensor) -> Tensor:
        return (words.double() * 2.0**-self.fraction).to(self.carrier)


def _rounded(view: NumberView, values: Tensor, scaled: Tensor) -> Tensor:
    """Words nearest to `scaled` (float64), ties to even, saturated."""
    _refuse(values.isnan(), values, view.name, "NaN has no word in this view")
    limit = 2 ** (view.bits - 1)
    return scaled.round().clamp(-limit, limit - 1).to(view.words)


def _refuse(bad: Tensor, values: Tensor, name: str, why: str) -> None:
    """DataError where `bad` is true anywhere."""
    if bad.any():
        first = int(bad.reshape(-1).to(torch.uint8).argmax())
        shown = f"the first is {values.reshape(-1)[first].item()} at flat index {first}"
        what = f"{counted(int(bad.count_nonzero()), 'value')} of {values.numel():,}, {shown}"
        raise DataError("values without a word", [Problem(f"view {name}", what, why, "use a float view, or mend the tensor")])


_STORED = {
    view.carrier: view
    for view in (
        _Stored("f64", 64, torch.int64, torch.float64),
        _Stored("f32", 32, torch.int32, torch.float32),
        _Stored("f16", 16, torch.int16, torch.float16),
        _Stored("bf16", 16, torch.int16, torch.bfloat16),
        _Stored("int64", 64, torch.int64, torch.int64),
        _Stored("int32", 32, torch.int32, torch.int32),
        _Stored("int16", 16, torch.int16, torch.int16),
        _Stored("int8", 8, torch.int8, torch.int8),
        _Stored("uint8", 8, torch.uint8, torch.uint8),
    )
}
_HALVES: dict[str, NumberView] = {
    "f16": _Half("f16", 16, torch.int16, torch.float32, half=torch.float16, shift=13, exponent=0x7C00),
    "bf16": _Half("bf16", 16, torch.int16, torch.float32, half=torch.bfloat16, shift=16, exponent=0x7F80),
}
_AS_STORED: dict[str, NumberView] = {view.name: view for view in _STORED.values() if view.name in ("f64", "f32", "int64", "int32", "uint8")}


def stored_view(dtype: torch.dtype) -> NumberView:
    """The view of a tensor as it is stored: float32 is `f32`, int8 is `int8` without a scale.

    Raises:
        ConfigError: bool, complex and other types whose bits effc does not number.
    """
    if dtype not in _STORED:
        known = ", ".join(str(each).removeprefix("torch.") for each in _STORED)
        raise ConfigError(
            "a tensor's bits cannot be faulted",
            [Problem("stored view", str(dtype), "effc numbers no bits of this type", f"known: {known}")],
        )
    return _STORED[dtype]


def view_named(name: str) -> NumberView:
    """The view of that name on a float32 tensor; names that only exist as stored (`f64`, `int32`, ...) give that view.

    Raises:
        ConfigError: no such view; lists the known ones.
    """
    if name in _AS_STORED:
        return _AS_STORED[name]
    if name in _HALVES:
        return _HALVES[name]
    if _INT.fullmatch(name):
        bits = int(name[3:])
        return _Integer(name, bits, _holder(bits), torch.float32)
    fixed = _FIXED.fullmatch(name)
    if fixed:
        whole, fraction = int(fixed[1]), int(fixed[2])
        bits = 1 + whole + fraction
        if 2 <= bits <= 32:
            return _Fixed(name, bits, _holder(bits), torch.float32, fraction)
    raise ConfigError(f"there is no number view {name!r}; known: {_KNOWN}")


def view_for(name: str, dtype: torch.dtype) -> NumberView:
    """The view of that name for tensors of a dtype: the stored one where the tensor is of that format, else an emulated one.

    So `int8` is the bytes of an int8 tensor, and a scaled integer of a float32 one. intN views still need `fitted`.

    Raises:
        ConfigError: no such view, or none for this dtype.
    """
    if dtype in _STORED and _STORED[dtype].name == name:
        return _STORED[dtype]
    view = view_named(name)
    if view.carrier != dtype:
        known = f"{_STORED[dtype].name} fits" if dtype in _STORED else "effc numbers no bits of this type"
        raise ConfigError(
            "a number view does not fit a tensor",
            [Problem(f"view {name}", str(dtype), f"the view is one of {view.carrier} tensors", known)],
        )
    return view


def _holder(bits: int) -> torch.dtype:
    """The smallest signed integer with that many bits, up to 32."""
    return torch.int8 if bits <= 8 else torch.int16 if bits <= 16 else torch.int32
