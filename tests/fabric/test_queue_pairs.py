"""Work requests: their effects, the requests that are refused, and the life of a queue pair."""

from __future__ import annotations

import os
import socket
import struct
import subprocess

import pytest

from rfp.errors import CallerError, Closed, HandshakeFailed, InvalidArgument
from rfp.fabric.fabric import (
    BOUNDS,
    COMPARE_SWAP,
    FETCH_ADD,
    FLUSHED,
    READ,
    REMOTE_ATOMIC,
    REMOTE_READ,
    REMOTE_WRITE,
    RIGHTS,
    SUCCESS,
    WRITE,
    WRITE_NOTIFY,
    QueuePair,
)
from rfp.fabric.shm.region import ShmFabric
from rfp.testing.litmus import burst

from .connected_pairs import ALL, PAGE, attached, completions, connected, until
from .providers import SHM_AND_VERBS
from .test_regions import crc32c

LARGEST = 2**64 - 1


@pytest.fixture
def shm_ends():
    with connected(ShmFabric(), ShmFabric()) as ends:
        yield ends


@pytest.fixture(params=SHM_AND_VERBS)
def ends(request):
    with request.param() as mine, request.param() as yours, connected(mine, yours) as ends:
        yield ends


def test_a_read_copies_the_peers_memory(ends):
    a, b = ends
    b.memory.write(1000, b"hello")
    assert a.pair.execute(READ, a.memory, 64, a.theirs, 1000, 5) == SUCCESS
    assert a.memory.read(63, 7) == b"\0hello\0"


def test_shared_memory_has_all_ordering_features(shm_ends):
    for each in (shm_ends[0].pair, ShmFabric()):
        assert each.reads_ordered
    assert shm_ends[0].pair.max_inline == 2**32 - 1
    assert shm_ends[0].pair.max_outstanding_reads == shm_ends[0].pair.depth == 256


def test_a_write_changes_only_its_range(ends):
    a, b = ends
    a.memory.write(64, b"hello")
    assert a.pair.execute(WRITE, a.memory, 64, a.theirs, 1001, 5) == SUCCESS
    assert b.memory.read(1000, 7) == b"\0hello\0"


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 63, 64, 65, 511, 512, 513, 4096, 10 * PAGE + 3])
@pytest.mark.parametrize("skew", [0, 1, 7])
def test_every_length_and_alignment_is_copied_whole(ends, length, skew):
    a, b = ends
    data = os.urandom(length)
    b.memory.write(128 + skew, data)
    assert a.pair.execute(READ, a.memory, 192, a.theirs, 128 + skew, length) == SUCCESS
    assert a.memory.read(192, length) == data
    assert a.pair.execute(WRITE, a.memory, 192, a.theirs, 64 + 3 * skew, length) == SUCCESS
    assert b.memory.read(64 + 3 * skew, length) == data


def test_fetch_add_returns_the_old_value_and_wraps(ends):
    a, b = ends
    b.memory.write(64, struct.pack("<Q", LARGEST))
    assert a.pair.execute(FETCH_ADD, a.memory, 128, a.theirs, 64, 8, operand=3) == SUCCESS
    assert struct.unpack("<Q", a.memory.read(128, 8)) == (LARGEST,)
    assert struct.unpack("<Q", b.memory.read(64, 8)) == (2,)


def test_compare_swap_changes_only_the_expected_value_and_returns_the_old_one(ends):
    a, b = ends
    b.memory.write(64, struct.pack("<Q", 5))
    for compare, there, after in ((4, 5, 5), (5, 5, 9), (5, 9, 9)):
        assert (
            a.pair.execute(COMPARE_SWAP, a.memory, 128, a.theirs, 64, 8, compare=compare, operand=9)
            == SUCCESS
        )
        assert struct.unpack("<Q", a.memory.read(128, 8)) == (there,)
        assert struct.unpack("<Q", b.memory.read(64, 8)) == (after,)


OUTSIDE = [
    (16 * PAGE, 1),
    (16 * PAGE - 7, 8),
    (16 * PAGE + 1, 0),
    (LARGEST, 1),
    (LARGEST, 8),
    (LARGEST - 7, 8),
    (8, LARGEST),
    (LARGEST, LARGEST),
    (0, 16 * PAGE + 1),
]


@pytest.mark.parametrize(("offset", "length"), OUTSIDE)
@pytest.mark.parametrize("opcode", [READ, WRITE, WRITE_NOTIFY])
def test_a_remote_range_outside_the_region_is_refused_whatever_the_numbers(
    ends, opcode, offset, length
):
    a, _ = ends
    assert a.pair.execute(opcode, a.memory, 0, a.theirs, offset, length) == BOUNDS


