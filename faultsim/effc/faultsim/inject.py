"""Put a fault into a tensor in place, prove that it is there, and take it out again.

A `Faultable` is one stored tensor: the bits of a fault are changed in its memory, read back through the tensor itself, and undone byte for
byte. `faulted_values` is the same for a value that is computed: a copy is changed. Neither converts what a fault does not reach.

Why the read-back: tools are known to report faults that never arrived, because a copy was written, and their campaigns look harmless then.
It proves that the tensor changed; that the model computes with this tensor is for whoever picks the tensors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effc.errors import ConfigError, InternalError, Problem, counted
from effc.faultsim.faults import Effect
from effc.faultsim.formats import NumberView, stored_view
from effc.faultsim.words import Reach, Words, bits_changed, reach

__all__ = ["Changed", "Faultable", "faulted_values", "quantise"]

Elements = NDArray[np.int64]

_UNSIGNED: dict[int, np.dtype[np.unsignedinteger]] = {
    1: np.dtype(np.uint8),
    2: np.dtype(np.uint16),
    4: np.dtype(np.uint32),
    8: np.dtype(np.uint64),
}


@dataclass(frozen=True)
class Changed:
    """What a fault did to words.

    Attributes:
        flips: bits whose value changed.
        silent: bits that were reached and already had the value.
    """

    flips: int
    silent: int


def quantise(tensor: Tensor, view: NumberView) -> NumberView:
    """Replace a tensor's values, in place, by those that the view can hold: decode(encode(values)).

    A campaign on an emulated view starts with this, and its golden run is the one on these values. Stored views leave the tensor alone.

    Returns:
        the view, fitted to the tensor's original values; `Faultable` takes this one.

    Raises:
        ConfigError: the view is for another dtype.
        DataError: NaN or infinities that the view cannot hold.
    """
    values = tensor.detach()
    if view.stored:
        view.encode(values)  # for its check of the dtype
        return view
    fitted = view.fitted(values)
    _raw(values).flat[:] = _raw(fitted.decode(fitted.encode(values))).reshape(-1)
    return fitted


class Faultable:
    """One stored tensor whose bits can be faulted.

    The tensor is written in place while a fault is applied. It may have any strides, as long as no two elements share memory; elements are
    numbered in C order of the shape, whatever the strides.
    """

    def __init__(self, tensor: Tensor, view: NumberView) -> None:
        """
        Args:
            tensor: on the CPU; a parameter, a buffer, or a writable view of an artifact's array.
            view: how its words are seen; `quantise` returns it for emulated views.

        Raises:
            ConfigError: the view is for another dtype, the tensor is not on the CPU or its elements overlap, or its values are not those
                that the view can hold.
        """
        self._tensor, self._view = tensor, view
        problem = _not_faultable(tensor, view)
        if problem:
            raise ConfigError("a tensor cannot be faulted", [problem])
        self._undo: tuple[Elements, Words] | None = None
        self._golden = self.digest()

    @property
    def view(self) -> NumberView:
        return self._view

    @property
    def size(self) -> int:
        """Elements."""
        return self._tensor.numel()

    def apply(self, elements: Elements, bits: NDArray[np.int64], effect: Effect, values: NDArray[np.bool_] | None = None) -> Changed:
        """Put a fault in. Its bits may come in any order, several in one element.

        For emulated views the words count: a flip far below a word's 24 leading bits is one, though float32 cannot show it.

        Args:
            elements: flat indices: (k,) int64. bits: (k,) int64. k may be 0.
            values: for the effect `random`, each bit's value: (k,) bool.

        Raises:
            InternalError: a fault is in already; bits out of range or listed twice; or the read-back is not what was written, and the
                tensor is restored.
        """
        if self._undo is not None:
            raise InternalError("a fault is applied to a tensor that holds one already; undo it first")
        what = reach(elements, bits, effect, values, size=self.size, width=self._view.bits)
        raw = self._now()
        before = raw.flat[what.elements]
        after, changed = _faulty(before, what, self._view)
        self._undo = what.elements, before
        raw.flat[what.elements] = after
        found = self._read(what.elements)
        if found.tobytes() != after.tobytes():
            self.undo()
            kept = "the flip had no effect" if found.tobytes() == before.tobytes() else "the tensor holds other bits than were written"
            first = f"the first is in element {what.elements[0]}"
            raise InternalError(f"{kept}: effect {effect}, {counted(what.bits, 'bit')}, {first}, view {self._view.name}")
        return changed

    def undo(self) -> None:
        """Restore every reached element byte for byte. Without a fault nothing happens."""
        if self._undo is not None:
            elements, before = self._undo
            self._now().flat[elements] = before
            self._undo = None

    @contextmanager
    def faulted(
        self, elements: Elements, bits: NDArray[np.int64], effect: Effect, values: NDArray[np.bool_] | None = None
    ) -> Iterator[Changed]:
        """`apply` as a context; the fault is undone whatever happens inside."""
        changed = self.apply(elements, bits, effect, values)
        try:
            yield changed
        finally:
            self.undo()

    def digest(self) -> bytes:
        """SHA-256 of the tensor's bytes as they are now, in C order of the elements."""
        return hashlib.sha256(np.ascontiguousarray(self._now()).data).digest()

    def check(self) -> None:
        """Compare the tensor with what it was at the start.

        Raises:
            InternalError: some bit differs.
        """
        if self.digest() != self._golden:
            state = "a fault is still applied" if self._undo is not None else "something else wrote to it, or an undo failed"
            raise InternalError(f"a tensor of {counted(self.size, 'element')} is not what it was before the campaign: {state}")

    def _now(self) -> Words:
        """The bytes of the tensor, as the model sees them at this moment: its storage may have been replaced."""
        return _raw(self._tensor.detach())

    def _read(self, elements: Elements) -> Words:
        """The read-back: through the tensor and torch's own indexing, not through the array that was written."""
        values = self._tensor.detach()
        if values.is_contiguous():
            return _raw(values.view(-1)[torch.from_numpy(elements)])
        return _raw(values)[np.unravel_index(elements, values.shape)]


