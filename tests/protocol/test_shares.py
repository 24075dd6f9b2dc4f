"""One client that takes all it can get: it is refused with the reason, and others are served."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import crc32c
import pytest
import python_programs
from hypothesis import example, given
from hypothesis import strategies as st
from polling import until

import rfp
from rfp import address as addresses
from rfp.control import (
    Attach,
    Attached,
    ControlConnection,
    GetStats,
    Handle,
    Hello,
    Stats,
    Welcome,
    connect,
)
from rfp.control.message import GetMemory
from rfp.core.clock import deadline_in
from rfp.errors import FabricError, HandshakeFailed, QuotaExceeded, RfpError, ServerRefused
from rfp.fabric import memory_limits
from rfp.fabric.fabric import WRITE_NOTIFY
from rfp.fabric.shm.region import ShmFabric
from rfp.protocol.client.connection import Connection
from rfp.protocol.handshake_layout import REPLIES
from rfp.protocol.server import shares
from rfp.protocol.server.shares import Cost, Shares

SERVER = """
import json, resource, sys
import rfp
files, memory, rings = int(sys.argv[2]), sys.argv[3], sys.argv[4]
resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
with rfp.Server(memory, address=sys.argv[1], rings=rings) as server:
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(server.figures()["shares"]), flush=True)
"""

CLIENT = """
import sys
import rfp
try:
    kv = rfp.connect(sys.argv[1], timeout=30)
    for line in sys.stdin:
        value = line.encode() * int(sys.argv[2])
        kv.put(b"key", value)
        print("served" if kv.get(b"key") == value else "wrong", flush=True)
except rfp.errors.ServerRefused as error:
    print("refused", flush=True)
    sys.stdin.read()
