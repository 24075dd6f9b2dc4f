"""CRC32C is correct for every length, and is computed with the processor's instruction if any."""

import platform
import re
from pathlib import Path

import crc32c
import pytest

from rfp.testing.ring_harness import checksum, checksum_method, checksum_of_difference


def test_the_checksum_of_the_standards_example_is_correct():
    assert checksum(b"123456789") == 0xE3069283
    assert checksum(b"") == 0


@pytest.mark.parametrize(
    "length",
    [
        *range(70),
        383,
        384,
        385,
        391,
        511,
        512,
        513,
        1535,
        1536,
        1537,
        3071,
        3072,
        3080,
        4096,
        65537,
    ],
)
def test_the_checksum_of_every_length_equals_that_of_the_crc32c_package(length, rng):
    data = rng.randbytes(length)
    assert checksum(data) == crc32c.crc32c(data)
    assert checksum(data, 0x12345678) == crc32c.crc32c(data, 0x12345678)


def test_a_checksum_continues_that_of_the_bytes_before(rng):
    data = rng.randbytes(5000)
    for _ in range(50):
        cut = rng.randrange(len(data) + 1)
        assert checksum(data[cut:], checksum(data[:cut])) == crc32c.crc32c(data)


@pytest.mark.parametrize("words", [0, 1, 7, 63, 64, 65, 503, 4095, 4096, 4097, 262143])
def test_a_changed_range_changes_the_checksum_by_that_of_the_difference(words, rng):
    before = rng.randbytes(40) + rng.randbytes(24) + bytes(8 * words)
    difference = rng.randbytes(24)
    after = bytearray(before)
    after[40:64] = (b ^ d for b, d in zip(before[40:64], difference))
    changed = checksum_of_difference(difference, 8 * words)
    if changed is None:
        pytest.skip("this processor does not append zeros")
    assert checksum(after) == checksum(before) ^ changed


def test_the_processors_instruction_is_used_if_there_is_one():
    """A build that falls back to the table works, only some 200 times slower than the others."""
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
