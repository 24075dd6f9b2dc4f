"""Pools in files: created, opened, locked, refused, grown; and the effects of each medium."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import crc32c
import pytest

from rfp.errors import (
    Closed,
    FabricError,
    InvalidArgument,
    NotAPool,
    OutOfMemory,
    PoolDamaged,
    PoolInUse,
    PoolRefused,
    PoolTooNew,
    StorageFailed,
    VolatileMedium,
)
from rnvm import pools
from rnvm.check import check
from rnvm.media.file import FileMedium
from rnvm.media.medium import VolatileMemory
from rnvm.media.pmem import Direct, flush_instruction
from rnvm.pool.pool import Pool
from rnvm.testing import log_driver

pytestmark = pytest.mark.usefixtures("small_logs")

SMALL = dict(front_ends=2, names=16, operation_log=8192, memory_log=8192)


@pytest.fixture
def shm():
    """Return a folder on a file system in memory."""
    with tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"]) as path:
        yield Path(path)


@pytest.fixture(params=["disk", "memory", "memory, flushed"])
def place(request, tmp_path, shm):
    """Return a path for a pool, and the options with which it is created and opened there."""
    if request.param == "disk":
        return tmp_path / "p.pool", {}, {}
    return shm / "p.pool", {"assume_persistent": True}, {"force_flush": request.param != "memory"}


def test_a_pool_keeps_its_structures(place):
    path, making, opening = place
    pools.create(path, "2MiB", **SMALL, **making)
    with pools.open_pool(path, **opening) as pool:
        made = pool.create(b"jobs", kind=3, codec=b"utf-8")
        session, _ = pool.attach()
        address = pool.grant(session, 2)
        writer = log_driver.Writer(pool, session)
        body = log_driver.entry(log_driver.ENTRY_TAKE, address, 2) + log_driver.entry(
            log_driver.ENTRY_WRITE, address + 4096, b"persistent memory" * 64
        )
        assert writer.transaction([log_driver.part(made, 1, body)])[0]
        assert writer.operations([log_driver.part(made, 1, b"do it")])[0]
        assert pool.collect()
        assert pool.replay() == 1
        owners = log_driver.owners(pool)
    with pools.open_pool(path, **opening) as pool:
        assert log_driver.progress(pool, b"jobs") == (made, 1, 0)
        assert (
            pool.medium.read((address & (1 << 48) - 1) + 4096, 17 * 64) == b"persistent memory" * 64
        )
        assert log_driver.owners(pool) == owners
        assert [each[1:] for each in log_driver.pending(pool, session)] == [(made, 0, 1, b"do it")]
        assert pool.recovered == ["1 operations wait for the next writer of their structure"]


def test_a_killed_process_loses_no_durable_operation(place):
    path, making, opening = place
    pools.create(path, "2MiB", **SMALL, **making)
    program = f"""
import os
from rnvm import pools
from rnvm.check import check
from rnvm.testing import log_driver
pool = pools.open_pool({str(path)!r}, **{opening!r})
made = pool.create(b"jobs", kind=3)
session, _ = pool.attach()
writer = log_driver.Writer(pool, session)
for number in range(1, 51):
    assert writer.operations([log_driver.part(made, number, b"operation %d" % number)])[0]
    pool.collect()
    assert writer.durable[0]
    if number == 50:
        os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True)
    assert done.returncode == -9, done.stderr
    with pools.open_pool(path, **opening) as pool:
        pending_operations = [body for *_, body in log_driver.pending(pool, 0)]
        assert pending_operations == [b"operation %d" % number for number in range(1, 51)]
        assert "the pool had not been closed" in pool.recovered


# --- Refusals


def pool_at(path, **options):
    pools.create(path, "2MiB", **{**SMALL, **options})
    return path


def refused(path, kind, match):
    before = path.read_bytes()
    with pytest.raises(kind, match=match) as caught:
        pools.open_pool(path)
    assert path.read_bytes() == before
    assert caught.value.hint
    return caught.value


def test_an_open_pool_cannot_be_opened_again(tmp_path):
    path = pool_at(tmp_path / "p.pool")
    with pools.open_pool(path):
        with pytest.raises(PoolInUse, match="open in another process"):
            pools.open_pool(path)
        with pytest.raises(PoolInUse), pools.view(path):
            pass
        with pytest.raises(PoolInUse):
            pools.grow(path, "4MiB")
    pools.open_pool(path).close()


def test_an_open_pool_cannot_be_opened_in_another_process(tmp_path):
    path = pool_at(tmp_path / "p.pool")
    with pools.open_pool(path):
        program = f"from rnvm import pools\npools.open_pool({str(path)!r})"
        done = subprocess.run(
            [sys.executable, "-c", program], timeout=60, capture_output=True, text=True
        )
        assert "PoolInUse" in done.stderr


