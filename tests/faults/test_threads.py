"""Several threads, several handles, and the ends of both."""

from __future__ import annotations

import gc
import random
import signal
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from polling import until
from time_bounds import LONG, soon

import rfp
from rfp.errors import CallerError, Closed

from .threads import Call

MIB = 1 << 20


def together(count: int, work: Callable[[int], None]) -> None:
    """Run work(0) ... work(count - 1) in threads, and raise the first exception of any."""
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    if errors:
        raise errors[0]


@pytest.mark.parametrize("workers", [1, 3])
def test_eight_threads_share_a_handle(workers: int) -> None:
    with (
        rfp.Server(memory="64MiB", workers=workers) as server,
        rfp.connect(server.address, timeout=30) as kv,
    ):
        # If a thread ended before another one began, the other one would take over its channel.
        all_attached = threading.Barrier(8)

        def work(number: int) -> None:
            kv.ping()
            all_attached.wait(30)
            rng = random.Random(number)
            mine: dict[bytes, bytes] = {}
            for i in range(150):
                key = b"%d %d" % (number, rng.randrange(10))
                value = rng.randbytes(rng.choice([10, 1000, 3000, 200_000]))
                kv.put(key, value)
                mine[key] = value
                kv.incr(b"shared")
                some = rng.choices(list(mine), k=3)
                assert kv.get_many(some) == [mine[each] for each in some]
                assert kv.get(key) == value
                if i % 10 == 0:
                    assert kv.delete(key)
                    del mine[key]
                    assert kv.get(key) is None

        together(8, work)
        assert kv.get(b"shared") == b"1200"
        assert [client["threads"] for client in server.figures()["clients"]] == [8]
        kv.ping()
        assert kv.stats()["pins"] <= 8 * workers


def test_a_thread_uses_several_handles_in_turn(server: rfp.Server) -> None:
    with (
        rfp.Server(memory="8MiB") as other,
        rfp.connect(server.address) as a,
        rfp.connect(server.address) as b,
    ):
        with rfp.connect(other.address) as c:
            attached = threading.Barrier(4)  # a thread that has ended leaves its rings to others

            def work(number: int) -> None:
                key = b"%d" % number
                for i in range(100):
                    assert a.incr(key) == 2 * i + 1
                    assert b.incr(key) == 2 * i + 2
                    assert c.incr(key) == i + 1
                    if i == 0:
                        attached.wait(30)

            together(4, work)
            assert sorted(client["threads"] for client in server.figures()["clients"]) == [4, 4]


def test_threads_that_end_leave_their_rings_to_others(server: rfp.Server) -> None:
    with rfp.connect(server.address) as kv:
        for _ in range(60):
            together(4, lambda number: kv.incr(b"n"))
        assert kv.get(b"n") == b"240"
        (client,) = server.figures()["clients"]
        assert client["threads"] <= 5, "the rings grow with the number of ended threads"
        assert (
            server.figures()["workers"][0]["rings"]
            == client["threads"]
            == len(kv.connection.channels)
        )


def test_a_hundred_threads_share_a_handle(server: rfp.Server) -> None:
    with rfp.connect(server.address, timeout=50) as kv:
        together(100, lambda number: [kv.incr(b"n") for _ in range(5)])
        assert kv.get(b"n") == b"500"
        assert server.figures()["clients"][0]["threads"] <= 101
    until(lambda: server.figures()["workers"][0]["rings"] == 0)


@pytest.mark.parametrize(
    "call",
    [
        lambda kv: kv.get(b"k"),
        lambda kv: kv.put(b"k", b"v"),
        lambda kv: kv.get(b"large"),
        lambda kv: kv.get_into(b"large", bytearray(4 * MIB)),
        lambda kv: kv.put(b"large", bytes(4 * MIB)),
        lambda kv: kv.get_many([b"%d" % i for i in range(1000)]),
        lambda kv: kv.put_many((b"%d" % i, b"v") for i in range(1000)),
        lambda kv: kv.stats(),
        lambda kv: kv.ping(),
    ],
    ids=[
        "get",
        "put",
        "get large",
        "get_into",
        "put large",
        "get_many",
        "put_many",
        "stats",
        "ping",
    ],
)
def test_a_handle_may_be_closed_while_others_call(
    server: rfp.Server, call: Callable[[rfp.Client], Any]
) -> None:
    for delay in (0, 0.0001, 0.005):
        kv = rfp.connect(server.address, mode="fetch", timeout=30)
        kv.put(b"large", bytes(4 * MIB))

        def work(kv: rfp.Client) -> None:
            with pytest.raises(Closed) as caught:
                while True:
                    call(kv)
            assert isinstance(caught.value, CallerError)

        calls = [Call(kv, work) for _ in range(4)]
        for each in calls:
            each.begin()
        time.sleep(delay)  # varies the moment of the close
        kv.close()
        for each in calls:
            each.result()
        assert kv.closed
        with pytest.raises(Closed):
            call(kv)
        kv.close()
    until(
        lambda: server.figures()["clients"] == [] and server.figures()["workers"][0]["rings"] == 0
    )
    with rfp.connect(server.address) as kv:
        assert kv.stats()["pins"] == kv.stats()["uploads"] == kv.stats()["bytes_reserved"] == 0


