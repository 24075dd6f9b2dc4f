"""What a front-end can reach of a pool: all of it to read, the rings of its own session to write, and these until it is fenced."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Iterator

import pytest

import rnvm
from rfp._fabric import REMOTE_WRITE, SUCCESS, WRITE
from rfp.connecting import Opener
from rfp.control import Credentials
from rfp.errors import ConnectionFailed, HandshakeFailed
from rfp.protocol import _steps as steps
from rfp.protocol.link import Link
from rnvm.frontend._sample import Sample

from .conftest import Connect, new_path

pytestmark = [pytest.mark.anywhere]

ATTACH, DETACH = 17, 18
ATTACHED = struct.Struct("<IIQQQQQQ")  # session, flags, epoch, operations, memory, lease, size, ticket
SOON = 20.0


def deadline() -> int:
    return time.monotonic_ns() + int(SOON * 1e9)


class Client:
    """A front-end's connection, used by hand."""

    def __init__(self, link: Link) -> None:
        self.link = link
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

    def attach(self, previous: int = 0, previous_epoch: int = 0) -> None:
        status, payload = self.call(ATTACH, struct.pack("<QIIQ", 0, previous, 0, previous_epoch))
        assert status == 0
        self.session, _, self.epoch, *_, self.ticket = ATTACHED.unpack(payload)

    def rings(self) -> object:
        return self.link.memory(self.ticket, REMOTE_WRITE, deadline(), files=True)


@contextlib.contextmanager
def client(backend: rnvm.Backend) -> Iterator[Client]:
    opener = Opener(backend.address, "rnvm", credentials=Credentials.of(None, None, None, None, None))
    with contextlib.ExitStack() as stack:
        stack.callback(opener.close)
        link = opener(deadline())
        stack.callback(link.close)
        made = Client(link)
        stack.callback(made.buffer.close)
        yield made


def test_a_sessions_rings_are_given_to_who_was_told_its_ticket(direct: rnvm.Backend) -> None:
    with client(direct) as one, client(direct) as two:
        one.attach()
        two.attach()
        assert one.ticket != two.ticket
        for number in (0, 1, 2, one.session + 1, one.ticket ^ 1):
            with pytest.raises(ConnectionFailed):
                two.link.memory(number, REMOTE_WRITE, deadline())
        one.rings()
        one.call(DETACH)
        with pytest.raises(ConnectionFailed):
            one.rings()
        two.rings()


@pytest.mark.verbs
def test_who_was_fenced_can_write_to_its_rings_no_more(direct: rnvm.Backend) -> None:
    with client(direct) as one, client(direct) as two:
        one.attach()
        rings = one.rings()
        assert one.ring.pair.execute(WRITE, one.buffer, 0, rings, 0, 64) == SUCCESS
        two.attach(one.session, one.epoch)  # "my session of before, whose rings nobody writes any more"
        assert direct.figures()["pool"]["fenced"] == 1
        assert one.ring.pair.execute(WRITE, one.buffer, 0, rings, 0, 64) != SUCCESS
        assert two.ring.pair.execute(WRITE, two.buffer, 0, two.rings(), 0, 64) == SUCCESS


@pytest.mark.verbs
def test_a_pool_is_registered_for_a_front_end_as_far_as_it_has_looked(connect: Connect) -> None:
    with new_path("direct") as path, rnvm.Backend(path, size="80MiB", assume_persistent=True) as backend:
        fe = connect(backend, timeout=SOON)
        sample = Sample(fe, "s")
        sample.add(1)
        (guest,) = backend._host.guests
        assert list(guest.chunks) == [(0, 0)]
        sample.check()  # READs all maps of blocks
        assert list(guest.chunks) == [(0, 0), (0, 1)]
        assert max(region.length for region in guest.chunks.values()) == 64 << 20


@pytest.mark.verbs
def test_a_wrong_secret_is_refused(direct: rnvm.Backend) -> None:
    with pytest.raises(HandshakeFailed):
        rnvm.connect(direct.address, secret="another secret of sixteen bytes")
