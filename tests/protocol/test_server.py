"""A host from its start to its end.

A resource that cannot be allocated is an error that leaves nothing behind, and closing waits for no
client without a limit.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
import time
import warnings

import pytest
from polling import until

import rfp
from rfp import address as addresses
from rfp.control import GetStats, Hello, Refused, Stats, Welcome, connect, frame
from rfp.core.clock import deadline_in
from rfp.errors import AddressInUse, FabricError, HandshakeFailed
from rfp.fabric.fabric import REMOTE_READ
from rfp.fabric.shm.region import ShmFabric
from rfp.protocol.client.connection import Connection
from rfp.protocol.server import server as host_module
from rfp.protocol.server.heartbeat import Heartbeat
from rfp.protocol.server.real_thread import RealThread


@pytest.fixture
def private(tmp_path):
    directory = tmp_path / "p"
    directory.mkdir(mode=0o700)
    return directory


def soon() -> int:
    return deadline_in(30)


# --- Threads


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_thread_that_cannot_be_started_is_an_error_and_leaves_nothing_behind(
    private, monkeypatch, number
):
    """Of the first worker, the second worker, and the control thread."""
    address, started, start = f"shm://{private}/s", [], threading.Thread.start

    def no_more(thread):
        if len(started) == number:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more)
        with pytest.raises(FabricError, match="can't start new thread.*ulimit -u"):
            rfp.Server(memory="4MiB", workers=2, address=address)
    assert not any(thread.is_alive() for thread in started)
    assert os.listdir(private) == []
    with (
        rfp.Server(memory="4MiB", workers=2, address=address) as server,
        rfp.connect(server.address) as kv,
    ):
        kv.put(b"k", b"v")


def test_a_heartbeat_whose_thread_cannot_be_started_can_be_stopped(monkeypatch):
    def no_more(thread):
        raise RuntimeError("can't start new thread")

    with ShmFabric().register(64, REMOTE_READ) as region:
        heartbeat = Heartbeat(region)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_more)
            with pytest.raises(FabricError, match="can't start new thread"):
                heartbeat.start()
        heartbeat.stop()


class Stopped(Exception):
    """The exception that a signal handler raises."""


@contextlib.contextmanager
def stopped_at_wait(number: int):
    """Raise Stopped, as a signal handler would, after this thread's number-th wait for an event."""
    waits, wait, starter = [], threading.Event.wait, threading.get_ident()

    def stopped(event, timeout=None):
        found = wait(event, timeout)
        if threading.get_ident() == starter:
            waits.append(event)
            if len(waits) == number + 1:
                raise Stopped
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Event, "wait", stopped)
        yield


@pytest.mark.parametrize("number", range(6))
def test_an_interrupt_while_a_servers_threads_start_leaves_none_of_them(private, number):
    """Of the two workers and the control thread, which would wait for ever on a closed object."""
    address = f"shm://{private}/s"
    before = set(threading.enumerate())
    with stopped_at_wait(number), pytest.raises(Stopped):
        rfp.Server(memory="4MiB", workers=2, address=address)
    until(lambda: set(threading.enumerate()) <= before)
    assert os.listdir(private) == []
    with (
        rfp.Server(memory="4MiB", workers=2, address=address) as server,
        rfp.connect(server.address) as kv,
    ):
        kv.put(b"k", b"v")


@pytest.mark.parametrize("number", range(2))
def test_a_thread_whose_start_was_interrupted_runs_nothing(number):
    ran: list[int] = []
    thread = RealThread(ran.append, "real", (1,))
    with stopped_at_wait(number), pytest.raises(Stopped):
        thread.start()
    thread.join()
    assert not ran


def test_greenlets_instead_of_threads_are_refused(private, monkeypatch):
    """They run in the thread that starts them, and a worker would never leave its loop."""
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda thread: thread.run())
        with pytest.raises(FabricError, match="greenlet.*patch_all\\(thread=False\\)"):
            rfp.Server(memory="4MiB", address=f"shm://{private}/s")
    assert os.listdir(private) == []


# --- The end


@contextlib.contextmanager
def blocked_handler(address: str):
    """Yield a server whose handler runs until `go` is set."""
    inside, go = threading.Event(), threading.Event()

    def handler(request: bytes) -> bytes:
        inside.set()
        go.wait()
        return request

    server = rfp.RpcServer(handler, address)
    client = rfp.RpcClient(server.address, timeout=30)
    caller = threading.Thread(target=_call, args=(client,))
    caller.start()
    inside.wait()
    try:
        yield server, go
    finally:
        go.set()
        server.close()
        caller.join()
        client.close()


def _call(client: rfp.RpcClient) -> None:
    with contextlib.suppress(rfp.errors.RfpError):
        client.call(b"x")


