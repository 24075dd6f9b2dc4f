"""A client that writes arbitrary bytes into its request region.

The server answers valid requests, counts others, and serves its other clients as before.
"""

from __future__ import annotations

import contextlib
import struct
import threading
from collections.abc import Iterator

import crc32c
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from polling import until

import rfp
from rfp import address as addresses
from rfp.control import Attach, Attached, Handle, Hello, Map, Mapped, Welcome, connect
from rfp.core.clock import deadline_in
from rfp.errors import ConnectionFailed, HandshakeFailed
from rfp.fabric.fabric import REMOTE_READ, REMOTE_WRITE, WRITE_NOTIFY
from rfp.fabric.shm.region import ShmFabric
from rfp.protocol.client.channel import Channel
from rfp.protocol.client.client_ring import ClientRing
from rfp.protocol.client.connection import Connection
from rfp.protocol.handshake_layout import REPLIES
from rfp.rpc.server import RpcServer
from rfp.testing import ring_harness as steps

SLOTS, SLOT = 16, 320  # those of an RpcServer with slots=16, max_message=256
ANSWERED, NO_SUCH_CALL = 0, 4


def sealed(
    sequence: int,
    payload: bytes = b"",
    *,
    opcode: int = 1,
    mode: int = 0,
    count: int = 0,
    flags: int = 0,
    release: int = 0,
    length: int | None = None,
    wait: int = 0,
) -> bytes:
    """Return a request as in docs/protocol.md, with a checksum that matches its bytes."""
    body = struct.pack(
        "<IIBBHIQ",
        sequence,
        len(payload) if length is None else length,
        opcode,
        mode,
        count,
        flags,
        release,
    )
    return struct.pack("<II", crc32c.crc32c(body + payload), wait) + body + payload


class Intruder:
    """A client with raw access to its rings."""

    def __init__(self, link: Connection) -> None:
        self.connection = link
        self.channel: Channel = link.attach(soon())

    @property
    def ring(self) -> ClientRing:
        return self.channel.rings[0]

    def write(self, offset: int, data: bytes) -> None:
        """Write into the request region, and wake the worker."""
        self.channel.requests.write(offset, data)
        self.notify()

    def notify(self) -> None:
        self.ring.pair.execute(WRITE_NOTIFY, self.channel.scratch, 0, self.channel.requests, 0, 0)

    def answer(self, slot: int) -> tuple[int, int, bytes]:
        """Return the contents of a response slot: sequence, status, payload."""
        header = self.channel.responses.read(slot * SLOT, 24)
        _, sequence, length, _, status, _, _ = struct.unpack("<IIIHBBQ", header)
        return (
            sequence,
            status,
            self.channel.responses.read(slot * SLOT + 24, min(length, SLOT - 24)),
        )

    def replied(self, slot: int) -> int:
        """Return the sequence in a reply slot of this process's memory."""
        return struct.unpack("<4xI", self.channel.reply.read(REPLIES + slot * SLOT, 8))[0]


def opened(address: str) -> Connection:
    place = addresses.parse(address)
    return Connection(place, ShmFabric(), connect(place, soon() / 1e9), "rpc", soon())


def soon() -> int:
    return deadline_in(20)


class Scene:
    """A server, an honest client, and the messages that reached the handler."""

    def __init__(self, server: RpcServer, honest: rfp.RpcClient, received: list[bytes]) -> None:
        self.server, self.honest, self.received = server, honest, received
        self.connection = opened(server.address)
        self.calls = 0

    @contextlib.contextmanager
    def intruder(self) -> Iterator[Intruder]:
        intruder = Intruder(self.connection)
        try:
            yield intruder
        finally:
            self.connection.detach(intruder.channel)

    def serves(self, times: int = 1) -> None:
        """Make honest calls: each makes the worker poll every ring at least once."""
        for _ in range(times):
            self.calls += 1
            message = b"honest %d" % self.calls
            assert self.honest.call(message) == message[::-1]

    def turn(self) -> None:
        """Let the worker poll until it must have counted a damaged request."""
        (worker,) = self.server._host.workers
        before = worker.counters["turns"]
        until(lambda: (worker.channel.notify(), worker.counters["turns"] > before + 200)[1])

    def counted(self) -> dict[str, int]:
        """Return the server's figures for this process, the intruder and the honest client."""
        figures = self.server.figures()
        return {name: figures[name] for name in ("served", "malformed")}


