"""Pools whose file is complete only with its write-ahead log: opened, copied, grown, repaired."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import pytest

from rfp.errors import InvalidArgument, PoolDamaged, PoolTooNew
from rnvm import pools, sizes
from rnvm.check import check
from rnvm.media import wal
from rnvm.media.medium import VolatileMemory
from rnvm.testing import log_driver

pytestmark = pytest.mark.usefixtures("small_logs")

PAGE = 4096
SMALL = dict(front_ends=2, names=16, operation_log=8192, memory_log=8192)
OPERATIONS = 12


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> bytes:
    """Return the file of a pool whose process was killed.

    Each of its operations was durable, and is in a frame of its own.
    """
    path = tmp_path_factory.mktemp("killed") / "p.pool"
    with mock.patch.object(sizes, "least_log", return_value=4096):
        pools.create(path, "4MiB", write_ahead="1MiB", **SMALL)
    program = f"""
import os
from rnvm import pools
from rnvm.testing import log_driver
pool = pools.open_pool({str(path)!r})
made = pool.create(b"jobs", kind=3)
session, _ = pool.attach()
writer = log_driver.Writer(pool, session)
for number in range(1, {OPERATIONS + 1}):
    writer.operations([log_driver.part(made, number, b"operation %d" % number)])
    pool.collect()
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True)
    assert done.returncode == -9, done.stderr
    return path.read_bytes()


@pytest.fixture
def path(killed, tmp_path):
    path = tmp_path / "p.pool"
    path.write_bytes(killed)
    return path


def inspect_pool(path: Path) -> dict[str, int]:
    content = path.read_bytes()
    view = VolatileMemory(len(content))
    view.poke(0, content)
    area = wal.describe(view)
    assert area is not None
    return area


def pending_operations(path: Path) -> list[bytes]:
    with pools.open_pool(path) as pool:
        return [body for *_, body in log_driver.pending(pool, 0)]


ALL = [b"operation %d" % number for number in range(1, OPERATIONS + 1)]


def flip(path: Path, *places: int) -> None:
    content = bytearray(path.read_bytes())
    for place in places:
        content[place] ^= 16
    path.write_bytes(content)


