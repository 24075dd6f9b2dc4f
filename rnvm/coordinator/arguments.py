"""Checks of arguments."""

from __future__ import annotations

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
