"""A medium that fails."""

from __future__ import annotations

import os

import pytest
from slower import SLOWER
from time_bounds import raises_in_some_try

import rnvm
from rfp.errors import ConnectionFailed, RfpError, StorageFailed
from rnvm.testing.sample_structure import Sample

from .conftest import new_path, open_backend

pytestmark = pytest.mark.anywhere


def fill_disk(path: str) -> None:
    """Make each further write of this process to the pool's file fail."""
    full = os.open("/dev/full", os.O_WRONLY)
    for name in os.listdir("/proc/self/fd"):
        if int(name) != full and os.path.realpath(f"/proc/self/fd/{name}") == os.path.realpath(
            path
        ):
            os.dup2(full, int(name), inheritable=False)
    os.close(full)


def test_after_a_failed_sync_no_operation_is_acknowledged_and_no_acknowledged_one_is_lost() -> None:
    with new_path("image") as path:
        backend = open_backend(path, "image")
        fe = rnvm.connect(backend.address, timeout=20)
        sample = Sample(fe, "s")
        done = max(sample.add(1) for _ in range(10))
        fill_disk(path)
        raises_in_some_try(lambda: sample.add(1, timeout=0.5 * SLOWER), ConnectionFailed)
        assert backend.failed
        with pytest.raises(RfpError):
            sample.add(1, timeout=0.5 * SLOWER)
        with pytest.raises(StorageFailed):
            rnvm.connect(backend.address)
        fe.close()
        backend.close()
        with open_backend(path, "image") as again, rnvm.connect(again.address) as fe:
            assert Sample(fe, "s").numbers() in ((done, done), (done + 1, done + 1))
