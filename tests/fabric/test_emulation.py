"""The emulated network: how long requests take, when they take effect, and how many pass a second.

Lower bounds are exact.  Upper bounds leave room for a machine that is also busy with other work.
"""

from __future__ import annotations

import struct
import time
from itertools import pairwise

import pytest
from slower import SLOWER
from time_bounds import in_some_try

from rfp.errors import InvalidArgument
from rfp.fabric.fabric import BOUNDS, FETCH_ADD, FLUSHED, READ, RIGHTS, SUCCESS, WRITE, WRITE_NOTIFY
from rfp.fabric.shm.region import ShmFabric
from rfp.testing.litmus import round_trips

from .connected_pairs import ALL, connected

MS = 1_000_000
US = 1_000


def drain(pair, n: int, seconds: float = 10.0) -> list[tuple[int, int, int]]:
    """Return the next n completions."""
    deadline = time.monotonic() + seconds
    completions: list[tuple[int, int, int]] = []
    while len(completions) < n:
        completions += pair.poll(min(64, n - len(completions)))
        assert time.monotonic() < deadline
    return completions


def seconds_for(n: int, *ends) -> float:
    """Return the time until n requests are complete, n from each end, posted as fast as they fit.

    The best of five: other work on the machine makes some tries slower, and none faster.
    """
    best = 1e9
    for _ in range(5):
        began = time.monotonic()
        posted = [0] * len(ends)
        done = 0
        while done < n * len(ends):
            for i, end in enumerate(ends):
                posted[i] += posted[i] < n and end.pair.post(
                    READ, end.memory, 128, end.theirs, 128, 8
                )
                done += len(end.pair.poll(64))
        best = min(best, time.monotonic() - began)
    return best


@pytest.mark.parametrize("opcode", [READ, WRITE, WRITE_NOTIFY, FETCH_ADD])
@pytest.mark.parametrize("rtt", [2 * US, 20 * US, 100 * US])
def test_a_request_takes_hardly_more_than_one_round_trip(opcode, rtt):
    with connected(ShmFabric(rtt_ns=rtt), ShmFabric(rtt_ns=rtt)) as (a, _):

        def check() -> None:
            took = sorted(round_trips(a.pair, a.memory, a.theirs, opcode, 128, 8, 200))
            # 100 ns, two readings of the clock, and a wide margin
            assert took[20] <= rtt + 500 * SLOWER

        assert min(round_trips(a.pair, a.memory, a.theirs, opcode, 128, 8, 200)) >= rtt
        in_some_try(check)


def test_without_emulation_a_request_takes_less_than_a_microsecond():
    with connected(ShmFabric(), ShmFabric()) as (a, _):
        assert not a.pair.emulated

        def check() -> None:
            took = sorted(round_trips(a.pair, a.memory, a.theirs, READ, 128, 8, 200))
            assert took[20] < 1 * US * SLOWER

        in_some_try(check)


