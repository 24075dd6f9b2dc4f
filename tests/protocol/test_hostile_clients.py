"""A client that writes what it likes into its request region: the server answers what is right, counts what is not, and serves
the others as if nothing were."""

from __future__ import annotations

import contextlib
import struct
import threading
import time
from collections.abc import Callable, Iterator

import crc32c
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import rfp
from rfp import address as addresses
from rfp.control import Attach, Attached, Handle, Hello, Map, Mapped, Welcome, connect
from rfp.errors import ConnectionFailed, HandshakeFailed
from rfp.fabric.fabric import REMOTE_READ, REMOTE_WRITE, WRITE_NOTIFY
from rfp.fabric.shm.region import ShmFabric
from rfp.protocol.client.channel import Channel
from rfp.protocol.client.client_ring import ClientRing
from rfp.protocol.client.connection import Connection
from rfp.protocol.handshake_layout import REPLIES
from rfp.rpc.server import RpcServer
from rfp.testing import ring_harness as steps

SLOTS, SLOT = 16, 320  # what RpcServer makes of slots=16, max_message=256
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
    """A request as docs/protocol.md has it, with a checksum that fits what stands there."""
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
        """Into the request region, and wakes the worker."""
        self.channel.requests.write(offset, data)
        self.notify()

    def notify(self) -> None:
        self.ring.pair.execute(WRITE_NOTIFY, self.channel.scratch, 0, self.channel.requests, 0, 0)

    def answer(self, slot: int) -> tuple[int, int, bytes]:
        """What stands in a response slot: sequence, status, payload."""
        header = self.channel.responses.read(slot * SLOT, 24)
        _, sequence, length, _, status, _, _ = struct.unpack("<IIIHBBQ", header)
        return (
            sequence,
            status,
            self.channel.responses.read(slot * SLOT + 24, min(length, SLOT - 24)),
        )

    def replied(self, slot: int) -> int:
        """The sequence in a reply slot of our own memory."""
        return struct.unpack("<4xI", self.channel.reply.read(REPLIES + slot * SLOT, 8))[0]


def opened(address: str) -> Connection:
    place = addresses.parse(address)
    return Connection(place, ShmFabric(), connect(place, soon() / 1e9), "rpc", soon())


def soon() -> int:
    return time.monotonic_ns() + 20 * 10**9


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline


class House:
    """A server, an honest client, and whatever the honest client's messages were at the handler."""

    def __init__(self, server: RpcServer, honest: rfp.RpcClient, heard: list[bytes]) -> None:
        self.server, self.honest, self.heard = server, honest, heard
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
        """Honest calls: each makes the worker look at every ring at least once."""
        for _ in range(times):
            self.calls += 1
            message = b"honest %d" % self.calls
            assert self.honest.call(message) == message[::-1]

    def turn(self) -> None:
        """As many turns of the worker as it takes to count a damaged request."""
        (worker,) = self.server._host.workers
        before = worker.counters["turns"]
        until(lambda: (worker.channel.notify(), worker.counters["turns"] > before + 200)[1])

    def counted(self) -> dict[str, int]:
        """What the server says of the intruder's process: it and the honest client are the same one here."""
        figures = self.server.figures()
        return {name: figures[name] for name in ("served", "malformed")}


@pytest.fixture(scope="module")
def house():
    heard: list[bytes] = []

    def handler(request: bytes) -> bytes:
        heard.append(request)
        return request[::-1]

    with (
        rfp.RpcServer(handler, max_message=256, slots=SLOTS) as server,
        rfp.RpcClient(server.address, timeout=20) as honest,
    ):
        house = House(server, honest, heard)
        house.serves()
        yield house
        house.connection.close()


@given(data=st.binary(max_size=SLOTS * SLOT), offset=st.integers(0, SLOTS * SLOT - 1))
def test_random_bytes_are_not_served_and_disturb_nobody(house, data, offset):
    with house.intruder() as intruder:
        heard = len(house.heard)
        before = house.counted()["served"]
        intruder.write(offset, data[: SLOTS * SLOT - offset])
        house.turn()
        house.serves(2)
        assert house.heard[heard:] == [b"honest %d" % n for n in (house.calls - 1, house.calls)]
        assert house.counted()["served"] == before + 2
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
def test_any_whole_request_is_answered_whatever_its_fields_say(
    house, payload, opcode, mode, count, flags, release, wait
):
    with house.intruder() as intruder:
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
        house.serves()


