"""The CRC of a node that a front-end changes is computed from its changed bytes only.

Other front-ends check it against all bytes: also after changes that were undone, and after a record
that was made and not written.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile

import pytest
from stopping import stop
from structure_kinds import MAPPINGS, each_of

import rnvm
from rfp.errors import RfpError

from .backends import backend

BACKEND = """
import sys, rnvm
with rnvm.Backend(sys.argv[1], size="16MiB", assume_persistent=True) as served:
    print(served.address, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def memory():
    with tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"]) as folder:
        yield folder


class Undone(Exception):
    """Ends a transaction."""


def key(n: int) -> bytes:
    return b"key%08d" % n


def seen_by_another(address: str, kind: type) -> dict[bytes, bytes]:
    with rnvm.connect(address) as fe:
        mapping = kind(fe, "m", create=False)
        mapping.check()
        return dict(mapping)


@each_of(MAPPINGS)
@pytest.mark.parametrize("batch", [0, 7])
def test_nodes_that_were_changed_in_part_are_whole_for_others(kind, batch, rng):
    model = {}
    with backend() as served, rnvm.connect(served.address) as fe:
        mapping = kind(fe, "m")

        def some(count: int) -> None:
            for _ in range(count):
                k = key(rng.randrange(600))
                if rng.random() < 0.3:
                    assert mapping.pop(k, None) == model.pop(k, None)
                else:
                    mapping[k] = model[k] = rng.randbytes(rng.choice([0, 8, 64, 64, 200]))

        for _ in range(60):
            if batch:
                with fe.batch():
                    some(batch)
            else:
                some(20)
            kept = dict(model)
            with pytest.raises(Undone), fe.transaction(mapping):
                some(rng.randrange(1, 12))
                raise Undone
            model = kept
        assert seen_by_another(served.address, kind) == model


@each_of(MAPPINGS)
def test_an_operation_that_timed_out_with_its_record_made_leaves_its_nodes_whole(kind, memory):
    with subprocess.Popen(
        [sys.executable, "-c", BACKEND, memory + "/pool"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            address = process.stdout.readline().strip()
            with rnvm.connect(address, timeout=30) as fe:
                mapping = kind(fe, "m")
                order = random.Random(5)
                model = {}
                for n in range(2000):
                    mapping[key(n)] = model[key(n)] = order.randbytes(64)
                stop(process.pid)
                with pytest.raises(RfpError):  # the log is full
                    for n in range(100_000):
                        new = order.randbytes(64)
                        mapping.set(key(n % 2000), new, timeout=0.5)
                        model[key(n % 2000)] = new
                process.send_signal(signal.SIGCONT)
                for n in range(2000):
                    mapping[key(n)] = model[key(n)] = order.randbytes(64)
                assert seen_by_another(address, kind) == model
        finally:
            process.send_signal(signal.SIGCONT)
            process.stdin.close()
