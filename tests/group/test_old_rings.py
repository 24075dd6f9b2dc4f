"""What a front-end stores into the rings that it mapped before a failover reaches no copy."""

from __future__ import annotations

import mmap
import os

import rnvm
from rnvm import pools
from rnvm.group import admin
from rnvm.testing import log_driver
from rnvm.testing.sample_structure import Sample

from .groups import SOON, member, until_in_sync, until_primary

STALE = b"a stale record.."


def test_a_former_primary_follows_in_memory_that_no_front_end_has_mapped(address, pool, folder):
    path = pool("a")
    with pools.open_pool(path) as opened:
        places = log_driver.places(opened)
    rings = slice(places["rings"], places["groups"])
    admin.create_group(address, path, member="a", min_mirrors=0)
    with (
        open(path, "r+b") as file,
        mmap.mmap(file.fileno(), 0) as mapped,  # as a front-end has it
        member(folder, address, "a") as a,
        member(folder, address, "b"),
    ):
        until_in_sync(address, "a", "b")
        a.kill()
        until_primary(address, "b")
        with rnvm.connect(address, timeout=SOON) as fe, member(folder, address, "a"):
            sample = Sample(fe, "s")
            sample.add(1)
            until_in_sync(address, "a", "b")
            mapped[rings] = STALE * ((rings.stop - rings.start) // len(STALE))
            sample.add(1)
            with open(path, "rb") as copy:
                assert not os.path.samestat(os.fstat(copy.fileno()), os.fstat(file.fileno()))
                assert STALE not in copy.read()
