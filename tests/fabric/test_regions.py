"""Registered memory: the properties of a region, and the descriptors that a peer accepts or not."""

from __future__ import annotations

import fcntl
import mmap
import os
import resource
import struct
import zlib

import pytest

from rfp.errors import CallerError, Closed, FabricError, HandshakeFailed, InvalidArgument
from rfp.fabric import memory_limits
from rfp.fabric.fabric import REMOTE_ATOMIC, REMOTE_READ, REMOTE_WRITE
from rfp.fabric.shm.region import ShmFabric

PAGE = os.sysconf("SC_PAGE_SIZE")
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
FUTURE_WRITE = 0x10


def crc32c(data: bytes) -> int:
    """Return a plain Castagnoli CRC: forged descriptors are valid except for the tested field."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def forged(
    *, magic=0x4D504652, version=1, provider=1, length=PAGE, rights=REMOTE_READ, key=1
) -> bytes:
    body = struct.pack("<IHHQIII", magic, version, provider, length, rights, key, 0)
    return body + struct.pack("<I", crc32c(body))


def memfd(length: int = PAGE, seals: int = SEALS | FUTURE_WRITE) -> int:
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, length)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def closed(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return True
    return False


@pytest.fixture
def fabric():
    return ShmFabric()


def attach(fabric, region):
    return fabric.attach(region.descriptor(), os.dup(region.fileno()))


def test_a_region_is_rounded_up_to_whole_pages_and_is_zero(fabric):
    with fabric.register(PAGE + 1, REMOTE_READ) as region:
        assert region.length == 2 * PAGE
        assert region.read(0, region.length) == bytes(region.length)


def test_the_memory_of_a_region_is_allocated_before_it_is_used(fabric):
    with fabric.register(1 << 20, REMOTE_READ) as region:
        assert os.fstat(region.fileno()).st_blocks * 512 >= 1 << 20


@pytest.mark.parametrize("rights", [0, REMOTE_READ, REMOTE_WRITE, REMOTE_ATOMIC, 7])
def test_the_seals_of_a_region_let_peers_write_only_if_granted(fabric, rights):
    with fabric.register(PAGE, rights) as region:
        writable = bool(rights & (REMOTE_WRITE | REMOTE_ATOMIC))
        assert fcntl.fcntl(region.fileno(), fcntl.F_GET_SEALS) & (SEALS | FUTURE_WRITE) == (
            SEALS if writable else SEALS | FUTURE_WRITE
        )
        assert not os.get_inheritable(region.fileno())


def test_a_peer_that_may_only_read_sees_the_owners_writes(fabric):
    with fabric.register(PAGE, REMOTE_READ) as region, attach(fabric, region) as remote:
        region.write(100, b"hello")
        assert remote.read(100, 5) == b"hello"
        assert (remote.length, remote.rights) == (PAGE, REMOTE_READ)
        with pytest.raises(CallerError, match="REMOTE_WRITE"):
            remote.write(0, b"x")


def test_no_holder_of_its_file_descriptor_can_map_a_read_only_region_for_writing(fabric):
    with fabric.register(PAGE, REMOTE_READ) as region, pytest.raises(PermissionError):
        mmap.mmap(region.fileno(), PAGE)


def test_the_owner_sees_the_writes_of_a_peer_that_may_write(fabric):
    with fabric.register(PAGE, REMOTE_WRITE) as region, attach(fabric, region) as remote:
        remote.write(8, b"hello")
        assert region.read(8, 5) == b"hello"
        with pytest.raises(CallerError, match="REMOTE_READ"):
            remote.read(0, 1)


def test_a_peer_keeps_the_memory_after_its_owner_has_closed_it(fabric):
    region = fabric.register(PAGE, REMOTE_READ)
    remote = attach(fabric, region)
    region.write(0, b"still here")
    region.close()
    assert remote.read(0, 10) == b"still here"
    remote.close()


@pytest.mark.parametrize("length", [0, (1 << 47) + 1])
def test_an_invalid_length_is_refused(fabric, length):
    with pytest.raises(InvalidArgument, match=str(length)):
        fabric.register(length, REMOTE_READ)


def test_unknown_rights_are_refused(fabric):
    with pytest.raises(InvalidArgument, match="rights"):
        fabric.register(PAGE, 8)


def test_registering_more_memory_than_is_available_raises_before_the_oom_killer_runs(fabric):
    with pytest.raises(FabricError, match="available"):
        fabric.register(1 << 46, REMOTE_READ)


def test_a_limit_of_the_control_group_is_detected(fabric, monkeypatch):
    monkeypatch.setattr(memory_limits, "available", lambda: 3 * PAGE)
    fabric.register(3 * PAGE, REMOTE_READ).close()
    with pytest.raises(FabricError, match=f"{3 * PAGE} are available"):
        fabric.register(3 * PAGE + 1, REMOTE_READ)


def test_an_error_of_the_kernel_gives_its_reason_and_leaves_nothing_behind(fabric):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []

    def fill() -> None:
        while True:
            held.append(fabric.register(PAGE, REMOTE_READ))

    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        with pytest.raises(FabricError, match="Too many open files") as failure:
            fill()
        assert failure.value.errno == 24
        assert failure.value.hint
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for region in held:
            region.close()


def test_a_region_of_many_pages_can_be_used_to_its_end(fabric):
    length = 8 << 20
    with fabric.register(length, REMOTE_READ) as region, attach(fabric, region) as remote:
        region.write(length - 5, b"hello")
        assert remote.read(length - 5, 5) == b"hello"


@pytest.mark.parametrize(
    ("offset", "n"),
    [(PAGE, 1), (PAGE - 1, 2), (PAGE + 1, 0), (2**64 - 1, 1), (2**64 - 8, 16), (1, 2**64 - 1)],
)
def test_reading_outside_a_region_is_refused_whatever_the_offset(fabric, offset, n):
    with (
        fabric.register(PAGE, REMOTE_READ | REMOTE_WRITE) as region,
        attach(fabric, region) as remote,
    ):
        for each in (region, remote):
            with pytest.raises(InvalidArgument, match="not within"):
                each.read(offset, n)
            if n < 64:
                with pytest.raises(InvalidArgument, match="not within"):
                    each.write(offset, bytes(n))


def test_a_valid_descriptor_with_its_memory_is_accepted(fabric):
    fabric.attach(forged(), memfd()).close()


@pytest.mark.parametrize(
    ("descriptor", "reason"),
    [
        (b"", "0 bytes"),
        (forged()[:-1], "31 bytes"),
        (forged() + b"\0", "33 bytes"),
        (forged(magic=1), "magic number"),
        (forged(version=2), "version"),
        (forged(provider=2), "provider"),
        (forged()[:-1] + b"\x55", "checksum"),
        (forged(rights=8), "rights"),
        (forged(length=0), "0 bytes"),
        (forged(length=PAGE + 1), "bytes"),
        (forged(length=2 * PAGE), "size"),
        (forged(length=1 << 63), "size"),
    ],
)
def test_an_invalid_descriptor_is_refused_and_its_file_closed(fabric, descriptor, reason):
    fd = memfd()
    with pytest.raises(HandshakeFailed, match=reason):
        fabric.attach(descriptor, fd)
    assert closed(fd)


@pytest.mark.parametrize(
    "missing", [fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW, fcntl.F_SEAL_SEAL, FUTURE_WRITE]
)
def test_a_missing_seal_is_refused(fabric, missing):
    fd = memfd(seals=(SEALS | FUTURE_WRITE) & ~missing)
    with pytest.raises(HandshakeFailed, match="sealed"):
        fabric.attach(forged(), fd)
    assert closed(fd)


def test_memory_that_may_be_written_needs_no_write_seal(fabric):
    fabric.attach(forged(rights=REMOTE_WRITE), memfd(seals=SEALS)).close()


def test_memory_sealed_against_writing_is_refused_as_writable(fabric):
    with pytest.raises(FabricError, match="map"):
        fabric.attach(forged(rights=REMOTE_WRITE), memfd())


@pytest.mark.parametrize(
    "make",
    [
        lambda path: os.open(path / "file", os.O_RDWR | os.O_CREAT),
        lambda path: os.open("/dev/zero", os.O_RDWR),
        lambda path: os.open(path, os.O_RDONLY),
        lambda path: os.eventfd(0),
    ],
    ids=["file", "device", "directory", "eventfd"],
)
def test_a_file_descriptor_of_no_memfd_is_refused(fabric, tmp_path, make):
    fd = make(tmp_path)
    with pytest.raises(HandshakeFailed, match="not a memfd"):
        fabric.attach(forged(), fd)
    assert closed(fd)


def test_a_file_on_tmpfs_is_refused(fabric):
    path = f"/dev/shm/rfp-test-{os.getpid()}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.unlink(path)
    os.ftruncate(fd, PAGE)
    with pytest.raises(HandshakeFailed, match="sealed"):
        fabric.attach(forged(), fd)


def test_a_descriptor_without_a_file_is_refused(fabric):
    with pytest.raises(HandshakeFailed, match="no file descriptor"):
        fabric.attach(forged())


def test_a_closed_region_raises_and_closes_again(fabric):
    region = fabric.register(PAGE, REMOTE_READ | REMOTE_WRITE)
    remote = attach(fabric, region)
    for each in (region, remote):
        each.close()
        each.close()
        with pytest.raises(Closed):
            each.read(0, 1)
        with pytest.raises(Closed):
            each.write(0, b"x")
        assert each.length == 0
    for call in (region.descriptor, region.fileno):
        with pytest.raises(Closed):
            call()


def test_the_tests_checksum_is_that_of_the_descriptors():
    assert crc32c(b"123456789") == 0xE3069283
    assert zlib.crc32(b"123456789") != 0xE3069283
