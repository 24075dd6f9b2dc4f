"""Logs: appended, collected, replayed and truncated over many laps.

And the effects of a faulty or hostile front-end on its own logs.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfp.errors import StorageFailed
from rnvm.media.medium import VolatileMemory
from rnvm.pool.pool import Pool, format_medium
from rnvm.testing import log_driver
from rnvm.testing.crash_model import Model

from .history import FENCED, FREE, LENGTH, PLACES, SIZES, History

FAULTS = {1: "malformed", 2: "address", 3: "owner", 5: "number"}


@pytest.fixture
def pool():
    with new_pool() as pool:
        yield pool


def new_pool() -> Pool:
    private = VolatileMemory(LENGTH)
    format_medium(private, SIZES)
    return Pool(private)


def root(pool: Pool, name: bytes) -> int:
    return log_driver.entry_of(pool, name)["root"]


def fault(pool: Pool, session: int = 0) -> str | None:
    return FAULTS.get(log_driver.session(pool, session)["memory"][4])


def write(pool: Pool, address: int, data: bytes) -> bytes:
    return log_driver.entry(log_driver.ENTRY_WRITE, address, data)


@given(
    st.lists(
        st.tuples(st.integers(0, 1900), st.sampled_from(["go on", "go on", "collect", "truncate"])),
        max_size=60,
    )
)
def test_operations_are_returned_in_order_over_many_laps(steps):
    with new_pool() as pool:
        made = pool.create(b"a", kind=1)
        session, _ = pool.attach()
        writer = log_driver.Writer(pool, session)
        number, covered, pending_operations = 0, 0, []
        transactions = 0
        for length, then in steps:
            body = (number % 251).to_bytes(1, "little") * length
            lsn, _ = writer.operations([log_driver.part(made, number + 1, body, code=7)])
            if lsn:
                number += 1
                pending_operations.append((number, body))
            if then == "collect":
                pool.collect()
                assert [
                    (each[3], each[4]) for each in log_driver.pending(pool, session)
                ] == pending_operations
            elif then == "truncate":
                transactions += 1
                entry = write(pool, root(pool, b"a"), number.to_bytes(8, "little"))
                assert writer.transaction(
                    [log_driver.part(made, transactions, entry, covers=number)]
                )[0]
                pool.collect()
                assert pool.replay() == 1
                pool.checkpoint()
                covered, pending_operations = number, []
                assert log_driver.pending(pool, session) == []
                head, replayed, durable, tail, faulty = log_driver.session(pool, session)[
                    "operations"
                ]
                assert head == replayed == durable == tail and not faulty
        assert log_driver.progress(pool, b"a") == (made, transactions, covered)


def test_a_full_ring_takes_no_record_until_it_is_truncated(pool):
    made = pool.create(b"a", kind=1)
    session, _ = pool.attach()
    writer = log_driver.Writer(pool, session)
    number = 0
    while writer.operations([log_driver.part(made, number + 1, bytes(100))])[0]:
        number += 1
    assert number == SIZES.operation_ring // 192
    pool.collect()
    assert len(log_driver.pending(pool, session)) == number
    assert writer.operations([log_driver.part(made, number + 1, bytes(100))]) == (0, 0)
    writer.transaction(
        [log_driver.part(made, 1, write(pool, root(pool, b"a"), bytes(8)), covers=number)]
    )
    pool.collect()
    pool.replay()
    pool.checkpoint()
    assert writer.operations([log_driver.part(made, number + 1, bytes(100))])[0]


def test_a_record_longer_than_half_a_ring_is_refused(pool):
    made = pool.create(b"a", kind=1)
    session, _ = pool.attach()
    writer = log_driver.Writer(pool, session)
    assert writer.operations([log_driver.part(made, 1, bytes(SIZES.operation_ring // 2))]) == (0, 0)
    assert writer.operations([log_driver.part(made, 1, bytes(SIZES.operation_ring // 2 - 64))])[0]


def test_transactions_of_two_sessions_are_applied_in_the_order_of_their_numbers(pool):
    made = pool.create(b"a", kind=1)
    writers = [log_driver.Writer(pool, pool.attach()[0]) for _ in range(2)]
    at = root(pool, b"a")
    for number in (2, 4, 6):
        writers[0].transaction(
            [log_driver.part(made, number, write(pool, at, number.to_bytes(8, "little")))]
        )
    pool.collect()
    assert pool.replay() == 0, "their predecessors are missing"
    for number in (1, 3, 5):
        writers[1].transaction(
            [log_driver.part(made, number, write(pool, at, number.to_bytes(8, "little")))]
        )
    pool.collect()
    assert pool.replay() == 6
    assert log_driver.progress(pool, b"a") == (made, 6, 0)
    assert pool.medium.read(at & (1 << 48) - 1, 8) == (6).to_bytes(8, "little")


def test_a_gap_that_no_record_fills_ends_the_session_at_recovery_and_the_pool_opens():
    model = Model(LENGTH)
    format_medium(model, SIZES)
    pool = Pool(model)
    made = pool.create(b"a", kind=1)
    session, _ = pool.attach()
    writer = log_driver.Writer(pool, session)
    at = root(pool, b"a")
    writer.transaction([log_driver.part(made, 1, write(pool, at, b"good one"))])
    writer.transaction([log_driver.part(made, 3, write(pool, at, b"too soon"))])
    pool.collect()
    with Pool(Model(LENGTH, content=model.crash(model.events_so_far, 1))) as again:
        assert again.medium.read(at & (1 << 48) - 1, 8) == b"good one"
        assert any("invalid records" in text for text in again.recovered)
        assert log_driver.session(again, session)["state"] == FREE
    pool.close()


def test_a_part_of_a_dropped_structure_has_no_effect(pool):
    old = pool.create(b"a", kind=1)
    session, _ = pool.attach()
    writer = log_driver.Writer(pool, session)
    pool.drop(b"a")
    pool.checkpoint()
    new = pool.create(b"b", kind=1)
    assert new & 0xFFFF == old & 0xFFFF and new != old
    writer.transaction([log_driver.part(old, 1, write(pool, root(pool, b"b"), b"from old"))])
    pool.collect()
    pool.replay()
    assert fault(pool) is None
    assert log_driver.progress(pool, b"b") == (new, 0, 0)
    assert pool.medium.read(root(pool, b"b") & (1 << 48) - 1, 8) == bytes(8)


def test_readers_see_the_sequence_odd_only_while_a_transaction_is_applied(pool):
    made = pool.create(b"a", kind=1)
    session, _ = pool.attach()
    writer = log_driver.Writer(pool, session)
    sequence = PLACES["names"] + 256
    for number in range(1, 4):
        writer.transaction([log_driver.part(made, number, write(pool, root(pool, b"a"), bytes(8)))])
        pool.collect()
        pool.replay()
        assert int.from_bytes(pool.medium.read(sequence, 8), "little") == 2 * number


# --- Faulty and hostile front-ends


def bad_transactions(
    pool: Pool, made: int, other: int, session: int
) -> dict[str, tuple[str, list[bytes]]]:
    """Return transactions that must not be applied: the fault, and the parts of a record."""
    backend = 1 << 48
    mine, theirs = root(pool, b"a"), root(pool, b"b")
    granted, foreign = pool.grant(session, 2), pool.grant(1, 1)
    entry, part = log_driver.entry, log_driver.part

    def one(body: bytes) -> list[bytes]:
        return [part(made, 1, body)]

    return {
        "another structure's block": ("owner", one(write(pool, theirs, bytes(8)))),
        "another session's grant": ("owner", one(write(pool, foreign, bytes(8)))),
        "a free block": ("owner", one(write(pool, granted + 512 * 10, bytes(8)))),
        "beyond its block into the next": ("owner", one(write(pool, mine + 504, bytes(16)))),
        "the header": ("address", one(write(pool, backend, bytes(8)))),
        "a naming entry": ("address", one(write(pool, backend + PLACES["names"], bytes(8)))),
        "a ring": ("address", one(write(pool, backend + PLACES["rings"], bytes(8)))),
        "the map": ("address", one(write(pool, backend + PLACES["groups"], bytes(8)))),
        "beyond the end": ("address", one(write(pool, backend + PLACES["end"], bytes(8)))),
        "across the end": ("address", one(write(pool, backend + PLACES["end"] - 8, bytes(16)))),
        "far away": ("address", one(write(pool, backend + (1 << 47), bytes(8)))),
        "another back-end": ("address", one(write(pool, mine + backend, bytes(8)))),
        "null": ("address", one(write(pool, 0, bytes(8)))),
        "an address that is no multiple of 8": (
            "malformed",
            one(entry(log_driver.ENTRY_WRITE, mine + 4, bytes(8))),
        ),
        "nothing": ("address", one(write(pool, mine, b""))),
        "an unknown kind": ("malformed", one(entry(9, mine, 1))),
        "a take of another structure's block": (
            "owner",
            one(entry(log_driver.ENTRY_TAKE, theirs, 1)),
        ),
        "a take of a free block": (
            "owner",
            one(entry(log_driver.ENTRY_TAKE, granted + 512 * 10, 1)),
        ),
        "a take of too many": ("owner", one(entry(log_driver.ENTRY_TAKE, granted, 5))),
        "a take of very many": (
            "address",
            one(entry(log_driver.ENTRY_TAKE, granted, (1 << 32) - 1)),
        ),
        "a take inside a block": ("address", one(entry(log_driver.ENTRY_TAKE, granted + 8, 1))),
        "a return of another structure's block": (
            "owner",
            one(entry(log_driver.ENTRY_RETURN, theirs, 1)),
        ),
        "an entry longer than its part": ("malformed", one(write(pool, mine, bytes(64))[:40])),
        "a structure twice": (
            "malformed",
            [
                part(made, 1, write(pool, mine, bytes(8))),
                part(made, 2, write(pool, mine, bytes(8))),
            ],
        ),
        "a part longer than the record": (
            "malformed",
            [part(made, 1, write(pool, mine, bytes(8)))[:-8]],
        ),
        "good in one structure, bad in the other": (
            "owner",
            [
                part(made, 1, write(pool, mine, b"8 bytes!")),
                part(other, 1, write(pool, mine, bytes(8))),
            ],
        ),
    }


with new_pool() as _pool:
    _made = [_pool.create(name, kind=1) for name in (b"a", b"b")]
    _session, _ = _pool.attach()
    _pool.attach()
    BAD = sorted(bad_transactions(_pool, *_made, _session))


@pytest.mark.parametrize("bad", BAD)
def test_an_invalid_transaction_changes_nothing_and_stops_only_its_session(bad, pool):
    made, other = pool.create(b"a", kind=1), pool.create(b"b", kind=1)
    session, _ = pool.attach()
    pool.attach()
    kind, parts = bad_transactions(pool, made, other, session)[bad]
    writers = [log_driver.Writer(pool, 0), log_driver.Writer(pool, 1)]
    before = pool.medium.read(PLACES["groups"], PLACES["end"] - PLACES["groups"])
    assert writers[0].transaction(parts)[0]
    pool.collect()
    assert pool.replay() == 0
    assert fault(pool) == kind
    assert pool.medium.read(PLACES["groups"], PLACES["end"] - PLACES["groups"]) == before
    writers[1].transaction([log_driver.part(other, 1, write(pool, root(pool, b"b"), b"go on on"))])
    pool.collect()
    assert pool.replay() == 1
    pool.checkpoint()
    pool.fence(0)
    assert log_driver.session(pool, 0)["state"] == FENCED
    pool.checkpoint()
    assert pool.release(0)
    assert pool.attach()[0] == 0
    assert fault(pool) is None


@given(st.data())
def test_no_bytes_in_a_front_ends_rings_change_the_data_of_others(data):
    """Random bytes, and valid records with random changes and new checksums."""
    chance = random.Random(data.draw(st.integers(0, 2**32)))
    with new_pool() as pool:
        made, other = pool.create(b"a", kind=1), pool.create(b"b", kind=1)
        session, _ = pool.attach()
        pool.attach()
        mine, theirs = root(pool, b"a"), root(pool, b"b")
        granted = pool.grant(session, 2)
        writer = log_driver.Writer(pool, session)
        untouched = [(0, PLACES["sessions"]), (theirs & (1 << 48) - 1, 512)]
        live = PLACES["names"] + 256
        before = [pool.medium.read(at, n) for at, n in untouched]
        for number in range(1, 8):
            style = chance.randrange(3)
            body = bytearray(
                write(
                    pool,
                    chance.choice([mine, granted, theirs, chance.getrandbits(64) & ~7]),
                    chance.randbytes(8 * chance.randint(0, 4)),
                )
                + log_driver.entry(
                    chance.choice([log_driver.ENTRY_TAKE, log_driver.ENTRY_RETURN]),
                    chance.choice([granted, mine, theirs]),
                    chance.randint(0, 3),
                )
            )
            if style:
                for _ in range(chance.randint(0, 3)):
                    body[chance.randrange(len(body))] = chance.randrange(256)
            part = bytearray(log_driver.part(made, number, bytes(body)))
            if style == 2:
                part[chance.randrange(32)] ^= 1 << chance.randrange(8)
            writer.transaction([bytes(part)])
            if chance.random() < 0.3:
                length = chance.randint(1, 200)
                at = chance.randrange(SIZES.operation_ring + SIZES.memory_ring - length)
                pool.medium.poke(PLACES["rings"] + at, chance.randbytes(length))
            pool.collect()
            pool.replay()
            if chance.random() < 0.3:
                pool.checkpoint()
        after = [pool.medium.read(at, n) for at, n in untouched]
        # Of the first structure's own entry the progress and the sequence may have changed, and
        # the owner map if it took blocks.
        entry = slice(live, live + 128)
        assert (
            after[0][: entry.start] == before[0][: entry.start]
            and after[0][entry.stop :] == before[0][entry.stop :]
        )
        assert after[1] == before[1]
        assert log_driver.progress(pool, b"b") == (other, 0, 0)
        pool.fence(session)
        pool.replay()
        pool.checkpoint()
        assert pool.release(session)
        pool.create(b"c", kind=1)


# --- A medium that fails


@pytest.mark.parametrize("kind", ["words", "lines", "sectors"])
def test_recovery_loses_no_acknowledged_operation_whichever_drain_fails(kind, seed):
    for round_ in range(30):
        past = History(random.Random(seed + round_), kind)
        past.model.fail_drain(random.Random(seed + round_).randrange(60))
        with pytest.raises(StorageFailed):
            while True:
                past.run(20)
        assert past.model.failed
        past.crashes(seed + round_, points=[past.now])
