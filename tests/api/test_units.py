import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfp import units
from rfp.errors import InvalidArgument, WrongType

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("256MiB", 256 << 20),
        ("1GiB", 1 << 30),
        ("1.5 KiB", 1536),
        ("4096", 4096),
        ("7B", 7),
        ("2G", 2 << 30),
        (1 << 20, 1 << 20),
    ],
)
def test_a_size_is_read_in_bytes(text, value):
    assert units.size(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2us", 2000),
        ("2µs", 2000),
        ("5ms", 5_000_000),
        ("1s", 10**9),
        ("0.1us", 100),
        ("2min", 120 * 10**9),
        ("0", 0),
        (0.5, 5 * 10**8),
    ],
)
def test_a_duration_is_read_in_nanoseconds(text, value):
    assert units.duration(text) == value


@pytest.mark.parametrize(
    ("text", "value"), [("500k", 500_000), ("1.5M", 1_500_000), ("12", 12), (7, 7)]
)
def test_a_rate_is_read_in_operations_per_second(text, value):
    assert units.rate(text) == value


@pytest.mark.parametrize(
    ("read", "wrong"),
    [
        (units.size, w)
        for w in (
            "",
            "MiB",
            "-1",
            "1.0001B",
            "1MB",
            "9e9",
            "1_000",
            "9999999999GiB",
            -1,
            True,
            1.5,
            None,
            "٣",
        )
    ]
    + [
        (units.duration, w)
        for w in (
            "",
            "5",
            "us",
            "-1s",
            "1 fortnight",
            "0.1ns",
            -1,
            True,
            float("nan"),
            float("inf"),
            None,
        )
    ]
    + [(units.rate, w) for w in ("", "k", "1.5", "-2", "1K", -1, False, 2.5, None)],
)
def test_an_invalid_quantity_is_refused_with_a_hint(read, wrong):
    with pytest.raises(InvalidArgument) as caught:
        read(wrong)
    assert caught.value.hint


@given(st.integers(0, 2**63 - 1))
def test_a_shown_quantity_is_read_back_exactly(value):
    assert units.size(units.show_size(value)) == value
    assert units.duration(units.show_duration(value)) == value
    assert units.rate(units.show_rate(value)) == value


@given(st.text(max_size=20))
def test_any_text_gives_a_number_or_raises_invalid_argument(text):
    for read in (units.size, units.duration, units.rate):
        with contextlib.suppress(InvalidArgument):
            assert 0 <= read(text) < 2**63


def test_a_number_of_seconds_is_within_its_bounds():
    assert units.checked_seconds("lease", 2, 0.01, 3600) == 2
    for wrong in (0, -1, 3601, 10**400, float("nan"), float("inf")):
        with pytest.raises(InvalidArgument, match="lease must be between 0.01 and 3600, got"):
            units.checked_seconds("lease", wrong, 0.01, 3600)
    for wrong in ("2s", "2", None, True, b"2", 2j):
        with pytest.raises(WrongType, match="lease must be a number of seconds, not"):
            units.checked_seconds("lease", wrong, 0.01, 3600)
