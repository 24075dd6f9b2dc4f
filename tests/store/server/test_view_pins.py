"""Pins of views: the memory that they keep, their end, and their quotas."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)

from rfp.errors import InvalidArgument
from rfp.testing.partition_harness import Memory, ViewTable

from .requests import (
    BAD_REQUEST,
    INLINE,
    MS,
    NOT_FOUND,
    OK,
    OUT_OF_MEMORY,
    QUOTA,
    REFERENCE,
    SECOND,
    TOO_LARGE,
    UNSUPPORTED,
    VIEW_MIN,
    Client,
    Viewed,
    partition,
    reference,
    viewed,
)

SIZE = 4 << 20
OUTSIDE = 592  # bytes of a partition that are neither arena nor index
PASS = 200 * MS  # after this time every pin without a view has been dropped
VALUE = bytes(range(256)) * 400


class Process:
    """A client process: its table and a session."""

    def __init__(self, store, peer: int) -> None:
        self.store = store
        self.peer = peer
        self.table = ViewTable()
        store.open_views(peer, self.table, 0)
        self.client = Client(store, capacity=4096, staging=256 << 10, peer=peer)

    def view(self, key: bytes) -> Viewed:
        """Return a view that is held."""
        answer = viewed(self.client.view(key))
        assert self.table.hold(answer.pin, answer.generation)
        return answer

    def end(self) -> None:
        """Let the process end, and the server notice it."""
        self.client.close()
        self.store.end_views(self.peer)


class Clock:
    """Runs the partition's tick, at times that only grow."""

    def __init__(self, store) -> None:
        self.session = Client(store)
        self.now = SECOND
        self.session.tick(self.now)

    def pass_by(self, ns: int = PASS) -> None:
        """Let time go on in steps, and work be done."""
        for _ in range(4):
            self.now += ns // 4
            while self.session.tick(self.now):
                self.now += MS


@pytest.fixture
def store():
    return partition(SIZE)


@pytest.fixture
def clock(store):
    return Clock(store)


@pytest.fixture
def process(store):
    return Process(store, 1)


def used(store) -> int:
    """Return the bytes of the arena in use."""
    return store.stats()["bytes_used"] - store.stats()["index_bytes"] - OUTSIDE


def content(store, view: Viewed) -> bytes:
    return store.region.read(view.offset, view.length)


def test_a_view_is_answered_by_the_place_of_the_value(store, process) -> None:
    version = process.client.put(b"k", VALUE).result
    answer = process.client.view(b"k")
    assert (answer.kind, answer.result) == (16, version)
    assert content(store, viewed(answer)) == VALUE
    stats = store.stats()
    assert stats["views"] == 1
    assert len(VALUE) <= stats["view_bytes"] <= len(VALUE) + 100
    store.check()


def test_a_short_value_is_answered_as_by_get(store, process) -> None:
    process.client.put(b"short", b"v")
    process.client.upload(b"long", bytes(VIEW_MIN - 1))
    assert process.client.view(b"short")[1::2] == (INLINE, b"v")
    assert process.client.view(b"long").kind == REFERENCE
    assert process.client.view(b"nobody").status == NOT_FOUND
    assert store.stats()["views"] == 0
    store.check()


def test_a_view_needs_a_table_and_room_in_the_response(store, process) -> None:
    process.client.put(b"k", VALUE)
    assert Client(store, peer=2).view(b"k").status == UNSUPPORTED
    assert Client(store).view(b"k").status == UNSUPPORTED
    assert process.client.view(b"k", capacity=31).status == TOO_LARGE
    assert process.client.request(40, b"").status == BAD_REQUEST
    assert process.client.request(40, b"k", flags=1).status == UNSUPPORTED
    assert store.stats()["views"] == 0


def test_a_table_must_be_long_enough_and_the_only_one(store) -> None:
    with pytest.raises(InvalidArgument):
        store.open_views(1, Memory(4096), 0)
    with pytest.raises(InvalidArgument):
        store.open_views(0, ViewTable(), 0)
    with pytest.raises(InvalidArgument):
        store.open_views(1, ViewTable(), 1)
    store.open_views(1, ViewTable(), 0)
    with pytest.raises(InvalidArgument):
        store.open_views(1, ViewTable(), 0)