def test_a_file_of_another_format_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("dear diary, " * 2000)
    refused(path, NotAPool, "magic number is wrong")
    path.write_bytes(b"")
    refused(path, NotAPool, "0 bytes is too small")
    path.write_bytes(bytes(1 << 20))
    refused(path, NotAPool, "its creation did not complete")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(NotAPool, match="there is no pool at"):
        pools.open_pool(tmp_path / "nothing")
    with pytest.raises((NotAPool, PoolRefused)):
        pools.open_pool(tmp_path)
    with pytest.raises(NotAPool, match="not a DAX device"):
        pools.open_pool("/dev/zero")


def test_a_truncated_pool_is_refused(tmp_path):
    path = pool_at(tmp_path / "p.pool")
    os.truncate(path, 1 << 20)
    refused(path, PoolDamaged, "truncated: it has 1MiB of")
    os.truncate(path, 20000)
    refused(path, PoolDamaged, "truncated")


def flip(path, offset, mask=1):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ mask]))


def test_a_newer_pool_is_refused(tmp_path):
    path = pool_at(tmp_path / "p.pool")
    header = bytearray(path.read_bytes()[:256])
    for offset, match in ((8, "has format 3.0"), (16, "features"), (24, "features")):
        newer = bytearray(header)
        newer[offset] = 3 if offset == 8 else 0x80
        newer[252:] = crc32c.crc32c(bytes(newer[:252])).to_bytes(4, "little")
        with open(path, "r+b") as file:
            for at in (0, 4096):
                file.seek(at)
                file.write(newer)
        refused(path, PoolTooNew, match)


def test_opening_repairs_one_damaged_copy_of_header_or_superblock(tmp_path):
    path = pool_at(tmp_path / "p.pool")
    for offset in (100, 4096 + 100, 8192 + 20, 12288 + 20):
        flip(path, offset)
        with pools.open_pool(path) as pool:
            assert any("this copy is damaged" in text for text in pool.recovered), offset
        with pools.open_pool(path) as pool:
            assert pool.recovered == []


def test_two_damaged_copies_are_refused(tmp_path):
    path = pool_at(tmp_path / "p.pool")
    flip(path, 100)
    flip(path, 4096 + 100)
    refused(path, PoolDamaged, "both copies of the header")


def test_an_existing_file_is_never_overwritten(tmp_path):
    path = pool_at(tmp_path / "p.pool")
    with pytest.raises(PoolRefused, match="already exists"):
        pools.create(path, "2MiB", **SMALL)
    pools.open_pool(path).close()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"size": "64KiB"}, "too small"),
        ({"block": 1000}, "power of two"),
        ({"names": 0}, "names"),
        ({"front_ends": 2000}, "front_ends"),
        ({"operation_log": 5000}, "multiple of 4096"),
        ({"backend": 0}, "backend must be between 1 and 65535, got 0"),
        ({"size": 1 << 60}, "256TiB"),
    ],
)
def test_invalid_options_of_a_pool_are_refused_and_leave_no_file(tmp_path, options, match):
    path = tmp_path / "p.pool"
    with pytest.raises(InvalidArgument, match=match):
        pools.create(path, **{"size": "2MiB", **SMALL, **options})
    assert not path.exists()


def test_a_pool_that_finds_no_room_leaves_no_file(tmp_path):
    path = tmp_path / "p.pool"
    with pytest.raises(FabricError, match="for the pool"):
        pools.create(path, "200TiB")
    assert not path.exists()


def test_a_volatile_medium_is_refused_without_the_option(shm, tmp_path):
    path = shm / "p.pool"
    with pytest.raises(VolatileMedium, match="tmpfs"):
        pools.create(path, "2MiB", **SMALL)
    assert not path.exists()
    made = pool_at(tmp_path / "p.pool")
    path.write_bytes(made.read_bytes())
    refused(path, VolatileMedium, "created for a persistent medium")


# --- Media


def test_the_medium_is_detected(tmp_path, shm):
    for folder, kind, mode, promise in (
        (tmp_path, "page cache", "image", "power failure"),
        (shm, "tmpfs", "direct", "process crashes only"),
    ):
        path = folder / "file"
        path.write_bytes(bytes(8192))
        with open(path, "r+b") as file:
            found = pools.media(file.fileno())
        assert (found.kind, found.mode, found.volatile) == (kind, mode, kind == "tmpfs")
        assert promise in found.promise


def test_lines_are_flushed_by_the_best_instruction_of_the_processor():
    flags = Path("/proc/cpuinfo").read_text()
    best = next(
        (
            name
            for name in ("clwb", "clflushopt", "clflush")
            if f" {name} " in flags or f" {name}\n" in flags
        ),
        None,
    )
    if best:
        assert flush_instruction() == best