def faulted_values(
    values: Tensor,
    elements: Elements,
    bits: NDArray[np.int64],
    effect: Effect,
    bit_values: NDArray[np.bool_] | None,
    view: NumberView,
) -> tuple[Tensor, Changed]:
    """A changed copy of a computed value; only the reached elements go through the view.

    An emulated view rounds those whose word the fault changes, and no others.

    The copy has the strides of `values`: another memory format would change the last bits of what is computed from it.
    Where an emulated integer or fixed-point view has no word for a reached element, because it is NaN, the element stays NaN and its bits
    count as silent: a fault must not heal an inference that is lost already.

    Args:
        values: on the CPU, any shape.
        elements: flat indices in C order of the shape: (k,) int64. bits, bit_values: as for `Faultable.apply`.
        view: fitted, if it has a scale.

    Raises:
        ConfigError: the view is for another dtype, or values are not on the CPU.
        InternalError: bits out of range or listed twice, or a toggled bit kept its value.
    """
    problem = _not_fitting(values, view)
    if problem:
        raise ConfigError("a value cannot be faulted", [problem])
    copy = values.detach().clone()
    raw = _raw(copy)
    what = reach(elements, bits, effect, bit_values, size=copy.numel(), width=view.bits)
    raw.flat[what.elements], changed = _faulty(raw.flat[what.elements], what, view)
    return copy, changed


def _faulty(before: Words, what: Reach, view: NumberView) -> tuple[Words, Changed]:
    """The reached elements' bytes with the fault. Where their word stays, or they are NaN and the view has no word for it, they stay.

    Raises:
        InternalError: a toggled bit has its old value.
    """
    words, lost = (before, None) if view.stored else _encoded(before, view)
    faulty = what.changed(words)
    flips = bits_changed(words, faulty, what.mask)
    if what.ones is None and flips != what.bits:
        raise InternalError(f"the flip had no effect: {flips} of {counted(what.bits, 'bit')} changed, view {view.name}")
    if view.stored:
        return faulty, Changed(flips, what.bits - flips)
    if lost is not None:
        faulty[lost] = words[lost]
        flips = bits_changed(words, faulty, what.mask)
    after = _raw(view.decode(torch.from_numpy(faulty).view(view.words)))
    same = faulty == words
    after[same] = before[same]  # a word that did not change is not rounded either
    return after, Changed(flips, what.bits - flips)


def _encoded(raw: Words, view: NumberView) -> tuple[Words, NDArray[np.bool_] | None]:
    """Words of the bytes of values, and where they are NaN without a word; None if nowhere."""
    values = torch.from_numpy(raw).view(view.carrier)
    nan = values.isnan()
    if view.holds_nan or not nan.any():
        return _raw(view.encode(values)), None
    return _raw(view.encode(values.masked_fill(nan, 0.0))), nan.numpy()


def _raw(tensor: Tensor) -> Words:
    """A tensor's bytes as unsigned integers of its element's size: the same memory, shape and strides."""
    array: Words = tensor.view(stored_view(tensor.dtype).words).numpy().view(_UNSIGNED[tensor.itemsize])
    return array


def _not_fitting(tensor: Tensor, view: NumberView) -> Problem | None:
    where = f"tensor of shape {list(tensor.shape)}"
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        what = f"{tensor.layout} on {tensor.device}"
        return Problem(where, what, "bits are changed in ordinary memory", "move the model to the CPU, dense")
    if tensor.dtype != view.carrier:
        return Problem(where, str(tensor.dtype), f"view {view.name} is one of {view.carrier} tensors", "use the stored view")
    return None


def _not_faultable(tensor: Tensor, view: NumberView) -> Problem | None:
    problem = _not_fitting(tensor, view)
    if problem:
        return problem
    where = f"tensor of shape {list(tensor.shape)}"
    if _overlaps(tensor):
        return Problem(
            where, f"strides {list(tensor.stride())}", "elements share memory, so one fault would hit several", "make it contiguous"
        )
    if not view.stored:
        values = tensor.detach()
        off = int((_raw(view.decode(view.encode(values))) != _raw(values)).sum())
        if off:
            why = f"not numbers of view {view.name}, so undoing a fault would leave others"
            return Problem(where, counted(off, "value"), why, "quantise it first and take the view which that returns")
    return None


def _overlaps(tensor: Tensor) -> bool:
    """Whether two elements may share memory: some stride is within the reach of the smaller ones."""
    last = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride <= last:
                return True
            last += stride * (size - 1)
    return False
