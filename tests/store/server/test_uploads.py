"""Large values that are uploaded in pieces."""

from __future__ import annotations

import random
import struct

import crc32c
import pytest

from .requests import (
    BAD_REQUEST,
    DEFERRED,
    EXISTS_ALREADY,
    IF_ABSENT,
    IF_VERSION,
    MAX_PIECE,
    MS,
    NOT_FOUND,
    OK,
    OUT_OF_MEMORY,
    PUT_ABORT,
    QUOTA,
    SECOND,
    TOO_LARGE,
    UNKNOWN_UPLOAD,
    VERSION_MISMATCH,
    Client,
    partition,
)

STAGING = 1 << 20


@pytest.fixture
def store():
    return partition(16 << 20, quota=8 << 20)


@pytest.fixture
def client(store):
    client = Client(store, capacity=4 << 20, staging=STAGING)
    client.tick(SECOND)
    return client


@pytest.mark.parametrize(
    "length", [0, 1, 100, MAX_PIECE - 1, MAX_PIECE, MAX_PIECE + 1, 3 * MAX_PIECE + 77]
)
def test_a_value_is_there_with_its_last_piece(store, client, length):
    value = random.Random(length).randbytes(length)
    upload = client.put_begin(b"key", length).result
    for at in range(0, max(length, 1), MAX_PIECE):
        assert client.exists(b"key").status == NOT_FOUND
        answer = client.put_piece(upload, at, value[at : at + MAX_PIECE])
        assert answer.status == OK
        assert client.session.yield_after
        store.check()
    assert answer.result == 1
    assert client.get(b"key") == (OK, 0, 1, value)
    assert store.stats()["uploads"] == store.stats()["bytes_reserved"] == 0


def test_pieces_of_any_length_make_the_same_value(store, client, rng):
    value = rng.randbytes(700_000)
    for key_length in [1, 7, 8, 1024]:
        upload = client.put_begin(bytes(key_length), len(value)).result
        at = 0
        while at < len(value):
            piece = value[at : at + rng.choice([1, 7, 64, 4095, 8193, 100_000])]
            answer = client.put_piece(
                upload, at, piece, staging=rng.randrange(STAGING - len(piece))
            )
            assert answer.status == OK
            at += len(piece)
        assert client.value(bytes(key_length)) == value
        # check() computes the checksum of the whole record again.
        store.check()


def test_the_old_value_is_kept_until_the_new_one_is_complete(store, client):
    client.put(b"a", b"old")
    upload = client.put_begin(b"a", 2).result
    client.put_piece(upload, 0, b"n")
    assert client.value(b"a") == b"old"
    client.put_piece(upload, 1, b"w")
    assert client.value(b"a") == b"nw"
    store.check()


def test_pieces_out_of_order_are_refused_and_the_upload_continues(store, client):
    upload = client.put_begin(b"a", 4).result
    assert client.put_piece(upload, 1, b"x").status == BAD_REQUEST
    assert client.put_piece(upload, 0, b"ab").status == OK
    assert client.put_piece(upload, 0, b"ab").status == BAD_REQUEST
    assert client.put_piece(upload, 3, b"d").status == BAD_REQUEST
    assert client.put_piece(upload, 2, b"cde").status == BAD_REQUEST
    assert client.put_piece(upload, 2, b"").status == BAD_REQUEST
    assert client.put_piece(upload, 2, b"cd").status == OK
    assert client.put_piece(upload, 4, b"").status == UNKNOWN_UPLOAD
    assert client.value(b"a") == b"abcd"
    store.check()


def test_a_piece_is_at_most_256_kib_and_within_the_staging_memory(client):
    upload = client.put_begin(b"a", 4 << 20).result
    assert client.put_piece(upload, 0, b"", length=MAX_PIECE + 1).status == BAD_REQUEST
    for staging, length in [
        (STAGING, 1),
        (STAGING - 1, 2),
        (STAGING + 1, 1),
        ((1 << 64) - 1, 2),
        (1 << 63, 1),
    ]:
        assert (
            client.put_piece(upload, 0, b"", staging=staging, length=length).status == BAD_REQUEST
        )
    assert client.put_piece(upload, 0, b"", staging=STAGING - 1, length=1).status == OK


