"""The reordering fabric is as bad as the contract allows, and no worse; its runs repeat."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct

import pytest

from rfp.fabric.fabric import (
    BOUNDS,
    FETCH_ADD,
    FLUSHED,
    PEER_GONE,
    READ,
    REMOTE_WRITE,
    RIGHTS,
    SUCCESS,
    WRITE,
    WRITE_NOTIFY,
)
from rfp.fabric.shm.region import ShmFabric
from rfp.testing import litmus
from rfp.testing.reordering_fabric import ReorderFabric

from .connected_pairs import PAGE, at_once, connected, in_parts

STEPS = 10_000  # more than any test here takes
LINES = [bytes([n]) * 64 for n in range(256)]


@pytest.fixture(params=range(1, 4))
def ends(request):
    with connected(ReorderFabric(seed=request.param), ReorderFabric(seed=request.param)) as ends:
        yield ends


def steps_until_complete(pair, each_step=lambda step: None) -> int:
    for step in range(STEPS):
        each_step(step)
        if pair.poll():
            return step
    raise AssertionError("never complete")


def lines_of(memory, offset: int, n: int) -> list[int]:
    """Return the first byte of each of n cache lines."""
    return [memory.read(offset + 64 * i, 1)[0] for i in range(n)]


def test_the_reordering_fabric_has_no_ordering_features(ends):
    pair = ends[0].pair
    assert not pair.reads_ordered
    assert not ReorderFabric(seed=1).reads_ordered
    assert pair.max_inline == 64
    assert pair.max_outstanding_reads == 16


def test_the_lines_of_a_read_come_from_different_moments_in_any_order():
    orders = set()
    for seed in range(20):
        with connected(ReorderFabric(seed=seed), ShmFabric()) as (a, b):
            a.pair.post(READ, a.memory, 1024, a.theirs, 1024, 4 * 64)
            steps_until_complete(a.pair, lambda step, b=b: b.memory.write(1024, LINES[step] * 4))
            moments = lines_of(a.memory, 1024, 4)
            assert len(set(moments)) == 4
            orders.add(tuple(sorted(range(4), key=moments.__getitem__)))
    assert len(orders) > 8


def test_the_lines_of_a_write_land_one_by_one_in_any_order_and_all_before_it_completes():
    orders = set()
    for seed in range(20):
        with connected(ReorderFabric(seed=seed), ShmFabric()) as (a, b):
            a.memory.write(1024, LINES[1] * 4)
            a.pair.post(WRITE, a.memory, 1024, a.theirs, 1024, 4 * 64)
            seen = [0] * 4
            while not a.pair.poll():
                seen = [n + line for n, line in zip(seen, lines_of(b.memory, 1024, 4), strict=True)]
            # The number of steps in which each line was seen: the earlier it landed, the larger.
            assert len(set(seen)) == 4
            orders.add(tuple(sorted(range(4), key=seen.__getitem__)))
            assert b.memory.read(1024, 256) == LINES[1] * 4
    assert len(orders) > 8


@pytest.mark.parametrize(
    ("offset", "length"),
    [(1024, 1), (1027, 64), (1087, 2), (1024, 64), (1030, 300), (1024, 20 * 64 + 5), (64, 60000)],
)
def test_a_range_of_partial_lines_is_copied_whole_and_nothing_outside_it(ends, offset, length):
    a, b = ends
    data = bytes(i % 251 + 1 for i in range(length))
    a.memory.write(4096, data[:60000])
    assert a.pair.execute(WRITE, a.memory, 4096, a.theirs, offset, length) == SUCCESS
    assert b.memory.read(offset - 1, length + 2) == b"\0" + data + b"\0"
    a.memory.write(4096, bytes(length))
    assert a.pair.execute(READ, a.memory, 4096, a.theirs, offset, length) == SUCCESS
    assert a.memory.read(4095, length + 2) == b"\0" + data + b"\0"


def test_a_long_write_takes_few_steps(ends):
    a, _ = ends
    a.pair.post(WRITE, a.memory, 0, a.theirs, 64, 65000)
    assert steps_until_complete(a.pair) < 100


def test_no_request_proceeds_without_a_poll(ends):
    a, b = ends
    a.memory.write(1024, b"hello")
    for _ in range(50):
        a.pair.post(WRITE, a.memory, 1024, a.theirs, 1024, 5, flags=0)
    assert b.memory.read(1024, 5) == bytes(5)


def test_a_notify_wakes_the_peer_only_when_all_of_its_write_has_landed(ends):
    a, b = ends
    a.memory.write(1024, b"".join(LINES[1:9]))
    armed = b.channel.prepare_wait()
    a.pair.post(WRITE_NOTIFY, a.memory, 1024, a.theirs, 1024, 8 * 64)
    for _ in range(STEPS):
        landed = lines_of(b.memory, 1024, 8).count(0) == 0
        woken = b.channel.wait(armed, 0.0)
        assert landed or not woken
        if woken:
            break
        armed = b.channel.prepare_wait()
        a.pair.poll()
    else:
        raise AssertionError("never woken")


def test_a_short_write_may_reuse_its_memory_at_once_and_a_long_one_not(ends):
    a, b = ends
    for length in (64, 65):
        a.memory.write(1024, b"1" * length)
        a.pair.post(WRITE, a.memory, 1024, a.theirs, 2048, length)
        a.memory.write(1024, b"2" * length)
        steps_until_complete(a.pair)
        assert b.memory.read(2048, length) == (b"1" if length == 64 else b"2") * length


def test_no_request_overtakes_a_write(ends):
    a, _ = ends
    for each in range(1, 40):
        a.memory.write(1024, struct.pack("<Q", each))
        a.pair.post(WRITE, a.memory, 1024, a.theirs, 1024, 8, flags=0)
        a.pair.post(READ, a.memory, 2048 + 8 * each, a.theirs, 1024, 8)
        steps_until_complete(a.pair)
        assert a.memory.read(2048 + 8 * each, 8) == struct.pack("<Q", each)


def test_reads_and_atomics_keep_their_order(ends):
    a, _ = ends
    for each in range(30):
        a.pair.post(FETCH_ADD, a.memory, 2048 + 16 * each, a.theirs, 1024, 8, operand=1)
        a.pair.post(READ, a.memory, 2056 + 16 * each, a.theirs, 1024, 8)
    for _ in range(60):
        steps_until_complete(a.pair)
    assert struct.unpack("<60Q", a.memory.read(2048, 480)) == tuple(
        n for each in range(30) for n in (each, each + 1)
    )


def test_a_write_may_overtake_a_read():
    overtaken = 0
    for seed in range(20):
        with connected(ReorderFabric(seed=seed), ShmFabric()) as (a, _):
            a.memory.write(1024, LINES[1] * 4)
            a.pair.post(READ, a.memory, 2048, a.theirs, 1024, 256)
            a.pair.post(WRITE, a.memory, 1024, a.theirs, 1024, 64)
            steps_until_complete(a.pair)
            overtaken += a.memory.read(2048, 256).count(1) > 0
    assert 0 < overtaken < 20


def test_completions_are_delayed_and_in_the_order_of_posting(ends):
    a, _ = ends
    posted = [
        (0, READ, 1024, SUCCESS),
        (1, WRITE, 2**64 - 1, BOUNDS),
        (2, 99, 0, RIGHTS),
        (3, FETCH_ADD, 64, SUCCESS),
        (4, WRITE, 1024, SUCCESS),
    ]
    for each, opcode, offset, _ in posted:
        a.pair.post(opcode, a.memory, 1024, a.theirs, offset, 8, id=each)
    done, steps = [], 0
    while len(done) < len(posted):
        done += a.pair.poll(8)
        steps += 1
        assert steps < STEPS
    assert done == [(each, opcode, status) for each, opcode, _, status in posted]
    assert steps > 3


def test_an_unsignaled_request_completes_only_when_it_fails(ends):
    a, _ = ends
    a.pair.post(WRITE, a.memory, 1024, a.theirs, 1024, 8, id=1, flags=0)
    a.pair.post(WRITE, a.memory, 1024, a.theirs, 2**63, 8, id=2, flags=0)
    for _ in range(STEPS):
        done = a.pair.poll(2)
        if done:
            break
    assert done == [(2, WRITE, BOUNDS)]


def test_the_same_seed_gives_the_same_run():
    def run(seed: int) -> list[object]:
        with connected(ReorderFabric(seed=seed), ReorderFabric(seed=seed)) as (a, b):
            seen: list[object] = []
            for each in range(20):
                a.pair.post(
                    (READ, WRITE)[each % 2],
                    a.memory,
                    1024,
                    a.theirs,
                    1024 + 64 * each,
                    300,
                    id=each,
                )
            for step in range(1000):
                b.memory.write(1024, bytes([step % 256]) * 2048)
                seen.append((a.pair.poll(3), a.memory.read(1024, 300)))
            return seen

    assert run(5) == run(5)
    assert run(5) != run(6)


def test_a_held_connection_makes_no_progress_for_the_given_steps(ends):
    a, b = ends
    a.memory.write(1024, b"hello")
    a.pair.hold(500)
    a.pair.post(WRITE, a.memory, 1024, a.theirs, 1024, 5)
    for _ in range(500):
        assert a.pair.poll() == []
    assert b.memory.read(1024, 5) == bytes(5)
    steps_until_complete(a.pair)
    assert b.memory.read(1024, 5) == b"hello"


def test_a_hold_can_be_ended():
    fabric = ReorderFabric(seed=1)
    with connected(fabric, ShmFabric()) as (a, _):
        fabric.hold(2**32 - 1)
        a.pair.post(READ, a.memory, 1024, a.theirs, 1024, 8)
        assert not any(a.pair.poll() for _ in range(100))
        fabric.hold(0)
        steps_until_complete(a.pair)


def test_a_dropped_peer_is_dead_its_requests_in_flight_are_lost_and_the_rest_is_flushed(ends):
    a, b = ends
    a.memory.write(1024, b"".join(LINES[1:9]))
    a.pair.post(WRITE, a.memory, 1024, a.theirs, 1024, 8 * 64, id=1, flags=0)
    a.pair.post(READ, a.memory, 2048, a.theirs, 1024, 8, id=2)
    while 0 in (before := lines_of(b.memory, 1024, 8)) and before.count(0) > 4:
        a.pair.poll()
    assert a.pair.alive()
    a.pair.drop_peer()
    assert not a.pair.alive()
    assert a.pair.post(READ, a.memory, 2048, a.theirs, 1024, 8, id=3) == 1
    assert a.pair.poll(8) == [(1, WRITE, PEER_GONE), (2, READ, PEER_GONE), (3, READ, FLUSHED)]
    assert lines_of(b.memory, 1024, 8) == before  # half done, and it remains so
    assert b.pair.alive()  # its own end was not dropped


def test_a_fabric_drops_all_its_peers():
    fabric = ReorderFabric(seed=1)
    with connected(fabric, ShmFabric()) as (a, _), connected(fabric, fabric) as (c, d):
        fabric.drop_peers()
        assert [end.pair.alive() for end in (a, c, d)] == [False] * 3


def test_a_drop_takes_precedence_over_a_hold(ends):
    a, _ = ends
    a.pair.post(READ, a.memory, 1024, a.theirs, 1024, 8)
    a.pair.hold(1000)
    a.pair.drop_peer()
    assert a.pair.poll(1) == [(0, READ, PEER_GONE)]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_process_dies_at_the_chosen_request_with_any_subset_of_its_lines_copied():
    moved = set()
    for seed in range(30):
        fabric = ShmFabric()
        with (
            fabric.register(PAGE, REMOTE_WRITE) as memory,
            fabric.event_channel(memory, 0) as channel,
            fabric.queue_pair(channel, -1, -1) as pair,
        ):
            peer, descriptor, fd = pair.descriptor(), memory.descriptor(), os.dup(memory.fileno())
            pid = os.fork()
            if pid == 0:
                with contextlib.suppress(BaseException):
                    write_and_die(peer, descriptor, fd, seed)
                os._exit(1)
            os.close(fd)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
            assert memory.read(512, 64) == LINES[1]
            moved.add(sum(line == 2 for line in lines_of(memory, 1024, 4)))
            assert memory.read(2048, 64) == LINES[0]
    assert moved == set(range(5))


def write_and_die(peer, descriptor, fd, seed):
    fabric = ReorderFabric(seed=seed)
    with fabric.attach(descriptor, fd) as theirs, fabric.register(PAGE, REMOTE_WRITE) as mine:
        pair = fabric.queue_pair(fabric.event_channel(mine, 0), -1, -1)
        pair.connect(peer, theirs)
        fabric.die(2)
        for line, (at, n) in enumerate([(512, 1), (1024, 4), (2048, 1)], start=1):
            mine.write(64, LINES[line] * n)
            pair.execute(WRITE, mine, 64, theirs, at, 64 * n)


def test_liveness_is_otherwise_that_of_the_operating_system():
    ours, theirs = socket.socketpair()
    fabric = ReorderFabric(seed=1)
    with (
        ours,
        theirs,
        connected(fabric, fabric) as (a, b),
        fabric.queue_pair(a.channel, -1, ours.fileno()) as pair,
    ):
        pair.connect(b.pair.descriptor(), a.theirs)
        assert pair.alive()
        theirs.close()
        assert not pair.alive()


def test_a_closed_pair_flushes_its_requests_in_flight(ends):
    a, b = ends
    a.memory.write(1024, b"hello")
    a.pair.post(WRITE, a.memory, 1024, a.theirs, 1024, 5, id=1)
    a.pair.close()
    a.pair.close()
    assert a.pair.poll(4) == [(1, WRITE, FLUSHED)]
    assert b.memory.read(1024, 5) == bytes(5)


def test_a_pair_that_is_deleted_with_requests_in_flight_leaks_nothing():
    for _ in range(20):
        with connected(ReorderFabric(seed=1), ShmFabric()) as (a, _):
            for _ in range(100):
                a.pair.post(READ, a.memory, 0, a.theirs, 0, 8 * PAGE)


def test_a_full_queue_takes_no_request_until_one_is_complete(ends):
    a, _ = ends
    taken = 0
    while a.pair.post(READ, a.memory, 1024, a.theirs, 1024, 8):
        taken += 1
    assert taken == a.pair.depth
    steps_until_complete(a.pair)
    assert a.pair.post(READ, a.memory, 1024, a.theirs, 1024, 8) == 1


def test_memory_closed_while_a_request_is_in_flight_is_out_of_bounds(ends):
    a, _ = ends
    a.pair.post(READ, a.memory, 1024, a.theirs, 1024, 4096)
    a.memory.close()
    for _ in range(STEPS):
        done = a.pair.poll()
        if done:
            break
    assert done == [(0, READ, BOUNDS)]


def test_code_that_relies_on_the_order_of_a_read_fails():
    # The message is published, first word last, while a READ of it is in flight.
    # On shm the first word proves the rest.
    torn = 0
    for seed in range(40):
        with connected(ReorderFabric(seed=seed), ShmFabric()) as (a, b):
            a.pair.post(READ, a.memory, 1024, a.theirs, 1024, 256)
            for step in range(STEPS):
                if step == 5:
                    b.memory.write(1032, b"1" * 248)
                    b.memory.write(1024, b"1" * 8)
                if a.pair.poll():
                    break
            copy = a.memory.read(1024, 256)
            torn += copy[:8] == b"1" * 8 and copy != b"1" * 256
    assert torn > 0


def test_no_wake_up_is_lost():
    with connected(ReorderFabric(seed=1), ShmFabric()) as (a, b):

        def play(rounds: int) -> int:
            b.memory.write(128, bytes(128))
            lost, _ = at_once(
                lambda: litmus.sleeper(b.channel, b.memory, 128, rounds, step=10.0),
                lambda: litmus.waker(a.pair, a.memory, a.theirs, 128, rounds),
            )
            return lost

        assert in_parts(5000, play) == 0
