"""The fields of `attach` and `attached` for a thread that sleeps on a descriptor."""

from __future__ import annotations

import os
import socket

import pytest
from control_tools import attach, attached

from rfp.control import Attach, Attached, Handle
from rfp.errors import HandshakeFailed, InvalidArgument


def test_older_peers_send_no_such_field():
    body, fds = attach().to_message()
    assert body.pop("wakeup") is False
    assert Attach.from_message(body, fds).wakeup is False
    body, fds = attached().to_message()
    assert body.pop("wakeup") is None
    assert Attached.from_message(body, fds).wakeup is None


def test_a_socket_comes_as_it_was_sent():
    one, other = socket.socketpair()
    with one, other:
        body, fds = attached(wakeup=Handle(b"", one.fileno())).to_message()
        assert fds == [one.fileno()]
        received = Attached.from_message(body, [os.dup(fd) for fd in fds])
        with socket.socket(fileno=received.wakeup.take()) as copy:
            other.send(b"x")
            assert copy.recv(1) == b"x"


def test_a_message_that_is_closed_closes_the_socket():
    one, other = socket.socketpair()
    with one, other:
        body, _ = attached(wakeup=Handle(b"", one.fileno())).to_message()
        copy = os.dup(one.fileno())
        with Attached.from_message(body, [copy]):
            pass
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(copy)


def test_a_file_is_refused_and_remains_the_callers():
    with open(__file__) as file:
        body, _ = attached(wakeup=Handle(b"", file.fileno())).to_message()
        with pytest.raises(HandshakeFailed, match="'attached'.*wakeup is not a Unix socket"):
            Attached.from_message(body, [file.fileno()])


@pytest.mark.parametrize("value", [5, Handle(b""), b"x"], ids=["number", "no socket", "bytes"])
def test_only_a_handle_with_a_descriptor_can_be_sent(value):
    with pytest.raises(InvalidArgument, match="wakeup"):
        attached(wakeup=value).to_message()
