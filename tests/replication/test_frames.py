"""What a primary publishes, a mirror applies, piece by piece; what cannot be is refused."""

from __future__ import annotations

import random

import pytest

from rnvm.pool.pool import Pool, format_medium
from rnvm.replication import planted
from rnvm.sizes import Sizes
from rnvm.testing.crash_model import Model
from rnvm.testing.replication_driver import (
    PIECE_MAX,
    STREAM_MIN,
    Follower,
    Geometry,
    Link,
    Refused,
    Replication,
    piece,
)

SIZES = Sizes(
    block=512,
    names=4,
    sessions=2,
    operation_ring=4096,
    memory_ring=4096,
    group_map=512,
    wal=8 * 4096,
)
LENGTH = SIZES.groups_at + SIZES.group_map + 1000 * 512
DATA = SIZES.groups_at + SIZES.group_map  # bytes that only the test writes
NAMES, SESSIONS, AREA = 16384, SIZES.sessions_at, (SIZES.wal_at, SIZES.wal_at + SIZES.wal)
OPENING = bytes(range(16))


class Pair:
    """A primary and a mirror with the same bytes, and what is between them."""

    def __init__(self, ring: int = STREAM_MIN, **options: object) -> None:
        format_medium(blank := Model(LENGTH), SIZES)
        content = blank.crash(blank.events_so_far, 0)
        self.primary = Model(LENGTH, content=content)
        self.pool = Pool(self.primary)
        self.replication = Replication(self.pool, opening=OPENING, **options)
        self.link = self.replication.add(Link(ring))
        content = self.primary.read(0, LENGTH)
        self.mirror = Model(LENGTH, content=content)
        self.parts = Geometry(content, LENGTH)
        self.follower = Follower(self.mirror, self.link, self.parts)

    def follow(self) -> int:
        frames = self.follower.step(1 << 30)
        self.follower.acknowledge()
        self.replication.poll()
        return frames

    def same(self) -> bool:
        return all(
            self.primary.read(at, end - at) == self.mirror.read(at, end - at)
            for at, end in self.parts.replicated(0, LENGTH)
        )


@pytest.fixture
def pair():
    return Pair()


def test_each_drain_is_a_frame_and_the_mirror_has_its_bytes(pair):
    before = pair.replication.published
    for number in range(5):
        pair.primary.write(DATA + 100 * number, b"bytes of a frame")
        pair.primary.write64(DATA + 4096, number)
        pair.primary.drain()
        assert pair.replication.published == before + number + 1
    pair.primary.drain()
    assert pair.replication.published == before + 5, "a drain of nothing is no frame"
    assert not pair.same()
    assert pair.follow() == 5
    assert pair.same()
    assert pair.replication.slot(0)["acked"] == pair.replication.published
    assert pair.mirror.kinds().count("d") == 5, "one drain for each frame"


def test_bytes_of_a_peer_are_in_the_frame_of_their_flush(pair):
    pair.primary.poke(SIZES.rings_at + 64, b"a record")
    pair.primary.drain()
    assert pair.follow() == 0
    pair.primary.flush(SIZES.rings_at + 64, 8)
    pair.primary.drain()
    pair.follow()
    assert pair.mirror.read(SIZES.rings_at + 64, 8) == b"a record"


def test_a_frame_longer_than_a_piece_arrives_whole(pair):
    data = random.Random(1).randbytes(3 * PIECE_MAX + 24)
    pair.primary.write(DATA, data)
    for at in range(0, 3000, 24):  # more ranges than fit without merging
        pair.primary.write(DATA + 400_000 + 2 * at, b"%8d" % at)
    pair.primary.drain()
    assert pair.follow() == 1
    assert pair.same()
    assert pair.mirror.kinds().count("d") == 1


def test_more_notes_than_there_is_room_for_are_published_before_the_drain(pair):
    for at in range(3000):
        pair.primary.write64(DATA + 16 * at, at)
    assert pair.link.line["tail"] > 0
    assert pair.follow() == 0, "the frame has not ended"
    pair.primary.write64(DATA, 77)  # changes after it was published
    pair.primary.drain()
    assert pair.follow() == 1
    assert pair.same()


