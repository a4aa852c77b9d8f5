"""Faults in memory: exact values of known flips, several bits at once, exact undo, and that a fault which does not arrive is found out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from effc.errors import ConfigError, DataError, InternalError
from effc.faultsim.faults import Effect
from effc.faultsim.formats import NumberView, stored_view, view_named
from effc.faultsim.inject import Changed, Faultable, faulted_values, quantise

F32 = stored_view(torch.float32)


def ints(*numbers: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(numbers, np.int64)


def raw(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()


def flipped(value: float, bit: int, view: NumberView = F32, dtype: torch.dtype = torch.float32) -> Tensor:
    """One flip, by both ways, which must agree."""
    tensor = torch.tensor([7.0, value]).to(dtype)
    copy, changed = faulted_values(tensor, ints(1), ints(bit), "flip", None, view)
    assert changed == Changed(1, 0)
    fault = Faultable(tensor, view)
    assert fault.apply(ints(1), ints(bit), "flip") == changed
    assert raw(tensor) == raw(copy)
    return tensor[1:]


@pytest.mark.parametrize(
    ("value", "bit", "word"),
    [
        (0.5, 30, 0x7F000000),  # 2^127 = 1.70e38
        (-0.03, 30, 0xFCF5C28F),  # times 2^128: -1.02e37
        (1.0, 30, 0x7F800000),  # Inf
        (1.5, 30, 0x7FC00000),  # NaN
        (-1.5, 30, 0xFFC00000),
        (2.0, 30, 0x00000000),  # 0
        (3.0, 30, 0x00400000),  # 2^-127 = 5.877e-39
        (0.0, 30, 0x40000000),  # 2
        (1.0, 31, 0xBF800000),  # -1: the mask 1 << 31 is no int32
        (0.0, 31, 0x80000000),
        (-math.inf, 31, 0x7F800000),
        (math.inf, 0, 0x7F800001),  # a signalling NaN
        (1.0, 23, 0x3F000000),  # 0.5: lowest exponent bit
        (1.0, 22, 0x3FC00000),  # 1.5: highest mantissa bit
        (1.0, 0, 0x3F800001),
    ],
)
def test_flips_of_f32(value: float, bit: int, word: int) -> None:
    result = flipped(value, bit).view(torch.int32).item()
    assert f"{result % 2**32:08x}" == f"{word:08x}"


def test_the_values_of_the_notes() -> None:
    assert flipped(0.5, 30).item() == 2.0**127
    assert flipped(3.0, 30).item() == 2.0**-127 == 5.877471754111438e-39
    assert flipped(-0.03, 30).item() == torch.tensor(-0.03).item() * 2.0**128
    assert [flipped(0.5, bit, view_named("q15.16")).item() for bit in (31, 30, 16, 0)] == [-32767.5, 16384.5, 1.5, 0.5 + 2**-16]


@pytest.mark.parametrize(
    ("name", "dtype", "bit", "expected"),
    [
        ("bf16", torch.bfloat16, 15, -1.0),
        ("bf16", torch.bfloat16, 14, math.inf),
        ("bf16", torch.bfloat16, 7, 0.5),
        ("bf16", torch.bfloat16, 6, 1.5),
        ("f16", torch.float16, 15, -1.0),
        ("f16", torch.float16, 14, math.inf),
        ("f16", torch.float16, 10, 0.5),
        ("f16", torch.float16, 9, 1.5),
    ],
)
def test_sign_and_exponent_of_halves(name: str, dtype: torch.dtype, bit: int, expected: float) -> None:
    assert flipped(1.0, bit, stored_view(dtype), dtype).item() == expected
    assert flipped(1.0, bit, view_named(name)).item() == expected


def test_sign_bits_of_integers() -> None:
    for bits, dtype in ((8, torch.int8), (16, torch.int16), (32, torch.int32), (64, torch.int64)):
        tensor = torch.tensor([0, 1, -1], dtype=dtype)
        Faultable(tensor, stored_view(dtype)).apply(ints(0, 1, 2), ints(*[bits - 1] * 3), "flip")
        assert tensor.tolist() == [-(2 ** (bits - 1)), 1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1]
    tensor = torch.tensor([1], dtype=torch.uint8)
    Faultable(tensor, stored_view(torch.uint8)).apply(ints(0), ints(7), "flip")
    assert tensor.tolist() == [129]
    scaled = torch.tensor([127.0, 0.0, -127.0])
    view = quantise(scaled, view_named("int8"))
    Faultable(scaled, view).apply(ints(0, 1, 2), ints(7, 7, 7), "flip")
    assert scaled.tolist() == [-1.0, -128.0, 1.0]
    narrow = torch.tensor([1.5, -1.5])  # 4 bits in a byte: the sign is bit 3
    Faultable(narrow, view_named("q1.2")).apply(ints(0, 1), ints(3, 3), "flip")
    assert narrow.tolist() == [-0.5, 0.5]


@pytest.mark.parametrize(
    ("effect", "values", "words", "flips"),
    [
        ("flip", None, [0xFF, 0b0000_0101, 0b1000_0010], 4),
        ("burst", None, [0xFF, 0b0000_0101, 0b1000_0010], 4),
        ("stuck-at-0", None, [0xFF, 0b0000_0000, 0b0000_0010], 1),
        ("stuck-at-1", None, [0xFF, 0b0000_0111, 0b1000_0010], 3),
        ("random", [True, False, True, False], [0xFF, 0b0000_0011, 0b0000_0010], 1),
    ],
)
def test_effects_on_several_bits_of_several_elements(effect: Effect, values: list[bool] | None, words: list[int], flips: int) -> None:
    tensor = torch.tensor([0xFF, 0b0000_0010, 0b0000_0010], dtype=torch.uint8)
    fault = Faultable(tensor, stored_view(torch.uint8))
    given_values = None if values is None else np.array(values)
    elements, bits = ints(1, 1, 1, 2), ints(1, 2, 0, 7)  # in no order
    with fault.faulted(elements, bits, effect, given_values) as changed:
        assert tensor.tolist() == words
        assert changed == Changed(flips, 4 - flips)
    assert tensor.tolist() == [0xFF, 2, 2]


def test_silent_stuck_ats_and_draws_without_a_fault_are_counted_and_change_nothing() -> None:
    tensor = torch.tensor([1.0, 0.25])
    fault = Faultable(tensor, F32)
    before = fault.digest()
    assert fault.apply(ints(0, 1), ints(31, 30), "stuck-at-0") == Changed(0, 2)
    assert fault.digest() == before
    fault.undo()
    for effect in ("flip", "stuck-at-1"):
        assert fault.apply(ints(), ints(), effect) == Changed(0, 0)
        fault.undo()
    fault.check()


_DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]


@given(st.data(), st.sampled_from(_DTYPES), st.sampled_from(["flip", "burst", "stuck-at-0", "stuck-at-1", "random"]), st.booleans())
def test_any_fault_agrees_with_big_integers_and_is_undone_byte_for_byte(
    data: st.DataObject, dtype: torch.dtype, effect: Effect, strided: bool
) -> None:
    """Bytes are arbitrary: NaN payloads, subnormals, negative zeros."""
    width = 8 * dtype.itemsize
    words = data.draw(st.lists(st.integers(0, 2**width - 1), min_size=6, max_size=6))
    tensor = torch.frombuffer(bytearray(b"".join(word.to_bytes(width // 8, "little") for word in words)), dtype=dtype).view(2, 3)
    if strided:
        tensor = tensor.t().contiguous().t()
    pairs = data.draw(st.lists(st.tuples(st.integers(0, 5), st.integers(0, width - 1)), unique=True, max_size=12))
    elements, bits = ints(*[element for element, _ in pairs]), ints(*[bit for _, bit in pairs])
    values = np.array(data.draw(st.lists(st.booleans(), min_size=len(pairs), max_size=len(pairs))), bool) if effect == "random" else None
    expected = list(words)
    for at, (element, bit) in enumerate(pairs):
        one = {"stuck-at-0": 0, "stuck-at-1": 1}.get(effect, 1 - (words[element] >> bit & 1) if values is None else int(values[at]))
        expected[element] = expected[element] & ~(1 << bit) | one << bit
    flips = sum((before ^ after).bit_count() for before, after in zip(words, expected, strict=True))
    before = raw(tensor)
    copy, copied = faulted_values(tensor, elements, bits, effect, values, stored_view(dtype))
    assert (raw(tensor), copy.stride()) == (before, tensor.stride())
    fault = Faultable(tensor, stored_view(dtype))
    with fault.faulted(elements, bits, effect, values) as changed:
        assert raw(tensor) == b"".join(word.to_bytes(width // 8, "little") for word in expected) == raw(copy)
        assert changed == copied == Changed(flips, len(pairs) - flips)
    assert raw(tensor) == before
    fault.check()


def test_two_flips_of_one_bit_in_turn_are_none() -> None:
    tensor = torch.tensor([math.nan, -0.0, 1.0])
    before = raw(tensor)
    for _ in range(2):
        Faultable(tensor, F32).apply(ints(0, 2), ints(3, 31), "flip")
    assert raw(tensor) == before


def test_the_digest_sees_one_bit_and_check_says_so() -> None:
    tensor = torch.zeros(1000)
    fault = Faultable(tensor, F32)
    tensor[999] = -0.0
    with pytest.raises(InternalError, match="1,000 elements is not what it was"):
        fault.check()
    tensor[999] = 0.0
    fault.check()
    fault.apply(ints(5), ints(0), "flip")
    with pytest.raises(InternalError, match="still applied"):
        fault.check()


def test_a_fault_is_undone_after_an_exception_and_a_second_one_is_refused() -> None:
    tensor = nn.Parameter(torch.ones(4))  # needs a gradient, and is written all the same
    fault = Faultable(tensor, F32)

    def model() -> None:
        assert tensor.tolist() == [-1.0, 1.0, 1.0, 1.0]
        with pytest.raises(InternalError, match="holds one already"):
            fault.apply(ints(1), ints(31), "flip")
        raise RuntimeError("the model failed")

    with pytest.raises(RuntimeError, match="the model failed"), fault.faulted(ints(0), ints(31), "flip"):
        model()
    fault.check()


class _WrittenElsewhere(Faultable):
    """Writes go to a copy, as with a parameter that was replaced."""

    def _now(self) -> np.ndarray:  # type: ignore[type-arg]
        return super()._now().copy()


def test_a_flip_that_does_not_arrive_is_an_error() -> None:
    for tensor in (torch.ones(4), torch.ones(2, 4)[:, ::2]):
        with pytest.raises(InternalError, match="the flip had no effect: effect flip, 1 bit, the first is in element 2, view f32"):
            _WrittenElsewhere(tensor, F32).apply(ints(2), ints(30), "flip")


@pytest.mark.parametrize(
    ("elements", "bits", "effect", "match"),
    [
        (ints(4), ints(0), "flip", "elements 4 to 4"),
        (ints(-1), ints(0), "flip", "elements -1"),
        (ints(0), ints(32), "flip", "bits 32 to 32"),
        (ints(0), ints(-1), "flip", "bits -1"),
        (ints(3, 0, 3), ints(9, 9, 9), "flip", "bit 9 of element 3 twice"),
        (ints(0, 1), ints(0), "flip", "one bit for each element"),
        (ints(0), ints(0), "random", "values for `random` alone"),
    ],
)
def test_faults_that_are_none_are_refused(elements: np.ndarray, bits: np.ndarray, effect: Effect, match: str) -> None:  # type: ignore[type-arg]
    fault = Faultable(torch.ones(4), F32)
    with pytest.raises(InternalError, match=match):
        fault.apply(elements, bits, effect)
    fault.check()


def test_tensors_that_cannot_be_faulted_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"view f32 is one of torch.float32 tensors; use the stored view"):
        Faultable(torch.ones(3, dtype=torch.float64), F32)
    with pytest.raises(ConfigError, match="one fault would hit several"):
        Faultable(torch.ones(3).expand(2, 3), F32)
    with pytest.raises(ConfigError, match=r"1 value: not numbers of view q15\.16"):
        Faultable(torch.tensor([0.1, 0.5]), view_named("q15.16"))
    with pytest.raises(DataError, match="NaN has no word"):
        quantise(torch.tensor([math.nan]), view_named("q15.16"))


@pytest.mark.parametrize("name", ["q15.16", "q1.6", "int8", "int5", "int16", "f16", "bf16", "f32"])
def test_a_quantised_tensor_is_on_the_grid_and_comes_back(name: str) -> None:
    tensor = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)).t() * 3
    tensor[0, 0], tensor[1, 0] = -0.0, 1e5
    view = quantise(tensor, view_named(name))
    once = raw(tensor)
    fault = Faultable(tensor, view)
    with fault.faulted(ints(*range(150)), ints(*[view.bits - 1] * 150), "flip") as changed:
        assert changed == Changed(150, 0)
        assert raw(tensor) != once
    assert raw(tensor) == once
    fault.check()


def test_words_are_the_truth_where_float32_is_too_narrow() -> None:
    tensor = torch.tensor([16385.0])
    fault = Faultable(tensor, view_named("q15.16"))
    with fault.faulted(ints(0), ints(0), "flip") as changed:
        assert changed == Changed(1, 0)
        assert tensor.item() == 16385.0  # 16385 + 2^-16 has 31 significant bits


def test_activations_keep_what_is_not_reached_or_has_no_word() -> None:
    values = torch.tensor([0.1, 0.3, math.nan, math.inf])
    copy, changed = faulted_values(values, ints(0, 1, 2, 3), ints(4, 4, 4, 4), "stuck-at-0", None, view_named("q3.4"))
    # 0.1 is word 2, 0.3 word 5: bit 4 is clear, so they are not even rounded. NaN has no word. Inf is word 127: 7.9375 less one
    assert changed == Changed(1, 3)
    assert copy[:2].tolist() == values[:2].tolist()
    assert copy[2].isnan()
    assert copy[3].item() == 6.9375
    copy, changed = faulted_values(values, ints(0, 2), ints(4, 4), "flip", None, view_named("q3.4"))
    assert (changed, copy[0].item(), copy[1].item()) == (Changed(1, 1), 1.125, values[1].item())


def test_values_of_no_dimension_and_of_other_memory_formats() -> None:
    copy, _ = faulted_values(torch.tensor(1.0), ints(0), ints(31), "flip", None, F32)
    assert (copy.shape, copy.item()) == ((), -1.0)
    scalar = torch.tensor(2.0)
    with Faultable(scalar, F32).faulted(ints(0), ints(31), "flip"):
        assert scalar.item() == -2.0
    image = torch.arange(1.0, 25.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last)
    copy, _ = faulted_values(image, ints(13), ints(31), "flip", None, F32)
    assert copy.is_contiguous(memory_format=torch.channels_last)
    assert copy.reshape(-1)[13].item() == -14.0
    assert Faultable(torch.zeros(0), F32).apply(ints(), ints(), "flip") == Changed(0, 0)