@pytest.mark.parametrize(("offset", "length"), OUTSIDE)
@pytest.mark.parametrize("opcode", [READ, WRITE])
def test_a_local_range_outside_the_region_is_refused_whatever_the_numbers(
    ends, opcode, offset, length
):
    a, _ = ends
    assert a.pair.execute(opcode, a.memory, offset, a.theirs, 0, length) == BOUNDS


def test_the_last_byte_is_within_the_region(ends):
    a, b = ends
    b.memory.write(16 * PAGE - 1, b"x")
    assert a.pair.execute(READ, a.memory, 16 * PAGE - 1, a.theirs, 16 * PAGE - 1, 1) == SUCCESS
    assert a.memory.read(16 * PAGE - 1, 1) == b"x"
    assert a.pair.execute(READ, a.memory, 16 * PAGE, a.theirs, 16 * PAGE, 0) == SUCCESS


@pytest.mark.parametrize(
    ("offset", "length"), [(4, 8), (65, 8), (64, 4), (64, 16), (64, 0), (16 * PAGE, 8)]
)
@pytest.mark.parametrize("opcode", [FETCH_ADD, COMPARE_SWAP])
def test_atomics_are_of_one_aligned_word(ends, opcode, offset, length):
    a, _ = ends
    assert a.pair.execute(opcode, a.memory, 128, a.theirs, offset, length, operand=1) == BOUNDS


@pytest.mark.parametrize("opcode", [0, 6, 7, 8, 255, 2**32 - 1])
def test_an_unknown_opcode_is_refused(ends, opcode):
    a, _ = ends
    assert a.pair.execute(opcode, a.memory, 128, a.theirs, 64, 8) == RIGHTS


@pytest.mark.parametrize(
    ("rights", "opcode", "status"),
    [
        (0, READ, RIGHTS),
        (0, WRITE, RIGHTS),
        (0, FETCH_ADD, RIGHTS),
        (REMOTE_READ, READ, SUCCESS),
        (REMOTE_READ, WRITE, RIGHTS),
        (REMOTE_READ, WRITE_NOTIFY, RIGHTS),
        (REMOTE_READ, COMPARE_SWAP, RIGHTS),
        (REMOTE_WRITE, READ, RIGHTS),
        (REMOTE_WRITE, WRITE, SUCCESS),
        (REMOTE_WRITE, WRITE_NOTIFY, SUCCESS),
        (REMOTE_WRITE, FETCH_ADD, RIGHTS),
        (REMOTE_ATOMIC, FETCH_ADD, SUCCESS),
        (REMOTE_ATOMIC, COMPARE_SWAP, SUCCESS),
        (REMOTE_ATOMIC, WRITE, RIGHTS),
    ],
)
def test_a_region_gives_only_the_rights_it_was_registered_with(ends, rights, opcode, status):
    a, b = ends
    with b.fabric.register(PAGE, rights) as memory, attached(a.fabric, memory) as theirs:
        assert a.pair.execute(opcode, a.memory, 64, theirs, 64, 8) == status


def test_completions_come_in_the_order_of_posting_with_the_id_of_their_request(ends):
    a, _ = ends
    requests = [
        (7, READ, 0, SUCCESS),
        (5, WRITE, LARGEST, BOUNDS),
        (9, 77, 0, RIGHTS),
        (LARGEST, WRITE, 64, SUCCESS),
    ]
    for each, opcode, offset, _ in requests:
        assert a.pair.post(opcode, a.memory, 64, a.theirs, offset, 8, id=each) == 1
    assert completions(a.pair, 4) == [
        (each, opcode, status) for each, opcode, _, status in requests
    ]
    assert a.pair.poll(1) == []


def test_an_unsignaled_request_completes_only_when_it_fails(ends):
    a, b = ends
    a.memory.write(64, b"hello")
    assert a.pair.post(WRITE, a.memory, 64, a.theirs, 128, 5, flags=0, id=1) == 1
    until(lambda: b.memory.read(128, 5) == b"hello")
    assert a.pair.post(READ, a.memory, 64, a.theirs, LARGEST, 5, flags=0, id=2) == 1
    assert completions(a.pair, 1) == [(2, READ, BOUNDS)]


def test_a_full_queue_takes_no_request_until_it_is_polled(ends):
    a, _ = ends
    for each in range(a.pair.depth):
        assert a.pair.post(READ, a.memory, 64, a.theirs, 64, 8, id=each) == 1
    assert a.pair.post(WRITE, a.memory, 0, a.theirs, 64, 8, id=999) == 0
    assert completions(a.pair, 1) == [(0, READ, SUCCESS)]
    assert a.pair.post(READ, a.memory, 64, a.theirs, 64, 8, id=1000) == 1
    rest = completions(a.pair, a.pair.depth)
    assert [each for each, _, _ in rest] == [*range(1, a.pair.depth), 1000]


