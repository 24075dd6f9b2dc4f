"""At every moment a mirror holds what was acknowledged `replicated`, and what readers saw."""

from __future__ import annotations

import random
import time

import pytest

from rfp.errors import RfpError
from rnvm.media import identity
from rnvm.pool import frame_words
from rnvm.pool.pool import Pool
from rnvm.replication import planted
from rnvm.testing import log_driver
from rnvm.testing.crash_model import Crashes, Model
from rnvm.testing.replication_driver import Follower, Geometry, Refused, Replication

from ..pool.history import NEVER, Wrong
from .mirrored import CHUNK, KINDS, MirroredHistory, run


@pytest.fixture(autouse=True)
def nothing_planted():
    yield
    plant_nothing()


def plant_nothing() -> None:
    planted.plant()
    identity.plant()
    frame_words._plant(0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mirror_holds_what_was_acknowledged_at_each_of_its_events(kind, seed):
    done = 0
    while done < 300:
        done += run(seed + done, kinds=[kind])


@pytest.mark.parametrize("kind", ["words", "sectors"])
def test_two_mirrors_hold_what_was_acknowledged_while_one_joins_slowly(kind, seed):
    assert run(seed, kind, kinds=["words", "file"], group=True) > 100


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_no_mirror_of_very_many_histories_lost_an_acknowledged_operation(
    kind, group, seed, run_ends
):
    done, rng = 0, random.Random(seed)
    while done < 60_000 and time.monotonic() < run_ends:
        kinds = [kind, *rng.choices(KINDS, k=rng.randrange(2))]
        done += run(seed + done, rng.choice(["words", "lines", "sectors"]), kinds, 400, 400,
                    group=group)  # fmt: skip


# --- A primary that crashes while mirrors are ahead of it


class Work:
    """Transactions on a pool that was recovered."""

    def __init__(self, pool: Pool, rng: random.Random) -> None:
        self.pool = pool
        self.rng = rng
        if not pool.names:
            pool.create(b"new", kind=1)
        for session in range(2):
            if log_driver.session(pool, session)["state"] == 6:  # fenced, with pending operations
                continue
            self.session, _ = pool.attach()
            self.writer = log_driver.Writer(pool, self.session)
            return
        self.writer = None

    def step(self) -> None:
        name = self.rng.choice(list(self.pool.names))
        if self.writer is None:
            self.pool.reclaim()
            self.pool.checkpoint()
            return
        id_, number, covers = log_driver.progress(self.pool, name)
        root = log_driver.entry_of(self.pool, name)["root"]
        write = log_driver.entry(log_driver.ENTRY_WRITE, root + 8 * self.rng.randrange(60),
                                 self.rng.randbytes(16))  # fmt: skip
        self.writer.transaction([log_driver.part(id_, number + 1, write, covers=covers)])
        self.pool.collect()
        self.pool.replay()
        if self.rng.random() < 0.3:
            self.pool.checkpoint()


def after_the_primary(seed: int, most: int = 12, every: bool = False, compares: bool = True) -> int:
    """Crash primaries between the publication of a frame and its drain; return the number.

    Args:
        most: Number of drains.
        every: For each prefix of the frame on the mirror; else for one.
        compares: The mirror compares its copy with the primary that was opened again.
    """
    rng = random.Random(seed)
    past = MirroredHistory(rng, "words", ["words"])
    mirror = past.mirrors[0]
    while mirror.level == NEVER:
        past.follow()
    # The mirror's bytes, and its place in the stream, when it was level.
    base, consumed, applied = (
        mirror.medium.read(0, past.length),
        mirror.follower.consumed,
        mirror.follower.applied,
    )
    begin = past.now
    past.run(80)
    past.end()
    if mirror.link.line["tail"] > mirror.link.size or mirror.ended != NEVER:
        return 0
    drains = [i for i, kind in enumerate(past.model.kinds()) if kind == "d" and i > begin]
    published = dict(past.published)
    cursor, done = Crashes(past.model), 0
    frames = sorted(number for time, number in published.items() if time > begin)
    if not frames:
        return 0  # no session was attached, for example
    for point in sorted(rng.sample(drains, min(most, len(drains)))):
        left = cursor.at_point(point, seed)
        # Everything published by then, of which the last frame only in part.
        last = max((n for t, n in published.items() if t <= point), default=applied)
        ahead = Model(past.length, content=base)
        follower = Follower(ahead, mirror.link, past.parts, first=applied)
        data, used = mirror.link.read(consumed, 1 << 30), 0
        while follower.applied < last:
            used += follower.take(data[used:])
        before = ahead.events_so_far
        if last < frames[-1]:
            follower.take(data[used:])
        prefixes = range(before, ahead.events_so_far + 1)
        for prefix in prefixes if every else [rng.choice(prefixes)]:
            copy = Model(past.length, content=ahead.crash(prefix, seed))
            reopened(past, Model(past.length, content=left), copy, rng, compares)
            done += 1
    return done


def reopened(
    past: MirroredHistory, primary: Model, copy: Model, rng: random.Random, compares: bool
) -> None:
    """Reopen the primary, work, let the copy catch up in the meantime, and compare."""
    pool = Pool(primary)
    parts = Geometry(primary.read(0, 256), past.length)
    replication = Replication(pool, opening=rng.randbytes(16), epoch=2)
    work = Work(pool, rng)
    fresh = replication.add()
    second = Follower(copy, fresh, parts)
    if compares:
        second.begin_copy()
        for at in range(0, past.length, CHUNK):
            second.step(1 << 30)
            chunk = b""
            while len(chunk) < CHUNK and at + len(chunk) < past.length:
                chunk += primary.read(
                    at + len(chunk), min(4096, past.length - at - len(chunk), CHUNK - len(chunk))
                )
                if rng.random() < 0.2:
                    work.step()
            second.copy(chunk, at)
        second.step(1 << 30)
        second.end_copy(rng.randbytes(16))
    for _ in range(5):
        work.step()
    pool.checkpoint()
    second.step(1 << 30)
    for at, end in parts.replicated(0, past.length):
        if primary.read(at, end - at) != copy.read(at, end - at):
            raise Wrong(f"the copy differs between {at} and {end}")
    Pool(copy)


def test_a_mirror_that_was_ahead_of_a_primary_that_crashed_becomes_its_copy(seed):
    done = 0
    while done < 30:
        done += after_the_primary(seed)
        seed += 1
    while done < 50:
        done += after_the_primary(seed, most=1, every=True)
        seed += 1


@pytest.mark.long
@pytest.mark.timeout(600)
def test_none_of_very_many_mirrors_that_were_ahead_differs(seed, run_ends):
    done = 0
    while done < 5000 and time.monotonic() < run_ends:
        done += after_the_primary(seed, most=4, every=True)
        seed += 1


# --- Planted faults


def assert_caught(of, sound=None) -> None:
    """A check fails with the fault, and with the same seed none without it.

    Args:
        sound: The same without the fault; default: of() with nothing planted.
    """
    for seed in range(40):
        try:
            of(seed)
        except (Wrong, RfpError, AssertionError, Refused):
            break
    else:
        pytest.fail("no check failed")
    plant_nothing()
    (sound or of)(seed)


FAULTS = {
    "a frame is skipped": "skip frame",
    "frames are applied out of order": "out of order",
    "a frame is acknowledged before the drain": "acknowledge early",
    "two frames are in one drain of a direct medium": "drain seldom",
    "own parts are copied over": "own parts",
}


@pytest.mark.planted
@pytest.mark.parametrize("fault", FAULTS)
def test_the_crashes_catch_that(fault):
    planted.plant(FAULTS[fault])
    assert_caught(run)


@pytest.mark.planted
def test_the_crashes_catch_that_a_joining_mirror_is_not_waited_for():
    planted.plant("forget joining")
    assert_caught(lambda seed: run(seed, group=True))


@pytest.mark.planted
def test_the_crashes_catch_a_chunk_that_is_read_before_earlier_frames_are_applied():
    assert_caught(lambda seed: run(seed, stale_chunks=True), run)


@pytest.mark.planted
def test_the_crashes_catch_a_copy_in_catch_up_that_is_opened():
    identity.plant("not refused")
    assert_caught(run)


@pytest.mark.planted
def test_the_crashes_catch_a_frame_word_that_is_stored_too_late():
    frame_words._plant(1)
    assert_caught(run)


@pytest.mark.planted
def test_the_crashes_catch_that_the_frames_of_an_opening_are_missing():
    assert_caught(lambda seed: after_the_primary(seed, compares=False), after_the_primary)
