"""No two primaries of a group give out the same epoch of a session."""

from __future__ import annotations

import pytest

import rnvm
from rfp import address as addresses
from rfp.errors import ConnectionFailed, StorageFailed
from rnvm import pools
from rnvm.testing.sample_structure import Sample
from tests.frontend.processes import SOON

GROUP = bytes(range(16))


def test_epochs_of_sessions_begin_with_that_of_the_group(folder):
    """That of a session that a mirror has found in its copy, too."""
    address = str(addresses.unique())
    path, copy = str(folder / "a.pool"), str(folder / "b.pool")
    pools.create(path, "4MiB", front_ends=1, assume_persistent=True)
    first = rnvm.Backend(path, address=address)
    try:
        with rnvm.connect(address, timeout=SOON) as fe:
            sample = Sample(fe, "s")
            assert sample.add(1) == 1
            before = fe.figures
            rnvm.backup(copy, of=address)
            first.close()
            with rnvm.Backend(copy, address=address, _group=GROUP, _epoch=7):
                assert sample.add(1) == 2
                after = fe.figures
                assert after["session"] == before["session"]
                assert after["epoch"] >> 32 == 7
                fe.close()
                with rnvm.connect(address, timeout=SOON) as other:
                    assert other.figures["epoch"] >> 32 == 7
                    assert other.figures["epoch"] > after["epoch"]
            with (
                rnvm.Backend(copy, address=address, _group=GROUP, _epoch=8),
                rnvm.connect(address, timeout=SOON) as last,
            ):
                assert last.figures["epoch"] >> 32 == 8
    finally:
        first.close()


def test_a_pool_that_is_open_and_not_served_answers_nobody(folder):
    address = str(addresses.unique())
    path = folder / "a.pool"
    pools.create(path, "4MiB", assume_persistent=True)
    backend = rnvm.Backend(path, address=address, _group=GROUP, _epoch=7, _serve=False)
    with pytest.raises(ConnectionFailed):
        rnvm.connect(address, timeout=SOON, reconnect=False)
    backend._serve()
    with rnvm.connect(address, timeout=SOON) as fe:
        assert Sample(fe, "s").add(1) == 1
    backend.close()
    unserved = rnvm.Backend(path, address=address, _group=GROUP, _epoch=8, _serve=False)
    path.unlink()
    with pytest.raises(StorageFailed):
        unserved._serve()
    unserved.close()
    unserved.close()