def test_without_staging_memory_no_piece_is_taken(store):
    client = Client(store)
    upload = client.put_begin(b"a", 1).result
    assert client.put_piece(upload, 0, b"", length=1).status == BAD_REQUEST


def test_a_damaged_piece_may_be_sent_again(store, client):
    upload = client.put_begin(b"a", 6).result
    assert client.put_piece(upload, 0, b"abc", crc=crc32c.crc32c(b"abd")).status == BAD_REQUEST
    assert client.put_piece(upload, 0, b"abc", crc=crc32c.crc32c(b"abc")).status == OK
    assert client.put_piece(upload, 3, b"def", crc=crc32c.crc32c(b"def")).status == OK
    assert client.value(b"a") == b"abcdef"
    store.check()


def test_checksums_are_those_of_another_implementation(client, rng):
    """Long ranges are summed in three streams.

    The lengths are around each one at which their number changes; the sums are compared with
    another implementation's.
    """
    lengths = [
        n + d
        for n in [1536, 3072, 4608, 12288, 12288 + 1536, 24576]
        for d in [-9, -8, -1, 0, 1, 7, 8]
    ]
    for length in [*lengths, 100_000, MAX_PIECE]:
        data = rng.randbytes(length)
        upload = client.put_begin(b"a", length).result
        assert (
            client.put_piece(
                upload, 0, data, crc=crc32c.crc32c(data), staging=rng.randrange(8)
            ).status
            == OK
        )
        assert client.value(b"a") == data


def test_conditions_are_checked_at_the_beginning_and_at_the_end(store, client):
    version = client.put(b"a", b"1").result
    assert client.put_begin(b"a", 1, flags=IF_ABSENT) == (EXISTS_ALREADY, 0, version, b"")
    assert client.put_begin(b"a", 1, flags=IF_VERSION, version=9) == (
        VERSION_MISMATCH,
        0,
        version,
        b"",
    )
    upload = client.put_begin(b"a", 1, flags=IF_VERSION, version=version).result
    later = client.put(b"a", b"2").result
    assert client.put_piece(upload, 0, b"3") == (VERSION_MISMATCH, 0, later, b"")
    upload = client.put_begin(b"b", 1, flags=IF_ABSENT).result
    later = client.put(b"b", b"2").result
    assert client.put_piece(upload, 0, b"3") == (EXISTS_ALREADY, 0, later, b"")
    assert client.value(b"a") == client.value(b"b") == b"2"
    assert store.stats()["uploads"] == 0
    store.check()


def test_an_aborted_upload_leaves_nothing_behind(store, client):
    before = store.stats()["bytes_used"]
    upload = client.put_begin(b"a", 1000).result
    assert store.stats()["bytes_reserved"] > 1000
    client.put_piece(upload, 0, bytes(500))
    assert client.abort(upload).status == OK
    assert client.abort(upload).status == UNKNOWN_UPLOAD
    assert client.put_piece(upload, 500, bytes(500)).status == UNKNOWN_UPLOAD
    assert store.stats()["bytes_used"] == before
    store.check()


def test_uploads_of_another_session_cannot_be_used(store, client):
    other = Client(store, staging=STAGING)
    upload = client.put_begin(b"a", 1).result
    assert other.put_piece(upload, 0, b"x").status == UNKNOWN_UPLOAD
    assert other.abort(upload).status == UNKNOWN_UPLOAD
    assert client.put_piece(upload, 0, b"1").status == OK
    assert client.value(b"a") == b"1"


def test_an_upload_whose_client_stops_sending_is_freed(store, client):
    stalled = client.put_begin(b"a", 1000).result
    alive = client.put_begin(b"b", 1000).result
    for piece in range(6):
        client.tick((2 + 10 * piece) * SECOND)
        assert client.put_piece(alive, piece, b"x").status == OK
    assert store.stats()["uploads"] == 1
    assert client.put_piece(stalled, 0, b"x").status == UNKNOWN_UPLOAD
    assert client.put_piece(alive, 6, b"x").status == OK
    store.check()


