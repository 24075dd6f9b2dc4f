"""Features of devices only: domains, parts of memory, revocation, and their reports of failures."""

from __future__ import annotations

import os
import resource
import struct
import subprocess
import sys
import time

import needed
import pytest

from rfp.address import RdmaOptions
from rfp.errors import (
    CallerError,
    Closed,
    FabricError,
    HandshakeFailed,
    InvalidArgument,
    RequestFailed,
)
from rfp.fabric.fabric import (
    FLUSHED,
    PEER_GONE,
    READ,
    REMOTE_READ,
    REMOTE_WRITE,
    RIGHTS,
    SUCCESS,
    WRITE,
    WRITE_NOTIFY,
)
from rfp.fabric.shm.region import ShmFabric

from .connected_pairs import ALL, PAGE, attached, completions, connected, until
from .providers import verbs
from .test_fork import in_child
from .test_regions import crc32c

pytestmark = pytest.mark.verbs
SHORT = RdmaOptions(timeout=12, retry_cnt=3)  # 17 ms, and three retries


def short():
    from rfp._verbs import VerbsFabric

    return VerbsFabric(options=SHORT)


@pytest.fixture
def ends():
    with verbs() as mine, verbs() as yours, connected(mine, yours) as ends:
        yield ends


def resealed(descriptor: bytes, offset: int, field: bytes) -> bytes:
    """Return a region's descriptor with one field changed and a valid checksum."""
    body = descriptor[:offset] + field + descriptor[offset + len(field) : -4]
    return body + struct.pack("<I", crc32c(body))


def test_a_device_reports_its_properties_and_why_it_was_chosen(ends):
    a, _ = ends
    assert a.fabric.choice.device in os.listdir("/sys/class/infiniband")
    assert a.fabric.choice.reason
    assert not a.fabric.reads_ordered and not a.pair.reads_ordered
    assert a.fabric.closing_revokes and a.pair.needs_registration
    assert 0 < a.pair.max_outstanding_reads <= 255
    assert a.pair.failure is None


def test_a_peer_that_reads_another_domains_memory_loses_only_its_own_connection(ends):
    a, b = ends
    with (
        b.fabric.domain() as other,
        other.register(PAGE, ALL) as secret,
        attached(a.fabric, secret) as theirs,
    ):
        secret.write(0, b"secret")
        with connected(a.fabric, b.fabric) as (c, _):
            assert c.pair.execute(READ, c.memory, 0, theirs, 0, 6) == RIGHTS
            assert c.memory.read(0, 6) == bytes(6)
            assert not c.pair.alive()
            assert c.pair.execute(READ, c.memory, 0, c.theirs, 0, 6) == FLUSHED
        assert a.pair.execute(READ, a.memory, 0, a.theirs, 64, 6) == SUCCESS


def test_a_domain_still_works_after_its_fabric_was_closed():
    with verbs() as fabric:
        domain = fabric.domain()
    with domain, connected(domain, domain) as (a, _):
        assert a.pair.execute(READ, a.memory, 0, a.theirs, 64, 8) == SUCCESS
    with pytest.raises(Closed):
        fabric.register(PAGE, 0)


def test_parts_of_reserved_memory_are_shared_with_one_domain_at_a_time(ends):
    a, b = ends
    with b.fabric.reserve(8 * PAGE, REMOTE_READ) as arena:
        arena.write(4 * PAGE, b"within")
        with pytest.raises(CallerError, match="reserved"):
            arena.descriptor()
        # The arena is registered with no device.
        assert a.pair.execute(WRITE, arena, 0, a.theirs, 64, 8) == RIGHTS
        with pytest.raises(InvalidArgument, match="rights"):
            b.fabric.share(arena, 0, PAGE, REMOTE_WRITE)
        with pytest.raises(InvalidArgument, match="not within"):
            b.fabric.share(arena, 7 * PAGE, 2 * PAGE, REMOTE_READ)
        with (
            b.fabric.share(arena, 3 * PAGE, 2 * PAGE, REMOTE_READ) as part,
            attached(a.fabric, part) as theirs,
        ):
            assert theirs.length == 2 * PAGE
            arena.close()  # the part keeps the memory
            assert a.pair.execute(READ, a.memory, 0, theirs, PAGE, 6) == SUCCESS
            assert a.memory.read(0, 6) == part.read(PAGE, 6) == b"within"
            assert a.pair.execute(WRITE, a.memory, 0, theirs, 0, 6) == RIGHTS


def test_a_share_registers_at_most_64_mib_at_once():
    with verbs() as fabric:
        assert fabric.share_limit == 64 << 20


