"""Until when a primary may answer, as its service thread computes it, against the proved rule."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from rnvm.pool.pool import Pool, format_medium
from rnvm.replication import planted
from rnvm.testing.crash_model import Model
from rnvm.testing.replication_driver import Link, Replication

from ..group.test_serving import life
from .mirrored import SIZES, length_of

MS = 1_000_000
TRUSTED = 999 * MS  # a promise of a second, by clocks that differ by a thousandth
MOMENT = 20 * MS
MOMENTS = 64
BOOTED = 10**15  # a time in the life of a machine
DRIFT = 1000


@pytest.fixture(autouse=True)
def nothing_planted() -> Iterator[None]:
    yield
    planted.plant()


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    length = length_of(SIZES)
    format_medium(blank := Model(length), SIZES)
    with Pool(Model(length, content=blank.crash(blank.events_so_far, 0))) as opened:
        yield opened


def group_of(pool: Pool) -> Replication:
    return Replication(pool, opening=bytes(16), policy=True, patience=1 << 62)


class Computed:
    """The product's computation with the methods of rnvm.group.serving.Serving."""

    def __init__(self, pool: Pool) -> None:
        self.replication = group_of(pool)
        self.first = self.replication.published
        self.links: dict[int, Link] = {}

    def require(self, slots: dict[int, int], _now: int) -> None:
        for slot in slots:
            self.links[slot] = self.replication.add()
            self.replication.set_state(self.links[slot].slot, "joining")
            self.replication.set_state(self.links[slot].slot, "in sync")

    @property
    def published(self) -> int:
        return self.replication.published - self.first

    def publish(self) -> None:
        self.replication.publish()

    def ack(self, slot: int, frame: int, _now: int) -> None:
        self.links[slot].acknowledge(self.first + frame, self.first + frame, 0)

    def poll(self, now: int) -> None:
        self.replication.poll(boot=BOOTED + now)

    @property
    def until(self) -> int:
        return max(self.replication.until - BOOTED, 0)


def lives(pool: Pool, seed: int) -> None:
    made: list[Computed] = []

    def rule(_promise: int, _drift: int) -> Computed:
        made.append(Computed(pool))
        return made[0]

    try:
        life(rule, seed, DRIFT)
    finally:
        made[0].replication.end()


class Slot:
    def __init__(self, link: Link, frame: int) -> None:
        self.link = link
        self.state = "copying"
        self.acked = frame
        self.frame: int | None = None  # a frame that it has acknowledged since it came

    @property
    def required(self) -> bool:
        return self.state in ("joining", "in sync", "leaving")


class Changes:
    """Mirrors of a group come, join, leave, lie and are removed, while frames are acknowledged."""

    def __init__(self, pool: Pool, rng: random.Random) -> None:
        self.rng = rng
        self.now = self.polled = BOOTED
        self.replication = group_of(pool)
        self.slots: list[Slot] = []
        # of each frame: when it was published, and the last poll before that
        self.published: dict[int, int] = {}
        self.before: dict[int, int] = {}
        self.latest = self.least = self.last = 0  # until must be between the first two

    def run(self, steps: int) -> None:
        events: dict[Callable[[], None], int] = {
            self.publish: 40,
            self.acknowledge: 40,
            self.come: 3,
            self.go_on: 6,
            self.lie: 1,
            self.pause: 1,
        }
        try:
            for _ in range(steps):
                self.now += self.rng.choice([0, 1000, MS, 5 * MS])
                self.rng.choices(list(events), list(events.values()))[0]()
                if self.rng.random() < 0.8:
                    self.poll()
        finally:
            self.replication.end()

    def publish(self) -> None:
        self.replication.publish()
        self.published[self.replication.published] = self.now
        self.before[self.replication.published] = self.polled

    def some(self, *states: str) -> Slot | None:
        found = [each for each in self.slots if each.state in states]
        return self.rng.choice(found) if found else None

    def acknowledge(self) -> None:
        each = self.some("copying", "joining", "in sync", "leaving")
        if each is None or each.link.line["ended"]:
            return
        last = self.replication.published
        each.acked = self.rng.choice([last, last, self.rng.randint(each.acked, last)])
        each.link.acknowledge(each.acked, each.acked, 0)
        self.poll()

    def come(self) -> None:
        if len(self.slots) < 3:
            self.slots.append(Slot(self.replication.add(), self.replication.published))

    def go_on(self) -> None:
        each = self.some("copying", "joining", "in sync", "leaving")
        if each is None:
            return
        follows = {"copying": "joining", "joining": "in sync", "in sync": "leaving"}
        if each.state == "leaving":
            self.replication.remove(each.link.slot)
            self.slots.remove(each)
            return
        each.state = follows[each.state]
        self.replication.set_state(each.link.slot, each.state)

    def lie(self) -> None:
        """A mirror whose stream has ended stays required until it is removed."""
        each = self.some("joining", "in sync")
        if each is not None:
            each.link.acknowledge(1 << 62, 1 << 62, 0)
            each.state = "leaving"
            self.poll()
            assert each.link.line["ended"] == "lie"

    def pause(self) -> None:
        """The primary's process is stopped."""
        self.now += self.rng.choice([500, 3000]) * MS

    def poll(self) -> None:
        self.replication.poll(boot=self.now)
        for each in self.slots:
            acked = self.replication.slot(each.link.slot)["acked"]
            if acked in self.published and acked != each.frame and acked > each.link.line["first"]:
                each.frame = int(acked)
        required = [each.frame for each in self.slots if each.required]
        until = self.replication.until
        self.polled = self.now
        if None not in required:
            sent = min([self.now, *(self.published[frame] for frame in required)])
            least = min([self.now, *(self.before[frame] - MOMENT for frame in required)])
            self.latest = max(self.latest, sent + TRUSTED)
            if self.now - least < (MOMENTS - 2) * MOMENT:
                self.least = max(self.least, least + TRUSTED)
        assert until <= self.latest, f"{until - self.latest} ns after the latest"
        assert until >= self.least, f"{self.least - until} ns before the earliest"
        assert until >= self.last, "it fell"
        self.last = until


def test_the_promise_of_every_required_mirror_outlasts_what_is_computed(pool, seed):
    for each in range(60):
        lives(pool, seed % 2**32 + each)


def test_what_is_computed_is_the_rule_to_a_moment_while_mirrors_come_and_go(pool, rng):
    for _ in range(10):
        Changes(pool, rng).run(500)


@pytest.mark.planted
@pytest.mark.parametrize("way", ["lives", "changes"])
def test_a_primary_that_counts_the_latest_promise_is_found(way, pool):
    planted.plant("one promise")
    with pytest.raises(AssertionError, match="after"):
        for seed in range(40):
            if way == "lives":
                lives(pool, seed)
            else:
                Changes(pool, random.Random(seed)).run(500)
