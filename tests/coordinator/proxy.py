"""A TCP proxy that loses, cuts or delays the one message of a client that a test is about."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import threading

# Bytes that only a change of the state contains, on its way to the service.
CHANGE = {"etcd": b"/v3/kv/txn", "zk": b"rnvm-state 1"}


def whole(data: bytes) -> bool:
    """Whether a message has arrived to its end; one of ZooKeeper is sent in one piece."""
    head, separator, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    return not data.startswith(b"POST") or bool(
        separator and length and len(body) >= int(length[1])
    )


class Proxy:
    """Forwards connections to a port of this host.

    `plan` is what happens to the next message that contains `pattern`:

    - "cut before": it is lost, and the connection is cut;
    - "cut after": it is delivered, but the connection is cut before the answer;
    - "hold": the connection is cut, no other one is served, and `deliver()` delivers the message.
    """

    def __init__(self, port: int, pattern: bytes) -> None:
        self.target, self.pattern = ("127.0.0.1", port), pattern
        self.plan = ""
        self.seen = threading.Event()  # the message has arrived
        self.held: list[tuple[socket.socket, bytes]] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.stopping = threading.Event()
        self.threads: list[threading.Thread] = []
        self._run(self._accept)

    def _run(self, function, *arguments) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self.threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self.stopping.is_set():
            if select.select([self.listener], [], [], 0.02)[0]:
                client, _ = self.listener.accept()
                if self.held:
                    client.close()
                else:
                    self._run(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        kept = False
        server = None
        try:
            server = socket.create_connection(self.target, 5)
            while not self.stopping.is_set():
                for ready in select.select([client, server], [], [], 0.02)[0]:
                    data = ready.recv(1 << 16)
                    if not data:
                        return
                    if ready is server:
                        client.sendall(data)
                    elif not self.plan or self.pattern not in data:
                        server.sendall(data)
                    else:
                        while not whole(data):
                            data += client.recv(1 << 16)
                        kept = self._carry_out(server, data)
                        return
        except OSError:
            pass
        finally:
            client.close()
            if server is not None and not kept:
                server.close()

    def _carry_out(self, server: socket.socket, data: bytes) -> bool:
        """Do what is planned, and return whether the connection to the server is kept."""
        plan, self.plan = self.plan, ""
        try:
            if plan == "cut after":
                server.sendall(data)
                server.recv(1 << 16)  # the service has answered, thus changed the state
            elif plan == "hold":
                self.held.append((server, data))
                return True
            else:
                assert plan == "cut before", plan
            return False
        finally:
            self.seen.set()

    def deliver(self) -> bytes:
        """Deliver the held message, and return the answer."""
        ((server, data),) = self.held
        self.held.clear()
        with server:
            server.settimeout(10)
            server.sendall(data)
            return server.recv(1 << 16)

    def close(self) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join(10)
        for server, _ in self.held:
            server.close()
        with contextlib.suppress(OSError):
            self.listener.close()