@pytest.fixture(scope="module")
def scene():
    received: list[bytes] = []

    def handler(request: bytes) -> bytes:
        received.append(request)
        return request[::-1]

    with (
        rfp.RpcServer(handler, max_message=256, slots=SLOTS) as server,
        rfp.RpcClient(server.address, timeout=20) as honest,
    ):
        scene = Scene(server, honest, received)
        scene.serves()
        yield scene
        scene.connection.close()


@given(data=st.binary(max_size=SLOTS * SLOT), offset=st.integers(0, SLOTS * SLOT - 1))
def test_random_bytes_are_not_served_and_disturb_no_client(scene, data, offset):
    with scene.intruder() as intruder:
        received = len(scene.received)
        before = scene.counted()["served"]
        intruder.write(offset, data[: SLOTS * SLOT - offset])
        scene.turn()
        scene.serves(2)
        assert scene.received[received:] == [
            b"honest %d" % n for n in (scene.calls - 1, scene.calls)
        ]
        assert scene.counted()["served"] == before + 2
        assert intruder.answer(0)[0] == 0


@given(
    payload=st.binary(max_size=SLOT - 32),
    opcode=st.integers(0, 255),
    mode=st.integers(0, 255),
    count=st.integers(0, 2**16 - 1),
    flags=st.integers(0, 2**32 - 1),
    release=st.integers(0, 2**64 - 1),
    wait=st.integers(0, 2**32 - 1),
)
@example(payload=b"", opcode=2, mode=1, count=0, flags=0, release=0, wait=1)
def test_any_request_with_a_valid_checksum_is_answered_whatever_its_fields(
    scene, payload, opcode, mode, count, flags, release, wait
):
    with scene.intruder() as intruder:
        intruder.write(
            0,
            sealed(
                1,
                payload,
                opcode=opcode,
                mode=mode,
                count=count,
                flags=flags,
                release=release,
                wait=wait,
            ),
        )
        until(lambda: intruder.answer(0)[0] == 1)
        sequence, status, answered = intruder.answer(0)
        assert sequence == 1
        if opcode == 1:
            assert (status, answered) == (ANSWERED, payload[::-1])
        else:
            assert (status, answered) == (0 if opcode == 2 else NO_SUCH_CALL, b"")
        if mode == 1:
            until(lambda: intruder.replied(0) == 1)
        scene.serves()


@given(
    length=st.one_of(
        st.integers(SLOT - 31, 2**32 - 1),
        st.sampled_from([SLOT - 31, 2**31, 2**32 - 32, 2**32 - 1]),
    )
)
def test_a_length_beyond_the_slot_is_counted_and_never_used(scene, length):
    with scene.intruder() as intruder:
        before = scene.counted()
        intruder.write(0, sealed(1, b"x" * (SLOT - 32), length=length))
        scene.turn()
        until(lambda: scene.counted()["malformed"] == before["malformed"] + 1)
        scene.serves()
        assert scene.counted()["served"] == before["served"] + 1
        assert intruder.answer(0)[0] == 0


@given(length=st.integers(0, SLOT - 32), cut=st.integers(1, SLOT), flip=st.integers(0, 2**16))
def test_a_truncated_or_damaged_request_is_counted_and_served_once_it_is_corrected(
    scene, length, cut, flip
):
    with scene.intruder() as intruder:
        before = scene.counted()
        whole = sealed(1, bytes(range(1, 251))[:length].ljust(length, b"\xff"))
        damaged = bytearray(whole)
        # Any byte that the checksum covers, except the sequence.
        place = 12 + flip % (len(whole) - 12)
        damaged[place] ^= 1 << flip % 8
        if place >= 32:
            damaged = damaged[: max(place + 1, len(whole) - cut)]
        intruder.write(0, bytes(damaged))
        scene.turn()
        until(lambda: scene.counted()["malformed"] == before["malformed"] + 1)
        scene.serves()
        assert intruder.answer(0)[0] == 0
        intruder.write(0, whole)
        until(lambda: intruder.answer(0)[0] == 1)
        assert intruder.answer(0)[2] == whole[32:][::-1]
        assert scene.counted()["malformed"] == before["malformed"]