def test_many_threads_may_close_one_handle(server: rfp.Server) -> None:
    for _ in range(5):
        kv = rfp.connect(server.address)
        kv.ping()
        together(8, lambda number, kv=kv: kv.close())


def test_new_threads_may_call_while_the_handle_is_closed(server: rfp.Server) -> None:
    for _ in range(10):
        kv = rfp.connect(server.address, timeout=30)

        def work(number: int, kv: rfp.Client = kv) -> None:
            if number == 5:
                kv.close()
            try:
                kv.get(b"k")
                kv.get(b"k")
            except Closed:
                pass

        together(10, work)
        with pytest.raises(Closed):
            kv.get(b"k")
    until(lambda: server.figures()["clients"] == [])


def test_a_handle_without_references_is_closed(server: rfp.Server) -> None:
    def use() -> weakref.ref[rfp.Client]:
        kv = rfp.connect(server.address)
        kv.put(b"k", b"v")
        together(3, lambda number: kv.get(b"k"))
        return weakref.ref(kv)

    seen = use()
    gc.collect()
    assert seen() is None
    until(
        lambda: server.figures()["clients"] == [] and server.figures()["workers"][0]["rings"] == 0
    )


def test_a_server_may_be_closed_while_clients_call(place: str) -> None:
    for _ in range(5):
        server = rfp.Server(memory="16MiB", address=place, workers=2)
        kv = rfp.connect(place, timeout=30, reconnect=False)

        def work(kv: rfp.Client) -> None:
            with pytest.raises(rfp.errors.ConnectionFailed):
                while True:
                    kv.get(b"k")
                    kv.put(b"large", bytes(MIB))
                    kv.get(b"large")

        calls = [Call(kv, work) for _ in range(3)]
        for each in calls:
            each.begin()
        server.close()
        server.close()
        for each in calls:
            each.result()
        kv.close()


def test_a_signal_handler_may_close_the_handle_that_it_interrupts(
    start: Callable[..., Any],
) -> None:
    server = start("server")
    for attached in (True, False):
        kv = rfp.connect(server.address, mode="fetch", timeout=LONG)
        if attached:
            kv.ping()
        server.stop()
        with on_alarm(0.2, lambda kv=kv: kv.close()), soon(), pytest.raises(Closed):
            kv.get(b"k")
        server.resume()
    until(lambda: server.figures()["clients"] == [])


def test_a_signal_handler_may_not_call_the_handle_that_it_interrupts(
    start: Callable[..., Any],
) -> None:
    server = start("server")
    with rfp.connect(server.address, mode="fetch", timeout=30) as kv:
        kv.put(b"k", b"v")
        server.stop()
        with (
            on_alarm(0.2, lambda: kv.get(b"k")),
            pytest.raises(CallerError, match="inside another call"),
        ):
            kv.get(b"k")
        server.resume()
        assert kv.get(b"k") == b"v"


@pytest.mark.parametrize(
    "call",
    [
        lambda kv: kv.get(b"k"),
        lambda kv: kv.put(b"k", b"w"),
        lambda kv: kv.put(b"large", bytes(8 * MIB)),
        lambda kv: kv.ping(),
        lambda kv: kv.get_many([b"k"] * 100),
        lambda kv: kv.put_many([(b"k", b"w")] * 100),
    ],
    ids=["get", "put", "put large", "ping", "get_many", "put_many"],
)
def test_an_exception_of_a_signal_handler_ends_the_call(
    start: Callable[..., Any], call: Callable[[rfp.Client], Any]
) -> None:
    server = start("server")
    with rfp.connect(server.address, mode="fetch", timeout=LONG) as kv:
        kv.put(b"k", b"v")
        server.stop()

        def interrupt() -> None:
            raise KeyboardInterrupt

        for _ in range(3):
            with on_alarm(0.15, interrupt), soon(), pytest.raises(KeyboardInterrupt):
                call(kv)
        server.resume()
        assert kv.get(b"k") in (b"v", b"w")
        kv.put(b"large", b"\1" * (8 * MIB))
        assert kv.get(b"large") == b"\1" * (8 * MIB)
        until(lambda: kv.stats()["uploads"] == 0, seconds=5)


class on_alarm:  # noqa: N801 - reads as a statement
    """Call a function from a signal handler after some seconds."""

    def __init__(self, seconds: float, function: Callable[[], Any]) -> None:
        self.seconds = seconds
        self.function = function

    def __enter__(self) -> None:
        # SIGALRM belongs to the time-out that every test has.
        self.old = signal.signal(signal.SIGUSR1, lambda *_: self.function())
        self.timer = threading.Timer(
            self.seconds, signal.pthread_kill, (threading.main_thread().ident, signal.SIGUSR1)
        )
        self.timer.start()

    def __exit__(self, *_: object) -> None:
        self.timer.join()
        signal.signal(signal.SIGUSR1, self.old)
