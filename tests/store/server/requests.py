"""The store's requests, built and executed in Python."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from rfp.store.server.partition import Partition
from rfp.testing.partition_harness import Memory, Session

GET, EXISTS, PUT, DELETE, INCR, TOUCH = range(17, 23)
GET_MANY, PUT_MANY, DELETE_MANY, PUT_BEGIN, PUT_PIECE, PUT_ABORT, RELEASE, STATS, REFER = range(
    23, 32
)
EXISTS_MANY, GET_RANGE, GET_RANGES, SCAN, CLEAR = range(32, 37)
VIEW = 40
OPCODES = range(16, 41)

IF_ABSENT, IF_VERSION, PIECE_CRC = 1, 2, 4

(
    OK,
    NOT_FOUND,
    EXISTS_ALREADY,
    VERSION_MISMATCH,
    OUT_OF_MEMORY,
    TOO_LARGE,
    NOT_A_NUMBER,
    OVERFLOW,
) = range(8)
BAD_REQUEST, QUOTA, DEFERRED, UNKNOWN_UPLOAD, UNSUPPORTED = range(8, 13)

INLINE, REFERENCE = 0, 1
VIEWED = 16
VIEW_MIN = 64 << 10
MS = 1_000_000  # ns
SECOND = 1000 * MS
MAX_PIECE = 256 << 10


class Answer(NamedTuple):
    status: int
    kind: int
    result: int
    payload: bytes


class Reference(NamedTuple):
    offset: int
    length: int
    pin: int
    lease: int


class Viewed(NamedTuple):
    offset: int
    length: int
    record: int
    pin: int
    generation: int


class Result(NamedTuple):
    status: int
    version: int
    value: bytes


def partition(
    size: int = 1 << 20,
    *,
    eviction: str = "clock",
    first_version: int = 1,
    lease: int = SECOND,
    quota: int = 1 << 30,
    max_value: int = 256 << 20,
    seed: int = 7,
    view_quota: int = 0,
) -> Partition:
    return Partition(
        Memory(size),
        seed=seed,
        eviction=eviction,
        first_version=first_version,
        lease_ns=lease,
        session_quota=quota,
        max_value=max_value,
        view_quota=view_quota,
    )


class Client:
    """One service session, with a method for each opcode."""

    def __init__(
        self, store: Partition, *, capacity: int = 4096, staging: int = 0, peer: int = 0
    ) -> None:
        self.session = Session(store, capacity=capacity, staging=staging, peer=peer)

    def request(self, opcode: int, payload: bytes = b"", **options: int) -> Answer:
        return Answer(*self.session.execute(opcode, payload, **options))

    def get(self, key: bytes, **options: int) -> Answer:
        return self.request(GET, key, **options)

    def value(self, key: bytes) -> bytes | None:
        answer = self.get(key)
        assert answer.status in (OK, NOT_FOUND), answer
        assert answer.kind == INLINE, answer
        return answer.payload if answer.status == OK else None

    def view(self, key: bytes, **options: int) -> Answer:
        return self.request(VIEW, key, **options)

    def get_range(self, key: bytes, offset: int, length: int, **options: int) -> Answer:
        return self.request(GET_RANGE, struct.pack("<QQ", offset, length) + key, **options)

    def exists(self, key: bytes) -> Answer:
        return self.request(EXISTS, key)

    def put(
        self, key: bytes, value: bytes, *, ttl: int = 0, version: int = 0, flags: int = 0
    ) -> Answer:
        return self.request(
            PUT, struct.pack("<IIQQ", len(key), len(value), ttl, version) + key + value, flags=flags
        )

    def delete(self, key: bytes) -> Answer:
        return self.request(DELETE, key)

    def incr(self, key: bytes, delta: int) -> Answer:
        return self.request(INCR, struct.pack("<q", delta) + key)

    def touch(self, key: bytes, ttl: int) -> Answer:
        return self.request(TOUCH, struct.pack("<Q", ttl) + key)

    def get_many(self, keys: Iterable[bytes], **options: int) -> list[Result]:
        return self._many(GET_MANY, b"", [struct.pack("<H", len(k)) + k for k in keys], **options)

    def get_ranges(self, ranges: Iterable[tuple[bytes, int, int]], **options: int) -> list[Result]:
        return self._many(
            GET_RANGES,
            b"",
            [struct.pack("<H", len(k)) + k + struct.pack("<QQ", *part) for k, *part in ranges],
            **options,
        )

    def exists_many(self, keys: Iterable[bytes], **options: int) -> list[Result]:
        return self._many(
            EXISTS_MANY, b"", [struct.pack("<H", len(k)) + k for k in keys], **options
        )

    def delete_many(self, keys: Iterable[bytes]) -> list[Result]:
        return self._many(DELETE_MANY, b"", [struct.pack("<H", len(k)) + k for k in keys])

    def put_many(
        self, items: Iterable[tuple[bytes, bytes]], ttl: int = 0, **options: int
    ) -> list[Result]:
        pairs = [struct.pack("<HHI", len(k), 0, len(v)) + k + v for k, v in items]
        return self._many(PUT_MANY, struct.pack("<Q", ttl), pairs, **options)

    def _many(self, opcode: int, head: bytes, items: list[bytes], **options: int) -> list[Result]:
        answer = self.request(opcode, head + b"".join(items), count=len(items), **options)
        assert answer.status == OK, answer
        results = []
        at = 16 * len(items)
        for i in range(len(items)):
            status, length, version = struct.unpack_from("<B3xIQ", answer.payload, 16 * i)
            results.append(Result(status, version, answer.payload[at : at + length]))
            at += length
        assert at == len(answer.payload)
        return results

    def scan(
        self,
        prefix: bytes = b"",
        place: tuple[int, int] = (0, 0),
        *,
        limit: int = 1 << 63,
        **options: int,
    ) -> tuple[tuple[int, int], list[bytes]]:
        """Make one step; return the place to continue from, (0, 0) at the end, and the keys."""
        answer = self.request(SCAN, struct.pack("<QQQ", *place, limit) + prefix, **options)
        assert (answer.status, answer.kind, answer.result) == (OK, INLINE, 0), answer
        keys = []
        at = 16
        while at < len(answer.payload):
            (length,) = struct.unpack_from("<H", answer.payload, at)
            keys.append(answer.payload[at + 2 : at + 2 + length])
            at += 2 + length
        assert at == len(answer.payload)
        return struct.unpack_from("<QQ", answer.payload), keys

    def scan_all(self, prefix: bytes = b"", **options: int) -> list[bytes]:
        """Scan from begin to end."""
        place, found = self.scan(prefix, **options)
        while place != (0, 0):
            place, keys = self.scan(prefix, place, **options)
            found += keys
        return found

    def clear(
        self, prefix: bytes = b"", place: tuple[int, int] = (0, 0), *, limit: int = 1 << 63
    ) -> tuple[tuple[int, int], int]:
        """Make one step; return the place to continue from and the number of keys deleted."""
        answer = self.request(CLEAR, struct.pack("<QQQ", *place, limit) + prefix)
        assert (answer.status, len(answer.payload)) == (OK, 16), answer
        return struct.unpack("<QQ", answer.payload), answer.result

    def clear_all(self, prefix: bytes = b"", *, limit: int = 1 << 63) -> int:
        place, deleted = self.clear(prefix, limit=limit)
        while place != (0, 0):
            place, more = self.clear(prefix, place, limit=limit)
            deleted += more
        return deleted

    def put_begin(
        self, key: bytes, length: int, *, ttl: int = 0, version: int = 0, flags: int = 0
    ) -> Answer:
        return self.request(
            PUT_BEGIN, struct.pack("<IIQQ", len(key), length, ttl, version) + key, flags=flags
        )

    def put_piece(
        self,
        upload: int,
        offset: int,
        data: bytes,
        *,
        crc: int | None = None,
        staging: int = 0,
        length: int | None = None,
    ) -> Answer:
        if length is None:
            self.session.stage(staging, data)
            length = len(data)
        payload = struct.pack("<QQIIQ", upload, offset, length, crc or 0, staging)
        return self.request(PUT_PIECE, payload, flags=0 if crc is None else PIECE_CRC)

    def upload(self, key: bytes, value: bytes, *, piece: int = MAX_PIECE, **options: int) -> Answer:
        """Upload a value: announce it, request again while room is made, send the pieces."""
        answer = self.put_begin(key, len(value), **options)
        while answer.status == DEFERRED:
            answer = self.put_begin(key, len(value), **options)
        if answer.status != OK:
            return answer
        upload = answer.result
        for at in range(0, max(len(value), 1), piece):
            assert answer.status == OK, answer
            answer = self.put_piece(upload, at, value[at : at + piece])
        return answer

    def abort(self, upload: int) -> Answer:
        return self.request(PUT_ABORT, struct.pack("<Q", upload))

    def release(self, pin: int) -> Answer:
        return self.request(RELEASE, release=pin)

    def tick(self, now: int) -> bool:
        return self.session.tick(now)

    def close(self) -> None:
        self.session.close()


def reference(answer: Answer) -> Reference:
    assert answer.status == OK, answer
    assert answer.kind == REFERENCE, answer
    return Reference(*struct.unpack("<QQQQ", answer.payload))


def viewed(answer: Answer) -> Viewed:
    assert answer.status == OK, answer
    assert answer.kind == VIEWED, answer
    return Viewed(*struct.unpack("<QQQII", answer.payload))
