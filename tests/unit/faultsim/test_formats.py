"""Number views at the bit level: which bit means what, every word of the small formats, ties, saturation, NaN."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from effc.errors import ConfigError, DataError, InternalError
from effc.faultsim.formats import stored_view, view_for, view_named

WORDS_16 = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
WORDS_8 = torch.arange(-128, 128, dtype=torch.int16).to(torch.int8)
ONE = torch.tensor([1.0, -1.0])


def floats(*words: int) -> Tensor:
    """float32 numbers of their bits."""
    return torch.from_numpy(np.array(words, np.uint32).view(np.float32))


def hexes(words: Tensor, digits: int) -> list[str]:
    return [f"{int(word) % 16**digits:0{digits}x}" for word in words]


@pytest.mark.parametrize(
    ("name", "digits", "expected"),
    [
        # sign and exponent, by what 1.0 and -1.0 look like
        ("f32", 8, ["3f800000", "bf800000"]),
        ("f16", 4, ["3c00", "bc00"]),
        ("bf16", 4, ["3f80", "bf80"]),
        ("q15.16", 8, ["00010000", "ffff0000"]),
        ("q3.4", 2, ["10", "f0"]),
        ("q3.8", 4, ["0100", "ff00"]),  # 12 bits in 16, sign-extended
    ],
)
def test_words_of_one_and_minus_one(name: str, digits: int, expected: list[str]) -> None:
    assert hexes(view_named(name).encode(ONE), digits) == expected


@pytest.mark.parametrize(
    ("name", "dtype"), [("f16", torch.float32), ("bf16", torch.float32), ("f16", torch.float16), ("bf16", torch.bfloat16)]
)
def test_every_half_word_comes_back(name: str, dtype: torch.dtype) -> None:
    """Signalling NaNs and payloads included, which a conversion by the processor would change."""
    view = view_for(name, dtype)
    values = view.decode(WORDS_16)
    assert values.dtype == dtype
    assert torch.equal(view.encode(values), WORDS_16)


@pytest.mark.parametrize("name", ["int8", "int16", "q3.4", "q0.7", "q7.8", "q0.15", "q15.0"])
def test_every_integer_and_fixed_point_word_comes_back(name: str) -> None:
    view = view_named(name).fitted(torch.tensor([0.3, -0.07]))
    words = WORDS_8 if view.bits == 8 else WORDS_16
    assert torch.equal(view.encode(view.decode(words)), words)


@given(
    st.integers(1, 31).flatmap(lambda bits: st.tuples(st.integers(0, bits), st.just(bits))), st.lists(st.integers(0, 2**32 - 1), min_size=1)
)
def test_fixed_point_of_any_split_comes_back_after_one_rounding(split: tuple[int, int], raw: list[int]) -> None:
    whole, bits = split
    view = view_named(f"q{whole}.{bits - whole}")
    values = floats(*raw)
    values = values[~values.isnan()]
    held = view.decode(view.encode(values))
    assert torch.equal(view.decode(view.encode(held)), held)
    inside = values.abs() < 2.0**whole - 2.0 ** (whole - bits)
    assert ((held.double() - values.double()).abs()[inside] <= 2.0 ** (whole - bits - 1)).all()


def test_float_views_round_half_to_even_overflow_to_infinity_and_keep_nan() -> None:
    values = floats(0x3F801000, 0x3F803000, 0x477FEFFF, 0x477FF000, 0x33000000, 0x33000001, 0x7F800001, 0xFFC02000)
    # 1 + half a step, 1 + three halves, below 65520, 65520, half of the least subnormal, just above it, a NaN with a low payload, a NaN
    assert hexes(view_named("f16").encode(values), 4) == ["3c00", "3c02", "7bff", "7c00", "0000", "0001", "7e00", "fe01"]
    values = floats(0x3F808000, 0x3F818000, 0x7F7F7FFF, 0x7F7F8000, 0x80000000, 0xFF800000, 0x7F800001, 0x7F810000)
    assert hexes(view_named("bf16").encode(values), 4) == ["3f80", "3f82", "7f7f", "7f80", "8000", "ff80", "7fc0", "7f81"]


def test_q15_16_saturates_and_rounds_half_to_even() -> None:
    view = view_named("q15.16")
    step = 2.0**-16
    values = torch.tensor([0.5 * step, 1.5 * step, 2.5 * step, -0.5 * step, -1.5 * step, 0.75 * step, 32767.998, 32768.0, 1e30, math.inf])
    assert hexes(view.encode(values), 8) == [
        *("00000000", "00000002", "00000002", "00000000", "fffffffe", "00000001"),
        *("7fffff80", "7fffffff", "7fffffff", "7fffffff"),  # 32767.998 is 32768 - 2^-9 in float32
    ]
    assert hexes(view.encode(torch.tensor([-32768.0, -32768.004, -math.inf, -0.0])), 8) == ["80000000"] * 3 + ["00000000"]
    # the range is [-32768, 32768 - 2^-16]; its upper end has 31 significant bits, and the nearest float32 is 32768
    assert view.decode(torch.tensor([-(2**31), 2**31 - 1, 0x40010001], dtype=torch.int32)).tolist() == [-32768.0, 32768.0, 16385.0]


def test_int8_is_symmetric_per_tensor_and_its_sign_bit_weighs_128() -> None:
    view = view_named("int8").fitted(torch.tensor([0.5, -1.27, 1.0]))
    scale = np.float32(np.float64(np.float32(1.27)) / 127)
    values = torch.tensor([-1.27, 1.27, 1.28, 9.0, -9.0, math.inf])
    assert view.encode(values).tolist() == [-127, 127, 127, 127, -128, 127]  # value == max is 127, never a ninth bit
    assert view.decode(torch.tensor([-128, -1], dtype=torch.int8)).tolist() == [float(np.float32(-128) * scale), float(-scale)]
    exact = view_named("int8").fitted(torch.tensor([127.0]))
    assert exact.encode(torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, -127.5, -128.5])).tolist() == [0, 2, 2, 0, -2, -128, -128]
    narrow = view_named("int4").fitted(torch.tensor([7.0]))
    assert narrow.encode(torch.tensor([7.0, -7.0, -8.0, 20.0])).tolist() == [7, -7, -8, 7]


def test_scales_of_zeros_of_nothing_and_of_tiny_numbers() -> None:
    for values in (torch.zeros(3), torch.zeros(0)):
        assert view_named("int8").fitted(values).decode(torch.tensor([-128], dtype=torch.int8)).tolist() == [-128.0]
    tiny = floats(0x00000001)  # its 127th part is no float32
    view = view_named("int8").fitted(tiny)
    assert view.encode(tiny).tolist() == [0]
    assert view.decode(torch.tensor([1], dtype=torch.int8)).tolist() == [2.0**-126]


def test_numbers_without_a_word_are_refused_with_their_place() -> None:
    values = torch.tensor([[0.0, 1.0], [math.nan, math.nan]])
    with pytest.raises(DataError, match=r"view q15.16: 2 values of 4, the first is nan at flat index 2: NaN has no word"):
        view_named("q15.16").encode(values)
    with pytest.raises(DataError, match="view int8: 1 value of 2, the first is inf at flat index 1"):
        view_named("int8").fitted(torch.tensor([0.0, math.inf]))
    with pytest.raises(InternalError, match="before `fitted`"):
        view_named("int8").encode(ONE)


def test_views_by_name_and_by_storage() -> None:
    for dtype, name, bits in [
        *((torch.float64, "f64", 64), (torch.float32, "f32", 32), (torch.float16, "f16", 16), (torch.bfloat16, "bf16", 16)),
        *(
            (torch.int64, "int64", 64),
            (torch.int32, "int32", 32),
            (torch.int16, "int16", 16),
            (torch.int8, "int8", 8),
            (torch.uint8, "uint8", 8),
        ),
    ]:
        view = stored_view(dtype)
        assert (view.name, view.bits, view.carrier, view.stored, view_for(name, dtype)) == (name, bits, dtype, True, view)
    assert view_named("f32") == stored_view(torch.float32)
    assert not view_for("int8", torch.float32).stored
    for dtype in (torch.bool, torch.complex64):
        with pytest.raises(ConfigError, match="known: float64, float32"):
            stored_view(dtype)
    for name in ("f8", "q16.16", "q0.0", "q015.16", "int1", "int17", "Q15.16", "q1.٣"):
        with pytest.raises(ConfigError, match=r"no number view .*; known: f32, f16, bf16, int8.*q15.16"):
            view_named(name)
    with pytest.raises(ConfigError, match=r"view f16: torch.int8: .* int8 fits"):
        view_for("f16", torch.int8)
