"""Calls of promise "replicated" whose responses wait until the pool is replicated, one by one."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Iterator

import pytest

import rnvm
from rfp.testing import ring_harness as steps

from .test_rings import ATTACH, ATTACHMENT, LIST, OUTCOME, SOON, VERSION, Client, client

pytestmark = pytest.mark.anywhere

FIND, DROP, GRANT, SYNC = 19, 20, 22, 26
WAITS_REPLICATED, UNREPLICATED = 4, 18
MOMENT = 0.05  # seconds in which a call that need not wait has its response
NUMBER = struct.Struct("<Q")


class Promised:
    """A session of promise "replicated", driven by hand; the test says what is replicated."""

    def __init__(self, backend: rnvm.Backend, over: Client) -> None:
        self.service = backend._service
        self.service._hold_replication()
        self.ring = over.ring

    @property
    def published(self) -> int:
        return int(self.service.replication["published"])

    def begin(self, opcode: int, payload: bytes) -> None:
        steps.submit(self.ring, payload, opcode=opcode)
        steps.flush(self.ring)

    def attach(self) -> None:
        self.begin(ATTACH, ATTACHMENT.pack(VERSION, WAITS_REPLICATED, bytes(16), 0, 0, 0))

    @property
    def waits(self) -> bool:
        return steps.wait(self.ring, MOMENT) == "timed out"

    def status(self) -> int:
        """Replicate all that is published until the response is here; return its status."""
        end = time.monotonic() + SOON
        while steps.wait(self.ring, MOMENT) != "done":
            assert time.monotonic() < end
            self.service._set_replication(acked=self.published)
        status = steps.result(self.ring).status
        steps.pop(self.ring)
        return status


@contextlib.contextmanager
def promised(backend: rnvm.Backend) -> Iterator[Promised]:
    with client(backend) as over:
        yield Promised(backend, over)


@contextlib.contextmanager
def attached(backend: rnvm.Backend) -> Iterator[Promised]:
    """Yield a session when something is published that is not replicated."""
    with promised(backend) as one, client(backend) as other:
        one.attach()
        assert one.status() == 0
        other.attach()
        published = one.published
        assert other.call(GRANT, NUMBER.pack(1))[0] == 0
        assert one.published > published
        yield one


def test_a_session_begins_when_it_is_replicated(direct: rnvm.Backend) -> None:
    with promised(direct) as one:
        one.attach()
        assert one.waits
        assert one.status() == 0


CALLS = {
    "find": (FIND, bytes(32) + b"nothing"),
    "drop": (DROP, b"nothing"),
    "list": (LIST, NUMBER.pack(0)),
    "grant": (GRANT, NUMBER.pack(1)),
    "outcome": (OUTCOME, struct.pack("<IIQQQ", 0, 0, 1, 0, 0)),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_response_waits_for_what_was_published_before(direct: rnvm.Backend, call: str) -> None:
    with attached(direct) as one:
        one.begin(*CALLS[call])
        assert one.waits
        one.status()


def test_a_sync_says_soon_whether_all_is_replicated(direct: rnvm.Backend) -> None:
    with attached(direct) as one:
        one.begin(SYNC, NUMBER.pack(1))
        assert steps.wait(one.ring, SOON) == "done"
        assert steps.result(one.ring).status == UNREPLICATED
        steps.pop(one.ring)
        one.service._set_replication(acked=one.published)
        one.begin(SYNC, NUMBER.pack(1))
        assert one.status() == 0
