"""Answers of a node that are no success, none of etcd's, or none at all."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from time_bounds import raises_in_some_try

from rfp.errors import Closed, CoordinatorRefused, CoordinatorUnavailable, OutcomeUnknown
from rnvm.coordinator import etcd
from rnvm.coordinator.registration import Member
from rnvm.coordinator.state import State, new_id

pytestmark = [pytest.mark.every_case, pytest.mark.pure]


class Node(ThreadingHTTPServer):
    """A node of etcd whose gateway gives the same answer to each request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Gateway)
        self.status, self.body = 200, b"{}"
        self.paths: list[str] = []  # of the requests
        self.address = f"etcd://127.0.0.1:{self.server_port}/g"

    def answer(self, status: int, body: Any) -> None:
        self.status = status
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()


class Gateway(BaseHTTPRequestHandler):
    server: Node

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.paths.append(self.path)
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def node() -> Iterator[Node]:
    with Node() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield running
        finally:
            running.shutdown()
            thread.join()


def test_a_change_that_a_node_did_not_finish_may_still_be_done(opened, node):
    text = "etcdserver: request timed out"
    node.answer(503, {"error": text, "code": 14, "message": text})
    coordinator, old = opened(node.address, timeout=0.3), State.first(b"one")
    raises_in_some_try(coordinator.read, CoordinatorUnavailable, text)
    for change in (
        lambda: coordinator.compare_and_set(old, old.next(b"two")),
        lambda: coordinator.create(old),
    ):
        reason = f"{text}; it may still be done"
        raises_in_some_try(change, OutcomeUnknown, reason, late=CoordinatorUnavailable)


def test_a_service_without_space_is_named_with_the_way_out(opened, node):
    text = "etcdserver: mvcc: database space exceeded"
    node.answer(429, {"error": text, "code": 8, "message": text})
    coordinator, old = opened(node.address), State.first(b"one")
    for call in (
        lambda: coordinator.compare_and_set(old, old.next(b"two")),
        lambda: coordinator.register("a", lease=5),
    ):
        with pytest.raises(CoordinatorRefused, match=rf"{text} .*etcdctl alarm disarm"):
            call()


def test_a_connection_that_is_made_while_its_coordinator_closes_is_not_used(
    opened, node, monkeypatch
):
    real, made = http.client.HTTPConnection.connect, []

    def connect(self: http.client.HTTPConnection) -> None:
        real(self)
        made.append(self)
        coordinator.close()

    monkeypatch.setattr(http.client.HTTPConnection, "connect", connect)
    coordinator = opened(node.address)
    with pytest.raises(Closed):
        coordinator.read()
    assert made[0].sock is None


class Waits(threading.Event):
    """Is set by the third wait, and waits for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.asked.append(timeout)
        if len(self.asked) == 3:
            self.set()
        return self.is_set()


def test_a_lease_is_renewed_each_third_of_it(opened, node):
    node.answer(200, {"ID": "7", "result": {"TTL": "3"}})
    registration = opened(node.address)._registration(Member("a", new_id(), b""), 3.0)
    registration._closing = waits = Waits()
    registration._run()
    assert waits.asked == [1.0] * 3
    assert node.paths == ["/v3/lease/grant", "/v3/kv/put"] + ["/v3/lease/keepalive"] * 2


def encoded(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (404, b"<html>", r"an answer that is not etcd's \(HTTP 404\)"),
        (200, b"[]", r"an answer that is not etcd's \(HTTP 200\)"),
        (500, {}, "HTTP 500"),
        (200, {"error": {"grpc_code": "x", "message": "no"}}, "no"),
        (200, {"kvs": "x"}, "no answer from"),
        (200, {"kvs": ["x"]}, "no answer from"),
        (200, {"kvs": [{"key": encoded(b"k"), "value": "%"}]}, "no answer from"),
        (200, {"kvs": [{"key": encoded(b"k"), "value": 7}]}, "no answer from"),
        (200, b"{" + b" " * 1000 + b"}", "an answer of more than 500 bytes"),
    ],
)
def test_an_answer_that_is_not_etcds_is_none(opened, node, monkeypatch, status, body, reason):
    monkeypatch.setattr(etcd, "ANSWER_MAX", 500)
    node.answer(status, body)
    coordinator = opened(node.address, timeout=0.2)
    for call in (coordinator.read, coordinator.members):
        raises_in_some_try(call, CoordinatorUnavailable, reason)


def test_a_node_that_accepts_and_never_answers_leaves_time_for_the_others(opened, service, address):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port, group = silent.getsockname()[1], address.rpartition("/")[2]
        hosts = f"127.0.0.1:{port},{service.hosts}"
        first = opened(address).create(State.first(b"one"))
        for _ in range(3):  # kazoo begins with any of the nodes
            coordinator = opened(f"{service.kind}://{hosts}/{group}", timeout=20)
            coordinator._preferred = 0  # of etcd's driver
            assert coordinator.read() == first


@pytest.mark.parametrize("service", ["zk"], indirect=True)
def test_a_member_that_leaves_between_two_reads_is_not_listed(opened, address):
    coordinator = opened(address)
    with coordinator.register("a", lease=60) as registration:
        real = coordinator._session.answer

        def answer(pending: Any, *rest: Any, **options: Any) -> Any:
            found = real(pending, *rest, **options)
            if isinstance(found, list) and registration._path.rpartition("/")[2] in found:
                found.append("b@0123456789abcdef")
            return found

        coordinator._session.answer = answer
        assert coordinator.members() == [registration.member]


def sockets() -> set[str]:
    """Return the sockets of this process."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/self/fd/{number}"))
    return {each for each in found if re.match("socket:", each)}


def test_a_forked_child_keeps_no_connection_of_its_parent(opened, address):
    before = sockets()
    coordinator = opened(address)
    coordinator.members()
    with coordinator.register("a", lease=5):
        mine = sockets() - before
        assert mine
        child = os.fork()
        if not child:
            os._exit(len(sockets() & mine))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
