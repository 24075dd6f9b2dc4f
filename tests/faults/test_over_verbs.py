"""The store's promises over verbs: its calls, its access rights, and faults.

The tests share one server, except those that kill, stop or close it.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from polling import until
from time_bounds import LONG, soon

import rfp
from rfp import control
from rfp.address import parse
from rfp.cli import main
from rfp.control import Credentials
from rfp.errors import (
    AlreadyExists,
    Closed,
    ConnectionFailed,
    DeadlineExceeded,
    HandlerFailed,
    HandshakeFailed,
    OutcomeUnknown,
    RfpError,
    TooLarge,
    VersionMismatch,
)

from .processes import Process, ServerProcess

pytestmark = [pytest.mark.verbs, pytest.mark.timeout(240)]

HOST = os.environ.get("RFP_TEST_HOST", "10.0.0.1")  # an address that the RDMA device has
MODES = ("auto", "fetch", "reply", "bypass")
MIB = 1 << 20
LOST = (ConnectionFailed, OutcomeUnknown, DeadlineExceeded)


def pattern(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture(scope="module", autouse=True)
def secret(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The secret of servers and clients, also in other processes."""
    file = tmp_path_factory.mktemp("secret") / "secret"
    file.touch(0o600)
    file.write_text(secrets.token_hex(32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RFP_SECRET_FILE", str(file))
        yield file


@pytest.fixture(scope="module")
def server() -> Iterator[rfp.Server]:
    with rfp.Server(memory="64MiB", workers=2, address=f"rdma://{HOST}:0") as server:
        server._host.welcome.chunk_size = MIB // 2  # so that values are in several chunks
        yield server


@pytest.fixture(params=MODES)
def each_mode(request: pytest.FixtureRequest, server: rfp.Server) -> Iterator[rfp.Client]:
    with rfp.connect(server.address, mode=request.param, timeout=30) as kv:
        yield kv


@pytest.fixture(scope="module")
def kv(server: rfp.Server) -> Iterator[rfp.Client]:
    with rfp.connect(server.address, timeout=30) as kv:
        kv.ping()  # attach here, not in the first test
        yield kv


@pytest.fixture
def address() -> str:
    """An address that a server can use again after another one was killed."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return f"rdma://{HOST}:{probe.getsockname()[1]}"


# Calls


def test_values_of_every_size_are_returned_whole(each_mode: rfp.Client) -> None:
    for size in (0, 1, 100, 2000, 2048, 5000, 300_000):
        value = pattern(size, size)
        version = each_mode.put(b"k", value)
        assert each_mode.get(b"k") == value
        assert each_mode.item(b"k") == (value, version)
        buffer = bytearray(size + 1)
        assert each_mode.get_into(b"k", buffer) == size
        assert buffer[:size] == value
    assert each_mode.delete(b"k")
    assert each_mode.get(b"k") is None


def test_conditions_counters_times_to_live_and_limits_work(each_mode: rfp.Client) -> None:
    kv = each_mode
    kv.delete_many([b"a", b"n", b"t"])
    first = kv.put(b"a", b"1", if_absent=True)
    with pytest.raises(AlreadyExists):
        kv.put(b"a", b"2", if_absent=True)
    second = kv.put(b"a", b"2", if_version=first)
    assert second > first
    with pytest.raises(VersionMismatch):
        kv.put(b"a", b"3", if_version=first)
    assert (kv.incr(b"n"), kv.incr(b"n", -10), kv.get(b"n")) == (1, -9, b"-9")
    assert b"a" in kv
    assert b"absent" not in kv
    assert not kv.touch(b"absent", ttl=5)
    kv.put(b"t", b"expires", ttl=0.05)
    until(lambda: kv.get(b"t") is None)
    kv.put(b"t", b"stays")
    assert kv.touch(b"t", ttl=0.05)
    until(lambda: b"t" not in kv)
    with pytest.raises(TooLarge):
        kv.put(b"big", bytes(40 * MIB))
    assert kv.ping() > 0
    assert kv.stats()["records"] > 0


def test_batches_keep_their_order_and_take_values_of_every_size(each_mode: rfp.Client) -> None:
    values = {b"key %d" % i: pattern((0, 30, 1900, 5000)[i % 4], i) for i in range(60)}
    versions = each_mode.put_many(values)
    assert all(isinstance(version, int) for version in versions)
    assert each_mode.get_many([*values, b"absent"]) == [*values.values(), None]
    assert each_mode.delete_many([*values, b"absent"]) == [True] * 60 + [False]


def test_large_values_move_with_and_without_registered_buffers(kv: rfp.Client) -> None:
    value = pattern(5 * MIB)
    kv.put(b"large", value)
    assert kv.get(b"large") == value  # through a bounce buffer, from several chunks
    source, target = np.frombuffer(value[::-1], np.uint8), np.zeros(5 * MIB + 7, np.uint8)
    regions = len(kv.connection.regions)
    with kv.register(source), kv.register(target):
        kv.put(b"large", source)
        assert kv.get_into(b"large", target[7:]) == len(source)
    assert target[7:].tobytes() == source.tobytes()
    assert len(kv.connection.regions) == regions  # no bounce buffer was used
    unaligned = bytearray(5 * MIB + 3)
    assert kv.get_into(b"large", memoryview(unaligned)[3:]) == len(source)
    assert unaligned[3:] == source.tobytes()


def test_only_the_requested_chunks_of_an_arena_are_registered(server: rfp.Server) -> None:
    with rfp.connect(server.address, timeout=30) as kv:
        (client,) = (
            each for each in server._host.clients if each.control.remote and not each.chunks
        )
        kv.put(b"one", pattern(3000))
        assert not client.chunks
        assert kv.get(b"one") == pattern(3000)
        assert len(client.chunks) == 1


def test_threads_have_rings_of_their_own(server: rfp.Server) -> None:
    wrong: list[Any] = []

    def work(kv: rfp.Client, name: int) -> None:
        try:
            for i in range(20):
                key, value = b"%d %d" % (name, i), pattern((40, 4000)[i % 2], 100 * name + i)
                kv.put(key, value)
                assert kv.get(key) == value
        except BaseException as error:
            wrong.append(error)

    with rfp.connect(server.address, timeout=60) as kv:
        threads = [threading.Thread(target=work, args=(kv, name)) for name in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_calls_are_answered_by_a_handler() -> None:
    def handler(request: bytes) -> bytes:
        if request == b"wrong":
            raise ValueError("no")
        if request == b"slow":
            time.sleep(2.5)  # longer than a heartbeat may be missing: it continues during a call
        return request[::-1]

    with rfp.RpcServer(handler, f"rdma://{HOST}:0") as server:
        for mode in ("auto", "fetch", "reply"):
            with rfp.RpcClient(server.address, timeout=30, mode=mode) as client:
                assert client.call(b"abc") == b"cba"
                assert client.call(pattern(60_000)) == pattern(60_000)[::-1]
        with rfp.RpcClient(server.address, timeout=30) as client:
            assert client.call(b"slow") == b"wols"
            with pytest.raises(HandlerFailed, match="ValueError: no"):
                client.call(b"wrong")


def test_the_command_line_takes_the_address_and_the_secret(
    server: rfp.Server, secret: Path
) -> None:
    def run(*arguments: str, status: int = 0) -> str:
        result = CliRunner().invoke(
            main,
            [*arguments[:1], "--address", server.address, *arguments[1:]],
            catch_exceptions=False,
        )
        assert result.exit_code == status, result.output
        return result.output

    assert int(run("put", "greeting", "hello")) > 0
    assert run("get", "--secret-file", str(secret), "greeting") == "hello"
    assert run("incr", "visits", "3") == "3\n"
    assert "responded 3 times" in run("ping", "--count", "3")
    assert server.address in run("stats")
    assert "records" in run("top", "--once", "--interval", "50ms")
    run("delete", "greeting")
    run("get", "greeting", status=1)


def test_a_server_in_the_foreground_prints_its_device(address: str, secret: Path) -> None:
    command = [sys.executable, "-m", "rfp.cli", "serve", "--address", address, "--memory", "16MiB"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
    ) as process:
        assert process.stdout is not None
        try:
            lines = [process.stdout.readline() for _ in range(5)]
            assert lines[0].startswith(f"serving at {address} ")
            assert "port 1, GID" in lines[1]
            assert f"secret_file='{secret}'" in lines[2]
            with rfp.connect(address, timeout=30) as kv:
                assert kv.put(b"k", b"v")
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()


# Access


def test_the_control_connection_may_speak_tls(tmp_path: Path) -> None:
    import trustme

    authority = trustme.CA()
    certificate = authority.issue_cert(HOST)
    authority.cert_pem.write_to_path(str(tmp_path / "ca"))
    certificate.private_key_pem.write_to_path(str(tmp_path / "key"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert"))
    options = {"tls_cert": tmp_path / "cert", "tls_key": tmp_path / "key"}
    with rfp.Server(memory="16MiB", address=f"rdma://{HOST}:0", **options) as server:
        with rfp.connect(server.address, tls_ca=tmp_path / "ca", timeout=30) as kv:
            kv.put(b"k", pattern(3000))
            assert kv.get(b"k") == pattern(3000)
            for _ in range(30):  # a TLS record may contain several messages
                assert kv.connection.figures(time.monotonic_ns() + 30 * 10**9)["connected"] == 1
        with pytest.raises(ConnectionFailed):
            rfp.connect(server.address, timeout=5)


def test_a_client_without_the_secret_is_refused(server: rfp.Server) -> None:
    before = len(server._host.clients)
    for wrong in ("another secret than theirs", None):
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("RFP_SECRET_FILE")
            with pytest.raises(HandshakeFailed, match="secret"):
                rfp.connect(server.address, secret=wrong)
    assert len(server._host.clients) == before


def test_a_clients_memory_keys_are_useless_to_another_client(server: rfp.Server) -> None:
    """The other client may know them, but they are of another protection domain."""
    from rfp.fabric.fabric import READ, SUCCESS, WRITE

    with (
        rfp.connect(server.address, timeout=30) as victim,
        rfp.connect(server.address, timeout=30) as thief,
    ):
        victim.put(b"k", pattern(3000))
        assert victim.get(b"k") == pattern(3000)
        thief.ping()
        (theirs,), (ours,) = victim.connection.channels, thief.connection.channels
        for opcode, region in (
            (READ, theirs.responses),
            (WRITE, theirs.requests),
            (READ, victim.connection.heartbeat),
        ):
            pair = ours.rings[0].pair
            assert pair.execute(opcode, ours.scratch, 0, region, 0, 8, timeout=20) != SUCCESS
            thief.close()
            thief = rfp.connect(server.address, timeout=30)
            thief.ping()
            (ours,) = thief.connection.channels
        assert victim.get(b"k") == pattern(3000)
        thief.close()


@pytest.mark.parametrize(("partition", "chunk"), [(0, 64), (0, 2**32 - 1), (2, 0), (63, 0)])
def test_a_request_for_an_invalid_chunk_ends_the_connection(
    server: rfp.Server, partition: int, chunk: int
) -> None:
    place = parse(server.address)
    with control.connect(place, control.deadline_in(20), Credentials.of()) as connection:
        hello = control.Hello(features=0, name="curious", pid=1)
        connection.call(hello, control.Welcome, control.deadline_in(20)).close()
        with pytest.raises(HandshakeFailed, match=f"no chunk {chunk} of arena {partition}"):
            connection.call(control.Map(partition, chunk), control.Mapped, control.deadline_in(20))


def test_access_ends_with_the_control_connection(server: rfp.Server) -> None:
    """A client that closes it and keeps its queue pairs can READ neither rings nor arenas."""
    from rfp.fabric.fabric import READ, SUCCESS

    with rfp.connect(server.address, timeout=30, reconnect=False) as kv:
        kv.put(b"k", pattern(3000))
        kv.get(b"k")
        (channel,) = kv.connection.channels
        served = len(server._host.clients)
        kv.connection.control.shutdown()
        until(lambda: len(server._host.clients) == served - 1 and not server._host.ending)
        for ring in channel.rings:
            assert (
                ring.pair.execute(READ, channel.scratch, 0, channel.responses, 0, 64, timeout=20)
                != SUCCESS
            )


def test_connections_without_a_handshake_do_not_delay_clients(
    server: rfp.Server, kv: rfp.Client
) -> None:
    place = parse(server.address)
    strangers = [socket.create_connection((place.host, place.port)) for _ in range(5)]
    try:
        strangers[0].sendall(b"GET / HTTP/1.1\r\n\r\n")
        with rfp.connect(server.address, timeout=30) as other:
            assert other.ping() > 0
        assert kv.ping() > 0
    finally:
        for stranger in strangers:
            stranger.close()


# Faults


def load(process: Process, address: str, call: str) -> None:
    """Let a process connect and repeat a call until it is killed."""
    process.do(f"kv = rfp.connect({address!r}, timeout=30)\nkv.put(b'large', bytes(300_000))")
    process.send(f"while True: {call}")


@pytest.mark.parametrize("call", ["kv.get(b'large')", "kv.put(b'large', bytes(300_000))"])
def test_a_client_killed_in_the_middle_of_a_call_leaves_no_resources(
    server: rfp.Server, kv: rfp.Client, call: str
) -> None:
    kv.ping()
    before = len(server._host.clients)
    process = Process()
    load(process, server.address, call)
    until(lambda: len(server._host.clients) == before + 1)
    served = server.figures()["served"]
    until(lambda: server.figures()["served"] > served + 10)
    process.kill()
    until(lambda: len(server._host.clients) == before and not server._host.ending)
    until(lambda: kv.stats()["pins"] == 0 and kv.stats()["uploads"] == 0)
    assert kv.put(b"still", b"here")


def failure_of(call: Callable[[], Any]) -> tuple[float, RfpError]:
    """Repeat a call until it fails, and return the time and the error."""
    while True:
        try:
            call()
        except RfpError as error:
            return time.monotonic(), error


def test_clients_notice_a_killed_server_within_a_second_and_find_the_next_one(address: str) -> None:
    server = ServerProcess(address, memory="16MiB")
    with (
        rfp.connect(address, timeout=60) as patient,
        rfp.connect(address, timeout=60, reconnect=False) as hasty,
    ):
        patient.put(b"k", b"v")
        found: list[tuple[float, RfpError]] = []
        threads = [
            threading.Thread(target=lambda: found.append(failure_of(lambda: hasty.get(b"k")))),
            threading.Thread(
                target=lambda: found.append(failure_of(lambda: hasty.put(b"k", b"v")))
            ),
        ]
        for thread in threads:
            thread.start()
        until(lambda: server.figures()["served"] > 50)
        killed = time.monotonic()
        server.kill()
        for thread in threads:
            thread.join()
        for when, error in found:
            assert isinstance(error, (ConnectionFailed, OutcomeUnknown))
            assert when - killed < 1, error
        with pytest.raises(ConnectionFailed):
            hasty.get(b"k")
        server = ServerProcess(address, memory="16MiB")
        try:
            assert patient.get(b"k") is None  # the killed server kept the value in memory
            patient.put(b"k", b"w")
            assert patient.get(b"k") == b"w"
        finally:
            server.close()


def test_a_stopped_server_is_lost_within_seconds_and_reconnected_after_it_continues(
    address: str,
) -> None:
    """Its device still responds, but its heartbeat stops."""
    server = ServerProcess(address, memory="16MiB")
    try:
        with rfp.connect(address, timeout=60) as kv:
            kv.put(b"k", pattern(3000))
            server.stop()
            with soon(least=0.5), pytest.raises(OutcomeUnknown):
                kv.put(b"k", b"after")
            with pytest.raises(LOST):
                kv.get(b"k", timeout=2)
            server.resume()
            assert kv.get(b"k") in (b"after", pattern(3000))
    finally:
        server.close()


@pytest.fixture
def link() -> Iterator[Callable[[str], None]]:
    """Set the network interface that has HOST up or down."""
    if os.geteuid() != 0:
        pytest.skip("only root may take a link down")
    name = subprocess.run(
        ["ip", "-o", "addr", "show", "to", HOST], capture_output=True, text=True, check=True
    ).stdout.split()[1]

    def change(state: str) -> None:
        subprocess.run(["ip", "link", "set", name, state], check=True)

    yield change
    change("up")


def test_calls_fail_while_the_link_is_down_and_work_after_it_is_up_again(
    link: Callable[[str], None],
) -> None:
    with (
        rfp.Server(memory="16MiB", address=f"rdma://{HOST}:0") as server,
        rfp.connect(server.address, timeout=60) as kv,
    ):
        kv.put(b"k", pattern(3000))
        link("down")
        with soon():
            with pytest.raises(LOST):
                kv.put(b"k", b"while it was down", timeout=4)
            with pytest.raises(LOST):
                kv.get(b"k", timeout=2)
        link("up")
        assert kv.get(b"k") in (pattern(3000), b"while it was down")
        kv.put(b"k", b"after")
        assert kv.get(b"k") == b"after"


def test_a_signal_ends_a_call_and_leaves_the_handle_usable(kv: rfp.Client) -> None:
    class Enough(Exception):
        pass

    def enough(*_: object) -> None:
        raise Enough

    before = signal.signal(signal.SIGUSR1, enough)
    try:
        for i in range(12):
            timer = threading.Timer(0.05 + 0.02 * i, os.kill, (os.getpid(), signal.SIGUSR1))
            with pytest.raises(Enough):
                timer.start()
                started = time.monotonic()
                while time.monotonic() - started < 20:
                    kv.put(b"k", bytes(300_000))
            timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    kv.put(b"k", b"v")
    assert kv.get(b"k") == b"v"


def test_closing_does_not_wait_for_an_answer_on_the_control_channel(
    server: rfp.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    registering, closed = threading.Event(), threading.Event()
    attach = server._host._chunk

    def slowly(*arguments: Any) -> Any:
        registering.set()
        closed.wait(LONG)
        return attach(*arguments)

    before = len(server._host.clients)
    kv = rfp.connect(server.address, timeout=LONG)
    kv.put(b"k", pattern(5000))
    monkeypatch.setattr(server._host, "_chunk", slowly)
    found: list[tuple[float, RfpError]] = []
    thread = threading.Thread(target=lambda: found.append(failure_of(lambda: kv.get(b"k"))))
    thread.start()
    assert registering.wait(30)
    with soon():
        kv.close()
    closed.set()
    thread.join()
    assert isinstance(found[0][1], Closed)
    until(lambda: len(server._host.clients) == before and not server._host.ending)


def test_a_server_closes_under_load(address: str) -> None:
    credentials = Credentials.of()
    server = rfp.Server(memory="16MiB", address=address)
    with rfp.connect(address, timeout=30, reconnect=False) as kv:
        failures: list[tuple[float, RfpError]] = []
        thread = threading.Thread(
            target=lambda: failures.append(failure_of(lambda: kv.put(b"k", bytes(100_000))))
        )
        thread.start()
        until(lambda: server.figures()["served"] > 20)
        server.close()
        thread.join()
    assert isinstance(failures[0][1], (ConnectionFailed, OutcomeUnknown))
    with pytest.raises(ConnectionFailed):
        control.connect(parse(address), control.deadline_in(5), credentials)