def test_stores_of_every_length_and_alignment_arrive(shm, monkeypatch):
    # Otherwise the library accepts no file of a file system in memory.
    monkeypatch.setenv("PMEM2_FORCE_GRANULARITY", "CACHE_LINE")
    path = shm / "file"
    path.write_bytes(bytes(1 << 16))
    with open(path, "r+b") as file:
        for flushing in ("lines", "none", "libpmem2"):
            try:
                medium = Direct(file.fileno(), 1 << 16, flushing, sync=False)
            except FabricError as error:
                # Only if the library is not installed.
                assert flushing == "libpmem2" and "cannot open shared object" in str(error), error
                continue
            for n in (1, 7, 8, 63, 64, 65, 511, 512, 513, 1000, 4096, 5000):
                for at in (0, 1, 8, 60, 64, 100):
                    data = os.urandom(n)
                    medium.write(4096 + at, data)
                    medium.flush(4096 + at, n)
                    medium.drain()
                    assert medium.read(4096 + at - 1, n + 2)[1:-1] == data
                    assert os.pread(file.fileno(), n, 4096 + at) == data
            medium.write64(8, 0x0102030405060708)
            assert os.pread(file.fileno(), 8, 8) == bytes(range(8, 0, -1))
            medium.close()
            medium.close()


def test_an_image_keeps_the_bytes_written_to_it(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 64)
    with open(path, "r+b") as file:
        medium = FileMedium(1 << 14, file.fileno())
    assert medium.read(0, 256) == bytes(range(256))
    medium.write(100, b"written")
    medium.poke(9000, b"poked")
    medium.poke(300, b"flushed")
    medium.flush(300, 7)
    medium.drain()
    content = path.read_bytes()
    assert content[100:107] == b"written" and content[300:307] == b"flushed"
    assert content[8192:] == bytes(range(256)) * 32  # a page that was not flushed
    assert os.fstat(medium.fileno()).st_size == 1 << 14
    medium.close()


def test_many_threads_that_drain_share_a_sync(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 16))
    with open(path, "r+b") as file:
        medium = FileMedium(1 << 16, file.fileno())
    rounds, start = 50, threading.Barrier(8)

    def work(index: int) -> None:
        start.wait()
        for i in range(rounds):
            medium.write(index * 4096, i.to_bytes(8, "little"))
            medium.drain()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rounds <= medium.counters["syncs"] < 8 * rounds
    medium.close()


def test_a_failed_sync_ends_the_pool_and_recovery_loses_no_acknowledged_operation(tmp_path):
    path = pool_at(tmp_path / "p.pool")
    pool = pools.open_pool(path)
    made = pool.create(b"jobs", kind=1)
    session, _ = pool.attach()
    writer = log_driver.Writer(pool, session)
    for number in range(1, 11):
        writer.operations([log_driver.part(made, number, b"%d" % number)])
        pool.collect()
    durable = writer.durable
    pool.medium.break_sync(errno.EIO)
    writer.operations([log_driver.part(made, 11, b"11")])
    with pytest.raises(StorageFailed, match="Input/output error") as caught:
        pool.collect()
    assert caught.value.errno == errno.EIO
    assert writer.durable == durable
    pool.medium.break_sync(0)  # the disk reports success again: what it kept cannot be known
    for call in (
        pool.collect,
        pool.checkpoint,
        pool.attach,
        lambda: pool.create(b"more", kind=1),
        pool.replay,
    ):
        with pytest.raises(StorageFailed):
            call()
    pool.close()
    with pytest.raises(Closed):
        pool.collect()
    with pools.open_pool(path) as pool:
        pending_operations = [body for *_, body in log_driver.pending(pool, session)]
        assert pending_operations[:10] == [b"%d" % number for number in range(1, 11)]
        assert len(pending_operations) in (10, 11)


# --- Growth


def test_a_pool_grows_and_keeps_its_contents(tmp_path):
    path = pool_at(tmp_path / "p.pool")
    with pools.open_pool(path) as pool:
        made = pool.create(b"jobs", kind=1, root_blocks=40)
        free = pool.free_blocks
        with pytest.raises(OutOfMemory):
            pool.create(b"more", kind=1, root_blocks=free)
            pool.create(b"yet more", kind=1, root_blocks=free)
    assert pools.grow(path, "6MiB") > 5 << 20
    with pytest.raises(InvalidArgument, match="already has"):
        pools.grow(path, "6MiB")
    with pools.open_pool(path) as pool:
        assert pool.free_blocks > 1000
        assert log_driver.progress(pool, b"jobs")[0] == made