@pytest.mark.parametrize("how", ["delete", "replace", "expire", "evict"])
def test_a_view_outlives_its_key(store, clock, process, how) -> None:
    client = process.client
    client.upload(b"k", VALUE, ttl=50)
    view = process.view(b"k")
    if how == "delete":
        client.delete(b"k")
    elif how == "replace":
        client.put(b"k", b"")
        client.delete(b"k")
    elif how == "expire":
        clock.pass_by()
    else:
        for i in range(100):
            client.upload(b"%d" % i, bytes(90_000))
        client.delete(b"k")
        for i in range(100):
            client.delete(b"%d" % i)
    assert client.view(b"k").status == NOT_FOUND
    for i in range(60):
        client.upload(b"other%d" % i, bytes(90_000))
    assert content(store, view) == VALUE
    for i in range(60):
        client.delete(b"other%d" % i)
    clock.pass_by()
    assert store.stats()["views"] == 1
    process.table.drop(view.pin)
    clock.pass_by()
    store.check()
    assert used(store) == 0
    assert store.stats()["views"] == store.stats()["view_bytes"] == 0


def test_all_views_of_a_record_in_a_process_share_one_pin(store, clock, process) -> None:
    process.client.put(b"k", VALUE)
    views = [process.view(b"k") for _ in range(3)]
    second = Client(store, peer=1)
    views.append(viewed(second.view(b"k")))
    assert len(set(views)) == 1
    process.client.delete(b"k")
    for view in views[:2]:
        process.table.drop(view.pin)
        clock.pass_by()
    assert content(store, views[0]) == VALUE
    process.table.drop(views[2].pin)
    clock.pass_by()
    assert used(store) == 0
    store.check()


def test_two_processes_pin_a_record_each_and_its_bytes_count_once(store, clock, process) -> None:
    other = Process(store, 2)
    process.client.put(b"k", VALUE)
    mine, theirs = process.view(b"k"), other.view(b"k")
    assert mine[:3] == theirs[:3]
    assert store.stats()["views"] == 2
    assert store.stats()["view_bytes"] < 2 * len(VALUE)
    process.client.delete(b"k")
    process.table.drop(mine.pin)
    clock.pass_by()
    store.check()
    assert content(store, theirs) == VALUE
    assert store.stats()["view_bytes"] > len(VALUE)
    other.table.drop(theirs.pin)
    clock.pass_by()
    assert store.stats()["view_bytes"] == used(store) == 0
    store.check()


def test_a_grant_that_nobody_holds_ends_after_a_second(store, clock, process) -> None:
    process.client.put(b"k", VALUE)
    view = viewed(process.client.view(b"k"))
    clock.pass_by()
    assert store.stats()["views"] == 1
    clock.pass_by(2 * SECOND)
    assert store.stats()["views"] == 0
    assert not process.table.hold(view.pin, view.generation)
    again = process.view(b"k")
    assert again.pin == view.pin
    assert again.generation != view.generation
    store.check()


def test_a_pin_that_is_held_again_in_time_stays(store, clock, process) -> None:
    process.client.put(b"k", VALUE)
    view = process.view(b"k")
    process.table.drop(view.pin)
    assert process.table.hold(view.pin, view.generation)
    clock.pass_by(2 * SECOND)
    assert store.stats()["views"] == 1
    process.table.drop(view.pin)
    clock.pass_by()
    assert not process.table.hold(view.pin, view.generation)
    store.check()


def test_the_end_of_a_session_keeps_views_and_the_end_of_the_process_ends_them(
    store, clock, process
) -> None:
    process.client.put(b"k", VALUE)
    view = process.view(b"k")
    process.client.delete(b"k")
    process.client.close()
    clock.pass_by(2 * SECOND)
    assert content(store, view) == VALUE
    store.end_views(1)
    assert not store.views_ended(1)
    clock.pass_by(MS)
    assert store.views_ended(1)
    assert used(store) == 0
    store.check()
    again = Process(store, 1)
    again.client.put(b"k", VALUE)
    again.view(b"k")
    store.check()


def test_a_process_that_ends_before_its_first_view_is_forgotten(store, clock, process) -> None:
    process.end()
    clock.pass_by(MS)
    assert store.views_ended(1)


def test_views_keep_at_most_a_quarter_of_the_memory(store, clock, process) -> None:
    client = process.client
    keys = [b"%d" % i for i in range(30)]
    for key in keys:
        client.upload(key, VALUE)
    held = []
    for key in keys:
        if client.view(key).status == QUOTA:
            break
        held.append(process.view(key))
    assert len(held) == SIZE // 8 // (len(VALUE) + 100)
    other = Process(store, 2)
    theirs = [other.client.view(key).status for key in reversed(keys)]
    assert theirs == [OK] * len(held) + [QUOTA] * (len(keys) - len(held))
    # Records that others view cost a process only its own share.
    third = Process(store, 3)
    assert third.client.view(keys[0]).status == OK
    assert third.client.view(keys[len(held)]).status == QUOTA
    store.check()
    # A view that was released a moment ago gives its bytes back at once.
    process.table.drop(held[3].pin)
    assert process.client.view(keys[len(held)]).status == OK
    store.check()