@given(
    sequences=st.lists(
        st.one_of(st.integers(0, 6), st.integers(0, 2**32 - 1)), min_size=1, max_size=12
    )
)
def test_replayed_and_future_sequences_are_not_served(scene, sequences):
    """Only the next sequence is served, in its own slot; others wait for their turn or for ever."""
    with scene.intruder() as intruder:
        expected = 1
        for sequence in sequences:
            slot = (expected - 1) % SLOTS
            received = len(scene.received)
            intruder.write(slot * SLOT, sealed(sequence, b"mine %d" % sequence))
            if sequence == expected:
                until(lambda slot=slot, expected=expected: intruder.answer(slot)[0] == expected)
                assert scene.received[received:] == [b"mine %d" % sequence]
                expected += 1
            else:
                scene.serves(2)
                assert [
                    each for each in scene.received[received:] if not each.startswith(b"honest")
                ] == []
        scene.serves()


def test_requests_in_the_wrong_slots_are_not_served(scene):
    with scene.intruder() as intruder:
        for slot in range(1, SLOTS):
            intruder.write(slot * SLOT, sealed(1, b"elsewhere"))
        scene.turn()
        assert all(intruder.answer(slot)[0] == 0 for slot in range(SLOTS))
        scene.serves()


@pytest.mark.parametrize("length", [0, 8, 100, SLOT - 32])
def test_a_request_that_changes_while_it_is_read_is_served_as_one_version_or_not_at_all(
    scene, length, rng
):
    versions = [sealed(1, bytes([n]) * length, flags=n) for n in range(4)]
    broken = [each[:-1] + b"!" if length else each[:20] + b"!" + each[21:] for each in versions]
    mixed = [version for pair in zip(versions, broken, strict=True) for version in pair]
    for turn in range(20):
        with scene.intruder() as intruder:
            received = len(scene.received)
            rng.shuffle(mixed)
            order = [versions[turn % 4], *mixed[:15]]
            scribble = threading.Thread(
                target=steps.alternate, args=(intruder.channel.requests, 0, order, 0.01)
            )
            scribble.start()
            while scribble.is_alive():
                scene.serves()
            scribble.join()
            intruder.notify()
            until(lambda intruder=intruder: intruder.answer(0)[0] == 1)
            mine = [each for each in scene.received[received:] if not each.startswith(b"honest")]
            assert len(mine) == 1
            assert mine[0] in [version[32:] for version in versions]


@given(words=st.lists(st.integers(0, 2**32 - 1), min_size=SLOTS, max_size=SLOTS))
def test_an_invalid_wait_word_wakes_only_the_client_that_wrote_it(scene, words):
    with scene.intruder() as intruder:
        for slot, word in enumerate(words):
            intruder.channel.requests.write(slot * SLOT + 4, struct.pack("<I", word))
        intruder.write(0, sealed(1, b"x", wait=words[0]))
        until(lambda: intruder.answer(0)[0] == 1)
        scene.serves(2)


@given(data=st.binary(min_size=1, max_size=2000), offset=st.integers(0, 1400))
def test_a_clients_writes_into_its_own_reply_region_do_not_affect_the_server(scene, data, offset):
    with scene.intruder() as intruder:
        end = REPLIES + SLOTS * SLOT
        intruder.channel.reply.write(64 + offset, data[: end - 64 - offset])
        intruder.write(0, sealed(1, b"x", mode=1))
        until(lambda: intruder.replied(0) == 1)
        scene.serves()


@pytest.mark.parametrize("written", [8, 16, 32, 40])
def test_a_client_that_disconnects_within_a_request_leaves_nothing_behind(scene, written):
    rings = scene.server.figures()["workers"][0]["rings"]
    link = opened(scene.server.address)
    intruder = Intruder(link)
    until(lambda: scene.server.figures()["workers"][0]["rings"] == rings + 1)
    intruder.write(0, sealed(1, b"x" * 100)[:written])
    scene.turn()
    link.close()
    scene.serves()
    until(lambda: scene.server.figures()["workers"][0]["rings"] == rings)


