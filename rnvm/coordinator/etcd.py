"""The driver for etcd (3.4 or later), over the JSON gateway that each of its nodes serves.

Only the standard library is used.  A request goes to one node after the other until one answers:
each change may be sent twice (contract.py), and a lease whose grant was not answered ends alone.

    /rnvm/groups/GROUP/state                       the state
    /rnvm/groups/GROUP/members/NAME@INSTANCE       a member's data, under its lease
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import math
import os
import socket
import threading
from typing import Any

from rfp.core import clock
from rfp.errors import CoordinatorRefused
from rnvm.coordinator.address import CoordinatorAddress, shown_node
from rnvm.coordinator.attempt import TIMEOUT_S, Attempt, Unanswered, cause_of
from rnvm.coordinator.contract import Coordinator
from rnvm.coordinator.registration import CLOSING_S, Member, Registration, boot_time, member_of
from rnvm.coordinator.state import State, decode
from rnvm.coordinator.tls import tls_context
from rnvm.coordinator.watch import WATCH_S, Watch

ANSWER_MAX = 16 << 20  # bytes of one answer of a node
NODE_S_MIN, NODE_S_MAX = 0.2, 2.0  # how long one of several nodes may take to answer

# Codes of gRPC in an answer that is no success.
INVALID_ARGUMENT, PERMISSION_DENIED, RESOURCE_EXHAUSTED, UNAUTHENTICATED = 3, 7, 8, 16


class _Answer(Exception):
    """A node's refusal: its code and text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