def test_a_signal_ends_a_close_that_waits_for_a_handler_and_another_close_continues(private):
    def stop(number, frame):
        raise Stopped

    old = signal.signal(signal.SIGALRM, stop)
    try:
        with blocked_handler(f"shm://{private}/s") as (server, go):
            for _ in range(3):
                signal.setitimer(signal.ITIMER_REAL, 0.05)
                with pytest.raises(Stopped):
                    server.close()
            assert server.closed
            go.set()
            server.close()
            assert not any(worker.running for worker in server._host.workers)
    finally:
        signal.signal(signal.SIGALRM, old)
    assert os.listdir(private) == []


def test_a_signal_handler_that_closes_within_a_close_frees_no_memory_in_use(private, monkeypatch):
    with blocked_handler(f"shm://{private}/s") as (server, go):
        running, give_back = [], server._give_back

        def noted() -> None:
            running.append([worker.running for worker in server._host.workers])
            give_back()

        def close(number, frame) -> None:
            server.close()
            go.set()

        monkeypatch.setattr(server, "_give_back", noted)
        old = signal.signal(signal.SIGALRM, close)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            server.close()
        finally:
            signal.signal(signal.SIGALRM, old)
        assert running == [[False]]


def test_a_signal_handler_may_close_at_any_line_of_a_close(private):
    """Even where the interrupted thread has the lock of close() and has not recorded it."""
    code = host_module.Host.close.__code__
    numbers = sorted(
        {line for *_, line in code.co_lines() if line is not None and line > code.co_firstlineno}
    )
    for number in numbers:
        server = rfp.RpcServer(bytes.upper, f"shm://{private}/s")

        def local(frame, event, argument, number=number, server=server):
            if event == "line" and frame.f_lineno == number:
                sys.settrace(None)
                server.close()
            return local

        def close(server=server, local=local) -> None:
            sys.settrace(lambda frame, event, argument: local if frame.f_code is code else None)
            server.close()

        thread = threading.Thread(target=close, daemon=True)
        thread.start()
        thread.join(20)
        assert not thread.is_alive(), number
        assert server._host.ended
        assert os.listdir(private) == []


def test_the_second_of_two_threads_that_close_waits_for_the_first(private):
    """Otherwise it would free memory that a worker still uses."""
    with blocked_handler(f"shm://{private}/s") as (server, go):
        running = []

        def close() -> None:
            server.close()
            running.append(any(worker.running for worker in server._host.workers))

        threads = [threading.Thread(target=close) for _ in range(2)]
        for thread in threads:
            thread.start()
        until(lambda: server.closed)
        go.set()
        for thread in threads:
            thread.join()
        assert running == [False, False]


def test_a_running_handler_does_not_block_the_control_thread(private):
    """However many threads connect and disconnect: their rings are pending commands."""
    with blocked_handler(f"shm://{private}/s") as (server, _):
        place = addresses.parse(server.address)
        link = Connection(place, ShmFabric(), connect(place, soon()), "rpc", soon())
        try:
            for _ in range(150):
                link.detach(link.attach(soon()))
            assert link.figures(soon())["connected"] == 2
        finally:
            link.close()


@pytest.mark.parametrize("kind", ["store", "rpc"])
def test_a_deleted_server_is_closed_with_a_warning(private, kind):
    address = f"shm://{private}/s"
    kept = [
        rfp.Server(memory="4MiB", address=address)
        if kind == "store"
        else rfp.RpcServer(bytes.upper, address)
    ]
    with pytest.warns(ResourceWarning, match="was not closed"):
        kept.clear()
    assert os.listdir(private) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        closed = rfp.Server(memory="4MiB", address=address)
        closed.close()
        del closed
        gc.collect()


def test_a_deleted_server_is_closed_even_if_warnings_are_errors(private, monkeypatch):
    kept, raised = [rfp.Server(memory="4MiB", address=f"shm://{private}/s")], []
    monkeypatch.setattr(sys, "unraisablehook", raised.append)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept.clear()
    assert [each.exc_type for each in raised] == [ResourceWarning]
    assert os.listdir(private) == []


@pytest.mark.filterwarnings("ignore:.*was not closed:ResourceWarning")
def test_a_server_deleted_within_its_own_handler_is_closed(private):
    address = f"shm://{private}/s"
    kept = []

    def handler(request: bytes) -> bytes:
        kept.clear()
        gc.collect()
        return request

    kept.append(rfp.RpcServer(handler, address))
    with rfp.RpcClient(address, timeout=30) as client:
        assert client.call(b"x") == b"x"
    until(lambda: os.listdir(private) == [])


# --- Strangers