def test_the_views_of_a_process_keep_at_most_its_quota(clock) -> None:
    store = partition(SIZE, view_quota=3 * len(VALUE))
    process, other = Process(store, 1), Process(store, 2)
    for key in (b"a", b"b", b"c"):
        process.client.put(key, VALUE)
    held = [process.view(key) for key in (b"a", b"b")]
    assert process.client.view(b"c").status == QUOTA
    other.view(b"c")
    process.view(b"a")
    process.table.drop(held[1].pin)
    process.view(b"c")
    store.check()


def test_memory_that_only_idle_views_keep_is_used_for_puts(store, process) -> None:
    store = partition(SIZE, eviction="none")
    process = Process(store, 1)
    value = bytes(500_000)
    client = process.client
    client.upload(b"k", value)
    view = process.view(b"k")
    client.delete(b"k")
    while client.upload(b"%d" % store.stats()["puts"], value).status == OK:
        pass
    assert client.upload(b"more", value).status == OUT_OF_MEMORY
    process.table.drop(view.pin)
    assert client.upload(b"more", value).status == OK
    store.check()


def test_a_viewed_record_moves_to_the_low_end_once(store, process) -> None:
    client = process.client
    keys = [b"%d" % i for i in range(30)]
    for key in keys:
        client.upload(key, VALUE)
    for key in keys[:4]:
        client.delete(key)
    view = process.view(keys[-1])
    assert view.record < SIZE // 4
    assert content(store, view) == VALUE
    assert client.value(b"0") is None
    ref = reference(client.get(keys[-1]))
    assert ref.offset == view.offset
    store.check()
    assert process.view(keys[-1]) == view
    # A record that is being read is not moved, and no record is evicted for a view.
    reference(client.get(keys[-2]))
    assert process.view(keys[-2]).record > SIZE // 4
    while client.upload(b"%d" % store.stats()["puts"], bytes(70_000)).status == OK:
        if store.stats()["evictions"]:
            break
    evictions = store.stats()["evictions"]
    process.view(keys[-3] if client.exists(keys[-3]).status == OK else keys[-1])
    assert store.stats()["evictions"] == evictions
    store.check()


@pytest.mark.parametrize("content", [0, (1 << 64) - 1, 1, 1 << 31, 1 << 32, 5 << 32 | 7])
def test_a_process_that_writes_into_its_table_harms_only_itself(store, clock, content) -> None:
    bad, good = Process(store, 1), Process(store, 2)
    for i in range(4):
        good.client.upload(b"%d" % i, VALUE)
    theirs = good.view(b"0")
    for i in range(4):
        bad.view(b"%d" % i)
    for pin in range(4096):
        bad.table[pin] = content
    clock.pass_by(2 * SECOND)
    store.check()
    for i in range(4):
        bad.client.view(b"%d" % i)
        good.client.delete(b"%d" % i)
    store.check()
    assert store.region.read(theirs.offset, theirs.length) == VALUE
    bad.end()
    clock.pass_by(2 * SECOND)
    store.check()
    assert store.stats()["views"] == 1
    good.table.drop(theirs.pin)
    clock.pass_by()
    assert used(store) == 0
    store.check()


@pytest.mark.long
def test_a_process_has_at_most_4096_pins_in_a_partition() -> None:
    store = partition(4096 * 9 * (VIEW_MIN + 64))
    process = Process(store, 1)
    for i in range(4097):
        process.client.upload(b"%d" % i, bytes(VIEW_MIN))
    held = [process.view(b"%d" % i) for i in range(4096)]
    assert len({view.pin for view in held}) == 4096
    assert process.client.view(b"4096").status == QUOTA
    # The only pin of the record that is requested next is idle, and may be dropped for it.
    other = Process(store, 2)
    idle = other.view(b"4096")
    other.table.drop(idle.pin)
    process.table.drop(held[77].pin)
    assert process.view(b"4096").pin == held[77].pin
    store.check()


def test_scattered_views_do_not_empty_a_full_cache() -> None:
    store = partition(16 << 20)
    process = Process(store, 1)
    clock = Clock(store)
    client = process.client
    value = bytes(VIEW_MIN)
    keys = [b"%d" % i for i in range(400)]
    for key in keys:
        client.upload(key, value)
        clock.pass_by(MS)
    assert store.stats()["evictions"] > 0
    held = []
    for key in keys[::5]:
        if client.exists(key).status == OK and client.view(key).status == OK:
            held.append(process.view(key))
    low = store.region.length // 4
    assert len(held) == 31
    assert sum(view.record >= low for view in held) <= 32
    # A put that is longer than the gaps between the views finds room.
    before = store.stats()["records"]
    assert client.upload(b"long", bytes(1 << 20)).status == OK
    assert store.stats()["records"] > before // 2
    store.check()