@pytest.mark.parametrize(
    ("offset", "field", "opcode"),
    [(16, struct.pack("<I", ALL), WRITE), (8, struct.pack("<Q", 1 << 40), READ)],
    ids=["rights", "length"],
)
def test_the_target_refuses_requests_beyond_its_region_that_a_forged_descriptor_claims(
    ends, offset, field, opcode
):
    a, b = ends
    with b.fabric.register(PAGE, REMOTE_READ) as memory:
        theirs = a.fabric.attach(resealed(memory.descriptor(), offset, field))
        memory.write(0, b"before")
        assert (
            a.pair.execute(opcode, a.memory, 0, theirs, 0 if opcode == WRITE else 1 << 30, 6)
            == RIGHTS
        )
        assert memory.read(0, 6) == b"before"
        assert "remote access error" in a.pair.failure


@pytest.mark.parametrize(
    ("offset", "field", "reason"),
    [
        (6, b"\x01\x00", "provider"),
        (4, b"\x09\x00", "version"),
        (16, b"\x08", "rights"),
        (8, bytes(8), "0 bytes"),
        (24, b"\xff" * 8, "invalid region"),
    ],
)
def test_an_invalid_region_descriptor_is_refused(ends, offset, field, reason):
    a, b = ends
    with pytest.raises(HandshakeFailed, match=reason):
        a.fabric.attach(resealed(b.memory.descriptor(), offset, field))


@pytest.mark.parametrize(
    ("offset", "field", "reason"),
    [
        (0, b"RFPM", "magic number"),
        (6, b"\x01\x00", "provider"),
        (11, b"\x01", "numbers"),
        (15, b"\x01", "numbers"),
        (34, b"\x00", "numbers"),
        (34, b"\x06", "numbers"),
        (35, b"\x01", "InfiniBand"),
    ],
)
def test_an_invalid_device_pair_descriptor_is_refused_and_a_valid_one_still_connects(
    ends, offset, field, reason
):
    a, b = ends
    with (
        a.fabric.queue_pair(a.channel, -1, -1) as pair,
        b.fabric.queue_pair(b.channel, -1, -1) as other,
    ):
        with pytest.raises(HandshakeFailed, match=reason):
            pair.connect(resealed(other.descriptor(), offset, field), None)
        pair.connect(other.descriptor(), None)
        other.connect(pair.descriptor(), None)
        assert pair.execute(READ, a.memory, 64, a.theirs, 0, 8) == SUCCESS


def test_shared_memory_and_devices_refuse_each_others_descriptors(ends):
    a, _ = ends
    shm = ShmFabric()
    with shm.register(PAGE, ALL) as memory, shm.event_channel(memory, 0) as channel:
        with pytest.raises(HandshakeFailed, match="another provider"):
            attached(a.fabric, memory)
        with pytest.raises(HandshakeFailed, match="another provider"):
            shm.attach(a.memory.descriptor())
        with pytest.raises(InvalidArgument):
            a.fabric.share(memory, 0, PAGE, REMOTE_READ)
        with pytest.raises(InvalidArgument):
            a.fabric.queue_pair(channel, -1, -1)


def test_requests_to_a_closed_region_fail_with_the_reason(ends):
    a, b = ends
    b.memory.close()
    with pytest.raises(
        RequestFailed, match=r"READ of 8 bytes.*remote access error \(status 10"
    ) as caught:
        a.pair.execute(READ, a.memory, 64, a.theirs, 0, 8, check=True)
    assert (caught.value.verb, caught.value.status) == ("READ", RIGHTS)
    assert "closed the region" in caught.value.hint


def test_requests_posted_after_a_refused_one_are_not_executed(ends):
    a, b = ends
    a.memory.write(64, b"behind")
    with b.fabric.register(PAGE, REMOTE_READ) as memory:
        theirs = a.fabric.attach(resealed(memory.descriptor(), 16, struct.pack("<I", ALL)))
        a.pair.post(WRITE, a.memory, 64, theirs, 0, 6, id=1)
        a.pair.post(WRITE, a.memory, 64, a.theirs, 128, 6, id=2)
        assert completions(a.pair, 2) == [(1, WRITE, RIGHTS), (2, WRITE, FLUSHED)]
    assert b.memory.read(128, 6) == bytes(6)


