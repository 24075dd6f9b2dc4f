"""kill -9 and SIGSTOP of clients: the server frees their resources, other clients see no error."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from polling import until
from slower import SLOWER

import rfp

from .processes import ended
from .threads import Call

MIB = 1 << 20

LOADS = {
    "gets of large values": "while True: kv.get(b'large')",
    "get_into": "buffer = bytearray(8 << 20)\nwhile True: kv.get_into(b'large', buffer)",
    "uploads": "while True: kv.put(b'upload %d' % random.randrange(4), value)",
    "batches": "while True: kv.put_many((b'%d' % i, b'v' * 100) for i in range(2000)); "
    "kv.get_many(b'%d' % i for i in range(2000))",
    "small calls": "while True: kv.incr(b'n'); kv.get(b'n'); kv.delete(b'k'); kv.put(b'k', b'v')",
    "threads": """
def use():
    while True: kv.put(b'upload', value); kv.get(b'large'); kv.incr(b'n')
for _ in range(4): threading.Thread(target=use, daemon=True).start()
use()""",
    "connecting": "while True:\n"
    "    with rfp.connect(kv.connection.address) as other: other.get(b'large')",
}


def held(server: rfp.Server, kv: rfp.Client) -> dict[str, Any]:
    """Return the resources that a server holds for clients."""
    stats, figures = kv.stats(), server.figures()
    return {
        "pins": stats["pins"],
        "uploads": stats["uploads"],
        "reserved": stats["bytes_reserved"],
        "clients": len(figures["clients"]),
        "rings": [worker["rings"] for worker in figures["workers"]],
    }


class Witness:
    """A client that calls while others die; each call must be right and end within its time-out."""

    def __init__(self, address: str) -> None:
        self.kv = rfp.connect(address, timeout=20)
        self.ended = threading.Event()
        self.calls = 0
        self.call = Call(self.kv, self._run).begin()

    def _run(self, kv: rfp.Client) -> None:
        rng = random.Random(0)
        values = [rng.randbytes(size) for size in (10, 1000, 5000, 300_000)]
        while not self.ended.is_set():
            value = values[self.calls % 4]
            version = kv.put(b"witness", value)
            assert kv.item(b"witness") == (value, version)
            assert kv.incr(b"witnessed") == self.calls + 1
            self.calls += 1

    def end(self) -> None:
        self.ended.set()
        try:
            self.call.result()
        finally:
            self.kv.close()


def kill_clients(
    start: Callable[..., Any],
    address: str,
    load: str,
    rounds: int,
    rng: random.Random,
    server: rfp.Server,
) -> None:
    """Start clients with a load, and kill each at a random moment of it."""
    with rfp.connect(address, timeout=20) as kv:
        kv.put(b"large", bytes(8 * MIB))
        kv.get(b"absent")
        before = held(server, kv)
        witness = Witness(address)
        for _ in range(rounds):
            client = start("client", address, prelude="value = bytes(3 << 20)", timeout=20)
            served = sum(worker["served"] for worker in server.figures()["workers"])
            client.send(load)
            until(
                lambda served=served: (
                    sum(worker["served"] for worker in server.figures()["workers"]) > served + 300
                )
            )
            time.sleep(rng.random() * 0.02)  # draws the moment of the kill
            client.kill()
        calls = witness.calls
        until(lambda: witness.calls > calls + 20 or not witness.call._thread.is_alive())
        witness.end()
        until(lambda: held(server, kv) == before)
        assert kv.get(b"large") == bytes(8 * MIB)


@pytest.mark.parametrize("load", LOADS)
def test_a_killed_clients_resources_are_freed_and_other_clients_see_no_error(
    start: Callable[..., Any], load: str, rng: random.Random
) -> None:
    with rfp.Server(memory="128MiB", workers=2, lease=0.5) as server:
        kill_clients(start, server.address, LOADS[load], 1, rng, server)


@pytest.mark.long(60)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("load", LOADS)
def test_a_server_survives_many_killed_clients(
    start: Callable[..., Any], load: str, rng: random.Random
) -> None:
    with rfp.Server(memory="128MiB", workers=2, lease=0.5) as server:
        kill_clients(start, server.address, LOADS[load], 30, rng, server)


def test_a_server_process_keeps_no_descriptor_of_its_dead_clients(
    start: Callable[..., Any],
) -> None:
    server = start("server", memory="64MiB")
    with rfp.connect(server.address, timeout=20) as kv:
        kv.put(b"large", bytes(8 * MIB))
    until(lambda: server.figures()["clients"] == [])
    before = server.descriptors()
    for _ in range(3):
        clients = [start("client") for _ in range(2)]
        for client in clients:
            client.send(LOADS["threads"].replace("value", "bytes(2 << 20)"))
        until(lambda: sum(client["threads"] for client in server.figures()["clients"]) >= 8)
        assert server.descriptors() != before
        for client in clients:
            client.kill()
        until(
            lambda: (
                server.figures()["clients"] == [] and server.figures()["workers"][0]["rings"] == 0
            )
        )
    # At most, since the first client's descriptors may not all have been closed when `before` was
    # counted.
    until(lambda: all(count <= before.get(kind, 0) for kind, count in server.descriptors().items()))


def test_stopped_clients_do_not_disturb_other_clients(start: Callable[..., Any]) -> None:
    with rfp.Server(memory="64MiB", lease=0.2) as server:
        witness = Witness(server.address)
        hanging = [
            start("client", server.address, prelude="value = bytes(3 << 20)") for _ in range(2)
        ]
        for client, load in zip(hanging, ("threads", "gets of large values")):
            client.do("kv.put(b'large', bytes(8 << 20))")
            client.send(LOADS[load])
        until(lambda: sum(worker["served"] for worker in server.figures()["workers"]) > 3000)
        for client in hanging:
            client.stop()
        with rfp.connect(server.address, timeout=20) as kv:
            until(lambda: kv.stats()["pins"] == 0)  # their leases end
            for i in range(50):  # these puts use their memory again
                kv.put(b"other %d" % (i % 5), bytes(4 * MIB))
        calls = witness.calls
        until(lambda: witness.calls > calls + 50 or not witness.call._thread.is_alive())
        witness.end()
        for client in hanging:
            client.kill()


READER = f"""
def read(seconds):
    deadline = time.monotonic() + seconds
    count = 0
    while time.monotonic() < deadline:
        value = kv.get(b'large', timeout={20 * SLOWER})
        assert value == value[:1] * len(value), 'a torn value'
        count += 1
    return count
"""


def test_a_read_that_was_stopped_for_longer_than_the_lease_is_discarded_and_repeated(
    start: Callable[..., Any], rng: random.Random
) -> None:
    """The reader is stopped in the middle of READs, while the server uses the memory again."""
    with (
        # Long enough for a whole read, else it would be repeated for ever.
        rfp.Server(memory="256MiB", lease=0.2 * SLOWER) as server,
        rfp.connect(server.address, timeout=30) as kv,
    ):
        size = 48 * MIB
        kv.put(b"large", b"\1" * size)
        reader = start("client", server.address, prelude=READER, mode="fetch")
        with ended(reader):
            reader.send("read(2.0)")
            until(lambda: kv.stats()["pins"] > 0)
            for i in range(2, 10):
                time.sleep(rng.random() * 0.03)  # draws the moment of the stop
                reader.stop()
                until(lambda: kv.stats()["pins"] == 0)
                for k in range(3):  # change every byte of the old value's memory
                    kv.put(b"large", bytes([i + 10 * k]) * size)
                reader.resume()
            assert reader.answer(50 * SLOWER) >= 1
