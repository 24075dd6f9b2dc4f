"""Values that contain their key, number and checksum, with a writer and a reader for them.

Both the tests and the processes that they start import this file.
"""

from __future__ import annotations

import random
import struct
import time
import zlib

import rfp
from rfp.errors import OutOfMemory, QuotaExceeded

HEAD = struct.Struct("<16sQQI")  # key, number, length, CRC of the rest


def make(key: bytes, number: int, size: int) -> bytes:
    """Make a value with its key, number and checksum; size: at least HEAD.size."""
    body = random.Random(number).randbytes(257)
    body = (body * ((size - HEAD.size) // 257 + 1))[: size - HEAD.size]
    crc = zlib.crc32(body, zlib.crc32(struct.pack("<16sQQ", key, number, size)))
    return HEAD.pack(key, number, size, crc) + body


def read(key: bytes, value: bytes | bytearray | memoryview) -> int:
    """Check a value and return its number."""
    found, number, size, crc = HEAD.unpack_from(value)
    assert found.rstrip(b"\0") == key, f"the value of {found!r} for {key!r}"
    assert len(value) == size, f"a value of {size} bytes has the length {len(value)}"
    body = memoryview(value)[HEAD.size :]
    assert crc == zlib.crc32(body, zlib.crc32(struct.pack("<16sQQ", found, number, size))), (
        "a torn value"
    )
    return number


def write_for(
    kv: rfp.Client, seconds: float, seed: int, keys: list[bytes], sizes: list[int]
) -> int:
    """Write its own keys with growing numbers, and return how many values it wrote."""
    rng = random.Random(seed)
    deadline = time.monotonic() + seconds
    number = 0
    while time.monotonic() < deadline:
        number += 1
        key = rng.choice(keys)
        try:
            choice = rng.random()
            if choice < 0.7:
                kv.put(key, make(key, number, rng.choice(sizes)), timeout=20)
            elif choice < 0.9:
                some = rng.sample(keys, min(4, len(keys)))
                for each, result in zip(
                    some,
                    kv.put_many([(each, make(each, number, rng.choice(sizes))) for each in some]),
                ):
                    assert isinstance(result, (int, OutOfMemory, QuotaExceeded)), (each, result)
            else:
                kv.delete(key, timeout=20)
        except (OutOfMemory, QuotaExceeded):
            pass  # pins and uploads of other clients use the memory
    return number


def read_for(kv: rfp.Client, seconds: float, seed: int, keys: list[bytes], largest: int) -> int:
    """Read the keys of all writers in every way, and return how many values it read."""
    rng = random.Random(seed)
    deadline = time.monotonic() + seconds
    buffer = bytearray(largest)
    last: dict[bytes, int] = {}
    seen = 0
    while time.monotonic() < deadline:
        key = rng.choice(keys)
        choice = rng.random()
        try:
            if choice < 0.4:
                values = [(key, kv.get(key, timeout=20))]
            elif choice < 0.7:
                length = kv.get_into(key, buffer, timeout=20)
                values = [(key, None if length is None else memoryview(buffer)[:length])]
            else:
                some = rng.sample(keys, min(6, len(keys)))
                values = list(zip(some, kv.get_many(some, timeout=20)))
        except QuotaExceeded:
            continue
        for each, value in values:
            if value is not None:
                number = read(each, value)
                assert number >= last.get(each, 0), f"{each!r}: value {number} after a later one"
                last[each] = number
                seen += 1
    return seen
