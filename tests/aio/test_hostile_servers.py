"""A server's descriptor costs a client nothing but the connection, whatever it is."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

import rfp
import rfp.aio
from rfp.control import Attached, Handle
from rfp.control.schema import Fds, Invalid, Socket
from rfp.core import clock
from rfp.errors import ConnectionFailed, HandshakeFailed, Unsupported
from rfp.protocol.server import client_connection
from rfp.protocol.wire import WAKEUP

from .test_waiting import turns


@pytest.fixture
def server():
    with rfp.Server(memory="16MiB") as server:
        yield server


def ends(server: rfp.Server) -> list[socket.socket]:
    """Return the server's ends of all descriptors."""
    return [
        thing
        for client in server._host.clients
        for channel in client.channels.values()
        for thing in channel.opened
        if isinstance(thing, socket.socket)
    ]


@pytest.mark.parametrize("kind", ["file", "pipe", "tcp", "datagram", "unconnected", "none"])
def test_only_a_connected_unix_stream_is_accepted(run, server, monkeypatch, kind):
    made: list[socket.socket] = []

    def bad(self: Attached):
        if kind == "none":
            return None
        if kind == "file":
            return Handle(b"", os.open(__file__, os.O_RDONLY))
        if kind == "pipe":
            r, w = os.pipe()
            os.close(w)
            return Handle(b"", r)
        if kind == "tcp":
            made.append(socket.socket())
        elif kind == "unconnected":
            made.append(socket.socket(socket.AF_UNIX))
        else:
            made.extend(socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
        return Handle(b"", made[0].fileno())

    real = client_connection.Channel._set_up

    def set_up(self, client, question):
        answer = real(self, client, question)
        answer.wakeup = bad(answer)
        if kind in ("file", "pipe"):
            self.opened.append(os.fdopen(answer.wakeup.fd, "rb"))
        return answer

    monkeypatch.setattr(client_connection.Channel, "_set_up", set_up)

    async def main():
        with pytest.raises(HandshakeFailed):
            await rfp.aio.connect(server.address)

    run(main())
    for each in made:
        each.close()


def test_a_server_that_wakes_no_loop_is_refused(run, server):
    server._host.features &= ~WAKEUP

    async def main():
        with pytest.raises(Unsupported):
            await rfp.aio.connect(server.address)

    run(main())


def test_a_descriptor_that_was_not_granted_is_refused(server):
    server._host.features &= ~WAKEUP
    with rfp.connect(server.address) as kv:
        kv.ping()
        kv.connection.features |= WAKEUP
        with pytest.raises(HandshakeFailed, match="not granted"):
            kv.connection.attach(clock.deadline_in(5), polled=True)


def test_a_server_that_closes_the_descriptor_ends_the_connection(run, server):
    async def main():
        async with rfp.aio.connect(server.address, reconnect=False) as kv:
            await kv.put(b"k", b"v")
            (end,) = ends(server)
            end.shutdown(socket.SHUT_RDWR)
            await turns(20)
            assert not kv._rings.usable
            with pytest.raises(ConnectionFailed):
                await kv.put(b"k", b"w")
        async with rfp.aio.connect(server.address) as kv:
            await kv.put(b"k", b"v")
            ends(server)[-1].shutdown(socket.SHUT_RDWR)
            await turns(20)
            assert await kv.get(b"k") == b"v"  # over a new connection

    run(main())


def test_a_server_that_floods_the_descriptor_loses_the_client(run, server):
    async def main():
        async with rfp.aio.connect(server.address, reconnect=False) as kv:
            await kv.put(b"k", b"v")
            (end,) = ends(server)
            end.setblocking(False)
            try:
                for _ in range(100_000):
                    try:
                        end.send(bytes(4096))
                    except BlockingIOError:
                        pass
                    await asyncio.sleep(0)
                    if not kv._rings.usable:
                        break
            except BrokenPipeError:
                pass
            assert not kv._rings.usable

    run(main())


def test_a_client_that_never_reads_or_closes_costs_the_worker_nothing(server):
    with rfp.connect(server.address) as kv, rfp.connect(server.address) as other:
        kv.ping()
        channel = kv.connection.attach(clock.deadline_in(5), polled=True)
        with socket.fromfd(channel.events.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as end:
            end.settimeout(5)
            with pytest.raises(BrokenPipeError):  # the server reads nothing
                end.send(b"flood")
            end.shutdown(socket.SHUT_RDWR)
        for i in range(100):
            assert other.put(b"%d" % i, b"v") > 0
        kv.connection.detach(channel)


def test_the_spec_of_a_socket_refuses_what_is_no_object():
    for body in (None, 5, [], {}, {"fd": -1}, {"fd": 0}, {"fd": "0"}):
        with pytest.raises(Invalid):
            Socket().decode(body, Fds([]), "wakeup")
    with pytest.raises(Invalid):
        Socket().encode(Handle(b""), [], "wakeup")