def test_more_than_a_few_views_of_a_full_cache_lie_at_its_low_end() -> None:
    store = partition(32 << 20)
    process, other = Process(store, 1), Process(store, 2)
    client = process.client
    keys = [b"%d" % i for i in range(700)]
    for key in keys:
        client.upload(key, bytes(VIEW_MIN))
    low = store.region.length // 4
    held = []
    for key in reversed(keys):
        if client.exists(key).status == OK:
            viewer = process if len(held) % 2 else other
            if viewer.client.view(key).status == OK:
                held.append((viewer, viewer.view(key)))
    assert len(held) > 100
    assert sum(view.record >= low for _, view in held) <= 32
    store.check()
    for viewer, view in held:
        viewer.table.drop(view.pin)
    Clock(store).pass_by()
    store.check()
    assert store.stats()["views"] == 0


class Held(NamedTuple):
    process: Process
    view: Viewed
    value: bytes


class ViewsModel(RuleBasedStateMachine):
    """A held view's bytes never change, and each pin that is dropped gives its memory back."""

    views = Bundle("views")
    keys = st.integers(0, 12).map(lambda n: b"key %d" % n)
    peers = st.integers(1, 2)

    @initialize(eviction=st.sampled_from(["clock", "bucket", "none"]))
    def begin(self, eviction: str) -> None:
        self.store = partition(1 << 20, eviction=eviction)
        self.clock = Clock(self.store)
        self.processes = {peer: Process(self.store, peer) for peer in (1, 2)}
        self.client = Client(self.store, staging=256 << 10)
        self.held: list[Held] = []
        self.written = 0

    @rule(key=keys, size=st.sampled_from([100, VIEW_MIN - 1, VIEW_MIN, 100_000]), ttl=st.booleans())
    def put(self, key: bytes, size: int, ttl: bool) -> None:
        self.written += 1
        value = (b"%d " % self.written * size)[:size]
        self.client.upload(key, value, ttl=300 if ttl else 0)

    @rule(key=keys)
    def delete(self, key: bytes) -> None:
        self.client.delete(key)

    @rule()
    def clear(self) -> None:
        self.client.clear_all()

    @rule(count=st.integers(1, 300))
    def put_small_values_so_that_the_index_grows(self, count: int) -> None:
        for i in range(count):
            self.client.put(b"small %d %d" % (self.written, i), b"x" * 20)
        self.written += 1

    @rule(target=views, key=keys, peer=peers)
    def view(self, key: bytes, peer: int):
        process = self.processes[peer]
        answer = process.client.view(key)
        if answer.status == OK and answer.kind == 16:
            view = viewed(answer)
            assert process.table.hold(view.pin, view.generation)
            held = Held(process, view, content(self.store, view))
            self.held.append(held)
            return held
        assert answer.status in (OK, NOT_FOUND, QUOTA)
        return None

    @rule(held=consumes(views))
    def release(self, held: Held | None) -> None:
        if held in self.held:
            self.held.remove(held)
            held.process.table.drop(held.view.pin)

    @rule(key=keys, peer=peers)
    def view_and_lose_the_response(self, key: bytes, peer: int) -> None:
        self.processes[peer].client.view(key)

    @rule(ms=st.integers(1, 1500))
    def time_passes(self, ms: int) -> None:
        self.clock.pass_by(ms * MS)

    @rule(peer=peers)
    def a_process_ends_and_another_begins(self, peer: int) -> None:
        process = self.processes[peer]
        process.end()
        self.held = [held for held in self.held if held.process is not process]
        self.clock.pass_by(MS)
        assert self.store.views_ended(peer)
        self.processes[peer] = Process(self.store, peer)

    @precondition(lambda self: not self.held)
    @rule()
    def without_views_nothing_is_kept(self) -> None:
        self.clock.pass_by(3 * SECOND)
        self.client.clear_all()
        assert self.store.stats()["views"] == 0
        assert used(self.store) == 0

    @invariant()
    def views_are_unchanged(self) -> None:
        if not hasattr(self, "store"):
            return
        self.store.check()
        for held in self.held:
            assert content(self.store, held.view) == held.value


TestViewsModel = ViewsModel.TestCase
TestViewsModel.settings = settings(
    max_examples=30,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
