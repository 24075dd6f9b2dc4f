"""The parts of a pool that a front-end can access.

It can read all of the pool, and write the rings of its own session until it is fenced.
"""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Iterator

import pytest
from time_bounds import SOON

import rnvm
from rfp.control import Credentials
from rfp.errors import ConnectionFailed, HandshakeFailed, QuotaExceeded
from rfp.fabric.fabric import REMOTE_WRITE, SUCCESS, WRITE
from rfp.protocol.client.connection import Connection
from rfp.protocol.client.opener import Opener
from rfp.testing import ring_harness as steps
from rnvm import pools
from rnvm.testing.sample_structure import Sample

from .conftest import Connect, new_path, open_backend

pytestmark = [pytest.mark.anywhere]

ATTACH, DETACH, LIST, OUTCOME = 17, 18, 21, 29
NOT_ATTACHED, ABSENT, FORGOTTEN = 4, 5, 11
VERSION, OTHER_VERSION, OTHER_POOL, BAD_REQUEST = 5, 13, 14, 1
ATTACHMENT = struct.Struct("<II16sQII")  # version, flags, pool, ticket, previous, 0
# session, flags, epoch, operations, memory, lease, snapshot, size, ticket, pool
ATTACHED = struct.Struct("<IIQQQQQQQ16s")


def deadline() -> int:
    return time.monotonic_ns() + int(SOON * 1e9)


class Client:
    """A front-end's connection, driven by hand."""

    def __init__(self, link: Connection) -> None:
        self.connection = link
        self.channel = link.attach(deadline())
        self.ring = self.channel.rings[0]
        self.buffer = link.fabric.register(4096, 0)
        self.session = self.epoch = self.ticket = 0

    def call(self, opcode: int, payload: bytes = b"") -> tuple[int, bytes]:
        steps.submit(self.ring, payload, opcode=opcode)
        steps.flush(self.ring)
        assert steps.wait(self.ring, SOON) == "done"
        answer = steps.result(self.ring)
        steps.pop(self.ring)
        return answer.status, answer.payload

    def attach(self, previous: int = 0, ticket: int = 0) -> None:
        status, payload = self.call(
            ATTACH, ATTACHMENT.pack(VERSION, 0, bytes(16), ticket, previous, 0)
        )
        assert status == 0
        self.session, _, self.epoch, *_, self.ticket, self.pool = ATTACHED.unpack(payload)

    def rings(self) -> object:
        return self.connection.memory(self.ticket, REMOTE_WRITE, deadline(), files=True)


@contextlib.contextmanager
def client(backend: rnvm.Backend) -> Iterator[Client]:
    opener = Opener(
        backend.address, "rnvm", credentials=Credentials.of(None, None, None, None, None)
    )
    with contextlib.ExitStack() as stack:
        stack.callback(opener.close)
        link = opener(deadline())
        stack.callback(link.close)
        made = Client(link)
        stack.callback(made.buffer.close)
        yield made


def test_a_sessions_rings_are_given_only_for_its_ticket(direct: rnvm.Backend) -> None:
    with client(direct) as one, client(direct) as two:
        one.attach()
        two.attach()
        assert one.ticket != two.ticket
        for number in (0, 1, 2, one.session + 1, one.ticket ^ 1):
            with pytest.raises(ConnectionFailed):
                two.connection.memory(number, REMOTE_WRITE, deadline())
        one.rings()
        one.call(DETACH)
        with pytest.raises(ConnectionFailed):
            one.rings()
        two.rings()


def test_a_request_of_another_version_or_for_another_pool_gets_no_session(
    direct: rnvm.Backend,
) -> None:
    with client(direct) as one:
        for version in (0, 1, VERSION - 1, VERSION + 1, 2**32 - 1):
            assert (
                one.call(ATTACH, ATTACHMENT.pack(version, 0, bytes(16), 0, 0, 0))[0]
                == OTHER_VERSION
            )
        assert (
            one.call(ATTACH, ATTACHMENT.pack(VERSION, 0, b"another pool's :", 0, 0, 0))[0]
            == OTHER_POOL
        )
        # the request of version 1
        assert one.call(ATTACH, struct.pack("<QIIQ", 0, 0, 0, 0))[0] == BAD_REQUEST
        assert direct.figures()["pool"]["attached"] == 0
        one.attach()
        with client(direct) as two:
            assert two.call(ATTACH, ATTACHMENT.pack(VERSION, 0, one.pool, 0, 0, 0))[0] == 0


