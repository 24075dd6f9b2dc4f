"""Scans and clear() end to end: cursors, other clients meanwhile, restarts, arguments."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from slower import rounds

import rfp
from rfp.errors import DeadlineExceeded, InvalidArgument, WrongType

pytestmark = pytest.mark.anywhere


@pytest.fixture(autouse=True)
def _the_store_is_empty(request: pytest.FixtureRequest) -> None:
    for name in ("each_mode", "kv"):
        if name in request.fixturenames:
            request.getfixturevalue(name).clear()


def fill(kv: rfp.Client, name: bytes, n: int) -> set[bytes]:
    keys = {name % i for i in range(n)}
    kv.put_many((key, b"v") for key in keys)
    return keys


def scan_all(kv: rfp.Client, prefix: bytes = b"", **options: Any) -> list[bytes]:
    cursor, found = kv.scan(prefix, **options)
    while cursor:
        cursor, keys = kv.scan(prefix, cursor, **options)
        found += keys
    return found


def test_a_scan_returns_each_key(each_mode: rfp.Client) -> None:
    kv = each_mode
    assert kv.scan()[1] == list(kv.scan_iter()) == []
    keys = fill(kv, b"k%d", 3000) | fill(kv, b"%d" + b"x" * 1000, 50)
    for count in (1, 7, 128, 1 << 40):
        assert sorted(scan_all(kv, count=count)) == sorted(keys)
    assert sorted(kv.scan_iter()) == sorted(keys)
    assert sorted(kv.scan_iter(bytearray(b"k1"))) == sorted(k for k in keys if k[:2] == b"k1")
    assert list(kv.scan_iter(b"none")) == []
    assert all(len(kv.scan(count=n)[1]) <= n for n in (1, 2, 50))


def test_clear_deletes_the_keys_with_a_prefix(each_mode: rfp.Client) -> None:
    kv = each_mode
    keys = fill(kv, b"k%d", 3000)
    kv.put(b"large", bytes(300_000))
    assert kv.clear(b"none") == 0
    gone = {key for key in keys if key.startswith(b"k1")}
    assert kv.clear(b"k1") == len(gone)
    assert kv.exists_many(gone) == [False] * len(gone)
    assert set(kv.scan_iter()) == keys - gone | {b"large"}
    assert kv.clear() == len(keys - gone) + 1
    assert kv.get(b"large") is None
    assert kv.stats()["records"] == 0
    assert kv.clear() == 0


def test_no_key_is_missed_while_other_clients_write(each_mode: rfp.Client) -> None:
    kv = each_mode
    keys = fill(kv, b"k%d", 5000)
    ended = threading.Event()

    def write() -> None:
        n = 0
        while not ended.is_set():  # the index grows, and records get new places
            kv.put_many((b"new%d" % i, b"") for i in range(n, n + 200))
            kv.put_many((b"k%d" % (i % 5000), bytes(i % 100)) for i in range(n, n + 200))
            kv.delete_many(b"new%d" % i for i in range(n, n + 100))
            n += 200

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(3):
            assert keys <= set(kv.scan_iter(b"k"))
    finally:
        ended.set()
        thread.join()
    assert kv.clear(b"new") + kv.clear(b"k") > 5000


def test_a_cursor_survives_a_new_connection_to_the_same_server(each_mode: rfp.Client) -> None:
    keys = fill(each_mode, b"k%d", rounds(1000, 400))
    found: list[bytes] = []
    cursor = 0
    while True:
        with rfp.connect(each_mode.connection.address, timeout=20) as kv:
            cursor, some = kv.scan(cursor=int(str(cursor)))
        found += some
        if cursor == 0:
            break
    assert sorted(found) == sorted(keys)


def test_another_server_refuses_a_cursor() -> None:
    with rfp.Server(memory="16MiB") as one, rfp.Server(memory="16MiB") as other:
        with rfp.connect(one.address) as kv:
            fill(kv, b"k%d", 500)
            cursor, _ = kv.scan()
        assert cursor
        with rfp.connect(other.address) as kv:
            fill(kv, b"k%d", 500)
            with pytest.raises(InvalidArgument, match="belongs to another server"):
                kv.scan(cursor=cursor)
            assert kv.scan()[0]


def test_a_scan_does_not_go_on_at_a_server_started_later() -> None:
    with rfp.Server(memory="16MiB") as server:
        address = server.address
        kv = rfp.connect(address, timeout=20)
        fill(kv, b"k%d", 500)
        keys = kv.scan_iter()
        next(keys)
    with rfp.Server(memory="16MiB", address=address), kv:
        kv.ping()  # it connects again
        fill(kv, b"k%d", 500)
        with pytest.raises(InvalidArgument, match="belongs to another server"):
            list(keys)
        assert len(set(kv.scan_iter())) == 500


def test_expired_keys_are_not_returned(kv: rfp.Client) -> None:
    kv.put_many(((b"gone%d" % i, b"") for i in range(50)), ttl=0.01)
    kv.put(b"stays", b"")
    time.sleep(0.05)
    assert list(kv.scan_iter()) == [b"stays"]
    assert kv.clear() == 1


def test_clear_keeps_its_deadline(kv: rfp.Client) -> None:
    fill(kv, b"k%d", 20_000)
    with pytest.raises(DeadlineExceeded):
        kv.clear(timeout=1e-4)
    assert kv.clear() <= 20_000
    assert kv.stats()["records"] == 0


@pytest.mark.parametrize("call", ["scan", "scan_iter", "clear"])
def test_a_prefix_is_at_most_1024_bytes(kv: rfp.Client, call: str) -> None:
    for prefix in ("text", None, 5):
        with pytest.raises(WrongType, match=type(prefix).__name__):
            getattr(kv, call)(prefix)
    with pytest.raises(InvalidArgument, match="1024"):
        getattr(kv, call)(bytes(1025))
    getattr(kv, call)(bytes(1024))
    getattr(kv, call)(memoryview(b""))


def test_wrong_counts_and_cursors_are_refused(kv: rfp.Client) -> None:
    for call in (kv.scan, kv.scan_iter):
        for count in (0, -1, 1 << 63):
            with pytest.raises(InvalidArgument, match="count"):
                call(count=count)
        with pytest.raises(WrongType, match="count"):
            call(count=1.5)
    for cursor in (-1, 1, 63, 1 << 70, 1 << 133, 1 << 197, 1 << 198, 1 << 1000):
        with pytest.raises(InvalidArgument, match="cursor"):
            kv.scan(cursor=cursor)
    with pytest.raises(WrongType, match="cursor"):
        kv.scan(cursor=None)