"""


class Client:
    """An honest client, in a process of its own."""

    def __init__(self, address: str, times: int = 1) -> None:
        self.process = python_programs.start(
            "-c", CLIENT, address, times, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def is_served(self) -> bool:
        self.process.stdin.write(b"some value\n")
        self.process.stdin.flush()
        return self.process.stdout.readline() == b"served\n"

    def close(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(20)


class Scene:
    """A server in a process of its own, with a client that is connected from the beginning."""

    def __init__(self, address: str, files: int, memory: str, rings: str) -> None:
        self.address = address
        self.process = python_programs.start(
            "-c",
            SERVER,
            address,
            files,
            memory,
            rings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout.readline() == b"ready\n"
        self.client = Client(address)
        assert self.client.is_served()

    @property
    def shares(self) -> dict[str, int]:
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def serves_all(self, times: int = 1) -> None:
        """Let its client call, and one that connects only now."""
        assert self.client.is_served()
        with contextlib.closing(Client(self.address, times)) as newcomer:
            assert newcomer.is_served()

    def close(self) -> None:
        self.client.close()
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(20)


@pytest.fixture
def private(tmp_path):
    """Return a directory of this user alone, short enough for the path of a socket."""
    directory = tmp_path / "p"
    directory.mkdir(mode=0o700)
    return directory


@pytest.fixture
def scene(request: pytest.FixtureRequest, private) -> Iterator[Scene]:
    options = {"files": 200, "memory": "16MiB", "rings": "1GiB", **getattr(request, "param", {})}
    scene = Scene(f"shm://{private}/s", **options)
    yield scene
    scene.close()


def soon() -> int:
    return deadline_in(30)


def opened(address: str) -> Connection:
    place = addresses.parse(address)
    return Connection(place, ShmFabric(), connect(place, soon()), "kv", soon())


def greeted(stack: contextlib.ExitStack, address: str) -> tuple[ControlConnection, Welcome]:
    connection = stack.enter_context(connect(addresses.parse(address), soon()))
    return connection, connection.call(Hello(features=0, name="x", pid=1), Welcome, soon())


def exhaust(take: Callable[[], object]) -> ServerRefused:
    """Take until the server refuses."""
    for _ in range(2000):
        try:
            take()
        except ServerRefused as error:
            return error
    raise AssertionError("never refused")


def all_is_given_back(scene: Scene, before: dict[str, int]) -> None:
    until(lambda: scene.shares == before)
    scene.serves_all()


@pytest.mark.parametrize(
    ("scene", "whose"),
    [
        ({"files": 200}, "of the server's file descriptors, and one client may have"),
        (
            {"files": 20000, "rings": "32MiB"},
            "bytes of the server's memory, and one client may have 16777216",
        ),
    ],
    indirect=["scene"],
)
def test_a_client_that_attaches_without_end_gets_half_and_leaves_the_rest_to_others(scene, whose):
    before = scene.shares
    link = opened(scene.address)
    refusal = exhaust(lambda: link.attach(soon()))
    assert isinstance(refusal, QuotaExceeded)
    assert whose in str(refusal)
    assert f"client process {os.getpid()} has" in str(refusal)
    assert link.channels
    scene.serves_all()
    link.detach(link.channels[0])  # memory that it gives back it may take again
    until(lambda: isinstance(exhaust(lambda: link.attach(soon())), QuotaExceeded))
    assert link.figures(soon())["turned_away"] == 0
    link.close()
    all_is_given_back(scene, before)


def test_a_client_that_connects_without_end_is_refused_with_the_limit(scene):
    before = scene.shares
    with contextlib.ExitStack() as stack:
        refusal = exhaust(lambda: greeted(stack, scene.address)[1].close())
        assert isinstance(refusal, QuotaExceeded)
        assert "of the server's file descriptors" in str(refusal)
        assert "ulimit -n" in str(refusal)
        scene.serves_all()
    all_is_given_back(scene, before)


def test_silent_connections_exclude_no_client(scene):
    before = scene.shares
    with contextlib.ExitStack() as stack:
        for _ in range(300):  # more than the server has file descriptors
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(addresses.parse(scene.address).path)
        scene.serves_all()
    all_is_given_back(scene, before)


def test_file_descriptors_of_half_messages_are_not_kept(scene):
    before = len(os.listdir(f"/proc/{scene.process.pid}/fd"))
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.settimeout(30)
            sock.connect(addresses.parse(scene.address).path)
            socket.send_fds(sock, [b"R"], [0] * 100)
            assert sock.recv(1) == b""
        until(lambda: len(os.listdir(f"/proc/{scene.process.pid}/fd")) <= before)
        scene.serves_all()


@pytest.mark.parametrize("scene", [{"files": 100}], ids=["100 files"], indirect=True)
def test_clients_with_full_shares_leave_room_to_refuse_another_one(scene):
    """Several processes may hold all resources; the next client gets the reason, and none hangs."""
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(contextlib.closing(Client(scene.address))) for _ in range(20)]
        for other in others:
            other.process.stdin.write(b"some value\n")
            other.process.stdin.flush()
        answers = [other.process.stdout.readline() for other in others]
        # The connections of the others may hold the file descriptors that their threads would need.
        assert answers.count(b"served\n") >= 1
        assert answers.count(b"refused\n") == 20 - answers.count(b"served\n")
        with pytest.raises(
            QuotaExceeded, match="the server's clients have .* of the server's file descriptors"
        ):
            greeted(stack, scene.address)
        assert scene.client.is_served()


@pytest.mark.parametrize("too_long", [1 << 20, 1 << 30, 30 << 40])
def test_a_reply_region_of_another_length_is_refused(scene, too_long):
    """Sealed memory has no page before it is written.

    A longer region would cost a client nothing, and the server addresses.
    """
    with contextlib.ExitStack() as stack:
        connection, welcome = greeted(stack, scene.address)
        welcome.close()
        fd = os.memfd_create("reply", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        stack.callback(os.close, fd)
        os.ftruncate(fd, too_long)
        fcntl.fcntl(
            fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        )
        question = Attach(
            reply=Handle(sealed_memory(too_long), fd), pairs=[queue_pair()] * welcome.partitions
        )
        with pytest.raises((HandshakeFailed, ServerRefused), match="needs|cannot map"):
            connection.call(question, Attached, soon())
    scene.serves_all()


def sealed_memory(length: int) -> bytes:
    body = struct.pack("<IHHQIII", 0x4D504652, 1, 1, length, 3, 77, 0)
    return body + struct.pack("<I", crc32c.crc32c(body))


def file_range(length: int) -> bytes:
    body = struct.pack("<IHHQQIII", 0x46504652, 1, 1, length, 0, 3, 77, 0)
    return body + struct.pack("<I", crc32c.crc32c(body))


def queue_pair() -> bytes:
    body = struct.pack("<IHHQQQQQIII", 0x51504652, 1, 1, 0, 0, 0, 0, 0, 77, 0, 0)
    return body + struct.pack("<I", crc32c.crc32c(body))


def test_a_file_in_place_of_sealed_memory_is_refused(scene, tmp_path):
    """Its owner could truncate it: the server's next reply would then be a SIGBUS."""
    with contextlib.ExitStack() as stack:
        connection, welcome = greeted(stack, scene.address)
        welcome.close()
        size = -(-(REPLIES + welcome.slots * welcome.slot_size * welcome.partitions) // 4096) * 4096
        file = stack.enter_context((tmp_path / "reply").open("w+b"))
        file.truncate(size)
        question = Attach(
            reply=Handle(file_range(size), file.fileno()), pairs=[queue_pair()] * welcome.partitions
        )
        with pytest.raises(HandshakeFailed, match="it is a file"):
            connection.call(question, Attached, soon())
    scene.serves_all()


@pytest.mark.parametrize("which", ["arenas", "eventcounts"])
def test_a_client_refuses_a_server_that_offers_a_file(private, tmp_path, monkeypatch, which):
    """The other way round: the server could kill its clients."""
    from rfp.protocol.server import server as host

    real = host.handle
    with (tmp_path / "file").open("w+b") as file:
        file.truncate(64 << 20)

        def offer(region):
            is_bell = region.length == 4096
            return (
                Handle(file_range(region.length), file.fileno())
                if is_bell == (which == "eventcounts")
                else real(region)
            )

        monkeypatch.setattr(host, "handle", offer)
        with rfp.Server(memory="4MiB", address=f"shm://{private}/s") as server:
            with pytest.raises(HandshakeFailed, match="it is a file"):
                rfp.connect(server.address, timeout=20).get(b"k")


def test_memory_that_a_service_allocates_for_a_ring_counts(scene):
    with contextlib.ExitStack() as stack:
        connection, welcome = greeted(stack, scene.address)
        welcome.close()
        with pytest.raises(QuotaExceeded, match="no more memory to share"):
            connection.call(GetMemory(2), Stats, soon())
        assert connection.call(GetStats(), Stats, soon()).figures["shares"]["descriptors"] > 0


PUT_BEGIN = 26


def test_announced_uploads_of_one_client_leave_room_for_large_values_of_others(scene):
    link = opened(scene.address)
    try:
        for number in range(4):
            channel = link.attach(soon())
            key, length = b"key %d" % number, 7 << 20
            payload = struct.pack("<IIQQ", len(key), length, 0, 0) + key
            body = struct.pack("<IIBBHIQ", 1, len(payload), PUT_BEGIN, 0, 0, 0, 0) + payload
            channel.requests.write(0, struct.pack("<II", crc32c.crc32c(body), 0) + body)
            channel.rings[0].pair.execute(WRITE_NOTIFY, channel.scratch, 0, channel.requests, 0, 0)
            until(lambda channel=channel: channel.responses.read(4, 4) == struct.pack("<I", 1))
        scene.serves_all(times=500_000)  # 5.5 MB, in 16 MiB
    finally:
        link.close()


def test_a_server_near_its_containers_limit_refuses_clients_that_need_more_memory(
    private, monkeypatch
):
    with (
        rfp.Server(memory="4MiB", address=f"shm://{private}/s") as server,
        rfp.connect(server.address, timeout=20) as kv,
    ):
        kv.put(b"precious", b"data")
        refused = []

        def another_thread() -> None:
            try:
                kv.get(b"precious")
            except ServerRefused as error:
                refused.append(error)

        left = memory_limits.available
        # The rings of one client are 0.78 MiB.
        monkeypatch.setattr(memory_limits, "available", lambda: shares.MARGIN + (512 << 10))
        thread = threading.Thread(target=another_thread)
        thread.start()
        thread.join()
        assert "its machine or container has 8.5MiB left" in str(refused[0])
        assert kv.get(b"precious") == b"data"
        monkeypatch.setattr(memory_limits, "available", lambda: shares.MARGIN - 1)
        with pytest.raises(ServerRefused, match="no memory for another client"):
            rfp.connect(server.address, timeout=20).get(b"precious")
        monkeypatch.setattr(memory_limits, "available", left)
        with rfp.connect(server.address, timeout=20) as late:
            assert late.get(b"precious") == b"data"


def test_a_process_may_have_so_many_threads_over_all_its_connections(private, monkeypatch):
    monkeypatch.setattr(shares, "CHANNELS_MAX", 3)
    with rfp.Server(memory="4MiB", address=f"shm://{private}/s") as server:
        links = [opened(server.address) for _ in range(2)]
        try:
            for link in (*links, links[0]):
                link.attach(soon())
            with pytest.raises(
                QuotaExceeded, match="3 threads connected, and one client may have 3"
            ):
                links[1].attach(soon())
            links[0].detach(links[0].channels[0])
            until(lambda: sum(each["threads"] for each in server._host.figures()["clients"]) == 2)
            until(lambda: not server._host.ending)
            links[1].attach(soon())
        finally:
            for link in links:
                link.close()


class Far:
    """A connection, with the attributes that Shares reads."""

    def __init__(self, pid: int, remote: str | None) -> None:
        self.pid = pid
        if remote is not None:
            self.remote = remote


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 400), st.integers(0, 40), st.booleans()),
        min_size=1,
        max_size=60,
    ),
    remote=st.booleans(),
)
@example(  # the third is refused, then admitted; the connection that was refused ends after that
    steps=[
        (0, 500, 0, False),
        (1, 500, 0, False),
        (2, 1, 0, False),
        (0, 0, 0, True),
        (2, 300, 0, False),
        (1, 0, 0, True),
    ],
    remote=False,
)
def test_no_client_has_more_than_half_and_all_together_no_more_than_the_limit(steps, remote):
    """Against a model.

    A resource is taken until it is given back; a refused connection remains and costs none.
    """
    counted = Shares(1000, 0)
    counted.most_descriptors = 100
    held: list[tuple[int, shares.Peer, Cost]] = []
    for client, memory, files, gives in steps:
        if gives and held:
            _, peer, cost = held.pop(client % len(held))
            counted.give_back(peer, cost)
        else:
            peer, cost = (
                counted.peer(Far(client, f"10.0.0.{client}" if remote else None)),
                Cost(memory, files, 1),
            )
            theirs = [each for number, _, each in held if number == client]
            every = [each for *_, each in held]
            fits = all(
                sum(getattr(each, quota) for each in theirs) + getattr(cost, quota) <= most // 2
                and sum(getattr(each, quota) for each in every) + getattr(cost, quota) <= most
                for quota, most in (("memory", 1000), ("descriptors", 100))
            )
            if fits:
                counted.take(peer, cost)
                held.append((client, peer, cost))
            else:
                with pytest.raises(QuotaExceeded):
                    counted.take(peer, cost)
                held.append((client, peer, Cost()))
        assert counted.memory == sum(cost.memory for *_, cost in held)
        assert counted.descriptors == sum(cost.descriptors for *_, cost in held)
        assert set(counted.peers) == {peer.key for _, peer, cost in held if cost != Cost()}
    for _, peer, cost in held:
        counted.give_back(peer, cost)
    assert (counted.memory, counted.descriptors, counted.peers) == (0, 0, {})