def test_a_closed_pair_revokes_its_peers_access_and_the_peer_detects_it():
    with short() as mine, short() as yours, connected(mine, yours) as (a, b):
        a.memory.write(64, b"late")
        b.pair.close()
        a.pair.post(WRITE, a.memory, 64, a.theirs, 128, 4, id=1)
        a.pair.post(READ, a.memory, 64, a.theirs, 128, 4, id=2)
        assert completions(a.pair, 2) == [(1, WRITE, PEER_GONE), (2, READ, PEER_GONE)]
        assert b.memory.read(128, 4) == bytes(4)
        assert "retry counter exceeded" in a.pair.failure
        with pytest.raises(RequestFailed, match="retry counter exceeded") as caught:
            raise a.pair.failed(READ, PEER_GONE)
        assert "4791" in caught.value.hint


def test_a_peer_with_a_closed_queue_pair_is_not_alive_even_without_a_pidfd(ends):
    a, b = ends
    for _ in range(5):
        assert a.pair.alive()
        time.sleep(0.01)
    b.pair.close()
    assert 0.4 < until(lambda: not a.pair.alive()) < 8  # the time-out, less the time before it


@pytest.fixture
def link():
    """The interface below the device, if the tests may take it down: in the machine of softroce."""
    if os.geteuid() != 0 or "dummy0" not in os.listdir("/sys/class/net"):
        pytest.skip("not run here: tests may not take this machine's network down")

    def set_link(state: str) -> None:
        subprocess.run(["ip", "link", "set", "dummy0", state], check=True)

    yield set_link
    set_link("up")


def test_a_link_that_goes_down_ends_its_connections_and_takes_new_ones_when_it_is_up(ends, link):
    a, _ = ends
    link("down")
    assert a.pair.execute(READ, a.memory, 64, a.theirs, 0, 8, timeout=20) == PEER_GONE
    assert a.pair.failure
    assert not a.pair.alive()
    with pytest.raises(FabricError, match="DOWN"):
        verbs()
    link("up")

    def connects_again() -> bool:
        try:
            with verbs() as fabric, connected(fabric, fabric) as (c, _):
                return c.pair.execute(READ, c.memory, 64, c.theirs, 0, 8) == SUCCESS
        except FabricError:
            return False

    until(connects_again, 20)


def test_an_idle_connection_is_alive_after_a_long_time_without_a_check(ends):
    a, _ = ends
    assert a.pair.alive()
    time.sleep(1.0)
    assert a.pair.alive()
    assert a.pair.execute(READ, a.memory, 64, a.theirs, 0, 8) == SUCCESS
    time.sleep(1.0)
    assert a.pair.alive()


def test_the_probe_takes_no_room_from_requests(ends):
    a, _ = ends
    for each in range(a.pair.depth):
        assert a.pair.post(WRITE, a.memory, 64, a.theirs, 64, 8, id=each) == 1
        assert a.pair.alive()
    assert [each for each, _, _ in completions(a.pair, a.pair.depth)] == list(range(a.pair.depth))


def test_unsignaled_requests_can_be_posted_without_end_and_without_a_poll(ends):
    a, b = ends
    for n in range(2000):
        a.memory.write(64, struct.pack("<Q", n))
        until(lambda: a.pair.post(WRITE, a.memory, 64, a.theirs, 64, 8, flags=0))
    until(lambda: b.memory.read(64, 8) == struct.pack("<Q", 1999))
    assert a.pair.poll(64) == []


def test_more_queue_pairs_than_one_completion_queue_serves_wake_one_sleeper():
    with (
        verbs() as fabric,
        fabric.event_channel(None, 0) as channel,
        connected(fabric, fabric) as (a, _),
    ):
        pairs = []
        for _ in range(70):
            here, there = fabric.queue_pair(a.channel, -1, -1), fabric.queue_pair(channel, -1, -1)
            here.connect(there.descriptor(), None)
            there.connect(here.descriptor(), None)
            pairs.append((here, there))
        for here, _ in pairs:
            armed = channel.prepare_wait()
            assert here.execute(WRITE_NOTIFY, a.memory, 64, a.theirs, 64, 8) == SUCCESS
            assert channel.wait(armed, 10.0)
        channel.close()  # before its queue pairs, which keep the parts that they need
        for here, there in pairs:
            assert here.execute(WRITE, a.memory, 64, a.theirs, 64, 8) == SUCCESS
            there.close()
            here.close()


