"""SIGSTOP of the server: deadlines hold, no slot is lost, and late responses do no damage."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from polling import until
from time_bounds import LONG, soon

import rfp
from rfp.errors import Busy, Closed, DeadlineExceeded

from .processes import in_call
from .threads import Call

MIB = 1 << 20

CALLS = {
    "get": lambda kv, timeout: kv.get(b"k", timeout=timeout),
    "get large": lambda kv, timeout: kv.get(b"large", timeout=timeout),
    "get_into": lambda kv, timeout: kv.get_into(b"large", bytearray(MIB), timeout=timeout),
    "get_many": lambda kv, timeout: kv.get_many([b"k%d" % i for i in range(100)], timeout=timeout),
    "put": lambda kv, timeout: kv.put(b"k", b"late", timeout=timeout),
    "put large": lambda kv, timeout: kv.put(b"large", bytes(MIB), timeout=timeout),
    "put_many": lambda kv, timeout: kv.put_many(
        [(b"k%d" % i, b"late") for i in range(100)], timeout=timeout
    ),
    "incr": lambda kv, timeout: kv.incr(b"n", timeout=timeout),
    "delete": lambda kv, timeout: kv.delete(b"gone", timeout=timeout),
    "stats": lambda kv, timeout: kv.stats(timeout=timeout),
    "ping": lambda kv, timeout: kv.ping(timeout=timeout),
}
# A stopped server's memory can be read.
WITHOUT_THE_SERVER = {
    "bypass": {"get"},
    "auto": {"get", "get large", "get_into", "get_many"},
}


@pytest.fixture(params=["auto", "fetch", "reply", "bypass"])
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


def test_every_call_ends_at_its_deadline_and_works_afterwards(
    start: Callable[..., Any], mode: str
) -> None:
    server = start("server", workers=2)
    with rfp.connect(server.address, mode=mode, timeout=LONG) as kv:
        kv.put(b"k", b"before")
        kv.put(b"large", b"\1" * MIB)
        for round in range(2):
            server.stop()
            for name, call in CALLS.items():
                if name in WITHOUT_THE_SERVER.get(mode, ()):
                    call(kv, 5)
                    continue
                with soon(least=0.01), pytest.raises((DeadlineExceeded, Busy)) as caught:
                    call(kv, 0.02)
                assert name not in ("put", "incr", "delete") or "may still happen" in str(
                    caught.value
                )
            server.resume()
            assert kv.get(b"k") == b"late", "the server did not execute the sent requests in order"
            assert kv.get_many([b"k%d" % i for i in range(100)]) == [b"late"] * 100
            assert int(kv.get(b"n")) == round + 1
            assert kv.get(b"large") in (b"\1" * MIB, bytes(MIB))
            kv.put(b"large", b"\2" * MIB)
            assert kv.get(b"large") == b"\2" * MIB
            kv.put(b"large", b"\1" * MIB)
        until(lambda: kv.stats()["pins"] == 0 and kv.stats()["uploads"] == 0, seconds=5)


def test_slots_are_free_again_after_the_server_continues(
    start: Callable[..., Any], mode: str
) -> None:
    server = start("server")
    with rfp.connect(server.address, mode=mode) as kv:
        kv.incr(b"n")
        slots = kv.connection.slots
        for _ in range(2):
            before = int(kv.get(b"n"))
            server.stop()
            sent = 0
            with pytest.raises(Busy) as caught:
                while True:
                    with pytest.raises(DeadlineExceeded):
                        kv.incr(b"n", timeout=0.0005)
                    sent += 1
            assert sent == slots, "a slot was lost, or taken twice"
            assert caught.value.hint
            for name, call in CALLS.items():
                if name not in WITHOUT_THE_SERVER.get(mode, ()):
                    with pytest.raises((Busy, DeadlineExceeded)):
                        call(kv, 0.002)
            server.resume()
            assert int(kv.get(b"n", timeout=20)) == before + slots
            assert kv.incr(b"n") == before + slots + 1


def test_a_call_waits_for_a_slot_until_its_deadline(start: Callable[..., Any]) -> None:
    server = start("server")
    with rfp.connect(server.address, mode="fetch", timeout=30) as kv:
        kv.ping()
        for waiting in (
            lambda: kv.get(b"k"),
            lambda: kv.get_many([b"k"]),
            kv.ping,
            kv.stats,
            lambda: kv.incr(b"n"),
            lambda: kv.put(b"large", bytes(MIB)),
        ):
            full = threading.Event()

            def fill_and_wait(
                kv: rfp.Client, full: threading.Event = full, waiting: Callable[[], Any] = waiting
            ) -> Any:
                with pytest.raises(Busy):
                    while True:
                        with pytest.raises(DeadlineExceeded):
                            kv.put(b"k", b"v", timeout=0.0005)
                full.set()
                return waiting()

            call = Call(kv, fill_and_wait)
            server.stop()
            call.begin()
            assert full.wait(20)
            until(lambda: in_call(kv))
            server.resume()
            assert call.result()


def test_a_late_response_is_not_returned_by_a_later_call(
    start: Callable[..., Any], mode: str
) -> None:
    server = start("server")
    with rfp.connect(server.address, mode="fetch" if mode in ("auto", "bypass") else mode) as kv:
        kv.put_many((b"%d" % i, b"value %d" % i) for i in range(200))
        for round in range(5):
            server.stop()
            for i in range(20):
                with pytest.raises(DeadlineExceeded):
                    kv.get(b"%d" % i, timeout=0.0005)
            server.resume()
            for i in range(100, 130):
                assert kv.get(b"%d" % (i + round), timeout=20) == b"value %d" % (i + round)


def test_an_interrupted_upload_does_not_mix_with_the_next_one(start: Callable[..., Any]) -> None:
    server = start("server", memory="256MiB")
    with rfp.connect(server.address, mode="fetch", timeout=20) as kv:
        kv.put(b"k", b"\0" * (20 * MIB))
        for round in range(1, 4):
            value = bytes([round]) * (20 * MIB)
            call = Call(kv, lambda kv, value=value: kv.put(b"k", value, timeout=0.2))
            call.begin()
            server.stop()
            try:
                call.result()
                stored = value
            except DeadlineExceeded:
                stored = None
            server.resume()
            now = kv.get(b"k")
            assert now == stored or (
                stored is None and len(set(now)) == 1 and len(now) == 20 * MIB
            ), "a torn value"
            other = bytes([100 + round]) * (20 * MIB)
            kv.put(b"k", other)
            assert kv.get(b"k") == other
        until(lambda: kv.stats()["uploads"] == 0 and kv.stats()["bytes_reserved"] == 0, seconds=5)


def test_a_stopped_server_is_not_dead(start: Callable[..., Any]) -> None:
    server = start("server")
    with rfp.connect(server.address, mode="fetch", timeout=20) as kv:
        kv.put(b"k", b"v")
        call = Call(kv, lambda kv: (kv.get(b"k"), kv.incr(b"n")))
        server.stop()
        call.begin()
        with pytest.raises(DeadlineExceeded, match="stopped"):
            rfp.connect(server.address, timeout=0.2)
        server.resume()
        assert call.result() == (b"v", 1)
        until(lambda: len(server.figures()["clients"]) == 1)


def test_a_handle_can_be_closed_while_its_server_is_stopped(start: Callable[..., Any]) -> None:
    server = start("server")
    kv = rfp.connect(server.address, mode="fetch", timeout=60)
    calls = [
        Call(kv, lambda kv: kv.put(b"large", bytes(10 * MIB))),
        Call(kv, lambda kv: kv.get(b"k")),
    ]
    server.stop()
    for call in calls:
        call.begin()
    with soon():
        kv.close()
        for call in calls:
            with pytest.raises(Closed):
                call.result()
    server.resume()
    until(
        lambda: server.figures()["clients"] == [] and server.figures()["workers"][0]["rings"] == 0
    )


def test_a_handle_can_be_closed_while_a_thread_attaches_to_a_stopped_server(
    start: Callable[..., Any],
) -> None:
    server = start("server")
    kv = rfp.connect(server.address, mode="fetch", timeout=60)  # no thread is attached yet
    server.stop()
    raised: list[BaseException] = []

    def read() -> None:
        try:
            kv.get(b"k")
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    with soon():
        kv.close()
        thread.join(LONG)
    assert len(raised) == 1 and isinstance(raised[0], (Closed, rfp.errors.ConnectionFailed)), raised
    server.resume()
    until(lambda: server.figures()["clients"] == [])