def test_the_end_of_a_session_frees_its_uploads(store):
    before = store.stats()["bytes_used"]
    client = Client(store, staging=STAGING)
    for i in range(5):
        upload = client.put_begin(b"%d" % i, 100_000).result
        client.put_piece(upload, 0, bytes(1000))
    client.close()
    assert store.stats()["bytes_used"] == before
    assert store.stats()["uploads"] == store.stats()["bytes_reserved"] == 0
    store.check()


def test_a_session_uploads_no_more_than_its_quota(store, client):
    uploads = [client.put_begin(b"%d" % i, 2 << 20).result for i in range(3)]
    assert client.put_begin(b"x", 2 << 20).status == QUOTA
    assert client.put_begin(b"x", 1 << 20).status == OK
    client.abort(uploads[0])
    assert client.put_begin(b"x", 2 << 20).status == OK
    store.check()


def test_a_session_has_at_most_8_uploads(client):
    for i in range(8):
        assert client.put_begin(b"%d" % i, 1).status == OK
    assert client.put_begin(b"8", 1).status == QUOTA


def test_a_value_that_cannot_be_stored_is_refused_before_it_is_sent():
    store = partition(1 << 20, max_value=900 << 10, eviction="none")
    client = Client(store, staging=STAGING)
    assert client.put_begin(b"a", (900 << 10) + 1).status == TOO_LARGE
    assert client.put_begin(b"a", 900 << 10).status == OK
    assert client.put_begin(b"b", 900 << 10).status == OUT_OF_MEMORY
    assert client.put_begin(bytes(1025), 1).status == TOO_LARGE
    assert client.put_begin(b"", 1).status == BAD_REQUEST
    store.check()


def test_the_lifetime_begins_with_the_last_piece(client):
    upload = client.put_begin(b"a", 2, ttl=10).result
    client.tick(2 * SECOND)
    client.put_piece(upload, 0, b"a")
    client.tick(3 * SECOND)
    client.put_piece(upload, 1, b"b")
    client.tick(3 * SECOND + 9 * MS)
    assert client.value(b"a") == b"ab"
    client.tick(3 * SECOND + 11 * MS)
    assert client.value(b"a") is None


def test_a_client_uploads_no_more_than_its_quota_in_all_its_sessions_together(store):
    mine, mine_too, other = (Client(store, staging=STAGING, peer=peer) for peer in (1, 1, 2))
    mine.tick(SECOND)
    first = mine.put_begin(b"a", 5 << 20).result
    assert mine_too.put_begin(b"b", 5 << 20).status == DEFERRED  # until the first is complete
    assert mine_too.put_begin(b"b", 2 << 20).status == OK
    assert other.put_begin(b"c", 5 << 20).status == OK
    store.check()
    assert mine.request(PUT_ABORT, struct.pack("<Q", first)).status == OK
    assert mine_too.put_begin(b"d", 5 << 20).status == OK
    store.check()
    for client in (mine, mine_too, other):
        client.session.close()
        store.check()


@pytest.mark.parametrize("eviction", ["clock", "bucket", "none"])
def test_an_announced_upload_without_pieces_makes_room_for_another(eviction):
    store = partition(16 << 20, quota=8 << 20, eviction=eviction)
    silent = [Client(store, staging=STAGING, peer=peer) for peer in (1, 2)]
    silent[0].tick(SECOND)
    uploads = [client.put_begin(b"silent", 7 << 20).result for client in silent]
    honest = Client(store, staging=STAGING, peer=3)
    assert announced(honest, 7 << 20).status == OUT_OF_MEMORY
    silent[0].tick(2 * SECOND)
    # A refused piece does not advance an upload, and so does not extend its time.
    assert silent[0].put_piece(uploads[0], 77, b"x").status == BAD_REQUEST
    assert silent[1].put_piece(uploads[1], 0, b"x").status == OK
    honest.tick(3 * SECOND + 100 * MS)
    assert announced(honest, 7 << 20).status == OK
    store.check()
    assert silent[0].put_piece(uploads[0], 0, b"x").status == UNKNOWN_UPLOAD
    assert silent[1].put_piece(uploads[1], 1, b"x").status == OK


def announced(client, length):
    answer = client.put_begin(b"honest", length)
    while answer.status == DEFERRED:
        answer = client.put_begin(b"honest", length)
    return answer
