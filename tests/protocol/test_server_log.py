"""The server's log for the operator: connections, disconnections, and refusals with the reason."""

import contextlib
import logging
import os
import socket
import time

import control_tools
import pytest

import rfp
from rfp.control import connect, deadline_in
from rfp.errors import HandshakeFailed, RfpError


@pytest.fixture
def server():
    with rfp.Server("16MiB", workers=2) as served:
        yield served


@pytest.fixture
def logged(caplog):
    caplog.set_level(logging.INFO, "rfp")
    return caplog


def wait_for(caplog, text):
    until = time.monotonic() + 10
    while not any(text in message for message in caplog.messages):
        assert time.monotonic() < until, caplog.messages
        time.sleep(0.01)
    return next(record for record in caplog.records if text in record.getMessage())


def test_a_client_that_connects_and_disconnects_is_logged(logged):
    with rfp.Server("16MiB", workers=2) as server:
        connects_and_disconnects(logged, server)
    assert logged.messages[-1] == f"stopped serving at {server.address}"


def connects_and_disconnects(logged, server):
    assert f"serving kv at {server.address} with 2 workers" in logged.messages
    with rfp.connect(server.address) as kv:
        kv.put(b"k", b"v")
        assert wait_for(logged, "connected").levelno == logging.INFO
        rings = wait_for(logged, "has rings").getMessage()
        assert f"process {os.getpid()}" in rings
        assert "thread 1: 2 workers, 64 slots, " in rings
    wait_for(logged, "disconnected after")


def test_a_refused_client_is_logged_with_the_reason(logged, server):
    with connect(rfp.address.parse(server.address), deadline_in(5)) as connection:
        with pytest.raises(HandshakeFailed):
            connection.call(control_tools.attach(), control_tools.Attached, deadline_in(5))
    record = wait_for(logged, "refused attach of client")
    assert record.levelno == logging.WARNING
    assert "the first message must be Hello, not Attach" in record.getMessage()


NAMES = [
    b"x\n2026 ERROR rfp: forged",
    rb"x\n2026 ERROR rfp: forged",  # as JSON has a newline
    rb"\u001b[31mred.............",
    b"\xff\xfe..................",
    "\u202e.....................".encode(),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_from_a_client_cannot_forge_a_line(logged, server, name):
    """Nor any other bytes: they are refused, or logged escaped."""
    placeholder = b"A" * len(name)
    data = control_tools.packed(control_tools.hello(name=placeholder.decode()))
    assert placeholder in data
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(rfp.address.parse(server.address).path)
        sock.sendall(data.replace(placeholder, name))
        wait_for(logged, "client")
    for message in logged.messages:
        assert message.isprintable(), message
    assert not any(line.startswith("2026") for line in logged.text.splitlines())


def test_bytes_that_are_no_message_are_logged(logged, server):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(rfp.address.parse(server.address).path)
        sock.sendall(os.urandom(4096))
        assert wait_for(logged, "invalid message from client").levelno == logging.WARNING


def test_a_client_that_has_used_up_its_share_is_logged(logged):
    with rfp.Server("16MiB", rings="2MiB") as server, rfp.connect(server.address) as kv:
        kv.put(b"k", b"v")
        with pytest.raises(RfpError), rfp.connect(server.address) as other:
            for _ in range(8):
                other.put(b"k", b"v")
                other = rfp.connect(server.address)
    assert "one client may have" in wait_for(logged, "refused").getMessage()


def test_a_flood_of_refusals_is_limited(logged, server):
    for _ in range(40):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(rfp.address.parse(server.address).path)
            sock.sendall(bytes(64))
            with contextlib.suppress(ConnectionResetError):
                sock.recv(1)
    wait_for(logged, "invalid message")
    assert 1 <= sum("invalid message" in each for each in logged.messages) < 35