def test_clients_have_their_turn_after_each_turn_of_the_listener(private, monkeypatch):
    """Work is counted, not time: a client's message is handled within two turns of the listener."""
    with rfp.Server(memory="4MiB", address=f"shm://{private}/s") as server:
        place = addresses.parse(server.address)
        with connect(place, soon()) as client:
            client.call(Hello(features=0, name="x", pid=1), Welcome, soon()).close()
            host, accept = server._host, server._host.listener.accept
            turns, sent, received, knocking = [0], [], [], threading.Event()

            def counted(deadline):
                turns[0] += 1
                if len(sent) < 50 and len(sent) == len(received):
                    sent.append(turns[0])
                    client._socket.sendall(frame.pack(GetStats.KIND, 0, {}, 0))
                return accept(deadline)

            act = host._act

            def noted(connection, message):
                if isinstance(message, GetStats):
                    received.append(turns[0])
                act(connection, message)

            monkeypatch.setattr(host.listener, "accept", counted)
            monkeypatch.setattr(host, "_act", noted)

            def connect_often() -> None:
                while not knocking.is_set():
                    with contextlib.suppress(rfp.errors.RfpError, OSError):
                        connect(place, soon()).close()

            threads = [threading.Thread(target=connect_often) for _ in range(2)]
            for thread in threads:
                thread.start()
            try:
                until(lambda: len(received) == 50)
            finally:
                knocking.set()
                for thread in threads:
                    thread.join()
        assert (
            max(after - before for before, after in zip(sent, received, strict=True))
            <= host_module.NEWCOMERS_MAX
        )


def test_an_unprintable_name_is_shown_escaped(private, monkeypatch):
    """The name of the script at the client, and of the socket at the server."""
    monkeypatch.setattr("sys.argv", [os.fsdecode(b"/bin/caf\xe9\n") + "\u200b" + "x" * 200])
    folder = os.fsencode(private)
    with rfp.Server(memory="4MiB", address="shm://" + os.fsdecode(folder) + "/caf%E9") as server:
        with rfp.connect(server.address, timeout=20) as kv:
            kv.put(b"k", b"v")
            (client,) = server.figures()["clients"]
            assert client["name"].startswith("caf\\xe9\\n\\u200bxxx")
            assert len(client["name"]) == 128
            assert kv.connection.figures(soon())["clients"][0]["name"] == client["name"]


def test_durations_do_not_depend_on_the_wall_clock(private, monkeypatch):
    with (
        rfp.Server(memory="4MiB", address=f"shm://{private}/s") as server,
        rfp.connect(server.address, timeout=20) as kv,
    ):
        kv.put(b"k", b"v")
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() - 400 * 86400)
        figures = server.figures()
        assert 0 <= figures["uptime"] < 3600
        assert 0 <= figures["clients"][0]["connected"] < 3600


def test_the_error_of_connecting_names_a_removed_socket(private):
    address = f"shm://{private}/s"
    with rfp.Server(memory="4MiB", address=address):
        os.unlink(private / "s")
        with pytest.raises(AddressInUse, match="its socket was removed: clients cannot connect"):
            rfp.Server(memory="4MiB", address=address)
        with pytest.raises(
            rfp.errors.ConnectionFailed, match=f"was removed, but process {os.getpid()} still runs"
        ):
            rfp.connect(address).get(b"k")


def test_the_error_names_a_default_server_of_another_runtime_directory(private, monkeypatch):
    monkeypatch.setattr(addresses, "_fallback", lambda: str(private))
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    with rfp.Server(memory="4MiB", address=addresses.default()):
        runtime = private / "runtime"
        runtime.mkdir(mode=0o700)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
        with pytest.raises(
            rfp.errors.ConnectionFailed,
            match=f"or connect to shm://{private}/default, the default address of another",
        ):
            rfp.connect().get(b"k")


def test_refusals_have_printable_texts():
    refused = Refused.of(
        HandshakeFailed("a name\x1b]0;owned\x07 with\n" + "x" * 3000, hint="\udcff")
    )
    assert refused.message.startswith("a name\\x1b]0;owned\\x07 with\\n")
    assert len(refused.message) == 2048
    assert refused.hint == "\\xff"
    refused.to_message()


def test_the_server_reports_its_shares(private):
    with (
        rfp.Server(memory="4MiB", address=f"shm://{private}/s", rings="8MiB") as server,
        connect(addresses.parse(server.address), soon()) as client,
    ):
        client.call(Hello(features=0, name="x", pid=1), Welcome, soon()).close()
        shares = client.call(GetStats(), Stats, soon()).figures["shares"]
        assert shares["most_memory"] == 8 << 20
        assert 0 < shares["descriptors"] < shares["most_descriptors"]