class EtcdCoordinator(Coordinator):
    """The coordinator of a group in etcd.  See `Coordinator` for the contract."""

    def __init__(self, address: CoordinatorAddress, *, timeout: float = TIMEOUT_S) -> None:
        super().__init__(address, timeout=timeout)
        self._lock = threading.Lock()
        self._preferred = int.from_bytes(os.urandom(4), "little") % len(address.nodes)
        self._idle: dict[int, list[http.client.HTTPConnection]] = {}
        self._open: set[http.client.HTTPConnection] = set()  # those in use, too
        self._watched = self._preferred
        self._ended = False
        self._token = ""
        self._password = address.options.password()
        self._context = tls_context(address) if address.options.encrypted else None
        self._state_key = _text(f"{self._folder}/state")
        self._members_prefix = f"{self._folder}/members/"

    # Requests.

    def _connection(self, node: int, seconds: float) -> http.client.HTTPConnection:
        with self._lock:
            idle = self._idle.get(node)
            if idle:
                connection = idle.pop()
                connection.sock.settimeout(seconds)
                return connection
        host, port = self.address.nodes[node]
        if self._context is None:
            connection = http.client.HTTPConnection(host, port, timeout=seconds)
        else:
            connection = http.client.HTTPSConnection(
                host, port, timeout=seconds, context=self._context
            )
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            if not self._ended:
                self._open.add(connection)
                return connection
        connection.close()  # _shut() did not know it: no other thread would end its calls
        raise Unanswered

    def _release(self, node: int, connection: http.client.HTTPConnection, *, usable: bool) -> None:
        with self._lock:
            if usable and not self._ended:
                self._idle.setdefault(node, []).append(connection)
                return
            self._open.discard(connection)
        connection.close()

    def _post(
        self, path: str, message: dict[str, Any], attempt: Attempt, *, changes: bool = False
    ) -> dict[str, Any]:
        """Return the answer of the first node that answers.

        Args:
            changes: the message changes something, so that a lost answer leaves it unknown.

        Raises:
            Unanswered: no node did.
            CoordinatorRefused: a node refused for good.
        """
        first = self._preferred
        count = len(self.address.nodes)
        for step in range(count):
            node = (first + step) % count
            try:
                answer = self._ask(node, path, message, attempt, changes)
            except _Answer as refusal:
                attempt.failed(shown_node(*self.address.nodes[node]), refusal.text)
                self._refused(refusal)
                if changes:  # a leader that lost its majority may have logged the change
                    attempt.unknown = True
                continue
            except Unanswered:
                if self._ended:
                    raise
                continue
            self._preferred = node
            return answer
        self._preferred = (first + 1) % count
        raise Unanswered

    def _refused(self, refusal: _Answer) -> None:
        text = refusal.text
        expired = "invalid auth token" in text or "auth store is old" in text
        if expired and self.address.options.user:
            self._token = ""  # the next attempt gets a new one
            return
        if not (
            refusal.code in (INVALID_ARGUMENT, PERMISSION_DENIED, UNAUTHENTICATED)
            or (refusal.code == RESOURCE_EXHAUSTED and "space" in text)
        ):
            return
        raise CoordinatorRefused(
            f"etcd at {self.address.hosts} refused: {text}",
            hint="compact, defragment and disarm its alarm (etcdctl alarm disarm)"
            if "space" in text
            else "check user= and password_file= of the address, and the user's role in etcd",
        )

    def _ask(
        self, node: int, path: str, message: dict[str, Any], attempt: Attempt, changes: bool
    ) -> dict[str, Any]:
        """Send one request to one node."""
        # A node that was stopped accepts connections and never answers: leave time for the others.
        count = len(self.address.nodes)
        seconds = attempt.left()
        if count > 1:
            seconds = min(seconds, NODE_S_MAX, max(NODE_S_MIN, seconds / count))
        ends = clock.deadline_in(seconds)
        connection = None
        sent = usable = False
        try:
            connection = self._connection(node, seconds)
            headers = {"Content-Type": "application/json"}
            if self.address.options.user and not path.startswith("/v3/auth/"):
                headers["Authorization"] = self._authenticated(connection, ends)
            sent = True
            status, body = _exchange(connection, path, message, headers, ends)
            usable = connection.sock is not None
        except (OSError, http.client.HTTPException, ValueError) as error:
            if sent and changes:
                attempt.unknown = True
            attempt.failed(shown_node(*self.address.nodes[node]), cause_of(error))
            raise Unanswered from error
        finally:
            if connection is not None:
                self._release(node, connection, usable=usable)
        return _decoded(status, body)

    def _authenticated(self, connection: http.client.HTTPConnection, ends: int) -> str:
        if not self._token:
            message = {"name": self.address.options.user, "password": self._password}
            status, body = _exchange(
                connection, "/v3/auth/authenticate", message,
                {"Content-Type": "application/json"}, ends,
            )  # fmt: skip
            self._token = str(_decoded(status, body).get("token", ""))
        return self._token

    # The contract.

    def _read(self, attempt: Attempt) -> State | None:
        # "serializable" is false by default: the read is linearizable.
        answer = self._post("/v3/kv/range", {"key": self._state_key}, attempt)
        return self._state(answer)

    def _state(self, answer: dict[str, Any]) -> State | None:
        for entry in _list(answer, "kvs"):
            return decode(_bytes(entry, "value"), self._where())
        return None

    def _where(self) -> str:
        return f"the key {self._folder}/state of etcd at {self.address.hosts}"

    def _create(self, state: State, attempt: Attempt) -> bool:
        absent = {"key": self._state_key, "target": "CREATE", "create_revision": "0"}
        return self._transaction(absent, state, attempt)

    def _set(self, old: State, new: State, attempt: Attempt) -> bool:
        present = {"key": self._state_key, "target": "VALUE", "value": _text(old.encode())}
        return self._transaction(present, new, attempt)

    def _transaction(self, condition: dict[str, Any], state: State, attempt: Attempt) -> bool:
        put = {"request_put": {"key": self._state_key, "value": _text(state.encode())}}
        message = {"compare": [{**condition, "result": "EQUAL"}], "success": [put]}
        return bool(self._post("/v3/kv/txn", message, attempt, changes=True).get("succeeded"))

    def _members(self, attempt: Attempt) -> list[Member]:
        answer = self._post("/v3/kv/range", _under(self._members_prefix), attempt)
        found = []
        for entry in _list(answer, "kvs"):
            key = _bytes(entry, "key").decode(errors="replace")
            member = member_of(key.removeprefix(self._members_prefix), _bytes(entry, "value"))
            if member is not None:
                found.append(member)
        return found

    def _registration(self, member: Member, lease: float) -> Registration:
        return _EtcdRegistration(self, member, lease)

    def _follow(self, watch: Watch) -> None:
        """Follow one node for WATCH_S without a change; the next call follows the next node.

        A node that is cut off from the others accepts a watch and never reports anything.
        """
        count = len(self.address.nodes)
        node = self._watched = (self._watched + 1) % count
        connection = None
        try:
            connection = self._connection(node, NODE_S_MAX)
            opened = connection
            watch.interrupt = lambda: _shut(opened)
            if watch.closing.is_set():
                return
            headers = {"Content-Type": "application/json"}
            if self.address.options.user:
                headers["Authorization"] = self._authenticated(
                    connection, clock.deadline_in(NODE_S_MAX)
                )
            message = {"create_request": _under(f"{self._folder}/")}
            connection.sock.settimeout(WATCH_S)
            connection.request("POST", "/v3/watch", json.dumps(message), headers)
            response = connection.getresponse()
            while not watch.closing.is_set():
                line = response.readline(ANSWER_MAX)
                good = response.status == 200
                if good and not line.endswith(b"\n"):
                    raise Unanswered
                result = json.loads(line).get("result") if good else None
                if not result or result.get("canceled"):
                    self._token = ""  # it may have expired; the next attempt gets a new one
                    raise Unanswered
                watch.hint()  # also for "created": an earlier change is found by the read
        except TimeoutError:
            watch.hint()
        finally:
            watch.interrupt = None
            if connection is not None:
                self._release(node, connection, usable=False)

    def _shut(self) -> None:
        with self._lock:
            self._ended = True
            connections = list(self._open)
            idle = [each for some in self._idle.values() for each in some]
            self._idle.clear()
            self._open.difference_update(idle)
        for connection in connections:
            _shut(connection)
        for connection in idle:
            connection.close()

    def _forget(self) -> None:
        super()._forget()
        self._lock = threading.Lock()
        for connection in self._open:
            if connection.sock is not None:
                # Not close(), which would end the parent's session of TLS.
                with contextlib.suppress(OSError):
                    os.close(connection.sock.detach())