def test_a_server_of_the_command_line_raises_its_soft_limit_of_open_files(private):
    script = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 5000));"
        "sys.argv[0] = 'rfp'; from rfp.cli import main; main()"
    )
    with python_programs.start(
        "-c", script, "serve", "-a", f"shm://{private}/s", "-m", "4MiB", stdout=subprocess.PIPE
    ) as server:
        try:
            assert b"serving" in server.stdout.readline()
            limits = Path(f"/proc/{server.pid}/limits").read_text().splitlines()
            assert next(
                line.split()[3:5] for line in limits if line.startswith("Max open files")
            ) == ["5000", "5000"]
        finally:
            server.terminate()


def test_the_lack_of_file_descriptors_of_this_process_is_reported_as_such(private):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with rfp.Server(memory="4MiB", address=f"shm://{private}/s") as server:
        for most in range(len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/fd")) + 12):
            clients = []
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            try:
                # Never a bare OSError; it may also search for the server until its deadline.
                with contextlib.suppress(RfpError):
                    clients.append(rfp.connect(server.address, timeout=0.3))
                    clients[0].get(b"k")
                with contextlib.suppress(FabricError):
                    clients.append(rfp.Server(memory="1MiB", address=f"shm://{private}/other"))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for client in clients:
                    client.close()
        with rfp.connect(server.address, timeout=20) as kv:
            assert kv.get(b"k") is None
