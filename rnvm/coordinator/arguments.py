"""Checks of arguments."""

from __future__ import annotations

from typing import Any

from rfp import errors
from rfp.errors import WrongType


def checked_bytes(name: str, value: bytes, most: int) -> bytes:
    """Return an argument as bytes; raises WrongType and InvalidArgument."""
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise WrongType(f"{name} must be bytes, not {type(value).__name__}")
    value = bytes(value)
    if len(value) > most:
        raise errors.out_of_bounds(f"the length of {name}", len(value), 0, most)
    return value


def checked_seconds(name: str, value: Any, low: float, high: float) -> float:
    """Return a number of seconds; raises WrongType and InvalidArgument."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise WrongType(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not low <= value <= high:
        raise errors.out_of_bounds(name, value, low, high)
    return float(value)
