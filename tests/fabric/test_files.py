"""Regions over ranges of a file."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rfp.errors import Closed, HandshakeFailed, InvalidArgument
from rfp.fabric.fabric import READ, REMOTE_ATOMIC, REMOTE_READ, REMOTE_WRITE, RIGHTS, SUCCESS, WRITE
from rfp.fabric.shm.region import ShmFabric, ShmRegion

PAGES = 8


class File:
    """A file of some pages, mapped."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(b"".join(bytes([page]) * mmap.PAGESIZE for page in range(PAGES)))
        self.fd = os.open(path, os.O_RDWR)
        self.view = mmap.mmap(self.fd, 0)
        self.anchor = ctypes.c_char.from_buffer(self.view)

    def share(self, page: int, pages: int, rights: int) -> ShmRegion:
        base = ctypes.addressof(self.anchor) + page * mmap.PAGESIZE
        return ShmFabric().share_file(
            self, base, self.fd, page * mmap.PAGESIZE, pages * mmap.PAGESIZE, rights
        )

    def close(self) -> None:
        del self.anchor
        self.view.close()
        os.close(self.fd)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[File]:
    made = File(tmp_path / "pool")
    yield made
    made.close()


def test_a_peer_sees_only_the_shared_range_of_the_file(file: File) -> None:
    with file.share(2, 3, REMOTE_READ) as region:
        peer = ShmFabric().attach(region.descriptor(), os.dup(region.fileno()), files=True)
        assert peer.length == 3 * mmap.PAGESIZE
        assert [peer.read(page * mmap.PAGESIZE, 1) for page in range(3)] == [b"\2", b"\3", b"\4"]
        with pytest.raises(InvalidArgument):
            peer.read(3 * mmap.PAGESIZE, 1)
        peer.close()


def test_a_peers_writes_are_in_the_file(file: File) -> None:
    with file.share(1, 1, REMOTE_READ | REMOTE_WRITE) as region:
        peer = ShmFabric().attach(region.descriptor(), os.dup(region.fileno()), files=True)
        peer.write(64, b"hello")
        assert os.pread(file.fd, 5, mmap.PAGESIZE + 64) == b"hello"
        peer.close()


def test_a_peer_that_may_only_read_gets_a_file_descriptor_that_cannot_write(file: File) -> None:
    with file.share(0, 1, REMOTE_READ) as region, pytest.raises(PermissionError):
        mmap.mmap(region.fileno(), mmap.PAGESIZE, access=mmap.ACCESS_WRITE)


def test_a_file_region_permits_the_one_sided_operations_of_its_rights(file: File) -> None:
    fabric = ShmFabric()
    with (
        file.share(0, 2, REMOTE_READ) as region,
        fabric.register(4096, REMOTE_READ | REMOTE_WRITE) as mine,
    ):
        theirs = fabric.attach(mine.descriptor(), os.dup(mine.fileno()))
        remote = fabric.attach(region.descriptor(), os.dup(region.fileno()), files=True)
        far = fabric.queue_pair(fabric.event_channel(mine, 0), -1, -1)
        near = fabric.queue_pair(fabric.event_channel(mine, 64), -1, -1)
        near.connect(far.descriptor(), theirs)
        assert near.execute(READ, mine, 128, remote, mmap.PAGESIZE, 8) == SUCCESS
        assert mine.read(128, 8) == bytes([1]) * 8
        assert near.execute(WRITE, mine, 128, remote, 0, 8) == RIGHTS
        for each in (near, far, theirs, remote):
            each.close()


@pytest.mark.parametrize(
    ("page", "pages", "rights"),
    [(0, 0, REMOTE_READ), (0, 1, REMOTE_ATOMIC), (0, 1, 64)],
    ids=["empty", "atomics", "unknown"],
)
def test_an_empty_range_or_other_rights_are_refused(
    file: File, page: int, pages: int, rights: int
) -> None:
    with pytest.raises(InvalidArgument):
        file.share(page, pages, rights)


def test_ranges_are_whole_pages(file: File) -> None:
    with pytest.raises(InvalidArgument):
        ShmFabric().share_file(
            file, ctypes.addressof(file.anchor), file.fd, 64, mmap.PAGESIZE, REMOTE_READ
        )


def test_a_file_that_was_truncated_is_refused(file: File) -> None:
    with file.share(4, 4, REMOTE_READ) as region:
        os.ftruncate(file.fd, 6 * mmap.PAGESIZE)
        with pytest.raises(HandshakeFailed, match="truncated"):
            ShmFabric().attach(region.descriptor(), os.dup(region.fileno()), files=True)


def test_a_descriptor_of_no_regular_file_is_refused(file: File) -> None:
    with file.share(0, 1, REMOTE_READ) as region:
        with pytest.raises(HandshakeFailed, match="neither"):
            ShmFabric().attach(
                region.descriptor(), os.open(os.path.dirname(__file__), os.O_RDONLY), files=True
            )
        with pytest.raises(HandshakeFailed, match="no file descriptor"):
            ShmFabric().attach(region.descriptor(), files=True)


@pytest.mark.parametrize("place", range(40))
def test_a_damaged_descriptor_is_refused(file: File, place: int) -> None:
    with file.share(0, 1, REMOTE_READ) as region:
        damaged = bytearray(region.descriptor())
        damaged[place] ^= 1
        with pytest.raises(HandshakeFailed):
            ShmFabric().attach(bytes(damaged), os.dup(region.fileno()), files=True)


def test_a_closed_file_region_raises_and_closes_again(file: File) -> None:
    region = file.share(0, 1, REMOTE_READ)
    region.close()
    region.close()
    with pytest.raises(Closed):
        region.descriptor()
    with pytest.raises(Closed):
        region.fileno()