def test_clients_that_close_with_notifies_in_flight_leave_room_for_later_clients():
    with (
        verbs() as fabric,
        fabric.event_channel(None, 0) as channel,
        connected(fabric, fabric) as (a, _),
    ):
        for _ in range(150):  # times 128 receives: more than a completion queue has room for
            with (
                fabric.queue_pair(a.channel, -1, -1) as here,
                fabric.queue_pair(channel, -1, -1) as there,
            ):
                here.connect(there.descriptor(), None)
                there.connect(here.descriptor(), None)
                for _ in range(5):
                    assert here.execute(WRITE_NOTIFY, a.memory, 64, a.theirs, 64, 8) == SUCCESS


def test_a_registered_buffer_of_the_user_is_read_into_and_written_from_in_place(ends):
    numpy = needed.module("numpy")
    a, b = ends
    array = numpy.zeros((4, 1024), dtype=numpy.float32)
    b.memory.write(0, numpy.arange(1024, dtype=numpy.float32).tobytes())
    with a.fabric.share(array, 4096, 4096, 0) as local:
        assert a.pair.execute(READ, local, 0, a.theirs, 0, 4096) == SUCCESS
        assert (array[1] == numpy.arange(1024)).all() and not array[2].any()
    constant = bytes(range(256)) * 16
    with a.fabric.share(constant, 0, 4096, 0) as local:
        assert a.pair.execute(WRITE, local, 0, a.theirs, 0, 4096) == SUCCESS
        assert a.pair.execute(READ, local, 0, a.theirs, 64, 8) == RIGHTS
        assert b.memory.read(0, 4096) == constant


def test_a_childs_handles_are_closed_and_the_parents_still_work(ends):
    a, b = ends
    a.memory.write(64, b"hello")

    def check():
        assert a.pair.execute(WRITE, a.memory, 64, a.theirs, 64, 5) == FLUSHED
        assert not a.pair.alive()
        assert not a.channel.wait(a.channel.prepare_wait(), 1.0)
        a.channel.notify()
        for call in (
            lambda: a.memory.read(0, 1),
            a.memory.descriptor,
            a.pair.descriptor,
            a.fabric.domain,
        ):
            with pytest.raises(Closed):
                call()
        assert not any(
            "infiniband" in os.readlink(link.path)
            for link in os.scandir("/proc/self/fd")
            if os.path.lexists(link.path)
        )
        with verbs() as fabric, connected(fabric, fabric) as (c, d):
            d.memory.write(64, b"back")
            assert c.pair.execute(READ, c.memory, 64, c.theirs, 64, 4) == SUCCESS
            assert c.memory.read(64, 4) == b"back"
        for each in (a.pair, a.channel, a.theirs, a.memory, a.fabric):
            each.close()

    in_child(check)
    assert a.pair.execute(WRITE, a.memory, 64, a.theirs, 64, 5) == SUCCESS
    assert b.memory.read(64, 5) == b"hello"


REGISTER = """
import os
from rfp._verbs import VerbsFabric
from rfp.errors import FabricError
# After all imports: files that user 65534 cannot read are no business of this test.
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
with VerbsFabric() as fabric:
    with fabric.register(1 << 20, 1):
        pass
    try:
        fabric.register(32 << 20, 1)
    except FabricError as error:
        print(error)
"""


@pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can become another user; an ordinary user's limit is fixed"
)
def test_too_little_locked_memory_is_an_error_with_the_line_to_add():
    limit = 8 << 20
    done = subprocess.run(
        [sys.executable, "-c", REGISTER],
        capture_output=True,
        text=True,
        timeout=50,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "HOME": "/"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit)),
    )
    assert done.returncode == 0, done.stderr
    assert "cannot register 33554432 bytes" in done.stdout
    assert "* - memlock unlimited" in done.stdout


def test_an_event_channel_of_another_device_or_a_closed_one_is_refused():
    with verbs() as one, verbs() as two, one.event_channel(None, 0) as channel:
        with pytest.raises(InvalidArgument, match="another device"):
            two.queue_pair(channel, -1, -1)
        channel.close()
        with pytest.raises(Closed):
            one.queue_pair(channel, -1, -1)


def test_an_unreachable_peer_is_an_error_of_connecting_or_of_the_first_request(ends):
    a, b = ends
    nowhere = bytes(10) + b"\xff\xff" + bytes([192, 0, 2, 1])
    with (
        short() as fabric,
        fabric.event_channel(None, 0) as channel,
        fabric.queue_pair(channel, -1, -1) as pair,
    ):
        with fabric.register(PAGE, 0) as memory:
            try:
                pair.connect(resealed(b.pair.descriptor(), 16, nowhere), None)
            except FabricError as error:
                assert "192.0.2.1" in str(error)
            else:
                assert pair.execute(READ, memory, 0, a.theirs, 0, 8) == PEER_GONE
