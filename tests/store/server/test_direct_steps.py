"""A direct read between any two instructions of the server sees the old value or the new one.

A traced child process executes the server's side; the test reads all keys after each instruction.
So every order of stores that layout.h promises is observed, and not only the orders that two busy
threads happen to meet.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rfp.core import clock
from rfp.store.client.direct_read import direct_result
from rfp.store.server.partition import Partition
from rfp.testing.direct_harness import (
    DirectReader,
    SharedMemory,
    SteppedReader,
    Stepper,
    delete_without_counting,
)
from rfp.testing.partition_harness import Session, key_hash

from .requests import MS, OK, SECOND, Client

SEED = 7
TTL = 1_000_000  # ms: of the reader's clock; the server's runs faster here


class SteppedSession:
    """A session in a child process, whose next request can be executed step by step."""

    def __init__(self, size: int, eviction: str) -> None:
        self.memory = SharedMemory(size)

        def make() -> Session:
            store = Partition(
                self.memory,
                seed=SEED,
                eviction=eviction,
                first_version=1 << 60,
                lease_ns=SECOND,
                session_quota=1 << 30,
                max_value=1 << 20,
            )
            return Session(store, staging=64 << 10)

        self.child = Stepper(make)
        self.child.tick(0)  # when that is answered, the partition is there
        self.reader = DirectReader(self.memory, seed=SEED)
        self.watched: list[bytes] | None = None
        self.seen: list[list[int]] = []
        self.steps = 0

    def execute(self, *arguments: Any, **options: Any) -> Any:
        if self.watched is None:
            return self.child.request(*arguments, **options)
        return self._step("execute", *arguments, **options)

    def tick(self, now: int) -> Any:
        return self.child.tick(now) if self.watched is None else self._step("tick", now)

    def _step(self, name: str, *arguments: Any, **options: Any) -> Any:
        answer, steps, seen = self.child.step(
            self.reader, self.watched, name, *arguments, **options
        )
        self.steps += steps
        for all_of_key, new in zip(self.seen, seen, strict=True):
            all_of_key.extend(new)
        return answer

    def stage(self, offset: int, data: bytes) -> None:
        self.child.stage(offset, data)


class SteppedClient(Client):
    def __init__(self, size: int, eviction: str = "clock") -> None:
        self.session: Any = SteppedSession(size, eviction)
        self.now = clock.now_ns()
        self.session.tick(self.now)
        self.absent = (
            direct_result.DIRECT_UNSURE if eviction == "bucket" else direct_result.DIRECT_ABSENT
        )  # strict LRU proves no miss

    def version(self, key: bytes) -> int:
        """The version that the server knows; 0: none."""
        answer = self.exists(key)
        return answer.result if answer.status == OK else 0

    def watch(self, keys: list[bytes], act: Any) -> Any:
        """Step through what `act` requests; check what the reader has seen of each key."""
        session = self.session
        before = [self.version(key) for key in keys]
        session.watched, session.seen = keys, [[] for _ in keys]
        answer = act()
        session.watched = None
        after = [self.version(key) for key in keys]
        for key, old, new, seen in zip(keys, before, after, session.seen, strict=True):
            sure = [version for version in seen if version >= 0]
            once = [v for v, last in zip(sure, [None, *sure], strict=False) if v != last]
            allowed = [[], [old], [new], [old, new]] if old != new else [[], [old]]
            assert once in allowed, (key, old, new, seen)
            result, version, _ = session.reader.get(key)
            assert (
                (result, version) == (direct_result.DIRECT_FOUND, new)
                if new
                else result == self.absent
            ), (
                key,
                seen,
            )
        return answer

    def close(self) -> None:
        self.session.child.check()
        self.session.child.close()
        self.session.memory.close()


@pytest.fixture(params=["roomy", "tight", "strict LRU"])
def client(request: pytest.FixtureRequest) -> Iterator[SteppedClient]:
    size = {"roomy": 1 << 20, "tight": 80 << 10, "strict LRU": 80 << 10}[request.param]
    client = SteppedClient(size, "bucket" if request.param == "strict LRU" else "clock")
    yield client
    client.close()


def test_a_put_shows_the_old_value_or_the_new_one(client: SteppedClient) -> None:
    client.watch([b"k", b"other"], lambda: client.put(b"k", b"first"))
    client.watch([b"k", b"other"], lambda: client.put(b"k", b"second, and longer" * 10))
    assert client.session.steps > 100
    assert client.session.reader.get(b"k")[2] == b"second, and longer" * 10


def test_a_deleted_key_is_gone_for_good(client: SteppedClient) -> None:
    client.put(b"k", b"v")
    client.watch([b"k"], lambda: client.delete(b"k"))


def random_request(client: SteppedClient, rng: random.Random, watched: list[bytes]) -> None:
    key = watched[0]
    kind = rng.choice(["put", "put", "put", "delete", "incr", "touch", "tick", "many", "upload"])
    ttl = rng.choice([0, 0, TTL])
    if kind == "put":
        value = rng.randbytes(rng.randrange(rng.choice([1, 40, 300, 3000, 9000])))
        client.watch(watched, lambda: client.put(key, value, ttl=ttl))
    elif kind == "delete":
        client.watch(watched, lambda: client.delete(key))
    elif kind == "incr":
        client.put(key, b"41")
        client.watch(watched, lambda: client.incr(key, 1))
    elif kind == "touch":
        client.watch(watched, lambda: client.touch(key, ttl))
    elif kind == "tick":
        client.now += rng.choice([0, 1, 2 * TTL]) * MS
        client.watch(watched, lambda: client.tick(client.now))
    elif kind == "many":
        client.watch(watched, lambda: client.put_many([(k, b"m" * 50) for k in watched]))
    else:
        client.watch(watched, lambda: client.upload(key, rng.randbytes(9000), piece=3000))


def test_random_requests(client: SteppedClient, seed: int) -> None:
    rng = random.Random(seed)
    keys = [b"key %d" % i for i in range(24)]
    for i in range(400):  # more than the first buckets take, so that the index grows
        client.put(b"filler %d" % i, bytes(rng.randrange(120)))
    for _ in range(40):
        random_request(client, rng, rng.sample(keys, 8))


# The other side: the server executes whole requests between two instructions of the reader


def neighbours(count: int) -> list[bytes]:
    """Keys of one bucket."""
    found: dict[int, list[bytes]] = {}
    for i in range(100_000):
        key = b"key %d" % i
        bucket = key_hash(key, SEED) >> 16 & 63  # the first buckets
        found.setdefault(bucket, []).append(key)
        if len(found[bucket]) == count:
            return found[bucket]
    raise AssertionError


class Bucket:
    """A partition in this process, with keys of one bucket, and a reader in another process."""

    def __init__(self) -> None:
        self.memory = SharedMemory(1 << 20)
        self.store = Partition(
            self.memory,
            seed=SEED,
            first_version=1 << 60,
            lease_ns=SECOND,
            session_quota=1 << 30,
            max_value=1 << 20,
        )
        self.client = Client(self.store)
        self.keys = neighbours(12)
        self.reader = DirectReader(self.memory, seed=SEED)
        self.stepped = SteppedReader(self.reader)
        self.values: dict[int, int] = {}  # version: CRC of the value, as first read

    def read(self, key: bytes, acts: list[Callable[[], object]]) -> list[tuple[int, int, int]]:
        """Read a key with an act at each instruction; return (before, read, after) of each."""
        seen, finished, steps = [], False, 0
        while not finished:
            before = self.version(key)
            version, crc, finished = self.stepped.get(key, [steps], acts[steps % len(acts)])
            if version > 0:
                assert self.values.setdefault(version, crc) == crc, "a torn value"
            seen.append((before, version, self.version(key)))
            steps += 1
        assert steps > 30
        return seen

    def instructions(self, key: bytes) -> int:
        """How many instructions a read of a key executes."""
        low, high = 0, 1 << 20
        while low < high:
            middle = (low + high) // 2
            if self.stepped.get(key, [middle], lambda: None)[2]:
                high = middle
            else:
                low = middle + 1
        return low

    def version(self, key: bytes) -> int:
        answer = self.client.exists(key)
        return answer.result if answer.status == OK else 0

    def close(self) -> None:
        self.stepped.close()
        self.store.check()
        self.memory.close()


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    bucket = Bucket()
    yield bucket
    bucket.close()


def misread(seen: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    return [each for each in seen if each[1] not in (each[0], each[2], -1)]


@pytest.mark.parametrize("others", [2, 8, 11])
def test_a_reader_is_not_misled_by_a_neighbour_that_comes_and_goes(
    bucket: Bucket, others: int
) -> None:
    """Its slot moves within the bucket, into an overflow line, and out of it."""
    first, *rest = bucket.keys[:others]
    for key in rest:
        bucket.client.put(key, b"v")
    last = rest[-1]
    seen = bucket.read(
        last,
        [
            lambda: bucket.client.put(first, b"1"),
            lambda: bucket.client.delete(first),
            lambda: bucket.client.delete(rest[0]),
            lambda: bucket.client.put(rest[0], b"2"),
        ],
    )
    assert not misread(seen)


def test_a_reader_is_not_misled_by_changes_of_its_key(bucket: Bucket) -> None:
    key, *rest = bucket.keys
    for other in rest[:9]:
        bucket.client.put(other, b"v")
    seen = bucket.read(
        key,
        [
            lambda: bucket.client.put(key, b"1"),
            lambda: bucket.client.put(key, b"longer" * 20),
            lambda: bucket.client.delete(key),
            lambda: None,
        ],
    )
    assert not misread(seen)
    assert any(version > 0 for _, version, _ in seen)
    assert any(version == 0 for _, version, _ in seen)


def test_a_reader_is_not_misled_by_growth(bucket: Bucket) -> None:
    key = bucket.keys[0]
    bucket.client.put(key, b"v")
    more = iter(range(100_000))
    seen = bucket.read(
        key, [lambda: [bucket.client.put(b"more %d" % next(more), b"") for _ in range(9)]]
    )
    assert not misread(seen)


# The tests catch the faults that they are for


@pytest.mark.planted
@pytest.mark.parametrize("fault", ["old version zeroed too late", "new version written too early"])
def test_a_put_in_the_wrong_order_is_caught(fault: str) -> None:
    client = SteppedClient(1 << 20)
    for i in range(4):  # the same two places in turn: the reader remembers both
        client.watch([b"k"], lambda i=i: client.put(b"k", b"%d" % i))
    session = client.session
    _, _, seen = session.child.step(session.reader, [b"k"], "put", fault, b"k", b"x")
    sure = [version for version in seen[0] if version > 0]
    client.close()
    assert sure[:2] != sorted(set(sure)) or len(sure) > 2, seen


@pytest.mark.planted
def test_a_twin_that_a_move_left_is_caught() -> None:
    client = SteppedClient(1 << 20)
    client.watch([b"k"], lambda: client.put(b"k", b"old"))
    client.session.child.plant("twin", b"k")
    with pytest.raises(AssertionError):
        client.watch([b"k"], lambda: client.put(b"k", b"new"))
    client.session.child.close()


def is_missed(
    bucket: Bucket, rng: random.Random, delete: Callable[[bytes], object], reads: int
) -> bool:
    """Read a key that is there all the time while its slot moves; return whether it was missed.

    At random instructions of the reader the first key of the bucket goes, so that all others move
    forward, and comes again at the end.
    """
    *others, key = bucket.keys[:8]
    length = bucket.instructions(key)  # of a read that walks twice, in this build
    moments = range(length // 5, length)
    for _ in range(reads):
        bucket.client.delete(key)
        for other in others:
            bucket.client.delete(other)
            bucket.client.put(other, b"v")
        bucket.client.put(key, b"v")
        order = iter(others)

        def rotate(order: Iterator[bytes] = order) -> None:
            if (first := next(order, None)) is not None:
                delete(first)
                bucket.client.put(first, b"v")

        version, _, _ = bucket.stepped.get(key, sorted(rng.sample(moments, 7)), rotate)
        if version == 0:
            return True
    return False


def test_a_key_whose_slot_moves_is_never_missed(bucket: Bucket, seed: int) -> None:
    assert not is_missed(bucket, random.Random(seed), bucket.client.delete, 300)


@pytest.mark.planted
def test_a_miss_during_an_uncounted_rearrangement_is_caught(bucket: Bucket) -> None:
    def delete(key: bytes) -> None:
        delete_without_counting(bucket.store, key)

    assert is_missed(bucket, random.Random(1), delete, 1500)


def test_a_long_value_is_not_believed_while_its_record_may_be_moving(bucket: Bucket) -> None:
    key, other = bucket.keys[:2]
    bucket.client.put(key, bytes(5000))
    bucket.client.put(other, b"short")
    counter = 64 + 8 * (key_hash(key, SEED) >> 16 & 63)
    bucket.memory.write(counter, (1).to_bytes(8, "little"))
    assert bucket.reader.get(key)[0] == direct_result.DIRECT_UNSURE
    assert bucket.reader.get(other)[2] == b"short"
    bucket.memory.write(counter, (2).to_bytes(8, "little"))
    assert bucket.reader.get(key)[2] == bytes(5000)


def test_half_of_a_moved_record_is_not_believed(bucket: Bucket) -> None:
    """The version arrives at the new place before the value; only the counter shows that."""
    key = bucket.keys[0]
    bucket.client.put(key, b"old" * 2000)
    old = bucket.reader.slot(key)
    bucket.client.put(key, b"new" * 2000)
    new = bucket.reader.slot(key)
    place, source = ((slot & (1 << 36) - 1) * 16 for slot in (old, new))
    counter = 64 + 8 * (key_hash(key, SEED) >> 16 & 63)
    moved = bucket.memory.read(source + 8, 3000)
    before = bucket.memory.read(place + 8, 6000)
    value = b"new" * 978 + b"ne"  # as far as it was copied
    bucket.memory.write(place + 8, moved)
    bucket.memory.write(counter, (1).to_bytes(8, "little"))  # the server is moving the record
    assert bucket.reader.get_at(old, key)[0] == direct_result.DIRECT_UNSURE
    bucket.memory.write(counter, (2).to_bytes(8, "little"))  # a server that does not count
    result, _, torn = bucket.reader.get_at(old, key)
    assert result == direct_result.DIRECT_FOUND
    assert torn is not None
    assert torn != b"new" * 2000
    assert torn.startswith(value[:2900])
    bucket.memory.write(place + 8, before)


def test_a_reader_believes_no_server_that_has_ended(bucket: Bucket) -> None:
    key, other = bucket.keys[:2]
    bucket.client.put(key, b"v")
    assert bucket.reader.get(key)[0] == direct_result.DIRECT_FOUND
    assert bucket.reader.get(other)[0] == direct_result.DIRECT_ABSENT
    bucket.reader.end_server()
    assert bucket.reader.get(key)[0] == bucket.reader.get(other)[0] == direct_result.DIRECT_UNSURE
