"""GETs that read the server's memory without the server, as an application uses them."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest
from stopping import stop

import rfp
from rfp import address as addresses
from rfp.errors import Closed, ConnectionFailed, Forked, InvalidArgument, WrongType
from tests.support import python_programs

MIB = 1 << 20
SERVER = """
import sys, rfp
server = rfp.Server("64MiB", address=sys.argv[1])
print(server.address, flush=True)
sys.stdin.read()
server.close()
"""


@pytest.fixture
def server() -> Iterator[rfp.Server]:
    with rfp.Server(memory="64MiB", workers=2) as server:
        yield server


@pytest.fixture
def kv(server: rfp.Server) -> Iterator[rfp.Client]:
    with rfp.connect(server.address) as kv:
        kv.ping()
        yield kv


def direct(kv: rfp.Client) -> dict[str, int]:
    return kv.stats()["client"]["direct"]


def test_values_of_all_lengths_are_read_without_the_server(kv: rfp.Client) -> None:
    rng = random.Random(1)
    values = {
        b"%d" % n: rng.randbytes(n)
        for n in (0, 1, 31, 32, 33, 4095, 4096, 4097, 65535, 65536, 65537, 3 * MIB)
    }
    versions = {key: kv.put(key, value) for key, value in values.items()}
    before = kv.stats()
    for key, value in values.items():
        assert kv.get(key) == value
        assert kv.item(key) == (value, versions[key])
        buffer = bytearray(len(value) + 3)
        assert kv.get_into(key, buffer) == len(value)
        assert buffer[: len(value)] == value
    assert kv.get(b"absent") is None
    assert kv.item(b"absent") is None
    assert kv.get_into(b"absent", bytearray(1)) is None
    after = kv.stats()
    assert after["gets"] == before["gets"], "the server executed a GET"
    assert direct(kv)["found"] >= 3 * len(values)
    assert direct(kv)["absent"] >= 3


def test_parts_and_presence_are_read_without_the_server(kv: rfp.Client) -> None:
    rng = random.Random(2)
    values = {b"%d" % n: rng.randbytes(n) for n in (0, 1, 4096, 4097, 65537, 3 * MIB)}
    kv.put_many(values)
    before = kv.connection.channels[0].counters["submitted"]
    for key, value in values.items():
        for offset, length in ((0, 0), (0, 5), (7, 100), (4090, 20), (70_000, 66_000)):
            assert kv.get_range(key, offset, length) == value[offset : offset + length]
        assert kv.get_range(key, len(value), 1) == kv.get_range(key, len(value) + 1, 1) == b""
        assert kv.get_range(key, 1, 2**62) == value[1:]
        assert kv.exists(key) and key in kv
    assert kv.get_range(b"absent", 0, 1) is None
    assert b"absent" not in kv
    keys = [*values, *(b"absent %d" % i for i in range(100))]
    assert kv.exists_many(keys) == [key in values for key in keys]
    assert kv.connection.channels[0].counters["submitted"] == before


def test_get_many_reads_short_values_and_misses_without_the_server(kv: rfp.Client) -> None:
    keys = [b"key %d" % i for i in range(3000)]
    kv.put_many((key, key) for key in keys[::2])
    before = kv.stats()["gets"]
    assert kv.get_many(keys) == [key if i % 2 == 0 else None for i, key in enumerate(keys)]
    assert kv.stats()["gets"] == before
    kv.put(keys[1], bytes(200_000))
    assert kv.get_many(keys[:3]) == [keys[0], bytes(200_000), keys[2]]
    assert kv.get_many([]) == []


def test_changes_by_other_clients_are_seen_at_once(server: rfp.Server, kv: rfp.Client) -> None:
    with rfp.connect(server.address, mode="fetch") as other:
        for i in range(1000):
            other.put(b"k", b"%d" % i)
            assert kv.get(b"k") == b"%d" % i
            other.delete(b"k")
            assert kv.get(b"k") is None
        assert other.incr(b"n", 5) == 5
        assert kv.get(b"n") == b"5"


def test_arguments_are_checked_as_for_requests(kv: rfp.Client) -> None:
    kv.put(b"k", b"value")
    assert kv.get(memoryview(b"k")) == b"value"
    assert kv.get(bytearray(b"k")) == b"value"
    for bad in (b"", bytes(1025)):
        with pytest.raises(InvalidArgument):
            kv.get(bad)
    with pytest.raises(WrongType):
        kv.get("k")
    with pytest.raises(InvalidArgument):
        kv.get(b"k", timeout=-1)
    with pytest.raises(InvalidArgument, match="does not fit"):
        kv.get_into(b"k", bytearray(4))
    assert kv.get(b"k", timeout=1) == b"value"


def test_a_value_expires_for_direct_reads_too(kv: rfp.Client) -> None:
    kv.put(b"k", b"v", ttl=0.05)
    kv.put(b"stays", b"v", ttl=60)
    deadline = time.monotonic() + 10
    while kv.get(b"k") is not None:
        assert time.monotonic() < deadline
    assert kv.get(b"stays") == b"v"
    kv.touch(b"stays", 0.001)
    while kv.get(b"stays") is not None:
        assert time.monotonic() < deadline


@pytest.mark.parametrize("mode", ["fetch", "reply"])
def test_the_other_modes_ask_the_server(server: rfp.Server, mode: str) -> None:
    with rfp.connect(server.address, mode=mode) as kv:
        kv.put(b"k", b"v")
        before = kv.stats()["gets"]
        assert kv.get(b"k") == b"v"
        assert kv.stats()["gets"] == before + 1


def test_a_server_may_refuse_direct_reads() -> None:
    with rfp.Server(memory="4MiB", direct_reads=False) as server:
        with rfp.connect(server.address) as kv:
            kv.put(b"k", b"v")
            before = kv.stats()["gets"]
            assert kv.get(b"k") == b"v"
            assert kv.stats()["gets"] == before + 1


def test_an_emulated_network_is_not_bypassed() -> None:
    with rfp.Server(memory="4MiB", address=f"{addresses.unique()}?rtt=200us") as server:
        with rfp.connect(server.address) as kv:
            kv.put(b"k", b"v")
            started = time.perf_counter()
            assert kv.get(b"k") == b"v"
            assert time.perf_counter() - started > 200e-6


def test_a_closed_handle_reads_nothing(server: rfp.Server) -> None:
    kv = rfp.connect(server.address)
    kv.put(b"k", b"v")
    assert kv.get(b"k") == b"v"
    kv.close()
    for call in (lambda: kv.get(b"k"), lambda: kv.get_many([b"k"]), lambda: kv.item(b"k")):
        with pytest.raises(Closed):
            call()


def test_a_handle_may_be_closed_while_threads_read(server: rfp.Server) -> None:
    for size in (10, 4 * MIB):  # with the GIL held during the copy, and released
        kv = rfp.connect(server.address)
        kv.put(b"k", bytes(size))
        begun = threading.Barrier(4)

        def work(kv: rfp.Client = kv, begun: threading.Barrier = begun) -> None:
            kv.get(b"k")
            begun.wait(30)
            with pytest.raises(Closed):
                while True:
                    kv.get(b"k")

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        begun.wait(30)
        kv.close()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()


def test_a_signal_handler_may_close_the_handle_during_get_many(server: rfp.Server) -> None:
    kv = rfp.connect(server.address)
    keys = [b"%d" % i for i in range(200_000)]
    kv.put_many((key, b"v") for key in keys[:1000])
    previous = signal.signal(signal.SIGALRM, lambda *_: kv.close())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.002)
        with pytest.raises(Closed):
            while True:
                kv.get_many(keys)
    finally:
        signal.signal(signal.SIGALRM, previous)


def test_a_child_of_a_fork_does_not_read_its_parents_memory(kv: rfp.Client) -> None:
    kv.put(b"k", b"v")
    assert kv.get(b"k") == b"v"
    receiver, sender = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            kv.get(b"k")
        except Forked:
            os.write(sender, b"Forked")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(sender)
    assert os.read(receiver, 100) == b"Forked"
    os.close(receiver)
    assert kv.get(b"k") == b"v"


def test_values_outlive_the_handle_that_read_them(server: rfp.Server) -> None:
    with rfp.connect(server.address) as kv:
        kv.put(b"k", bytes(range(256)) * 4096)
        value = kv.get(b"k")
    gc.collect()
    assert value == bytes(range(256)) * 4096


def start_server(address: str) -> subprocess.Popen[str]:
    process = python_programs.start(
        "-c", SERVER, address, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == address
    return process


@pytest.fixture
def address(tmp_path: os.PathLike[str]) -> str:
    os.chmod(tmp_path, 0o700)
    return f"shm://{tmp_path}/s"


def test_a_stopped_servers_values_are_still_read(address: str) -> None:
    process = start_server(address)
    with rfp.connect(address, timeout=20) as kv:
        kv.put(b"k", b"v")
        kv.put(b"large", bytes(MIB))
        assert kv.get(b"k") == b"v"
        stop(process.pid)
        try:
            assert kv.get(b"k") == b"v"
            assert kv.get(b"large") == bytes(MIB)
            assert kv.get(b"absent") is None
            assert kv.get_many([b"k", b"absent"]) == [b"v", None]
        finally:
            os.kill(process.pid, signal.SIGCONT)
        kv.put(b"k", b"w")
        assert kv.get(b"k") == b"w"
    process.communicate("", timeout=30)


def test_a_killed_servers_values_are_never_read(address: str) -> None:
    process = start_server(address)
    with rfp.connect(address, reconnect=False) as kv, rfp.connect(address, timeout=30) as again:
        for each in (kv, again):
            each.put(b"k", b"old")
            assert each.get(b"k") == b"old"
        process.kill()
        process.communicate(timeout=30)
        with pytest.raises(ConnectionFailed):
            kv.get(b"k")
        successor = start_server(address)
        with rfp.connect(address) as other:
            other.put(b"k", b"new")
        assert again.get(b"k") == b"new"
        with pytest.raises(ConnectionFailed):
            kv.get(b"k")
    successor.communicate("", timeout=30)


def test_a_closed_servers_values_are_never_read() -> None:
    with rfp.Server(memory="4MiB") as server:
        with rfp.connect(server.address, reconnect=False) as kv:
            kv.put(b"k", b"v")
            assert kv.get(b"k") == b"v"
            server.close()
            with pytest.raises(ConnectionFailed):
                kv.get(b"k")


READER = """
import sys, rfp
with rfp.connect(sys.argv[1]) as kv:
    kv.ping()
    last, reads, stop = 0, 0, 0
    print("ready", flush=True)
    while not stop:
        stop = kv.get(b"stop") is not None
        for _ in range(1000):
            number = int(kv.get(b"n"))
            assert number >= last, (number, last)
            last, reads = number, reads + 1
    print(reads, kv.stats()["client"]["direct"]["found"])
"""


def test_readers_in_other_processes_see_numbers_that_only_grow(server: rfp.Server) -> None:
    with rfp.connect(server.address) as kv:
        kv.put(b"n", b"0")
        readers = [
            python_programs.start("-c", READER, server.address, stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        for reader in readers:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "ready\n"
        for i in range(1, 20_001):
            kv.put(b"n", b"%d" % i + b" " * (i % 300))  # int() ignores the blanks
            kv.put(b"filler %d" % (i % 50), bytes(i % 700))
        kv.put(b"stop", b"")
        for reader in readers:
            reads, found = map(int, reader.communicate(timeout=30)[0].split())
            assert reader.returncode == 0
            assert reads >= 1000
            assert found > reads * 0.9
