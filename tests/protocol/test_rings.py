"""Both ends of a ring, a step at a time, against a plain-Python model."""

from __future__ import annotations

import random
import struct
from collections import Counter, deque
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rfp.testing import ring_harness as steps

from .rings import BY_REFERENCE, INLINE, POLLS, Ends, answer, call, connected, result, settle, taken

SLOT = 512
F = [64, 128, 192, 256, 448, SLOT]

provider = pytest.mark.parametrize("provider", ["shm", "emulated", "reorder"])


class Ring(RuleBasedStateMachine):
    """A model: the submitted requests in order, their responses, and the abandoned requests."""

    provider = "shm"

    def __init__(self) -> None:
        super().__init__()
        self.opened: Any = None

    @initialize(
        seed=st.integers(0, 2**16),
        slots=st.integers(1, 9),
        sequence=st.sampled_from([1, 1000, 2**31 - 2, 2**32 - 9, 2**32 - 2, 2**32 - 1]),
        fetch=st.sampled_from(F),
        checked=st.booleans(),
    )
    def open(self, seed, slots, sequence, fetch, checked):
        self.opened = connected(
            self.provider, slots=slots, slot_size=SLOT, seed=seed, checked=True if checked else None
        )
        self.ends = self.opened.__enter__()
        self.rng = random.Random(seed)
        self.slots = slots
        self.sequence = sequence
        steps.begin(
            self.ends.client, self.ends.server, sequence=sequence, fetch=fetch, fixed_fetch=True
        )
        self.unsent: deque[dict] = deque()
        self.sent: deque[dict] = deque()  # not answered
        self.answered: deque[dict] = deque()
        self.pins = 0  # the last pin that was made
        self.owed: Counter[int] = Counter()  # pins to be given back with later requests

    def teardown(self):
        if self.opened is not None:
            self.opened.__exit__(None, None, None)

    def count(self) -> int:
        return len(self.unsent) + len(self.sent) + len(self.answered)

    @rule(
        size=st.one_of(st.sampled_from([0, 1, SLOT - 32]), st.integers(0, SLOT - 32)),
        flags=st.integers(0, 2**32 - 1),
    )
    def submit(self, size, flags):
        payload = self.rng.randbytes(size)
        tag = self.rng.getrandbits(64)
        sequence = steps.submit(self.ends.client, payload, count=size & 7, flags=flags, tag=tag)
        if sequence is None:
            # Before it reports that it is full, it checks whether abandoned requests were answered.
            assert self.count() == self.slots
            assert not (self.answered and self.answered[0]["abandoned"])
            return
        assert sequence == self.sequence
        self.sequence = self.sequence % (2**32 - 1) + 1
        self.unsent.append(
            {
                "payload": payload,
                "sequence": sequence,
                "tag": tag,
                "flags": flags,
                "count": size & 7,
                "abandoned": False,
            }
        )

    @precondition(lambda self: self.unsent)
    @rule()
    def flush(self):
        steps.flush(self.ends.client)
        self.sent += self.unsent
        self.unsent.clear()

    @precondition(lambda self: self.sent)
    @rule(
        size=st.one_of(st.sampled_from([0, 1, 40, 41, 104, SLOT - 24]), st.integers(0, SLOT - 24)),
        status=st.integers(0, 255),
        number=st.integers(0, 2**64 - 1),
        ns=st.integers(0, 10**7),
        reference=st.booleans(),
    )
    def serve(self, size, status, number, ns, reference):
        request = taken(self.ends)
        asked = self.sent.popleft()
        assert request is not None
        assert (request.payload, request.flags, request.count) == (
            asked["payload"],
            asked["flags"],
            asked["count"],
        )
        assert request.opcode == 1
        if request.release:
            assert self.owed[request.release] > 0, "a pin was given back that was still in use"
            self.owed[request.release] -= 1
        if reference:
            self.pins += 1
            answered = struct.pack("<QQQQ", 0, 4096, self.pins, 10**9)
        else:
            answered = self.rng.randbytes(size)
        kind = BY_REFERENCE if reference else INLINE
        assert steps.publish(
            self.ends.server, answered, status=status, kind=kind, result=number, ns=ns
        )
        steps.notify(self.ends.server)
        settle(self.ends)
        time = min(65535, (ns + 50) // 100)
        asked["answer"] = (asked["sequence"], status, kind, time, number, answered)
        asked["pin"] = self.pins if reference else 0
        self.answered.append(asked)
        if asked["abandoned"]:
            self.owed[asked["pin"]] += 1

    @rule()
    def poll(self):
        """A client polls: it gets the oldest awaited response, and none before it is there."""
        self.drop_abandoned()
        if all(each["abandoned"] for each in self.answered):
            for _ in range(20):
                assert steps.step(self.ends.client) == "not yet"
            return
        for _ in range(POLLS):
            found = steps.step(self.ends.client)
            if found == "done":
                break
            assert found == "not yet"
        assert found == "done"
        self.drop_abandoned()
        asked = self.answered.popleft()
        assert steps.tag(self.ends.client) == asked["tag"]
        assert steps.result(self.ends.client) == asked["answer"]
        steps.pop(self.ends.client)

    def drop_abandoned(self):
        """Drop slots that the ring has freed, since their requests were abandoned."""
        for _ in range(steps.room(self.ends.client) - (self.slots - self.count())):
            assert self.answered.popleft()["abandoned"]

    @precondition(lambda self: self.opened)
    @rule()
    def abandon(self):
        steps.abandon(self.ends.client)
        for queue in (self.unsent, self.sent, self.answered):
            for each in queue:
                if queue is self.answered and not each["abandoned"]:
                    self.owed[each["pin"]] += 1  # the pin of its response is given back
                each["abandoned"] = True

    @rule()
    def release(self):
        self.pins += 1
        self.owed[self.pins] += 1
        steps.release(self.ends.client, self.pins)

    @rule(mode=st.sampled_from(["fetch", "reply"]))
    def change_mode(self, mode):
        steps.begin(self.ends.client, mode=mode)

    @rule(fetch=st.sampled_from(F))
    def change_fetch(self, fetch):
        steps.begin(self.ends.client, fetch=fetch)

    @invariant()
    def only_requests_are_answered(self):
        if self.opened is not None:
            found, _ = steps.take(self.ends.server)
            assert found != "length"
            if not self.sent:
                assert found == "none"

    @invariant()
    def the_window_is_the_unpopped_requests(self):
        if self.opened is not None:
            self.drop_abandoned()
            assert steps.room(self.ends.client) == self.slots - self.count()


class ReorderedRing(Ring):
    provider = "reorder"


class EmulatedRing(Ring):
    provider = "emulated"


TestRing = Ring.TestCase
TestReorderedRing = ReorderedRing.TestCase
TestEmulatedRing = EmulatedRing.TestCase
for case in (TestRing, TestReorderedRing, TestEmulatedRing):
    case.settings = settings(stateful_step_count=60)
del case


@provider
@pytest.mark.parametrize("fetch", [64, 256, SLOT])
def test_payloads_of_every_size_are_returned_whole(provider, fetch, rng):
    with connected(provider, slots=3, slot_size=SLOT) as ends:
        steps.begin(ends.client, fetch=fetch, fixed_fetch=True)
        for size in [*range(0, 130, 3), *range(130, SLOT - 32, 37), SLOT - 32]:
            asked, answered = rng.randbytes(size), rng.randbytes(size)
            assert call(ends, asked, answered).payload == answered
        longest = rng.randbytes(ends.largest_response)
        assert call(ends, b"", longest).payload == longest


def test_a_second_read_is_posted_only_for_a_response_longer_than_the_first_one():
    with connected("shm", slot_size=SLOT) as ends:
        steps.begin(ends.client, fetch=128, fixed_fetch=True)
        for size, rests in ((0, 0), (104, 0), (105, 1), (SLOT - 24, 1)):
            before = ends.client.counters
            call(ends, b"", bytes(size))
            after = ends.client.counters
            assert after["tail_reads"] - before["tail_reads"] == rests
            assert after["writes"] - before["writes"] == 1


@provider
def test_sequences_wrap_around_without_ever_being_zero(provider):
    with connected(provider, slots=5) as ends:
        steps.begin(ends.client, ends.server, sequence=2**32 - 7)
        seen = []
        for i in range(20):
            while steps.room(ends.client):
                steps.submit(ends.client, bytes([i]))
            steps.flush(ends.client)
            answer(ends, b"")
            seen.append(result(ends).sequence)
        assert seen == [*range(2**32 - 7, 2**32), *range(1, 14)]


@provider
def test_a_full_window_takes_no_request_until_a_response_was_popped(provider):
    with connected(provider, slots=4) as ends:
        for _ in range(4):
            assert steps.submit(ends.client, b"x")
        assert steps.submit(ends.client, b"y") is None
        steps.flush(ends.client)
        assert steps.submit(ends.client, b"y") is None
        answer(ends, b"")
        assert steps.submit(ends.client, b"y") is None  # there, but not yet taken
        result(ends)
        assert steps.submit(ends.client, b"y") == 5


@provider
def test_slots_of_abandoned_requests_are_free_again_once_answered(provider):
    with connected(provider, slots=4) as ends:
        for _ in range(4):
            steps.submit(ends.client, b"x")
        steps.flush(ends.client)
        steps.abandon(ends.client)
        assert steps.submit(ends.client, b"y") is None
        for _ in range(4):
            answer(ends, b"late")
        assert steps.submit(ends.client, b"y") == 5
        steps.flush(ends.client)
        assert answer(ends, b"z").payload == b"y"
        assert result(ends)[::5] == (5, b"z")


@provider
def test_the_pin_of_an_abandoned_response_is_given_back(provider):
    with connected(provider, slots=4) as ends:
        for pin in (7, 8):
            steps.submit(ends.client, b"x")
            steps.flush(ends.client)
            answer(ends, struct.pack("<QQQQ", 0, 100, pin, 10**9), kind=BY_REFERENCE)
        steps.abandon(ends.client)
        steps.submit(ends.client, b"y")
        steps.flush(ends.client)
        answer(ends, b"")
        result(ends)
        released = []
        for _ in range(3):
            steps.submit(ends.client, b"y")
            steps.flush(ends.client)
            released.append(answer(ends, b"").release)
            result(ends)
        assert sorted(released) == [0, 7, 8]


@pytest.mark.parametrize("provider", ["emulated", "reorder"])
@pytest.mark.parametrize(("before", "after"), [(64, SLOT), (SLOT, 64), (128, 320)])
def test_f_may_change_while_a_read_is_in_flight(provider, before, after, rng):
    """The data of a READ is checked by its own length.

    The earlier contents of the response buffer must not pass for it.
    """
    with connected(provider, slots=4, slot_size=SLOT) as ends:
        steps.begin(ends.client, fetch=SLOT, fixed_fetch=True)
        for _ in range(4):
            call(ends, b"", b"old" * 160)
        for _ in range(10):
            steps.begin(ends.client, fetch=before)
            answers = [rng.randbytes(400) for _ in range(2)]
            for _ in answers:
                steps.submit(ends.client, b"")
            steps.flush(ends.client)
            for each in answers:
                answer(ends, each)
            steps.step(ends.client)
            steps.begin(ends.client, fetch=after)
            assert [result(ends).payload for _ in answers] == answers


@pytest.mark.parametrize("provider", ["emulated", "reorder"])
def test_a_full_send_queue_delays_requests_and_loses_none(provider):
    """256 requests and the READs for them do not fit into a queue of 256 work requests."""
    with connected(provider, slots=256, slot_size=128) as ends:
        steps.begin(ends.client, fetch=64, fixed_fetch=True)
        for turn in range(3):
            asked = [f"{turn} {i}".encode() for i in range(256)]
            for each in asked:
                assert steps.submit(ends.client, each)
            steps.flush(ends.client)
            for each in asked:
                assert answer(ends, each * 10).payload == each
            assert [result(ends).payload for _ in asked] == [each * 10 for each in asked]


@provider
def test_a_one_sided_transfer_on_the_rings_queue_pair_completes_among_others(provider, rng):
    with connected(provider, slots=16) as ends:
        for turn in range(5):
            for _ in range(16):
                steps.submit(ends.client, b"x")
            steps.flush(ends.client)
            steps.step(ends.client)
            secret = rng.randbytes(200)
            ends.requests.write(13 * SLOT + 100, secret)
            assert (
                steps.transfer(
                    ends.client, 1, ends.reply, 192, ends.written, 13 * SLOT + 100, 200, 5.0
                )
                == "done"
            )
            assert ends.reply.read(192, 200) == secret
            for i in range(16):
                answer(ends, bytes([turn, i]))
                assert result(ends).payload == bytes([turn, i])


@provider
def test_a_transfer_outside_its_region_reports_a_lost_connection(provider):
    with connected(provider) as ends:
        end = ends.requests.length
        assert (
            steps.transfer(ends.client, 1, ends.reply, 192, ends.written, end - 8, 16, 5.0)
            == "gone"
        )
        assert steps.submit(ends.client, b"x") is None


def test_a_lost_connection_ends_all_waits():
    with connected("reorder", slots=4) as ends:
        for _ in range(3):
            steps.submit(ends.client, b"x")
        steps.flush(ends.client)
        answer(ends, b"there")
        while steps.step(ends.client) != "done":
            pass
        ends.client_pair.drop_peer()
        assert steps.result(ends.client).payload == b"there"  # a response that has arrived is kept
        steps.pop(ends.client)
        assert steps.wait(ends.client, 5.0) == "gone"
        assert steps.submit(ends.client, b"x") is None
        assert steps.transfer(ends.client, 1, ends.reply, 192, ends.written, 0, 8, 5.0) == "gone"


def torn_and_wrong(*, checked: bool, seed: int) -> tuple[int, int]:
    """Let the server publish while READs of the same slot are in flight.

    Returns:
        How many responses were torn, and how many were delivered with wrong bytes.
    """
    rng = random.Random(seed)
    wrong = 0
    with connected("reorder", slots=1, slot_size=SLOT, seed=seed) as ends:
        steps.begin(ends.client, fetch=SLOT, fixed_fetch=True, checked=checked)
        for turn in range(150):
            answered = bytes([turn % 251 + 1]) * 440
            steps.submit(ends.client, b"x")
            steps.flush(ends.client)
            while steps.take(ends.server)[0] != "valid":
                steps.step(ends.client)
            for _ in range(rng.randrange(30)):
                assert steps.step(ends.client) == "not yet"
            assert steps.publish(ends.server, answered)
            wrong += result(ends).payload != answered
        return ends.client.counters["torn"], wrong


def test_torn_responses_are_detected_and_never_delivered(seed):
    torn, wrong = torn_and_wrong(checked=True, seed=seed)
    assert torn > 0
    assert wrong == 0


def test_without_checksums_the_same_run_delivers_torn_responses(seed):
    """Without this the test above would prove nothing."""
    _, wrong = torn_and_wrong(checked=False, seed=seed)
    assert wrong > 0


@pytest.mark.parametrize("mode", ["fetch", "reply"])
@pytest.mark.parametrize("provider", ["shm", "emulated", "reorder"])
def test_the_mode_of_a_request_determines_the_path_of_its_response(provider, mode):
    with connected(provider) as ends:
        steps.begin(ends.client, mode=mode)
        before = ends.client.counters
        for i in range(10):
            assert call(ends, b"", bytes([i])).payload == bytes([i])
        after = ends.client.counters
        assert after["writes"] - before["writes"] == 10
        if mode == "reply":
            assert after["reads"] == before["reads"]
            assert ends.server.counters["replied"] == 10
        else:
            assert after["reads"] - before["reads"] >= 10
            assert ends.server.counters["replied"] == 0
        assert ends.server.counters["served"] == 10


@provider
def test_requests_in_flight_keep_their_mode_when_the_mode_changes(provider):
    with connected(provider, slots=6) as ends:
        for i in range(6):
            steps.begin(ends.client, mode="reply" if i % 2 else "fetch")
            steps.submit(ends.client, bytes([i]))
        steps.flush(ends.client)
        for i in range(6):
            assert answer(ends, bytes([i])).payload == bytes([i])
        assert [result(ends).payload for _ in range(6)] == [bytes([i]) for i in range(6)]
        assert ends.server.counters["replied"] == 3


def slow_call(ends: Ends, failed_reads: int, ns: int) -> str:
    """Do a call whose response is there after so many failed READs; return the mode after it.

    The server reports `ns` as its processing time.
    """
    steps.submit(ends.client, b"")
    steps.flush(ends.client)
    for _ in range(failed_reads):
        assert steps.step(ends.client) == "not yet"
    answer(ends, b"", ns=ns)
    result(ends)
    return steps.mode(ends.client)


@pytest.fixture
def hybrid():
    """Yield a ring that switches its mode by itself and accepts up to 6 failed READs."""
    with connected("shm") as ends:
        steps.begin(ends.client, paradigm="auto", retries=3, polls_per_round_trip=2)
        yield ends


def test_two_calls_in_a_row_with_too_many_failed_reads_switch_to_reply(hybrid):
    assert [slow_call(hybrid, failed_reads, 10_000) for failed_reads in (6, 6, 6)] == ["fetch"] * 3
    assert [slow_call(hybrid, failed_reads, 10_000) for failed_reads in (7, 6, 7, 0, 7)] == [
        "fetch"
    ] * 5
    assert slow_call(hybrid, 7, 10_000) == "reply"
    assert hybrid.client.counters["switches"] == 1


def test_two_responses_of_a_server_that_became_faster_switch_back_to_fetch(hybrid):
    assert [slow_call(hybrid, 7, 10_000) for _ in range(2)] == ["fetch", "reply"]
    assert [slow_call(hybrid, 7, ns) for ns in (10_000, 9_000, 6_000)] == ["reply"] * 3
    assert [slow_call(hybrid, 7, ns) for ns in (4_000, 4_000)] == ["reply", "fetch"]
    assert hybrid.client.counters["switches"] == 2


def test_a_server_that_stays_slow_keeps_the_client_in_reply(hybrid):
    assert [slow_call(hybrid, 7, 10_000) for _ in range(2)] == ["fetch", "reply"]
    assert {slow_call(hybrid, 0, 10_000) for _ in range(3000)} == {"reply"}


def test_a_server_that_became_slower_in_reply_mode_need_not_become_faster_than_before(hybrid):
    """The slowest time seen since the switch counts."""
    assert [slow_call(hybrid, 7, 300) for _ in range(2)] == ["fetch", "reply"]
    assert [slow_call(hybrid, 7, 5_000_000) for _ in range(2)] == ["reply", "reply"]
    assert [slow_call(hybrid, 7, 1_000) for _ in range(2)] == ["reply", "fetch"]


def test_fetch_is_tried_again_if_failed_reads_had_another_cause_than_the_server(hybrid):
    """The server reports no processing time: another process had the CPU."""
    assert [slow_call(hybrid, 7, 0) for _ in range(2)] == ["fetch", "reply"]
    modes = [slow_call(hybrid, 0, 0) for _ in range(1100)]
    assert modes[500] == "reply"
    assert modes[-1] == "fetch"


@pytest.mark.parametrize("mode", ["fetch", "reply"])
def test_a_requested_mode_is_kept(hybrid, mode):
    steps.begin(hybrid.client, paradigm=mode, mode=mode)
    assert {slow_call(hybrid, 50, 10_000_000) for _ in range(5)} == {mode}
    assert {slow_call(hybrid, 0, 0) for _ in range(1500)} == {mode}


def test_f_follows_the_sizes_of_responses():
    with connected("shm", slot_size=2112) as ends:
        steps.begin(ends.client, paradigm="auto", retries=10**6)

        def settled(size: int) -> int:
            for _ in range(8 * 1024):
                call(ends, b"", bytes(size))
            return int(ends.client.counters["fetch"])

        assert settled(10) == 64
        assert settled(300) == 384  # 324 bytes with the header, in whole lines
        assert settled(10) == 64
        steps.begin(ends.client, fixed_fetch=True, fetch=512)
        assert settled(10) == 512