def frame(path: Path, number: int) -> int:
    """Return the offset of a frame."""
    content, at = path.read_bytes(), inspect_pool(path)["at"] + 2 * PAGE
    for _ in range(number):
        at += -(-int.from_bytes(content[at + 4 : at + 8], "little") // PAGE) * PAGE
    return at


def test_operations_that_are_only_in_frames_are_visible_to_all_commands(path):
    before = path.read_bytes()
    assert inspect_pool(path)["frames"] >= OPERATIONS
    found = check.check(path)
    assert found.sound and found.figures["used"] == {b"jobs": 1}
    with pools.view(path) as (view, _):
        assert view.read(0, view.length) != before
    assert path.read_bytes() == before
    assert pending_operations(path) == ALL
    assert inspect_pool(path)["frames"] == 0
    assert pending_operations(path) == ALL


def test_a_copy_in_memory_has_the_operations_in_frames(path):
    area = inspect_pool(path)
    with tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"]) as folder:
        copy = Path(folder) / "p.pool"
        # As a pool that was made with --assume-persistent and whose process was killed on a disk.
        content = bytearray(path.read_bytes())
        assumed(content)
        copy.write_bytes(content)
        assert inspect_pool(copy)["frames"] == area["frames"]
        with pools.open_pool(copy) as pool:
            assert pool.medium.direct
            assert [body for *_, body in log_driver.pending(pool, 0)] == ALL
        assert inspect_pool(copy)["frames"] == 0
        path.write_bytes(copy.read_bytes())
    assert pending_operations(path) == ALL


def assumed(content: bytearray) -> None:
    """Set the flag in both copies of the header."""
    import crc32c

    for at in (0, PAGE):
        content[at + 66] |= 1
        content[at + 252 : at + 256] = crc32c.crc32c(bytes(content[at : at + 252])).to_bytes(
            4, "little"
        )


def test_a_pool_with_operations_in_frames_grows(path):
    assert pools.grow(path, "6MiB") > 5 << 20
    assert pending_operations(path) == ALL


def test_a_pool_without_a_write_ahead_log_works(tmp_path):
    path = tmp_path / "p.pool"
    pools.create(path, "2MiB", write_ahead=0, **SMALL)
    with pools.open_pool(path) as pool:
        pool.create(b"jobs", kind=3)
        assert pool.medium.counters["frames"] == 0
    with pools.open_pool(path) as pool:
        assert list(pool.names) == [b"jobs"]


def test_a_pool_created_in_memory_has_no_write_ahead_log(tmp_path):
    with tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"]) as folder:
        memory = Path(folder) / "p.pool"
        pools.create(memory, "2MiB", assume_persistent=True, **SMALL)
        with pools.view(memory) as (view, _):
            assert wal.describe(view) is None
        path = tmp_path / "p.pool"
        path.write_bytes(memory.read_bytes())
    with pools.open_pool(path) as pool:
        pool.create(b"jobs", kind=3)


def test_a_full_write_ahead_log_starts_again_and_loses_no_operation(tmp_path):
    path = tmp_path / "p.pool"
    pools.create(path, "2MiB", write_ahead="32KiB", **SMALL)
    with pools.open_pool(path) as pool:
        made = pool.create(b"jobs", kind=3)
        session, _ = pool.attach()
        writer = log_driver.Writer(pool, session)
        for number in range(1, 41):
            assert writer.operations([log_driver.part(made, number, b"operation %d" % number)])[0]
            pool.collect()
        assert pool.medium.counters["pages"] > 10
        generation = inspect_pool(path)["generation"]
        assert generation > 6
        content = path.read_bytes()  # as left by a killed process
    path.write_bytes(content)
    assert pending_operations(path) == [b"operation %d" % number for number in range(1, 41)]
    assert inspect_pool(path)["generation"] > generation


@pytest.mark.parametrize("size", [1000, 4096, 28672, 2 << 30])
def test_an_invalid_size_of_the_write_ahead_log_is_refused(size):
    with pytest.raises(InvalidArgument, match="write-ahead area"):
        sizes.choose(1 << 24, write_ahead=size)


def test_a_version_without_write_ahead_logs_refuses_the_pool(path):
    # The version is refused for a bit among the features that a version must know.
    assert int.from_bytes(path.read_bytes()[16:24], "little") == 1
    content = bytearray(path.read_bytes())
    import crc32c

    for at in (0, PAGE):
        content[at + 16] |= 2
        content[at + 252 : at + 256] = crc32c.crc32c(bytes(content[at : at + 252])).to_bytes(
            4, "little"
        )
    path.write_bytes(content)
    with pytest.raises(PoolTooNew, match="features"):
        pools.open_pool(path)


# --- Damage


def test_a_torn_last_frame_is_ignored_as_left_by_a_crash(path):
    last = inspect_pool(path)["frames"] - 1
    flip(path, frame(path, last) + 40)
    assert check.check(path).sound
    assert pending_operations(path) == ALL[:-1]


def test_one_damaged_copy_of_the_logs_header_does_no_harm(path):
    for copy in (0, PAGE):
        place = inspect_pool(path)["at"] + copy
        flip(path, place + 8)
        found = check.check(path)
        assert found.sound and any(
            "write-ahead area" in finding.where for finding in found.findings
        )
        flip(path, place + 8)
    flip(path, inspect_pool(path)["at"] + 8)
    assert pending_operations(path) == ALL
    assert check.check(path).findings == []


@pytest.mark.parametrize(("number", "place"), [(0, 8), (3, 0), (3, 4), (5, 16), (6, 33), (6, 60)])
def test_a_damaged_frame_before_whole_ones_is_refused_and_repair_corrects_one_bit(
    path, number, place
):
    where = frame(path, number)
    flip(path, where + place)
    before = path.read_bytes()
    with pytest.raises(PoolDamaged, match=f"frame {number} is damaged"):
        pools.open_pool(path)
    found = check.check(path)
    assert not found.sound and any(finding.at == where for finding in found.findings)
    assert path.read_bytes() == before
    repaired, lost = check.repair(path)
    assert not lost and any(f"frame {number} corrected" in text for text in repaired)
    assert pending_operations(path) == ALL


def test_frames_after_one_beyond_repair_are_lost_and_the_loss_is_reported(path):
    number = inspect_pool(path)["frames"] - 5
    flip(path, frame(path, number) + 8, frame(path, number) + 20)
    repaired, lost = check.repair(path)
    assert any(f"frame {number} is damaged" in text for text in lost)
    assert check.check(path).sound
    assert pending_operations(path) == ALL[: len(ALL) - 5]


@pytest.mark.parametrize("places", [(8, PAGE + 9), (0, PAGE + 60)])
def test_damage_to_both_copies_of_the_logs_header_is_refused_and_repaired(path, places):
    at = inspect_pool(path)["at"]
    flip(path, *(at + place for place in places))
    with pytest.raises(PoolDamaged, match="both copies of its header"):
        pools.open_pool(path)
    repaired, lost = check.repair(path)
    assert not lost and any("one flipped bit of its header" in text for text in repaired)
    assert pending_operations(path) == ALL


def test_the_frames_themselves_show_which_count_if_both_headers_are_damaged_further(path):
    at = inspect_pool(path)["at"]
    flip(path, at + 8, at + 9, at + PAGE + 8, at + PAGE + 9)
    _, lost = check.repair(path)
    assert any("both copies of its header" in text for text in lost)
    assert pending_operations(path) == ALL


def test_frames_count_even_if_the_pools_header_must_be_repaired_first(path):
    flip(path, 100, PAGE + 100)
    with pytest.raises(PoolDamaged, match="both copies of the header"):
        pools.open_pool(path)
    repaired, lost = check.repair(path)
    assert not lost and any(text.startswith("header: one flipped bit") for text in repaired)
    assert pending_operations(path) == ALL
