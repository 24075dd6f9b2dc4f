"""kill -9 of a server under load, and a new server at the same address."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from polling import until
from time_bounds import LONG, soon

import rfp
from rfp.errors import Closed, ConnectionFailed, OutcomeUnknown

from .processes import Failed, in_call
from .threads import Call

# A client's load: it repeats one operation until it fails, and returns the error and the time
# (CLOCK_MONOTONIC is the same in all processes).
LOAD = """
def run(call):
    count = 0
    while True:
        try:
            call(count)
        except errors.RfpError as error:
            return type(error).__name__, str(error), time.monotonic(), count
        count += 1
"""

CALLS = {
    "get": lambda kv: kv.get(b"k"),
    "get large": lambda kv: kv.get(b"large"),
    "get_into": lambda kv: kv.get_into(b"large", bytearray(1 << 20)),
    "get_many": lambda kv: kv.get_many([b"k%d" % k for k in range(100)]),
    "in": lambda kv: b"k" in kv,
    "stats": lambda kv: kv.stats(),
    "ping": lambda kv: kv.ping(),
    "touch": lambda kv: kv.touch(b"k", 100),
    "put": lambda kv: kv.put(b"k", b"v"),
    "put large": lambda kv: kv.put(b"large", bytes(1 << 20)),
    "put_many": lambda kv: kv.put_many([(b"k%d" % k, b"v") for k in range(100)]),
    "incr": lambda kv: kv.incr(b"n"),
    "delete": lambda kv: kv.delete(b"k"),
    "delete_many": lambda kv: kv.delete_many([b"k%d" % k for k in range(100)]),
}
# These change nothing, or may be repeated, or (a large put) do not send the last piece while the
# server does not respond.
REPEATED = ("get", "get large", "get_into", "get_many", "in", "stats", "ping", "touch", "put large")


def test_every_client_notices_the_servers_death_within_a_second(start: Callable[..., Any]) -> None:
    server = start("server", workers=2)
    # Without reconnect=True each call fails; with it, only the calls that may have changed data.
    loads = {
        "lambda i: kv.get(b'large')": ({"reconnect": False}, ("ConnectionFailed",)),
        "lambda i: kv.get(b'k')": ({"reconnect": False}, ("ConnectionFailed",)),
        "lambda i: kv.put(b'k', b'v')": ({"reconnect": False}, ("OutcomeUnknown",)),
        "lambda i: kv.put(b'large', bytes(1 << 20))": (
            {"reconnect": False},
            ("ConnectionFailed", "OutcomeUnknown"),
        ),
        "lambda i: kv.put_many([(b'k%d' % k, b'v') for k in range(100)])": (
            {},
            ("OutcomeUnknown",),
        ),
    }
    clients = {
        call: start("client", prelude=LOAD, timeout=20, **options)
        for call, (options, _) in loads.items()
    }
    for call, client in clients.items():
        client.send(f"run({call})")
    until(lambda: all(worker["served"] > 1000 for worker in server.figures()["workers"]))
    killed = time.monotonic()
    server.kill()
    for call, client in clients.items():
        kind, text, failed, count = client.answer()
        assert kind in loads[call][1], call
        assert server.address in text and "lost" in text
        assert failed - killed < 1, f"{call} after {count} calls"


def test_without_reconnect_every_later_call_of_a_handle_fails(start: Callable[..., Any]) -> None:
    server = start("server")
    handles = {
        name: rfp.connect(server.address, mode="fetch", reconnect=False, timeout=25)
        for name in CALLS
    }
    calls = {name: Call(handles[name], call) for name, call in CALLS.items()}
    server.stop()
    for call in calls.values():
        call.begin()
    server.kill()
    start("server")  # at the same address
    for name, kv in handles.items():
        with pytest.raises(ConnectionFailed) as caught:
            calls[name].result()
        assert type(caught.value) is (ConnectionFailed if name in REPEATED else OutcomeUnknown), (
            name
        )
        assert caught.value.hint
        for _ in range(2):  # the handle is lost, and sends no request
            with pytest.raises(ConnectionFailed) as caught:
                CALLS[name](kv)
            assert type(caught.value) is ConnectionFailed
        kv.close()


def test_a_call_that_may_be_repeated_waits_for_the_next_server_and_succeeds(
    start: Callable[..., Any],
) -> None:
    server = start("server")
    handles = {name: rfp.connect(server.address, mode="fetch", timeout=25) for name in REPEATED}
    calls = {name: Call(handles[name], CALLS[name]) for name in REPEATED}
    server.stop()
    for call in calls.values():
        call.begin()
    server.kill()
    server = start("server")
    answers = {name: call.result() for name, call in calls.items()}
    assert answers["get"] is None and answers["in"] is False and answers["put large"] > 0
    assert len(server.figures()["clients"]) == len(handles)
    for kv in handles.values():
        kv.close()


@pytest.mark.anywhere
def test_a_change_that_was_sent_is_not_repeated(start: Callable[..., Any]) -> None:
    server = start("server")
    with rfp.connect(server.address, timeout=25) as kv:
        kv.incr(b"n")
        change = Call(kv, CALLS["incr"])
        server.stop()
        change.begin()
        server.kill()
        server = start("server")
        with pytest.raises(OutcomeUnknown) as caught:
            change.result()
        assert caught.value.hint
        assert kv.get(b"n") is None, "the change was repeated, although it might have happened"
        assert kv.incr(b"n") == 1


def test_a_change_after_a_restart_goes_to_the_new_server(
    start: Callable[..., Any],
) -> None:
    server = start("server")
    with rfp.connect(server.address, timeout=25) as kv:
        assert kv.incr(b"n", 5) == 5
        server.kill()
        server = start("server")
        assert kv.incr(b"n") == 1


def test_a_new_thread_may_be_the_first_to_notice_the_servers_death(
    start: Callable[..., Any],
) -> None:
    server = start("server")
    with rfp.connect(server.address, timeout=25) as kv:
        kv.ping()
        for _ in range(2):  # the second thread takes over the channel of the first
            server.kill()
            server = start("server")
            outcome: list[Any] = []
            thread = threading.Thread(target=lambda outcome=outcome: outcome.append(kv.incr(b"n")))
            thread.start()
            thread.join(25)
            assert outcome == [1]
        assert kv.incr(b"n") == 2


def test_an_unfinished_large_upload_is_sent_again_to_the_next_server(
    start: Callable[..., Any],
) -> None:
    server = start("server", memory="512MiB")
    client = start("client", prelude="import zlib", timeout=25)
    client.do("value = random.Random(5).randbytes(200 << 20)")
    client.send("kv.put(b'large', value)")
    until(lambda: server.do("True") and _uploads(server) == 1)
    server.kill()
    server = start("server", memory="512MiB")
    try:
        version = client.answer()
        assert client.do("kv.item(b'large').version") == version
        assert client.do("zlib.crc32(kv.get(b'large')) == zlib.crc32(value)")
    except Failed as error:  # the client had just sent the last piece
        assert error.kind == "OutcomeUnknown"


def _uploads(server: Any) -> int:
    return server.do("sum(partition.stats()['uploads'] for partition in server._partitions)")


def test_the_deadline_holds_while_no_server_runs(start: Callable[..., Any]) -> None:
    server = start("server")
    with rfp.connect(server.address, timeout=LONG) as kv:
        kv.ping()
        server.kill()
        for call in (
            kv.get,
            kv.exists,
            kv.delete,
            kv.incr,
            lambda key, timeout: kv.put(key, b"v", timeout=timeout),
        ):
            with soon(least=0.1), pytest.raises(ConnectionFailed) as caught:
                call(b"k", timeout=0.2)
            assert server.address in str(caught.value)


def test_calls_to_a_closed_server_fail_as_those_to_a_killed_one(place: str) -> None:
    server = rfp.Server(memory="8MiB", address=place)
    with rfp.connect(place) as kv, rfp.connect(place, reconnect=False) as lost:
        kv.put(b"k", b"v")
        lost.ping()
        server.close()
        with pytest.raises(ConnectionFailed):
            lost.get(b"k")
        with rfp.Server(memory="8MiB", address=place):
            assert kv.get(b"k") is None
            with pytest.raises(ConnectionFailed):
                lost.get(b"k")


def test_threads_of_a_handle_reconnect_once(start: Callable[..., Any]) -> None:
    server = start("server")
    with rfp.connect(server.address, timeout=20) as kv:
        ended = threading.Event()
        errors: list[BaseException] = []
        counts = [0] * 8

        def read(number: int) -> None:
            try:
                while not ended.is_set():
                    kv.get(b"k")
                    counts[number] += 1
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            before = list(counts)
            until(lambda before=before: all(count > old + 10 for count, old in zip(counts, before)))
            server.kill()
            server = start("server")
        before = list(counts)
        until(lambda before=before: all(count > old + 10 for count, old in zip(counts, before)))
        ended.set()
        for thread in threads:
            thread.join()
        assert not errors
        assert [client["threads"] for client in server.figures()["clients"]] == [8]


def test_closing_a_handle_does_not_wait_for_the_next_server(
    start: Callable[..., Any],
) -> None:
    server = start("server")
    kv = rfp.connect(server.address, mode="fetch", timeout=60)
    calls = [Call(kv, CALLS["get"]) for _ in range(3)]
    server.stop()
    for call in calls:
        call.begin()
    server.kill()
    until(lambda: not in_call(kv))  # all calls wait for the next server
    with soon():
        kv.close()
        for call in calls:
            with pytest.raises((Closed, ConnectionFailed)):
                call.result()