@pytest.mark.parametrize("n", [1, 2, 31, 32, 33, 200])
def test_a_batch_is_executed_in_order_and_has_one_completion(ends, n):
    a, b = ends
    for round_ in range(3):  # the chain of requests is whole again after each
        a.memory.write(64, b"".join(struct.pack("<Q", 1000 * round_ + i) for i in range(n)))
        assert burst(a.pair, a.memory, a.theirs, WRITE, [64 + 8 * i for i in range(n)], 8) == n
        assert completions(a.pair, 1) == [(n - 1, WRITE, SUCCESS)]
        assert b.memory.read(64, 8 * n) == a.memory.read(64, 8 * n)
    assert a.pair.poll(64) == []


def test_only_the_invalid_request_of_a_batch_fails_and_in_its_order(ends):
    a, b = ends
    a.memory.write(64, b"x" * 80)
    offsets = [64, LARGEST, 72, 16 * PAGE, 80, 88]
    assert burst(a.pair, a.memory, a.theirs, WRITE, offsets, 8) == 6
    assert completions(a.pair, 3) == [(1, WRITE, BOUNDS), (3, WRITE, BOUNDS), (5, WRITE, SUCCESS)]
    assert b.memory.read(64, 40) == b"x" * 32 + bytes(8)


def test_the_beginning_of_a_batch_that_is_too_long_is_posted(ends):
    a, _ = ends
    taken = burst(a.pair, a.memory, a.theirs, READ, [64] * 512, 8)
    assert a.pair.depth <= taken <= 512  # over shm an unsignaled success takes no room
    if taken == 512:
        assert completions(a.pair, 1) == [(511, READ, SUCCESS)]
    until(lambda: a.pair.post(READ, a.memory, 64, a.theirs, 64, 8, id=999))
    assert completions(a.pair, 1) == [(999, READ, SUCCESS)]


def test_polling_for_no_or_too_many_completions_is_refused(ends):
    for n in (0, -1, 65):
        with pytest.raises(InvalidArgument):
            ends[0].pair.poll(n)


def test_a_closed_region_is_out_of_bounds(ends):
    a, b = ends
    with b.fabric.register(PAGE, ALL) as memory, attached(a.fabric, memory) as theirs:
        theirs.close()
        assert a.pair.execute(READ, a.memory, 64, theirs, 0, 8) == BOUNDS
    mine = a.fabric.register(PAGE, 0)
    mine.close()
    assert a.pair.execute(READ, mine, 64, a.theirs, 0, 8) == BOUNDS


def test_a_closed_pair_flushes_its_requests_and_closes_again(ends):
    a, b = ends
    a.memory.write(64, b"hello")
    assert a.pair.post(READ, a.memory, 192, a.theirs, 64, 8, id=1) == 1
    assert completions(a.pair, 1) == [(1, READ, SUCCESS)]
    a.pair.close()
    a.pair.close()
    assert a.pair.post(WRITE, a.memory, 64, a.theirs, 128, 5, flags=0, id=2) == 1
    assert a.pair.poll(2) == [(2, WRITE, FLUSHED)]
    assert b.memory.read(128, 5) == bytes(5)
    assert not a.pair.alive()
    with pytest.raises(Closed):
        a.pair.descriptor()
    with pytest.raises(Closed):
        a.pair.connect(b.pair.descriptor(), a.theirs)


def test_everything_closes_in_any_order(ends):
    a, b = ends
    for order in ((6, 5, 4, 3, 2, 1, 0, 7), (0, 3, 1, 7, 5, 2, 6, 4)):
        with connected(a.fabric, b.fabric) as (c, d):
            things = (c.memory, d.theirs, d.channel, c.theirs, d.memory, d.pair, c.channel, c.pair)
            for each in order:
                things[each].close()
            assert c.pair.execute(READ, c.memory, 0, c.theirs, 0, 8) == FLUSHED
            assert not c.channel.wait(c.channel.prepare_wait(), 0.001)
    for each in (
        a.fabric,
        a.memory,
        b.theirs,
        b.channel,
        a.theirs,
        b.memory,
        b.pair,
        a.channel,
        a.pair,
    ):
        each.close()
    assert a.pair.execute(READ, a.memory, 0, a.theirs, 0, 8) == FLUSHED
    assert not a.channel.wait(a.channel.prepare_wait(), 0.001)


