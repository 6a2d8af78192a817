"""Sizes as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphckpt.errors import BudgetError
from graphckpt.units import FORMS, Size, format_bytes, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("8GiB", 8 * 2**30),
        ("8GB", 8 * 10**9),
        ("512MB", 512 * 10**6),
        ("1.5GiB", 3 * 2**29),
        ("0.1KB", 100),
        ("2 tib", 2 * 2**40),
        ("123456", 123456),
        ("7B", 7),
        (123456, 123456),
    ],
)
def test_bytes(text: str | int, size_bytes: int) -> None:
    assert parse_size(text) == Size("bytes", size_bytes)


def test_percent_is_of_a_whole_and_rounds_down() -> None:
    assert parse_size("60%").of(1001) == 600
    assert parse_size(" 62.5 % ").of(1000) == 625
    # 0.1 % of 2**53 + 1 has no exact float in between.
    assert parse_size("0.1%").of(1000 * (2**53 + 1)) == 2**53 + 1


def test_auto_is_the_whole() -> None:
    assert parse_size("AUTO") == Size("auto", 0)
    assert parse_size("auto").of(77) == 77


@pytest.mark.parametrize(
    "text",
    ["", "GiB", "8 gigs", "-1GiB", "-5", "0", "0MB", 0, -3, "1.5", "1.5B", "0.0001KB", "0%", "101%", "8GiB free",
     "1e9", "\u0661GB", "nan", True, None, 2.5, b"8GB"],
)  # fmt: skip
def test_everything_else_lists_the_forms(text: object) -> None:
    with pytest.raises(BudgetError) as caught:
        parse_size(text)  # type: ignore[arg-type]
    assert FORMS in str(caught.value)
    assert repr(text) in str(caught.value)


@given(st.integers(1, 2**60))
def test_an_int_and_its_text_are_the_same(size_bytes: int) -> None:
    assert parse_size(str(size_bytes)) == parse_size(size_bytes)
    assert parse_size(size_bytes).of(1) == size_bytes


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (-3 * 2**29, "-1.50 GiB"),
        (195 * 2**20, "195 MiB"),
        (19 * 2**20, "19.0 MiB"),
        (5000 * 2**40, "5000 TiB"),
    ],
)
def test_format_bytes(size_bytes: int, text: str) -> None:
    assert format_bytes(size_bytes) == text


@pytest.mark.parametrize("text", ["1.50 GiB", "60%", "auto", "12 B"])
def test_a_shown_size_can_be_read_again(text: str) -> None:
    assert str(parse_size(text)) == text
