"""CRC32C: right for every length, and computed by the processor where it has the instruction."""

import platform
import re
from pathlib import Path

import crc32c
import pytest

from rfp.testing.ring_harness import checksum, checksum_method


def test_the_check_value_of_the_standard():
    assert checksum(b"123456789") == 0xE3069283
    assert checksum(b"") == 0


@pytest.mark.parametrize(
    "length", [*range(70), 511, 512, 513, 1535, 1536, 1537, 3071, 3072, 3080, 4096, 65537]
)
def test_every_length_gives_what_another_implementation_does(length, rng):
    data = rng.randbytes(length)
    assert checksum(data) == crc32c.crc32c(data)
    assert checksum(data, 0x12345678) == crc32c.crc32c(data, 0x12345678)


def test_a_sum_goes_on_where_another_ended(rng):
    data = rng.randbytes(5000)
    for _ in range(50):
        cut = rng.randrange(len(data) + 1)
        assert checksum(data[cut:], checksum(data[:cut])) == crc32c.crc32c(data)


def test_the_processors_instruction_is_used_where_there_is_one():
    """The table is some 200 times slower: a build that falls back to it works, and nobody would notice why it is slow."""
    cpu = Path("/proc/cpuinfo").read_text()
    features = set(re.search(r"^(?:flags|Features)\s*: (.*)$", cpu, re.M)[1].split())
    if platform.machine() == "x86_64":
        expected = (
            "streams"
            if {"sse4_2", "pclmulqdq"} <= features
            else "instruction"
            if "sse4_2" in features
            else "table"
        )
    else:
        expected = "instruction" if "crc32" in features else "table"
    assert checksum_method() == expected