def test_a_stream_goes_round_many_times(pair, seed):
    rng = random.Random(seed)
    while pair.link.line["tail"] < 5 * STREAM_MIN:
        for _ in range(rng.randint(1, 5)):
            n = rng.choice([8, 100, 5000, 60_000])
            pair.primary.write(DATA + rng.randrange(400_000 - n), rng.randbytes(n))
        pair.primary.drain()
        if rng.random() < 0.5:
            pair.follow()
            assert pair.same()
    pair.follow()
    assert pair.same()
    assert pair.replication.overruns == 0


def test_a_mirror_whose_stream_is_full_is_lost_and_the_primary_goes_on(pair):
    pair.replication.set_state(0, "joining")
    pair.follow()
    assert pair.replication.slot(0)["state"] == "in sync"
    assert pair.replication.has_room
    for _ in range(8):
        pair.primary.write(DATA, bytes(200_000))
        pair.primary.drain()
    assert not pair.replication.has_room or pair.replication.overruns
    assert pair.replication.overruns == 1
    assert pair.link.line["ended"] == "overrun"
    acked = pair.replication.acked
    assert pair.replication.slot(0)["state"] == "leaving"
    assert acked < pair.replication.published, "it counts until it is removed"
    pair.replication.poll()
    assert pair.replication.slot(0)["state"] == "gone"
    assert pair.replication.acked == pair.replication.published


def test_the_first_frame_of_a_stream_follows_all_that_was_written_before(pair):
    pair.primary.write(DATA, b"not drained yet.")
    other = pair.replication.add()
    second = Follower(Model(LENGTH), other, pair.parts)
    assert other.line["first"] == pair.replication.published
    assert pair.primary.kinds().endswith("d")
    pair.primary.write(DATA + 512, b"later one")
    pair.primary.drain()
    assert second.step(10) == 1
    assert second.medium.read(DATA, 16) == bytes(16)
    assert pair.follow() == 2
    assert pair.same()


def test_own_parts_are_in_no_frame(pair):
    own = [line for line in range(0, LENGTH, 64) if not pair.parts.line(line)]
    assert set(own) == {
        *range(9216, 9216 + 128, 64),
        *range(13312, 13312 + 128, 64),
        10240,
        14336,
        *(NAMES + 512 * i + 256 for i in range(4)),
        *(SESSIONS + 256 * i + 192 for i in range(2)),
        *range(*AREA, 64),
    }
    pair.primary.poke(0, pair.primary.read(0, 8192))
    for at in own:
        pair.primary.poke(at, b"own part")
    pair.primary.flush(8192, LENGTH - 8192)
    pair.primary.drain()
    pair.follow()
    assert pair.same()
    assert all(pair.mirror.read(at, 8) != b"own part" for at in own)