def test_a_write_lands_after_half_a_round_trip_and_completes_after_the_other_half():
    rtt = 20 * MS
    with connected(ShmFabric(rtt_ns=rtt), ShmFabric()) as (a, b):

        def check() -> None:
            b.memory.write(128, b" ")
            a.memory.write(128, b"x")
            began = time.monotonic_ns()
            a.pair.post(WRITE, a.memory, 128, a.theirs, 128, 1)
            while b.memory.read(128, 1) != b"x":
                assert a.pair.poll() == []
            landed = time.monotonic_ns() - began
            drain(a.pair, 1)
            completed = time.monotonic_ns() - began
            too_early.extend(
                took for took, least in ((landed, rtt // 2), (completed, rtt)) if took < least
            )
            assert landed < rtt * 3 // 4
            assert completed < rtt * 5 // 4

        too_early: list[int] = []
        in_some_try(check)
        assert too_early == []


def test_a_read_returns_the_memory_as_it_is_half_a_round_trip_later():
    rtt = 20 * MS
    with connected(ShmFabric(rtt_ns=rtt), ShmFabric()) as (a, b):

        def check() -> None:
            began = time.monotonic_ns()
            a.pair.post(READ, a.memory, 128, a.theirs, 128, 8)
            while a.pair.poll() == []:
                b.memory.write(128, struct.pack("<Q", time.monotonic_ns() - began))
            (sampled,) = struct.unpack("<Q", a.memory.read(128, 8))
            assert rtt // 2 - MS <= sampled < rtt * 3 // 4

        in_some_try(check)


def test_the_longer_of_two_round_trips_counts_for_both_sides():
    with connected(ShmFabric(rtt_ns=20 * US), ShmFabric(rtt_ns=200 * US)) as ends:
        for end in ends:
            assert end.pair.emulated
            assert min(round_trips(end.pair, end.memory, end.theirs, READ, 128, 8, 20)) >= 200 * US


def test_a_side_without_emulation_takes_its_peers_round_trip():
    with connected(ShmFabric(rtt_ns=50 * US, in_iops=20_000), ShmFabric()) as (a, b):
        assert (a.pair.emulated, b.pair.emulated) == (True, True)
        for end in (a, b):
            assert 50 * 50e-6 <= seconds_for(51, end) < 50 * 50e-6 * 2


def test_many_requests_are_in_flight_at_once():
    with connected(ShmFabric(rtt_ns=20 * MS), ShmFabric()) as (a, _):
        assert 0.020 <= seconds_for(200, a) < 0.2  # one after the other, they would take 4 s


def test_the_target_takes_requests_in_no_faster_than_its_rate():
    with connected(ShmFabric(), ShmFabric(in_iops=10_000)) as (a, _):
        assert 200 * 100e-6 <= seconds_for(201, a) < 200 * 100e-6 * 2


def test_the_poster_sends_requests_out_no_faster_than_its_rate():
    with connected(ShmFabric(out_iops=10_000), ShmFabric(in_iops=1_000_000)) as (a, _):
        assert 200 * 100e-6 <= seconds_for(201, a) < 200 * 100e-6 * 2


def test_each_direction_of_each_side_has_its_own_rate():
    slow_out = ShmFabric(out_iops=2_000, in_iops=1_000_000)
    fast = ShmFabric(out_iops=1_000_000, in_iops=1_000_000)
    with connected(slow_out, fast) as (a, b):
        assert seconds_for(21, a) >= 20 * 500e-6
        assert seconds_for(21, b) < 20 * 500e-6  # requests to the slow-out side are not slow


def test_rates_are_accurate_to_a_few_percent():
    with connected(ShmFabric(), ShmFabric(in_iops=1_000_000)) as (a, _):
        took = []
        for _ in range(50):
            began = time.monotonic_ns()
            round_trips(a.pair, a.memory, a.theirs, READ, 128, 8, 101)
            took.append(time.monotonic_ns() - began)
        assert 100 * 1000 <= min(took) <= 100 * 1100 * SLOWER


def test_two_peers_share_the_rate_of_the_one_they_go_to():
    server = ShmFabric(in_iops=10_000)
    with (
        server.register(4096, ALL) as memory,
        server.event_channel(memory, 0) as first,
        server.event_channel(memory, 64) as second,
        connected(ShmFabric(), server, events=(memory, first)) as (a, _),
        connected(ShmFabric(), server, events=(memory, second)) as (c, _),
    ):
        assert 201 * 100e-6 <= seconds_for(101, a, c) < 201 * 100e-6 * 2


def test_requests_queued_at_one_posters_device_do_not_delay_those_of_others():
    server = ShmFabric(in_iops=100_000)
    with (
        server.register(4096, ALL) as memory,
        server.event_channel(memory, 0) as first,
        server.event_channel(memory, 64) as second,
        connected(ShmFabric(out_iops=100), server, events=(memory, first)) as (slow, _),
        connected(ShmFabric(out_iops=1e9), server, events=(memory, second)) as (fast, _),
    ):
        for _ in range(100):
            assert slow.pair.post(READ, slow.memory, 128, slow.theirs, 128, 8) == 1
        slow.pair.poll()
        assert seconds_for(10, fast) < 0.1  # the 100 requests of the slow one take a second
        assert len(slow.pair.poll(64)) < 50


def test_invalid_state_in_the_engine_that_peers_share_delays_no_request_for_long():
    with connected(ShmFabric(), ShmFabric(in_iops=1_000_000)) as (a, b):
        b.memory.write(8, struct.pack("<Q", 2**64 - 1))
        assert seconds_for(10, a) < 1.0


def test_a_short_write_may_reuse_its_memory_at_once_and_a_long_one_not():
    with connected(ShmFabric(rtt_ns=2 * MS), ShmFabric()) as (a, b):
        for length in (a.pair.max_inline, a.pair.max_inline + 1):
            a.memory.write(1024, b"1" * length)
            a.pair.post(WRITE, a.memory, 1024, a.theirs, 1024, length)
            a.memory.write(1024, b"2" * length)
            drain(a.pair, 1)
            assert (
                b.memory.read(1024, length)
                == (b"1" if length == a.pair.max_inline else b"2") * length
            )


def test_a_full_queue_takes_no_request_until_one_is_complete():
    with connected(ShmFabric(rtt_ns=50 * MS), ShmFabric()) as (a, _):
        taken = 0
        while a.pair.post(READ, a.memory, 128, a.theirs, 128, 8, id=taken):
            taken += 1
        assert taken == a.pair.depth
        assert [each for each, _, _ in drain(a.pair, 1)] == [0]
        assert a.pair.post(READ, a.memory, 128, a.theirs, 128, 8, id=taken) == 1
        assert [each for each, _, _ in drain(a.pair, taken)] == list(range(1, taken + 1))


def test_unsignaled_requests_free_their_slots_without_a_poll():
    with connected(ShmFabric(rtt_ns=1 * MS), ShmFabric()) as (a, b):
        deadline = time.monotonic() + 10
        posted = 0
        while posted < 2 * a.pair.depth:
            posted += a.pair.post(FETCH_ADD, a.memory, 128, a.theirs, 128, 8, operand=1, flags=0)
            assert time.monotonic() < deadline
        while not a.pair.post(READ, a.memory, 128, a.theirs, 128, 8, id=7):
            assert time.monotonic() < deadline
        assert drain(a.pair, 1) == [(7, READ, SUCCESS)]
        assert b.memory.read(128, 8) == struct.pack("<Q", posted)


def test_a_refused_request_completes_in_the_order_of_posting():
    with connected(ShmFabric(rtt_ns=1 * MS), ShmFabric()) as (a, _):
        for each, (opcode, offset) in enumerate(
            [(READ, 128), (READ, 2**64 - 1), (99, 0), (WRITE, 128)]
        ):
            a.pair.post(opcode, a.memory, 128, a.theirs, offset, 8, id=each)
        assert drain(a.pair, 4) == [
            (0, READ, SUCCESS),
            (1, READ, BOUNDS),
            (2, 99, RIGHTS),
            (3, WRITE, SUCCESS),
        ]


def test_memory_closed_while_a_request_is_in_flight_is_out_of_bounds():
    with connected(ShmFabric(rtt_ns=2 * MS), ShmFabric()) as (a, _):
        a.pair.post(READ, a.memory, 128, a.theirs, 128, 8)
        a.memory.close()
        assert drain(a.pair, 1) == [(0, READ, BOUNDS)]


def test_a_pair_that_closes_flushes_its_requests_in_flight_and_none_of_them_lands():
    with connected(ShmFabric(rtt_ns=1 * MS), ShmFabric()) as (a, b):
        a.memory.write(128, b"hello")
        a.pair.post(WRITE, a.memory, 128, a.theirs, 128, 5, flags=0, id=3)
        a.pair.post(READ, a.memory, 192, a.theirs, 128, 5, id=4)
        a.pair.close()
        assert a.pair.poll(3) == [(3, WRITE, FLUSHED), (4, READ, FLUSHED)]
        time.sleep(0.003)
        assert a.pair.poll(1) == []
        assert b.memory.read(128, 5) == bytes(5)


def test_a_notify_wakes_the_peer_when_it_lands_and_not_before():
    with connected(ShmFabric(rtt_ns=20 * MS), ShmFabric()) as (a, b):
        armed = b.channel.prepare_wait()
        a.pair.post(WRITE_NOTIFY, a.memory, 128, a.theirs, 128, 8)
        assert not b.channel.wait(armed, 0.0)
        armed = b.channel.prepare_wait()
        drain(a.pair, 1)
        assert b.channel.wait(armed, 10.0)


def test_requests_take_effect_in_the_order_of_posting():
    with connected(ShmFabric(rtt_ns=1 * MS, in_iops=1e6), ShmFabric()) as (a, _):
        for each in range(1, 50):
            a.memory.write(128, struct.pack("<Q", each))
            a.pair.post(WRITE, a.memory, 128, a.theirs, 128, 8, flags=0)
            a.pair.post(READ, a.memory, 128 + 8 * each, a.theirs, 128, 8)
        drain(a.pair, 49)
        seen = struct.unpack("<49Q", a.memory.read(136, 49 * 8))
        assert seen == tuple(range(1, 50))
        assert all(second > first for first, second in pairwise(seen))


@pytest.mark.parametrize(
    "figures",
    [
        {"rtt_ns": -1},
        {"rtt_ns": 10**9 + 1},
        {"in_iops": -1},
        {"in_iops": 0.5},
        {"out_iops": 2e9},
        {"out_iops": float("nan")},
    ],
)
def test_invalid_figures_are_refused(figures):
    with pytest.raises(InvalidArgument):
        ShmFabric(**figures)


def test_a_queue_pair_states_whether_it_is_emulated():
    assert not ShmFabric().emulated
    assert not ShmFabric(rtt_ns=0, in_iops=0, out_iops=0).emulated
    for figures in ({"rtt_ns": 1}, {"in_iops": 1e9}, {"out_iops": 1}):
        assert ShmFabric(**figures).emulated
