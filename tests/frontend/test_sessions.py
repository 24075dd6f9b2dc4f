"""Sessions that are lost at the worst moments, attempts to begin a new one that are lost as well, and pools without any to spare."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from click.testing import CliRunner

import rnvm
import rnvm.cli
from rfp._reorder import ReorderFabric
from rfp.connecting import Opener
from rfp.errors import ConnectionFailed, QuotaExceeded
from rfp.protocol.link import Link
from rnvm import pools
from rnvm.frontend._frontend import FrontEnd
from rnvm.frontend._sample import Sample

from .conftest import new_path, open_backend


class LostLink(Link):
    """Is lost when the session has begun at the back-end, and its front-end does not know which it is."""

    def memory(self, *_: Any, **__: Any) -> Any:
        raise ConnectionFailed("the connection was lost in the test")


class Losing(Opener):
    """After the first link so many that are lost."""

    lost = -1

    def __call__(self, deadline: int) -> Link:
        link = super().__call__(deadline)
        if 0 <= self.lost < 3:
            link.__class__ = LostLink
        self.lost += 1
        return link


@pytest.mark.parametrize("batch", [False, True])
def test_a_writer_learns_what_its_last_record_came_to_although_its_rings_had_other_owners_since(batch: bool, seed: int) -> None:
    lost = 0
    for moment in range(1, 8):
        with new_path("reorder") as path:
            pools.create(path, "8MiB", front_ends=1, assume_persistent=True)
            with open_backend(path, "reorder") as backend:
                fabric = ReorderFabric(seed=seed + moment)
                opener = Losing(backend.address, "rnvm", fabric=fabric)
                with FrontEnd(opener, timeout=20) as fe:
                    sample = Sample(fe, "s")
                    assert sample.add(1) == 1
                    fabric.lose(moment)
                    if batch:
                        with fe.batch():
                            assert [sample.add(1), sample.add(1)] == [2, 3]
                    else:
                        assert [sample.add(1), sample.add(1)] == [2, 3]
                    assert sample.numbers() == (3, 3)
                    lost += opener.lost > 0
    assert lost > 3


# Does what it is told in a batch that never ends, and says so.
WRITER = """
import os, sys, time, rnvm
from rnvm.frontend._sample import Sample
fe = rnvm.connect(sys.argv[1], timeout=30)
samples = [Sample(fe, name) for name in sys.argv[2:]]
with fe.batch():
    for sample in samples:
        sample.add(1)
    os.write(1, b"done")
    time.sleep(1000)
"""


def killed_in_a_batch(backend: rnvm.Backend, *names: str) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(backend.address), *names], stdout=subprocess.PIPE)
    assert writer.stdout
    with writer, writer.stdout:
        assert writer.stdout.read(4) == b"done"
        writer.kill()


def test_dead_writers_never_keep_others_out_however_many_there_may_be_and_whatever_they_have_left() -> None:
    """The second finds the only session taken, and leaves what belongs to the other structure."""
    with new_path("direct") as path:
        pools.create(path, "8MiB", front_ends=1, assume_persistent=True)
        with open_backend(path) as backend:
            killed_in_a_batch(backend, "a", "b")
            for _ in range(3):
                killed_in_a_batch(backend, "a")
            with rnvm.connect(backend.address, timeout=30) as fe:
                with pytest.raises(QuotaExceeded):
                    rnvm.connect(backend.address, timeout=1)
                assert [Sample(fe, name).add(0) for name in ("a", "b")] == [4, 1]


def test_a_pool_whose_only_session_waits_for_its_operations_to_be_executed_is_recovered_offline() -> None:
    with new_path("direct") as path:
        pools.create(path, "8MiB", front_ends=1, assume_persistent=True)
        with open_backend(path) as backend:
            killed_in_a_batch(backend, "a")
        result = CliRunner().invoke(rnvm.cli.main, ["recover", path, "--with", "rnvm.frontend._sample"])
        assert (result.exit_code, "1 operation executed" in result.output) == (0, True), result.output