@given(
    length=st.one_of(
        st.integers(SLOT - 31, 2**32 - 1),
        st.sampled_from([SLOT - 31, 2**31, 2**32 - 32, 2**32 - 1]),
    )
)
def test_a_length_beyond_the_slot_is_counted_and_never_believed(house, length):
    with house.intruder() as intruder:
        before = house.counted()
        intruder.write(0, sealed(1, b"x" * (SLOT - 32), length=length))
        house.turn()
        until(lambda: house.counted()["malformed"] == before["malformed"] + 1)
        house.serves()
        assert house.counted()["served"] == before["served"] + 1
        assert intruder.answer(0)[0] == 0


@given(length=st.integers(0, SLOT - 32), cut=st.integers(1, SLOT), flip=st.integers(0, 2**16))
def test_a_request_that_was_cut_short_or_damaged_is_counted_and_served_once_it_is_put_right(
    house, length, cut, flip
):
    with house.intruder() as intruder:
        before = house.counted()
        whole = sealed(1, bytes(range(1, 251))[:length].ljust(length, b"\xff"))
        damaged = bytearray(whole)
        place = 12 + flip % (len(whole) - 12)  # anything that the checksum covers but the sequence
        damaged[place] ^= 1 << flip % 8
        if place >= 32:
            damaged = damaged[: max(place + 1, len(whole) - cut)]
        intruder.write(0, bytes(damaged))
        house.turn()
        until(lambda: house.counted()["malformed"] == before["malformed"] + 1)
        house.serves()
        assert intruder.answer(0)[0] == 0
        intruder.write(0, whole)
        until(lambda: intruder.answer(0)[0] == 1)
        assert intruder.answer(0)[2] == whole[32:][::-1]
        assert house.counted()["malformed"] == before["malformed"]


@given(
    sequences=st.lists(
        st.one_of(st.integers(0, 6), st.integers(0, 2**32 - 1)), min_size=1, max_size=12
    )
)
def test_replayed_and_future_sequences_are_not_served(house, sequences):
    """Only the next one is, in its own slot; whatever else is written there waits for its turn or for ever."""
    with house.intruder() as intruder:
        expected = 1
        for sequence in sequences:
            slot = (expected - 1) % SLOTS
            heard = len(house.heard)
            intruder.write(slot * SLOT, sealed(sequence, b"mine %d" % sequence))
            if sequence == expected:
                until(lambda slot=slot, expected=expected: intruder.answer(slot)[0] == expected)
                assert house.heard[heard:] == [b"mine %d" % sequence]
                expected += 1
            else:
                house.serves(2)
                assert [
                    each for each in house.heard[heard:] if not each.startswith(b"honest")
                ] == []
        house.serves()


def test_requests_in_the_wrong_slots_are_not_served(house):
    with house.intruder() as intruder:
        for slot in range(1, SLOTS):
            intruder.write(slot * SLOT, sealed(1, b"elsewhere"))
        house.turn()
        assert all(intruder.answer(slot)[0] == 0 for slot in range(SLOTS))
        house.serves()


@pytest.mark.parametrize("length", [0, 8, 100, SLOT - 32])
def test_a_request_that_changes_while_it_is_read_is_served_as_one_of_its_versions_or_not(
    house, length, rng
):
    versions = [sealed(1, bytes([n]) * length, flags=n) for n in range(4)]
    broken = [each[:-1] + b"!" if length else each[:20] + b"!" + each[21:] for each in versions]
    mixed = [version for pair in zip(versions, broken, strict=True) for version in pair]
    for turn in range(20):
        with house.intruder() as intruder:
            heard = len(house.heard)
            rng.shuffle(mixed)
            order = [versions[turn % 4], *mixed[:15]]
            scribble = threading.Thread(
                target=steps.alternate, args=(intruder.channel.requests, 0, order, 0.01)
            )
            scribble.start()
            while scribble.is_alive():
                house.serves()
            scribble.join()
            intruder.notify()
            until(lambda intruder=intruder: intruder.answer(0)[0] == 1)
            mine = [each for each in house.heard[heard:] if not each.startswith(b"honest")]
            assert len(mine) == 1
            assert mine[0] in [version[32:] for version in versions]


@given(words=st.lists(st.integers(0, 2**32 - 1), min_size=SLOTS, max_size=SLOTS))
def test_garbage_where_wait_is_written_wakes_only_whoever_wrote_it(house, words):
    with house.intruder() as intruder:
        for slot, word in enumerate(words):
            intruder.channel.requests.write(slot * SLOT + 4, struct.pack("<I", word))
        intruder.write(0, sealed(1, b"x", wait=words[0]))
        until(lambda: intruder.answer(0)[0] == 1)
        house.serves(2)