def test_a_pair_flushes_before_it_is_connected(ends):
    a, _ = ends
    with a.fabric.queue_pair(a.channel, -1, -1) as pair:
        assert pair.execute(WRITE, a.memory, 64, a.theirs, 128, 5) == FLUSHED
        assert pair.alive()


# --- Connecting


def forged(good: bytes, **changes) -> bytes:
    names = (
        "magic",
        "version",
        "provider",
        "eventcount",
        "engine",
        "rtt",
        "in_gap",
        "out_gap",
        "key",
        "reserved",
        "unused",
    )
    fields = dict(zip(names, struct.unpack("<IHHQQQQQIII", good[:-4]), strict=True))
    body = struct.pack("<IHHQQQQQIII", *(fields | changes).values())
    return body + struct.pack("<I", crc32c(body))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda good: b"", "0 bytes"),
        (lambda good: good[:-1], "63 bytes"),
        (lambda good: good + b"\0", "65 bytes"),
        (lambda good: good[:20] + b"\x55" + good[21:], "checksum"),
        (lambda good: forged(good, magic=0x4D504652), "magic number"),
        (lambda good: forged(good, version=9), "version"),
        (lambda good: forged(good, provider=3), "provider"),
        (lambda good: forged(good, key=2), "region 0x2"),
        (lambda good: forged(good, eventcount=4), "event channel at 4"),
        (lambda good: forged(good, eventcount=16 * PAGE), "event channel"),
        (lambda good: forged(good, eventcount=2**64 - 64), "event channel"),
        (lambda good: forged(good, engine=2**64 - 64), "event channel"),
        (lambda good: forged(good, rtt=10**9 + 1), "out of range"),
        (lambda good: forged(good, in_gap=2**64 - 1), "out of range"),
    ],
)
def test_an_invalid_pair_descriptor_is_refused_and_a_valid_one_still_connects(
    shm_ends, change, reason
):
    a, b = shm_ends
    with ShmFabric().queue_pair(a.channel, -1, -1) as pair:
        with pytest.raises(HandshakeFailed, match=reason):
            pair.connect(change(b.pair.descriptor()), a.theirs)
        pair.connect(forged(b.pair.descriptor()), a.theirs)
        assert pair.execute(READ, a.memory, 64, a.theirs, 0, 8) == SUCCESS


def test_a_pair_connects_once(ends):
    a, b = ends
    with pytest.raises(CallerError, match="already"):
        a.pair.connect(b.pair.descriptor(), a.theirs)


def test_an_event_channel_in_memory_that_we_cannot_write_is_refused(shm_ends):
    a, b = shm_ends
    fabric = ShmFabric()
    with (
        fabric.register(PAGE, REMOTE_READ) as memory,
        fabric.attach(memory.descriptor(), os.dup(memory.fileno())) as remote,
        fabric.queue_pair(a.channel, -1, -1) as pair,
    ):
        key = struct.unpack_from("<I", memory.descriptor(), 20)[0]
        with pytest.raises(HandshakeFailed, match="may not write"):
            pair.connect(forged(b.pair.descriptor(), key=key), remote)


def test_connecting_without_the_peers_region_is_refused(shm_ends):
    a, b = shm_ends
    with ShmFabric().queue_pair(a.channel, -1, -1) as pair:
        with pytest.raises(InvalidArgument):
            pair.connect(b.pair.descriptor(), None)
        with pytest.raises(InvalidArgument):
            pair.connect(None, a.theirs)


# --- Liveness


def pair_watching(a, *, pidfd: int = -1, control: int = -1) -> QueuePair:
    return a.fabric.queue_pair(a.channel, pidfd, control)


def test_a_peer_is_alive_until_its_process_ends_and_a_zombie_is_not_alive(ends):
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        pidfd = os.pidfd_open(process.pid)
        with pair_watching(ends[0], pidfd=pidfd) as pair:
            assert pair.alive()
            process.kill()
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)  # it ended, and was not reaped
            assert not pair.alive()
        os.close(pidfd)


def test_a_peer_is_alive_until_it_closes_the_control_socket_even_with_data_unread(ends):
    ours, theirs = socket.socketpair()
    with ours, theirs, pair_watching(ends[0], control=ours.fileno()) as pair:
        assert pair.alive()
        theirs.send(b"unread")
        assert pair.alive()
        theirs.close()
        assert not pair.alive()


def test_a_peer_that_half_closes_the_control_socket_is_not_alive(ends):
    ours, theirs = socket.socketpair()
    with ours, theirs, pair_watching(ends[0], control=ours.fileno()) as pair:
        theirs.shutdown(socket.SHUT_WR)
        assert not pair.alive()