def test_a_session_cannot_be_ended_without_its_ticket(
    direct: rnvm.Backend, connect: Connect, seed: int
) -> None:
    victim = connect(direct)
    sample = Sample(victim, "s")
    before = victim.figures["session"], victim.figures["epoch"]
    for guess in (before[1], before[1] + 1, 1, seed | 1, 2**64 - 1):
        with client(direct) as attacker:
            with victim.batch():
                sample.add(1)
                attacker.attach(before[0], guess)
                sample.add(1)
            assert attacker.session != before[0]
    assert (victim.figures["session"], victim.figures["epoch"]) == before
    assert direct.figures()["pool"]["fenced"] <= 5  # those of the attackers


def test_a_session_can_be_given_back_with_its_ticket(direct: rnvm.Backend) -> None:
    with client(direct) as one, client(direct) as two:
        one.attach()
        assert one.call(LIST, struct.pack("<Q", 0))[0] == 0
        two.attach(one.session, one.ticket)
        assert one.call(LIST, struct.pack("<Q", 0))[0] == NOT_ATTACHED
        assert direct.figures()["pool"]["attached"] == 1
        assert direct.figures()["pool"]["ending"] == 0


def test_the_outcome_of_a_record_is_reported_only_for_the_ticket_of_its_session(
    direct: rnvm.Backend,
) -> None:
    """A pool restored from a copy has had other sessions with the same number and epoch."""
    with client(direct) as one, client(direct) as two:
        one.attach()
        assert one.call(DETACH)[0] == 0
        outcome = struct.Struct("<IIQQQ")
        assert (
            two.call(OUTCOME, outcome.pack(one.session, 0, one.epoch, 1 << 40, one.ticket))[0]
            == ABSENT
        )
        for ticket in (0, one.ticket ^ 1, one.epoch):
            assert (
                two.call(OUTCOME, outcome.pack(one.session, 0, one.epoch, 1 << 40, ticket))[0]
                == FORGOTTEN
            )


@pytest.mark.shm
def test_fenced_sessions_count_for_their_process_while_it_can_write_their_rings() -> None:
    """One connection after another was used, and then lost without a message."""
    with new_path("direct") as path:
        pools.create(path, "32MiB", front_ends=16, assume_persistent=True)
        with open_backend(path) as backend:
            for _ in range(14):
                with client(backend) as one:
                    one.attach()
                    assert one.call(LIST, struct.pack("<Q", 0))[0] == 0
                    session, ticket = one.session, one.ticket
            end = time.monotonic() + SOON
            while backend.figures()["pool"]["ending"] < 14:
                assert time.monotonic() < end
                time.sleep(0.001)
            with pytest.raises(QuotaExceeded, match="this process"):
                rnvm.connect(backend.address)
            with client(backend) as one:
                one.attach(session, ticket)
            rnvm.connect(backend.address, timeout=20).close()


@pytest.mark.verbs
def test_a_fenced_front_end_cannot_write_to_its_rings(direct: rnvm.Backend) -> None:
    with client(direct) as one, client(direct) as two:
        one.attach()
        rings = one.rings()
        assert one.ring.pair.execute(WRITE, one.buffer, 0, rings, 0, 64) == SUCCESS
        # as a front-end that has lost the session and no longer writes its rings
        two.attach(one.session, one.ticket)
        assert direct.figures()["pool"]["fenced"] == 1
        assert one.ring.pair.execute(WRITE, one.buffer, 0, rings, 0, 64) != SUCCESS
        assert two.ring.pair.execute(WRITE, two.buffer, 0, two.rings(), 0, 64) == SUCCESS


@pytest.mark.verbs
def test_a_pool_is_registered_for_a_front_end_as_far_as_it_has_read(connect: Connect) -> None:
    with (
        new_path("direct") as path,
        rnvm.Backend(path, size="80MiB", assume_persistent=True) as backend,
    ):
        fe = connect(backend, timeout=SOON)
        sample = Sample(fe, "s")
        sample.add(1)
        (client_connection,) = backend._host.clients
        assert list(client_connection.chunks) == [(0, 0)]
        sample.check()  # READs all maps of blocks
        assert list(client_connection.chunks) == [(0, 0), (0, 1)]
        assert max(region.length for region in client_connection.chunks.values()) == 64 << 20


@pytest.mark.verbs
def test_a_wrong_secret_is_refused(direct: rnvm.Backend) -> None:
    with pytest.raises(HandshakeFailed):
        rnvm.connect(direct.address, secret="another secret of sixteen bytes")
