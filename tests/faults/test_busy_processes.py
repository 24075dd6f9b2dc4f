"""Servers and clients in processes or on processors that are busy with other work."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
from time_bounds import LONG, in_some_try

import rfp

from .processes import Process

SECONDS = 3


def test_a_server_serves_while_its_process_holds_the_gil(start: Callable[..., Any]) -> None:
    server = start("server", workers=2)
    # PyDLL keeps the GIL during the call, as C code does that does not release it.
    server.do("import ctypes; clock = ctypes.PyDLL(None)")

    def check() -> None:
        server.send(f"(time.monotonic(), clock.usleep({SECONDS}_000_000), time.monotonic())")
        started = time.monotonic()
        longest = 0.0
        count = 0
        kv.delete(b"n")
        while time.monotonic() - started < SECONDS * 0.8:
            before = time.monotonic()
            assert kv.incr(b"n") == count + 1
            kv.put(b"large", b"%d" % count * 300_000)
            assert kv.get(b"large") == b"%d" % count * 300_000
            assert kv.get_many([b"n"] * 30) == [b"%d" % (count + 1)] * 30
            longest = max(longest, time.monotonic() - before)
            count += 1
        begun, _, done = server.answer()
        assert done - begun > SECONDS * 0.9
        assert count > 50 and longest < 1

    with rfp.connect(server.address, timeout=LONG) as kv:
        kv.put(b"large", bytes(1 << 20))
        in_some_try(check)


BUSY = "deadline = time.monotonic() + 60\nwhile time.monotonic() < deadline: pass"


@pytest.mark.parametrize("busy", [0, 4], ids=["alone", "with two busy processes per core"])
def test_the_median_latency_stays_below_50_ms(start: Callable[..., Any], busy: int) -> None:
    def check(kv: rfp.Client) -> None:
        times = []
        started = time.monotonic()
        while len(times) < 300 and time.monotonic() - started < 10:
            before = time.monotonic()
            assert kv.get(b"k") == b"v"
            times.append(time.monotonic() - before)
        assert len(times) > 20
        assert statistics.median(times) < 0.05

    server = start("server")
    others = [Process() for _ in range(busy)]
    try:
        for other in others:
            other.send(BUSY)
        with rfp.connect(server.address, timeout=LONG) as kv:
            kv.put(b"k", b"v")
            in_some_try(lambda: check(kv))
    finally:
        for other in others:
            other.kill()


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 4])
def test_an_idle_server_uses_less_than_a_hundredth_of_a_core(
    start: Callable[..., Any], workers: int
) -> None:
    server = start("server", workers=workers)
    with rfp.connect(server.address) as kv:
        kv.put_many((b"%d" % i, b"v") for i in range(1000))
        clients = [start("client") for _ in range(3)]
        idle_since = time.monotonic()
        before = server.processor_time()
        used = [client.processor_time() for client in clients]
        time.sleep(4)  # the time over which the idle processes are measured
        passed = time.monotonic() - idle_since
        assert (server.processor_time() - before) / passed < 0.01
        for client, start_time in zip(clients, used):
            assert (client.processor_time() - start_time) / passed < 0.01


def test_a_waiting_client_does_not_spin(start: Callable[..., Any]) -> None:
    server = start("server")
    client = start("client", timeout=20)
    server.stop()
    client.send("kv.get(b'k')")
    before = client.processor_time()
    time.sleep(1)  # the time over which the waiting client is measured
    assert client.processor_time() - before < 0.25
    server.resume()
    assert client.answer() is None