def test_ranges_are_cut_as_the_lines_say(pair, seed):
    rng = random.Random(seed)
    for _ in range(300):
        at = rng.randrange(0, LENGTH, 8)
        end = min(at + rng.choice([8, 64, 1000, 50_000]) // 8 * 8, LENGTH)
        runs = pair.parts.replicated(at, end)
        words = {word for begin, stop in runs for word in range(begin, stop, 8)}
        assert words == {w for w in range(at, end, 8) if pair.parts.line(w // 64 * 64)}


# --- A primary that lies


def lie(pair: Pair, **changes: object) -> None:
    """Give the mirror a piece that differs from the right one in these fields."""
    fields: dict[str, object] = {
        "opening": OPENING,
        "parts": pair.parts,
        "epoch": 1,
        "number": pair.follower.received + 1,
        "ranges": [(DATA, b"12345678")],
    }
    fields |= changes
    bytes_ = piece(fields.pop("opening"), fields.pop("parts"), **fields)  # type: ignore[arg-type]
    pair.follower.take(bytes_)


W = b"12345678"
LIES = {
    "checksum": ({"seal": False}, "checksum"),
    "another opening": ({"opening": bytes(16)}, "checksum"),
    "a lower epoch": ({"epoch": 0}, "epoch"),
    "a higher epoch": ({"epoch": 2}, "epoch"),
    "an old frame": ({"number": 1}, "follows"),
    "a frame that skips one": ({"number": 99}, "follows"),
    "another index": ({"index": 1}, "follows"),
    "too few ranges": ({"count": 2}, "malformed"),
    "too many ranges": ({"count": 0}, "malformed"),
    "a place that is no multiple of 8": ({"ranges": [(DATA + 4, W)]}, "malformed"),
    "a length that is no multiple of 8": ({"ranges": [(DATA, b"1234")]}, "malformed"),
    "an empty range": ({"ranges": [(DATA, b"")]}, "malformed"),
    "behind the end": ({"ranges": [(LENGTH, W)]}, "own"),
    "across the end": ({"ranges": [(LENGTH - 8, W + W)]}, "own"),
    "an offset that overflows": ({"ranges": [((1 << 64) - 8, W + W)]}, "own"),
    "the identity": ({"ranges": [(9216, W)]}, "own"),
    "the second identity": ({"ranges": [(13312 + 120, W)]}, "own"),
    "across the identity": ({"ranges": [(9216 - 8, W + W)]}, "own"),
    "the replication line": ({"ranges": [(10240, W)]}, "own"),
    "live words of a name": ({"ranges": [(NAMES + 512 + 256, W)]}, "own"),
    "live words of a session": ({"ranges": [(SESSIONS + 192, W)]}, "own"),
    "the write-ahead area": ({"ranges": [(AREA[0], W)]}, "own"),
    "the end of the area": ({"ranges": [(AREA[1] - 8, W + W)]}, "own"),
    "one good range and a bad one": ({"ranges": [(DATA, W), (AREA[0], W)]}, "own"),
}


@pytest.mark.parametrize("what", LIES)
def test_the_mirror_refuses_a_piece_with(what, pair):
    changes, why = LIES[what]
    before = pair.mirror.events_so_far
    with pytest.raises(Refused, match=why):
        lie(pair, **changes)
    assert pair.mirror.events_so_far == before, "nothing was written"
    with pytest.raises(Refused):  # for good
        lie(pair)


@pytest.mark.parametrize("epoch", [0, 2])
def test_the_check_of_the_epoch_alone_refuses_a_piece_of_another_one(epoch, pair):
    planted.plant("any epoch")
    lie(pair, epoch=epoch)
    assert pair.mirror.read(DATA, 8) == W


def test_the_mirror_takes_the_same_piece_without_the_lie(pair):
    lie(pair)
    assert pair.mirror.read(DATA, 8) == W


def test_no_garbage_changes_a_mirror_or_crashes_it(pair, seed):
    rng = random.Random(seed)
    right = piece(OPENING, pair.parts, epoch=1, number=pair.follower.received + 1,
                  ranges=[(DATA, W * 20), (DATA + 4096, W)])  # fmt: skip
    before = pair.mirror.events_so_far
    for _ in range(3000):
        wrong = bytearray(right)
        for _ in range(rng.randint(1, 3)):
            wrong[rng.randrange(len(wrong) - 40)] ^= 1 << rng.randrange(8)
        if wrong == right:
            continue
        follower = Follower(pair.mirror, pair.link, pair.parts)
        try:
            assert follower.take(bytes(wrong)) == 0
        except Refused:
            pass
        assert pair.mirror.events_so_far == before


# --- A mirror that lies


@pytest.mark.parametrize(
    "lie",
    [
        {"acked": 99}, {"received": 99}, {"consumed": 1 << 40}, {"acked": 1 << 63}, {"acked": 1},
        {"received": 1}, {"consumed": 0},
    ],
    ids=str,
)  # fmt: skip
def test_a_mirror_that_acknowledges_what_cannot_be_costs_only_itself(pair, lie):
    other = pair.replication.add()
    pair.primary.write(DATA, b"something")
    pair.primary.drain()
    pair.replication.set_state(0, "joining")
    pair.replication.set_state(other.slot, "joining")
    pair.follow()
    honest = Follower(Model(LENGTH), other, pair.parts)
    truth = {"acked": 2, "received": 2, "consumed": pair.follower.consumed}
    pair.link.acknowledge(**truth)
    pair.replication.poll()
    assert pair.replication.slot(0)["state"] == "in sync"
    pair.link.acknowledge(**{**truth, **lie})
    pair.replication.poll()
    pair.replication.poll()
    assert pair.replication.slot(0)["state"] == "gone"
    assert pair.link.line["ended"] == "lie"
    assert pair.replication.slot(other.slot)["state"] == "joining"
    honest.step(10)
    honest.acknowledge()
    pair.replication.poll()
    assert pair.replication.slot(other.slot)["state"] == "in sync"
    assert pair.replication.acked == pair.replication.published


# --- What counts


def test_acked_is_the_least_of_all_required_mirrors_and_never_falls():
    pair = Pair()
    pair.replication.poll()
    assert pair.replication.acked == pair.replication.published, "alone"
    other = pair.replication.add()
    second = Follower(Model(LENGTH), other, pair.parts)
    pair.replication.set_state(0, "joining")
    pair.replication.set_state(other.slot, "joining")
    was = pair.replication.acked
    pair.primary.write(DATA, b"x" * 8)
    pair.primary.drain()
    pair.follow()
    assert pair.replication.acked == was
    second.step(5)
    second.acknowledge()
    pair.replication.poll()
    assert pair.replication.acked == pair.replication.published
    pair.replication.remove(0)
    pair.primary.write(DATA, b"y" * 8)
    pair.primary.drain()
    pair.replication.poll()
    assert pair.replication.acked == pair.replication.published - 1


def test_without_the_mirrors_that_are_required_nothing_is_acknowledged():
    pair = Pair(min_mirrors=1)
    for number in range(3):
        pair.primary.write64(DATA, number)
        pair.primary.drain()
        pair.replication.poll()
    assert pair.replication.acked == 0
    pair.replication.set_state(0, "joining")
    pair.follow()
    pair.replication.poll()
    assert pair.replication.in_sync == 1
    assert pair.replication.acked == pair.replication.published == 4


def test_a_joining_mirror_is_in_sync_only_when_it_has_everything_up_to_then(pair):
    pair.primary.write(DATA, b"z" * 8)
    pair.primary.drain()
    pair.replication.poll()
    assert pair.replication.acked == pair.replication.published
    pair.replication.set_state(0, "joining")
    pair.replication.poll()
    assert pair.replication.slot(0)["state"] == "joining"
    pair.follow()
    assert pair.replication.slot(0)["state"] == "in sync"


def test_a_mirror_without_patience_leaves_and_an_idle_one_does_not():
    pair = Pair(patience=1000, empty=100)
    pair.replication.set_state(0, "joining")
    now = 10_000
    for now in range(10_000, 20_000, 50):  # idle: empty frames keep it fresh
        pair.follower.step(10)
        pair.follower.acknowledge()
        pair.replication.poll(now)
    assert pair.replication.slot(0)["state"] == "in sync"
    assert pair.replication.published > 50
    for later in range(now, now + 1000, 50):
        pair.replication.poll(later)
    assert pair.replication.slot(0)["state"] == "in sync"
    for later in range(now + 1000, now + 2500, 50):
        pair.replication.poll(later)
    assert pair.replication.slot(0)["state"] == "gone"
    assert pair.replication.slot(0)["reason"] == "patience"
    assert pair.replication.acked == pair.replication.published


def test_a_mirror_that_acknowledges_and_consumes_nothing_loses_its_place():
    pair = Pair(patience=1000)
    pair.replication.set_state(0, "joining")
    for now in range(0, 5000, 100):
        pair.primary.write(DATA, b"x" * 8)
        pair.primary.drain()
        pair.link.acknowledge(pair.replication.published, pair.replication.published, 0)
        pair.replication.poll(now)
        if now == 500:
            assert pair.replication.slot(0)["state"] == "in sync"
    assert pair.replication.slot(0)["state"] == "gone"
    assert pair.replication.slot(0)["reason"] == "patience"


def test_in_a_group_a_slow_mirror_stays_required_until_it_is_removed():
    pair = Pair(patience=1000, policy=True)
    pair.replication.set_state(0, "joining")
    pair.replication.poll(0)
    pair.replication.set_state(0, "in sync")
    pair.replication.poll(1)
    acked = pair.replication.acked
    pair.primary.write(DATA, b"z" * 8)
    pair.primary.drain()
    for now in range(0, 5000, 100):
        pair.replication.poll(now)
    assert pair.replication.slot(0)["state"] == "leaving"
    assert pair.replication.acked == acked < pair.replication.published
    pair.replication.remove(0)
    pair.replication.poll(6000)
    assert pair.replication.acked == pair.replication.published


def test_in_a_group_a_mirror_whose_stream_is_full_stays_required_until_it_is_removed():
    pair = Pair(policy=True)
    pair.replication.set_state(0, "joining")
    pair.follow()
    pair.replication.set_state(0, "in sync")
    pair.replication.poll()
    assert not pair.replication.poll()
    for _ in range(8):
        pair.primary.write(DATA, bytes(200_000))
        pair.primary.drain()
    assert pair.replication.in_sync == 0
    assert pair.replication.poll(), "the group hears of it"
    assert pair.replication.slot(0)["state"] == "leaving"
    assert pair.replication.slot(0)["reason"] == "overrun"
    assert pair.replication.acked < pair.replication.published
    pair.replication.remove(0)
    pair.replication.poll()
    assert pair.replication.acked == pair.replication.published


def test_in_a_group_a_mirror_that_is_leaving_holds_up_nobody():
    # Its removal may have to wait for the coordinator, for any time.
    pair = Pair(patience=1000, policy=True)
    pair.replication.set_state(0, "joining")
    pair.replication.set_state(0, "in sync")
    while pair.replication.has_room:
        pair.primary.write(DATA, bytes(50_000))
        pair.primary.drain()
    for now in range(0, 3000, 100):
        pair.replication.poll(now)
    assert pair.replication.slot(0)["state"] == "leaving"
    assert pair.replication.has_room


def test_a_copying_mirror_that_takes_a_little_now_and_then_costs_no_more_than_the_patience():
    pair = Pair(patience=1000)
    pair.replication.wait_for(0)
    while pair.replication.has_room:
        pair.primary.write(DATA, bytes(50_000))
        pair.primary.drain()
    lost = None
    for now in range(0, 10_000, 100):
        pair.follower.step(1)
        pair.link.acknowledge(pair.follower.applied, pair.follower.received, now // 100 * 64)
        pair.replication.poll(now)
        if pair.replication.slot(0)["state"] == "gone":
            lost = now
            break
    assert lost is not None
    assert lost <= 1200
    assert pair.replication.has_room


def test_a_copying_mirror_holds_up_nobody():
    pair = Pair(patience=1000)
    for now in range(100_000):
        assert pair.replication.has_room
        pair.primary.write(DATA, bytes(50_000))
        pair.primary.drain()
        pair.replication.poll(now)
        if pair.replication.slot(0)["state"] == "gone":
            break
    assert pair.replication.slot(0)["reason"] == "overrun"
    assert pair.replication.has_room


def test_the_time_of_what_was_acknowledged_is_never_later_than_its_publication():
    pair = Pair()
    times = {pair.replication.published: 0}
    ms = 1_000_000
    for step in range(1, 400):
        now = step * 5 * ms
        pair.replication.poll(now)
        pair.primary.write64(DATA, step)
        pair.primary.drain()
        times[pair.replication.published] = now
        if step % 7 == 0:
            pair.follower.step(1 << 30)
            pair.follower.acknowledge()
            pair.replication.poll(now)
            slot = pair.replication.slot(0)
            assert times[slot["acked"]] - 25 * ms <= slot["sent"] <= times[slot["acked"]]


def test_the_medium_works_as_before_when_replication_ends(pair):
    pair.replication.end()
    assert pair.link.line["ended"] == "closed"
    pair.primary.write(DATA, b"after it")
    pair.primary.drain()
    assert pair.follower.step(5) == 0
    assert pair.primary.read(DATA, 8) == b"after it"


def test_closing_the_pool_publishes_its_last_state(pair):
    pair.pool.close()
    pair.replication.end()
    pair.follower.step(100)
    with Pool(pair.mirror) as pool:
        assert pool.clean


@pytest.fixture(autouse=True)
def nothing_planted():
    yield
    planted.plant()