class _EtcdRegistration(Registration):
    """A key under a lease, which the thread renews each third of it."""

    def __init__(self, coordinator: EtcdCoordinator, member: Member, lease: float) -> None:
        super().__init__(coordinator._registrations, member, lease)
        self._etcd = coordinator
        self._id = ""  # of the lease

    def _run(self) -> None:
        ends = 0.0
        while not self._closing.is_set():
            attempt = Attempt(clock.deadline_in(min(self.lease / 3, TIMEOUT_S)), self._closing)
            attempt.causes = self.causes
            began = boot_time()  # the service's lease ends later than one that begins here
            try:
                if self._id and not self._renewed(attempt):
                    self._id = ""
                    self.lapses += 1
                    self._registered.clear()
                if not self._id:
                    self._grant(attempt)
            except Unanswered:
                if ends and boot_time() > ends:
                    self._registered.clear()
                self._closing.wait(min(NODE_S_MIN, self.lease / 10))
                continue
            except Exception as error:  # noqa: BLE001 - the thread lives as long as the member
                if self._closing.is_set():
                    return
                if not ends:
                    self._cause = error
                    return
                if boot_time() > ends:
                    self._registered.clear()
                self._closing.wait(self.lease / 3)
                continue
            ends = began + self.lease
            self._registered.set()
            self._closing.wait(self.lease / 3)

    def _grant(self, attempt: Attempt) -> None:
        answer = self._etcd._post("/v3/lease/grant", {"TTL": math.ceil(self.lease)}, attempt)
        lease = str(answer.get("ID", ""))
        if not lease.isdigit():
            raise Unanswered
        key = f"{self._etcd._members_prefix}{self.member.name}@{self.member.instance}"
        message = {"key": _text(key), "value": _text(self.member.data), "lease": lease}
        try:
            self._etcd._post("/v3/kv/put", message, attempt)
        except BaseException:
            self._revoke(lease)
            raise
        self._id = lease

    def _renewed(self, attempt: Attempt) -> bool:
        answer = self._etcd._post("/v3/lease/keepalive", {"ID": self._id}, attempt)
        result = answer.get("result", {})
        # An answer without a TTL is the one for a lease that has ended.
        return isinstance(result, dict) and str(result.get("TTL", "0")) not in ("0", "-1")

    def _revoke(self, lease: str) -> None:
        with contextlib.suppress(Unanswered, CoordinatorRefused):
            attempt = Attempt(clock.deadline_in(CLOSING_S))
            self._etcd._post("/v3/lease/revoke", {"ID": lease}, attempt)

    def _withdraw(self) -> None:
        # The thread may be between the grant and its end: it revokes nothing after this.
        if self._thread.ident is not None:
            self._thread.join(CLOSING_S)
        if self._id:
            self._revoke(self._id)


def _exchange(
    connection: http.client.HTTPConnection,
    path: str,
    message: dict[str, Any],
    headers: dict[str, str],
    ends: int,
) -> tuple[int, bytes]:
    """Send a request over an open connection, and return the status and the body of its answer."""
    connection.request("POST", path, json.dumps(message), headers)
    connection.sock.settimeout(max((ends - clock.now_ns()) / 1e9, 0.001))
    response = connection.getresponse()
    body = response.read(ANSWER_MAX + 1)
    if len(body) > ANSWER_MAX:
        raise ValueError(f"an answer of more than {ANSWER_MAX} bytes")
    return response.status, body


def _decoded(status: int, body: bytes) -> dict[str, Any]:
    """Return the answer.

    Raises:
        _Answer: it is a refusal.
        Unanswered: it is none of etcd's.
    """
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise _Answer(0, f"an answer that is not etcd's (HTTP {status})")
    error = answer.get("error")
    if isinstance(error, dict):  # of a stream
        code, text = error.get("grpc_code", 0), error.get("message", "")
    elif status != 200 or error:
        code, text = answer.get("code", 0), answer.get("message") or error or f"HTTP {status}"
    else:
        return answer
    raise _Answer(code, str(text)[:200])


def _shut(connection: http.client.HTTPConnection) -> None:
    """End the reads and writes of another thread; that thread closes the connection."""
    sock = connection.sock
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def _text(value: str | bytes) -> str:
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode()


def _under(prefix: str) -> dict[str, str]:
    """Return the range of all keys with this prefix."""
    return {"key": _text(prefix), "range_end": _text(prefix[:-1] + chr(ord(prefix[-1]) + 1))}


def _list(answer: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = answer.get(name, [])
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise Unanswered
    return found


def _bytes(entry: dict[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(entry.get(name, ""), validate=True)
    except (ValueError, TypeError):
        raise Unanswered from None