def test_a_closed_pool_raises_closed(tmp_path):
    pool = pools.open_pool(pool_at(tmp_path / "p.pool"))
    pool.close()
    pool.close()
    with pytest.raises(Closed):
        pool.attach()
    with pytest.raises(Closed):
        pool.medium.read(0, 1)


def test_a_pool_object_opens_its_medium_once(tmp_path):
    with pools.open_pool(pool_at(tmp_path / "p.pool")) as pool:
        with pytest.raises(InvalidArgument):
            pool.__init__(pool.medium)
        assert isinstance(pool, Pool)


# --- Holes, and devices that are full


def test_a_pool_with_holes_is_filled_before_it_is_used(place):
    path, making, opening = place
    pools.create(path, "2MiB", **SMALL, **making)
    content = path.read_bytes()
    with open(path, "r+b") as file:  # a sparse copy: pages of zeros are holes
        os.ftruncate(file.fileno(), 0)
        os.ftruncate(file.fileno(), len(content))
        for at in range(0, len(content), 4096):
            if any(content[at : at + 4096]):
                os.pwrite(file.fileno(), content[at : at + 4096], at)
    assert path.stat().st_blocks * 512 < len(content)
    with pools.open_pool(path, **opening):
        assert path.stat().st_blocks * 512 >= len(content)
    assert check.check(path).findings == []


@pytest.fixture
def full(monkeypatch):
    """Let the device allocate all that it has, and then report that this was too little."""

    def allocate(fd, offset, length):
        os.ftruncate(fd, max(os.fstat(fd).st_size, offset + length // 2))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", allocate)


def test_a_pool_with_holes_that_find_no_room_is_refused(place, request):
    path, making, opening = place
    pools.create(path, "2MiB", **SMALL, **making)
    size = path.stat().st_size
    with open(path, "r+b") as file:
        os.ftruncate(file.fileno(), size - 65536)
        os.ftruncate(file.fileno(), size)
    request.getfixturevalue("full")
    content = path.read_bytes()
    with pytest.raises(FabricError, match="No space left"):
        pools.open_pool(path, **opening)
    assert path.read_bytes() == content


def test_a_growth_that_finds_no_room_does_not_change_the_file(place, request):
    path, making, _ = place
    pools.create(path, "2MiB", **SMALL, **making)
    size = path.stat().st_size
    request.getfixturevalue("full")
    with pytest.raises(FabricError, match="No space left"):
        pools.grow(path, "64MiB")
    assert path.stat().st_size == size


@pytest.mark.parametrize("size", ["2MiB", "2049KiB", "1MiB", (2 << 20) + 4095])
def test_a_growth_by_less_than_a_block_does_not_change_the_file(place, size):
    path, making, _ = place
    pools.create(path, "2MiB", **SMALL, **making)
    before = path.stat().st_size
    with pytest.raises(InvalidArgument, match="already has"):
        pools.grow(path, size)
    assert path.stat().st_size == before


def test_inspecting_a_file_in_memory_fills_no_holes_and_takes_memory_only_for_changes(shm):
    path = shm / "p.pool"
    with open(path, "wb") as file:
        for at in range(0, 64 << 20, 1 << 20):
            os.pwrite(file.fileno(), b"x" * 100, at)
        os.ftruncate(file.fileno(), (64 << 20) + 100)
        before = os.fstat(file.fileno()).st_blocks
    with contextlib.closing(open_private(path)) as view:
        assert (
            sum(len(view.read(at, 4096).rstrip(b"\0")) for at in range(0, 64 << 20, 4096))
            == 64 * 100
        )
        view.poke((64 << 20) + 96, b"last")
        with contextlib.closing(view.copy()) as copy:
            assert copy.read((64 << 20) + 90, 10) == bytes(6) + b"last"
            copy.poke(0, b"other")
        assert view.read(0, 5) == b"x" * 5
    assert path.stat().st_blocks == before
    assert path.read_bytes()[-4:] == bytes(4)


def open_private(path):
    with open(path, "rb") as file:
        return VolatileMemory(os.fstat(file.fileno()).st_size, file.fileno())


def test_a_pool_on_a_disk_takes_memory_only_for_its_contents(tmp_path):
    path = tmp_path / "p.pool"
    code = """
import sys
from rnvm import pools
from rnvm.check import check
def peak():                 # of this process: ru_maxrss starts at the parent's
    lines = open("/proc/self/status")
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
start = peak()
getattr(pools, sys.argv[1])(sys.argv[2], *sys.argv[3:])
print(peak() - start >> 10)
"""
    for command in (["create", path, "512MiB"], ["open_pool", path], ["grow", path, "600MiB"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, command)],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert int(done.stdout) < 64, command  # of which the write-ahead log has 16
