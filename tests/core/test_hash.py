"""The vendored hash equals that of the xxhash package."""

import pytest
import xxhash

from rfp.testing.partition_harness import key_hash


@pytest.mark.parametrize("length", [*range(35), 64, 128, 129, 240, 241, 256, 1024, 4099])
def test_every_length_hashes_as_in_the_xxhash_package(length, rng):
    key, seed = rng.randbytes(length), rng.randrange(2**64)
    assert key_hash(key, seed) == xxhash.xxh3_64_intdigest(key, seed=seed)
    assert key_hash(key, 0) == xxhash.xxh3_64_intdigest(key)