def test_malformed_requests_stay_counted_after_their_client_has_disconnected(scene):
    before = scene.counted()["malformed"]
    with scene.intruder() as intruder:
        intruder.write(0, sealed(1, b"x", length=2**31))
        scene.turn()
    until(lambda: scene.counted()["malformed"] == before + 1)
    scene.serves()
    assert scene.counted()["malformed"] == before + 1


# --- On the control channel


@contextlib.contextmanager
def greeted(scene: Scene, features: int = 0):
    with connect(addresses.parse(scene.server.address), deadline_in(20)) as connection:
        connection.call(
            Hello(features=features, name="intruder", pid=1), Welcome, deadline_in(20)
        ).close()
        yield connection


def attach(
    connection,
    fabric: ShmFabric,
    *,
    length: int = REPLIES + SLOTS * SLOT,
    rights: int = REMOTE_READ | REMOTE_WRITE,
    pairs: int = 1,
    damage: bool = False,
) -> Attached:
    with contextlib.ExitStack() as stack:
        own = stack.enter_context
        reply = own(fabric.register(length, rights))
        eventcount = own(fabric.register(64, REMOTE_WRITE)) if not rights & REMOTE_WRITE else reply
        events = own(fabric.event_channel(eventcount, 0))
        made = [own(fabric.queue_pair(events, -1, -1)).descriptor() for _ in range(pairs)]
        if damage:
            made = [each[:-1] + b"?" for each in made]
        question = Attach(reply=Handle(reply.descriptor(), reply.fileno()), pairs=made)
        return connection.call(question, Attached, deadline_in(20))


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"length": 64}, "the reply region has"),
        ({"rights": REMOTE_READ}, "event channel is in"),
        ({"pairs": 0}, "0 queue pairs"),
        ({"pairs": 3}, "3 queue pairs"),
        ({"damage": True}, "invalid queue pair descriptor"),
    ],
)
def test_rings_with_invalid_parameters_are_refused_and_leave_nothing_behind(scene, wrong, reason):
    before = scene.server.figures()
    with greeted(scene) as connection, pytest.raises(HandshakeFailed, match=reason):
        attach(connection, ShmFabric(), **wrong)
    until(lambda: scene.server.figures()["connected"] == before["connected"])
    after = scene.server.figures()
    assert after["refused"] == before["refused"] + 1
    assert after["workers"][0]["rings"] == before["workers"][0]["rings"]
    scene.serves()


def test_ending_rings_twice_or_rings_of_another_client_has_no_effect(scene):
    from rfp.control import Detach

    before = scene.server.figures()["workers"][0]["rings"]
    with greeted(scene) as connection:
        attach(connection, ShmFabric()).close()
        for number in (1, 1, 7, 2**32 - 1):
            connection.send(Detach(number), deadline_in(20))
        until(lambda: scene.server.figures()["workers"][0]["rings"] == before)
        attach(connection, ShmFabric()).close()
        scene.serves()
    until(lambda: scene.server.figures()["workers"][0]["rings"] == before)


def test_memory_that_is_not_offered_in_chunks_cannot_be_requested(scene):
    with (
        greeted(scene) as connection,
        pytest.raises(HandshakeFailed, match="no chunk 0 of arena 0"),
    ):
        connection.call(Map(0, 0), Mapped, deadline_in(20))
    scene.serves()


def test_a_client_without_a_hello_is_disconnected(scene):
    with connect(addresses.parse(scene.server.address), deadline_in(20)) as connection:
        with pytest.raises(HandshakeFailed, match="must be Hello, not"):
            attach(connection, ShmFabric())
        with pytest.raises(ConnectionFailed):
            connection.receive(deadline_in(20))
    scene.serves()


def test_a_client_that_sends_without_end_does_not_block_the_others(scene):
    from rfp.control import GetStats

    stop = threading.Event()

    def send() -> None:
        with greeted(scene) as connection, contextlib.suppress(ConnectionFailed):
            while not stop.is_set():
                connection.send(GetStats(), deadline_in(20))
                connection.receive(deadline_in(20))

    talkers = [threading.Thread(target=send) for _ in range(2)]
    for thread in talkers:
        thread.start()
    try:
        for _ in range(5):
            with rfp.RpcClient(scene.server.address, timeout=20) as client:
                assert client.call(b"ab") == b"ba"
    finally:
        stop.set()
        for thread in talkers:
            thread.join()