@given(data=st.binary(min_size=1, max_size=2000), offset=st.integers(0, 1400))
def test_what_a_client_writes_into_its_own_reply_region_is_its_own_affair(house, data, offset):
    with house.intruder() as intruder:
        end = REPLIES + SLOTS * SLOT
        intruder.channel.reply.write(64 + offset, data[: end - 64 - offset])
        intruder.write(0, sealed(1, b"x", mode=1))
        until(lambda: intruder.replied(0) == 1)
        house.serves()


@pytest.mark.parametrize("written", [8, 16, 32, 40])
def test_a_client_that_leaves_in_the_middle_of_a_request_leaves_nothing(house, written):
    rings = house.server.figures()["workers"][0]["rings"]
    link = opened(house.server.address)
    intruder = Intruder(link)
    until(lambda: house.server.figures()["workers"][0]["rings"] == rings + 1)
    intruder.write(0, sealed(1, b"x" * 100)[:written])
    house.turn()
    link.close()
    house.serves()
    until(lambda: house.server.figures()["workers"][0]["rings"] == rings)


def test_what_was_malformed_stays_counted_when_its_client_has_gone(house):
    before = house.counted()["malformed"]
    with house.intruder() as intruder:
        intruder.write(0, sealed(1, b"x", length=2**31))
        house.turn()
    until(lambda: house.counted()["malformed"] == before + 1)
    house.serves()
    assert house.counted()["malformed"] == before + 1


# On the control channel


@contextlib.contextmanager
def greeted(house: House, features: int = 0):
    with connect(addresses.parse(house.server.address), time.monotonic() + 20) as connection:
        connection.call(
            Hello(features=features, name="intruder", pid=1), Welcome, time.monotonic() + 20
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
        bell = own(fabric.register(64, REMOTE_WRITE)) if not rights & REMOTE_WRITE else reply
        events = own(fabric.event_channel(bell, 0))
        made = [own(fabric.queue_pair(events, -1, -1)).descriptor() for _ in range(pairs)]
        if damage:
            made = [each[:-1] + b"?" for each in made]
        question = Attach(reply=Handle(reply.descriptor(), reply.fileno()), pairs=made)
        return connection.call(question, Attached, time.monotonic() + 20)


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
def test_rings_that_do_not_fit_are_refused_and_leave_nothing(house, wrong, reason):
    before = house.server.figures()
    with greeted(house) as connection, pytest.raises(HandshakeFailed, match=reason):
        attach(connection, ShmFabric(), **wrong)
    until(lambda: house.server.figures()["connected"] == before["connected"])
    after = house.server.figures()
    assert after["refused"] == before["refused"] + 1
    assert after["workers"][0]["rings"] == before["workers"][0]["rings"]
    house.serves()


def test_ending_rings_twice_or_those_of_others_does_nothing(house):
    from rfp.control import Detach

    before = house.server.figures()["workers"][0]["rings"]
    with greeted(house) as connection:
        attach(connection, ShmFabric()).close()
        for number in (1, 1, 7, 2**32 - 1):
            connection.send(Detach(number), time.monotonic() + 20)
        until(lambda: house.server.figures()["workers"][0]["rings"] == before)
        attach(connection, ShmFabric()).close()
        house.serves()
    until(lambda: house.server.figures()["workers"][0]["rings"] == before)


def test_memory_that_is_not_handed_out_in_chunks_cannot_be_asked_for(house):
    with (
        greeted(house) as connection,
        pytest.raises(HandshakeFailed, match="no chunk 0 of arena 0"),
    ):
        connection.call(Map(0, 0), Mapped, time.monotonic() + 20)
    house.serves()


def test_who_does_not_greet_first_is_sent_away(house):
    with connect(addresses.parse(house.server.address), time.monotonic() + 20) as connection:
        with pytest.raises(HandshakeFailed, match="must be Hello, not"):
            attach(connection, ShmFabric())
        with pytest.raises(ConnectionFailed):
            connection.receive(time.monotonic() + 20)
    house.serves()


def test_a_client_that_talks_without_end_does_not_silence_the_others(house):
    from rfp.control import GetStats

    stop = threading.Event()

    def talk() -> None:
        with greeted(house) as connection, contextlib.suppress(ConnectionFailed):
            while not stop.is_set():
                connection.send(GetStats(), time.monotonic() + 20)
                connection.receive(time.monotonic() + 20)

    talkers = [threading.Thread(target=talk) for _ in range(2)]
    for thread in talkers:
        thread.start()
    try:
        for _ in range(5):
            with rfp.RpcClient(house.server.address, timeout=20) as client:
                assert client.call(b"ab") == b"ba"
    finally:
        stop.set()
        for thread in talkers:
            thread.join()
