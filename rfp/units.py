"""Sizes, durations and rates in the form that people write.

>>> size("256MiB"), duration("2us"), rate("1.5M")
(268435456, 2000, 1500000)
>>> show_size(268435456), show_duration(2000), show_rate(1500000)
('256MiB', '2us', '1.5M')
"""

from __future__ import annotations

import numbers
import re
from typing import Any

from rfp.errors import InvalidArgument, WrongType, out_of_bounds, shown

SIZES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
DURATIONS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "min": 60 * 10**9, "h": 3600 * 10**9}
RATES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}

_LIMIT = 1 << 63  # limit of a C int64
_NUMBER = re.compile(r"(\d{1,20}(?:\.\d{1,20})?)\s*([A-Za-zµ]*)", re.ASCII)


def _parse(what: str, text: str, units: dict[str, int], example: str) -> int:
    """Return the number of smallest units in `text`; exact, since it is computed in decimals."""
    hint = f"write it like {example}; the units are {', '.join(unit for unit in units if unit)}"
    match = _NUMBER.fullmatch(text.strip())
    if match is None or match[2] not in units:
        raise InvalidArgument(f"invalid {what} {text!r}", hint=hint)
    from decimal import Decimal  # here, because most programs pass numbers

    value = Decimal(match[1]) * units[match[2]]
    if value != int(value):
        raise InvalidArgument(
            f"invalid {what} {text!r}: not a whole number of the smallest unit", hint=hint
        )
    if value >= _LIMIT:
        raise InvalidArgument(f"invalid {what} {text!r}: too large", hint=hint)
    return int(value)


def _show(value: int, units: dict[str, int]) -> str:
    """Return the shortest exact text, in the largest unit that leaves at most three decimals."""
    for unit, scale in reversed(units.items()):
        if value >= scale and (value * 1000) % scale == 0:
            whole, rest = divmod(value * 1000 // scale, 1000)
            return f"{whole}.{rest:03}".rstrip("0").rstrip(".") + unit
    return f"{value}{next(iter(units))}"


def size(value: str | int) -> int:
    """Return a size in bytes.

    Args:
        value: text such as `"256MiB"`, `"1GiB"` or `"4096"`, or a number of bytes.

    Raises:
        InvalidArgument: it is not a size.
    """
    if isinstance(value, str):
        bare = {"": 1, **SIZES, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
        if value.strip().endswith(("kB", "KB", "MB", "GB", "TB")):
            raise InvalidArgument(
                f"invalid size {value!r}: ambiguous unit",
                hint="write KiB, MiB or GiB (powers of two)",
            )
        return _parse("size", value, bare, '"256MiB"')
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _LIMIT:
        raise InvalidArgument(
            f"invalid size {value!r}", hint='give a number of bytes, or text like "256MiB"'
        )
    return value


def duration(value: str | int | float) -> int:
    """Return a duration in nanoseconds.

    Args:
        value: text such as `"2us"`, `"5ms"` or `"1s"`, or a number of seconds.

    Raises:
        InvalidArgument: it is not a duration.
    """
    if isinstance(value, str):
        text = value.strip().replace("µ", "u")
        if text.replace(".", "", 1).isdigit() and text.strip("0."):
            raise InvalidArgument(
                f"invalid duration {value!r}: it has no unit",
                hint=f'write "{text}s", or "{text}ms", or "{text}us"',
            )
        return _parse("duration", text, {"": 1, **DURATIONS}, '"5ms"')
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not 0 <= value < _LIMIT / 10**9
    ):
        raise InvalidArgument(
            f"invalid duration {value!r}", hint='give a number of seconds, or text like "5ms"'
        )
    return round(value * 10**9)


def checked_seconds(name: str, value: Any, low: float, high: float) -> float:
    """Return an argument that must be a number of seconds between low and high.

    Raises:
        InvalidArgument: it is out of bounds.
        WrongType: it is no number.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise WrongType(
            f"{name} must be a number of seconds, not {shown(value)}", hint=f"give {name}=5, or 0.5"
        )
    seconds: Any = value  # mypy cannot compare numbers.Real
    if not low <= seconds <= high:
        raise out_of_bounds(name, value, low, high, hint="give seconds")
    return float(seconds)


def rate(value: str | int) -> int:
    """Return a rate in operations per second.

    Args:
        value: text such as `"500k"` or `"1.5M"`, or a number.

    Raises:
        InvalidArgument: it is not a rate.
    """
    if isinstance(value, str):
        return _parse("rate", value, RATES, '"500k"')
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _LIMIT:
        raise InvalidArgument(
            f"invalid rate {value!r}", hint='give operations per second, or text like "500k"'
        )
    return value


def show_size(value: int) -> str:
    """Return a size as text: `268435456` as `"256MiB"`; `size` reads it back exactly."""
    return _show(value, SIZES)


def show_duration(value: int) -> str:
    """Return nanoseconds as text: `2000` as `"2us"`; `duration` reads it back exactly."""
    return _show(value, DURATIONS)


def show_rate(value: int) -> str:
    """Return a rate as text: `1500000` as `"1.5M"`; `rate` reads it back exactly."""
    return _show(value, RATES)
