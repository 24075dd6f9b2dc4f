"""The framing of control messages: a preface of 16 bytes, then a JSON object.

The preface and the `refused` message never change, so that peers of any two versions can report to
each other why they are not compatible.  This module does no input or output: fuzzers and tests call
it directly.
"""

from __future__ import annotations

import json
import struct
from typing import Any, NamedTuple

from rfp.errors import HandshakeFailed, InvalidArgument

MAGIC = b"RFP1"
MAJOR = 1  # both sides must have the same
MINOR = 4  # later minors add messages and fields that have defaults
BODY_LIMIT = 64 << 10  # bytes
STRANGER_LIMIT = 1 << 10  # bytes, until the peer has authenticated itself
FD_LIMIT = 128  # file descriptors beside one message; the kernel allows 253

# magic, major, minor, kind, number of file descriptors, number of the call (0: none), body length
PREFACE = struct.Struct("<4sBBBBII")
assert PREFACE.size == 16


class Preface(NamedTuple):
    major: int
    minor: int
    kind: int
    fds: int
    number: int
    length: int


def pack(kind: int, number: int, body: dict[str, Any], fds: int) -> bytes:
    """Return the bytes of a message."""
    text = json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
    if len(text) > BODY_LIMIT or fds > FD_LIMIT:
        raise InvalidArgument(
            f"a control message of {len(text)} bytes and {fds} file descriptors exceeds the limits "
            f"of {BODY_LIMIT} and {FD_LIMIT}",
            hint="use fewer workers",
        )
    return PREFACE.pack(MAGIC, MAJOR, MINOR, kind, fds, number, len(text)) + text


def unpack_preface(
    data: bytes | bytearray, limit: int = BODY_LIMIT, fds: int = FD_LIMIT
) -> Preface:
    """Return the preface, checked.

    Args:
        data: the bytes received.
        limit: bytes that the body may have.
        fds: number of file descriptors that may come along.

    Raises:
        HandshakeFailed: a peer of ours would not send this.
    """
    magic, *rest = PREFACE.unpack(data)
    preface = Preface(*rest)
    if magic != MAGIC:
        raise HandshakeFailed(
            f"the peer does not speak RFP: it began with {bytes(magic)!r}", hint="check the address"
        )
    if preface.length > limit or preface.fds > fds:
        raise HandshakeFailed(
            f"the peer announced {preface.length} bytes and {preface.fds} file descriptors, at "
            f"most {limit} and {fds} are allowed"
        )
    return preface


def check_version(preface: Preface) -> None:
    """Check the version.

    Raises:
        HandshakeFailed: the peer has another major version.
    """
    if preface.major != MAJOR:
        raise HandshakeFailed(
            f"the peer speaks RFP {preface.major}.{preface.minor} and this side {MAJOR}.{MINOR}",
            hint="install versions of rfp-rnvm with the same major protocol version on both sides",
        )


def unpack_body(data: bytes | bytearray) -> dict[str, Any]:
    """Return the JSON object in the body.

    Raises:
        HandshakeFailed: the body is not a JSON object.
    """
    try:
        body = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise HandshakeFailed(f"invalid control message from the peer: not JSON: {error}") from None
    if not isinstance(body, dict):
        raise HandshakeFailed(
            "invalid control message from the peer: JSON "
            f"{type(body).__name__} instead of an object"
        )
    return body


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not valid JSON")
