"""The vendored hash is a released xxHash, unchanged, and gives what the xxhash package gives."""

import hashlib
import re
from pathlib import Path

import pytest
import xxhash

from rfp.testing.partition_harness import key_hash

VENDOR = Path(__file__).parents[2] / "rfp" / "vendor"


@pytest.mark.parametrize("length", [*range(35), 64, 128, 129, 240, 241, 256, 1024, 4099])
def test_every_length_hashes_as_in_the_xxhash_package(length, rng):
    key, seed = rng.randbytes(length), rng.randrange(2**64)
    assert key_hash(key, seed) == xxhash.xxh3_64_intdigest(key, seed=seed)
    assert key_hash(key, 0) == xxhash.xxh3_64_intdigest(key)


def test_the_vendored_file_is_the_one_whose_origin_is_written_down():
    sums = dict(re.findall(r"^\| `(\S+)` .* `([0-9a-f]{64})` \|$", (VENDOR / "README.md").read_text(), re.M))
    assert sums.keys() == {"xxhash.h", "LICENSE.xxhash"}
    for name, expected in sums.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == expected, name
