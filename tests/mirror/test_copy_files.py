"""The file of a copy: which one is taken, which is refused, and which is left alone."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from polling import until

import rnvm
import rnvm.mirror.copy_file
from rfp.errors import FabricError, NotAPool, PoolInUse, PoolRefused, StorageFailed
from rnvm import pools
from rnvm.check.against import against
from rnvm.group import admin
from rnvm.media import identity, wal
from rnvm.media.medium import VolatileMemory
from rnvm.mirror.copy_file import FORMER, CopyFile
from rnvm.testing.sample_structure import Sample
from tests.frontend.processes import SOON, Process, address_of

from .copies import mirror_of, mirrors, numbers, open_primary, replicated, two_paths

pytestmark = pytest.mark.shm

FRONT_END = """
import signal, sys, rnvm
from rnvm.testing.sample_structure import Sample
fe = rnvm.connect(sys.argv[1], timeout=SOON)
Sample(fe, "s").add(1)
print("mapped", flush=True)
signal.pause()
""".replace("SOON", str(SOON))


@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "not mapped"])
def test_a_file_in_memory_is_overwritten_only_if_no_process_has_it_mapped(mapped: bool) -> None:
    with two_paths() as (path, copy), contextlib.ExitStack() as later:
        with open_primary(path) as backend:
            front_end = later.enter_context(Process(FRONT_END, backend.address))
            front_end.wait_for(1)
            with mirror_of(backend, copy) as mirror:
                mirror.wait_level(SOON)
                replicated(backend)
            front_end.stop()
        if not mapped:
            front_end.kill()
        before = os.stat(path)
        with (
            rnvm.Backend(copy) as promoted,
            rnvm.connect(promoted.address, timeout=SOON) as fe,
            mirror_of(promoted, path) as mirror,
        ):
            mirror.wait_level(SOON)
            assert os.path.samestat(os.stat(path), before) == (not mapped)
            assert not os.path.exists(path + FORMER)
            assert Sample(fe, "s").add(1) == 2
            replicated(promoted)
        assert not against(path, copy).findings
        assert numbers(path) == (2, 2)


def test_without_leases_of_files_one_that_was_served_is_set_aside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rnvm.mirror.copy_file, "_held_by_others", lambda _: None)
    aside: list[bytes] = []
    leveled = CopyFile.leveled

    def noted(self: CopyFile) -> None:
        aside.append(Path(former).read_bytes()[:256])
        leveled(self)

    monkeypatch.setattr(CopyFile, "leveled", noted)
    with two_paths() as (path, copy):
        former = path + FORMER
        Path(former).touch()
        with open_primary(path) as backend, mirror_of(backend, copy) as mirror:
            mirror.wait_level(SOON)
        aside.clear()
        os.chmod(path, 0o640)
        Path(f"{path}.new").touch()  # of an attempt that was cut off
        files, head = [os.stat(path)], Path(path).read_bytes()[:256]
        with rnvm.Backend(copy) as promoted:
            for _ in range(2):
                with mirror_of(promoted, path) as mirror:
                    mirror.wait_level(SOON)
                    with pytest.raises(PoolInUse):
                        CopyFile(path)
                files.append(os.stat(path))
                assert os.path.exists(former) == (len(files) == 3)
                Path(former).write_bytes(b"of another pool")
    assert not os.path.samestat(files[0], files[1])
    assert os.path.samestat(files[1], files[2]), "a mirror has written it last"
    assert {each.st_mode for each in files} == {files[0].st_mode}
    assert aside == [head, b"of another pool"]


def test_a_file_is_set_aside_until_the_copy_is_level(monkeypatch: pytest.MonkeyPatch) -> None:
    with two_paths() as (path, copy), open_primary(path) as backend:
        with mirror_of(backend, copy) as mirror:
            mirror.wait_level(SOON)
        monkeypatch.setattr(rnvm.mirror.copy_file, "_held_by_others", lambda _: True)
        kept: list[bool] = []
        leveled = CopyFile.leveled

        def watched(self: CopyFile) -> None:
            kept.append(os.path.exists(copy + FORMER))
            leveled(self)

        monkeypatch.setattr(CopyFile, "leveled", watched)
        with mirror_of(backend, copy) as mirror:
            mirror.wait_level(SOON)
        assert kept == [True]
        assert not os.path.exists(copy + FORMER)
        assert numbers_of_files(copy) == ["copy"]


def test_a_copy_in_catch_up_replaces_no_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with two_paths() as (path, copy), open_primary(path) as backend:
        with mirror_of(backend, copy) as mirror:
            mirror.wait_level(SOON)
        whole = Path(copy).read_bytes()
        Path(copy + FORMER).write_bytes(whole)
        with contextlib.closing(VolatileMemory(len(whole))) as medium:
            medium.poke(0, whole)
            identity.write(medium, state="catching up")
            Path(copy).write_bytes(medium.read(0, len(whole)))
        monkeypatch.setattr(rnvm.mirror.copy_file, "_held_by_others", lambda _: True)
        kept: list[bytes] = []
        leveled = CopyFile.leveled

        def watched(self: CopyFile) -> None:
            kept.append(Path(copy + FORMER).read_bytes())
            leveled(self)

        monkeypatch.setattr(CopyFile, "leveled", watched)
        with mirror_of(backend, copy) as mirror:
            mirror.wait_level(SOON)
        assert kept == [whole]


def test_the_lock_of_a_file_that_was_set_aside_meanwhile_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with two_paths() as (path, _):
        pools.create(path, "4MiB", assume_persistent=True)
        lock = fcntl.flock

        def late(fd: int, how: int) -> None:
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                os.rename(path, path + FORMER)
                Path(path).write_bytes(Path(path + FORMER).read_bytes())
            lock(fd, how)

        monkeypatch.setattr(fcntl, "flock", late)
        with pytest.raises(PoolInUse):
            pools.open_pool(path)
        os.replace(path + FORMER, path)
        with pytest.raises(PoolInUse):
            CopyFile(path)


def numbers_of_files(copy: str) -> list[str]:
    return sorted(os.listdir(os.path.dirname(copy)))


def test_without_room_for_both_a_mapped_file_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    with two_paths() as (path, copy), open_primary(path) as backend:
        with mirror_of(backend, copy) as mirror:
            mirror.wait_level(SOON)
        before = Path(copy).read_bytes()

        def full(fd: int, size: int, kind: object) -> None:
            error = FabricError("no room")
            error.errno = errno.ENOSPC
            raise error

        monkeypatch.setattr(rnvm.mirror.copy_file, "_held_by_others", lambda _: True)
        monkeypatch.setattr(pools, "_fill", full)
        with mirror_of(backend, copy) as mirror:
            with pytest.raises(FabricError, match="no room") as failure:
                mirror.wait_level(SOON)
            assert "end the front-ends" in str(failure.value)
        assert Path(copy).read_bytes() == before
        assert numbers_of_files(copy) == ["copy"]


def cut_off(left: str, copy: str) -> None:
    """Leave what a mirror leaves if it is killed while it begins a new copy."""
    size = os.path.getsize(copy)
    with contextlib.closing(VolatileMemory(size)) as medium:
        if left == "header":
            medium.poke(0, Path(copy).read_bytes()[: 4 * 4096])
        identity.write(medium, state="catching up")
        for at in (
            (0, 4096) if left == "header" else [begin for begin, _ in identity.IDENTITY_RECORDS]
        ):
            medium.poke(at, bytes(8))  # the magic numbers become durable last
        Path(copy).write_bytes(medium.read(0, size))


@pytest.mark.parametrize("left", ["identity", "header"])
def test_a_new_copy_that_was_cut_off_at_its_beginning_is_completed(left: str) -> None:
    with two_paths() as (path, copy), open_primary(path) as backend:
        with rnvm.connect(backend.address) as fe:
            Sample(fe, "s").add(1)
        with mirror_of(backend, copy) as mirror:
            mirror.wait_level(SOON)
        cut_off(left, copy)
        with mirror_of(backend, copy) as mirror:
            mirror.wait_level(SOON)
        assert numbers(copy) == (1, 1)


@pytest.mark.parametrize("at", [0, 5000, 65600])
def test_a_device_with_content_is_not_overwritten(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with two_paths("disk to disk") as (path, copy), open_primary(path) as backend:
        with open(copy, "wb") as file:
            file.truncate(os.path.getsize(path))
            file.seek(at)
            file.write(b"_BHRfS_M")
        before = Path(copy).read_bytes()
        monkeypatch.setattr(CopyFile, "regular", -1)  # as a device
        monkeypatch.setattr(CopyFile, "_resize", lambda *_: None)
        with mirror_of(backend, copy) as mirror, pytest.raises(NotAPool, match="nor empty"):
            mirror.wait_level(SOON)
        assert Path(copy).read_bytes() == before


def test_a_new_copy_on_a_file_system_with_dax_needs_no_write_ahead_area(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def maps(fd: int) -> bool:
        asked.append(os.fstat(fd).st_size)
        return bool(asked[-1])

    with two_paths("memory to disk") as (path, copy), open_primary(path) as backend:
        real = pools.media

        def media(fd: int) -> pools.Media:
            kind = real(fd)
            if kind.kind == "page cache" and os.fstat(fd).st_size and maps(fd):
                return pools.Media("fsdax", "direct", False, kind.promise)
            return kind

        def direct(fd: int, total: int, kind: pools.Media, *, force_flush: bool) -> Any:
            return pools.Direct(fd, total, "none", sync=False)

        monkeypatch.setattr(pools, "media", media)
        monkeypatch.setattr(pools, "_medium", direct)
        with mirror_of(backend, copy, in_place=False) as mirror:
            mirror.wait_level(SOON)
        assert asked


def test_the_failure_of_the_copys_own_medium_ends_the_mirror(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failed(*_: object) -> None:
        raise StorageFailed("EIO")

    monkeypatch.setattr(rnvm.mirror.copy_file, "put_head", failed)
    with two_paths() as (path, copy), open_primary(path) as backend:
        with mirror_of(backend, copy) as mirror:
            for _ in range(2):
                with pytest.raises(StorageFailed, match="EIO"):
                    mirror.wait_level(SOON)
            assert mirror.failed
        assert not mirrors(backend)


def test_a_members_file_is_refused_although_only_its_write_ahead_area_names_the_group() -> None:
    with two_paths("disk to disk") as (path, copy):
        pools.create(path, "8MiB", write_ahead="1MiB")
        with pools.open_pool(path) as pool:
            identity.write(pool.medium, state="whole", identity=b"i" * 16, group=b"g" * 16,
                           member="b", epoch=1)  # fmt: skip
            shutil.copyfile(path, copy)  # as a crash would leave it
        pools.open_pool(path, in_group=True).close()
        admin.leave_group(path)
        with contextlib.closing(CopyFile(copy)) as file:
            file.refuse_grouped()  # its pages do not say so yet
        with rnvm.Backend(path) as backend, mirror_of(backend, copy) as mirror:
            with pytest.raises(PoolRefused, match="belongs to a group, as member b"):
                mirror.wait_level(SOON)
        with pools.open_pool(copy, in_group=True) as pool:
            found = identity.read(pool.medium)
        assert found is not None
        assert found["identity"] == b"i" * 16


def test_the_frames_of_a_copy_that_was_moved_to_memory_do_not_come_back() -> None:
    with two_paths("memory to disk") as (path, copy):
        moved = f"{path}.moved"
        pools.create(path, "8MiB", write_ahead="1MiB", assume_persistent=True)
        with (
            open_primary(path, size=None) as backend,
            rnvm.connect(backend.address, timeout=SOON) as fe,
        ):
            sample = Sample(fe, "s")
            with mirror_of(backend, copy) as mirror:
                mirror.wait_level(SOON)
                for _ in range(20):
                    sample.add(1)
                replicated(backend)
                shutil.copyfile(copy, moved)  # as a crash would leave it
            assert frames_in(moved)
            sample.add(1)
            with mirror_of(backend, moved) as mirror:
                mirror.wait_level(SOON)
                replicated(backend)
        # Whatever opens it next would apply them again.
        assert not frames_in(moved)
        assert numbers(moved) == (21, 21)


def frames_in(path: str) -> int:
    with contextlib.closing(CopyFile(path)) as file:
        with contextlib.closing(pools._copied(file.fd, pools.length(file.fd))) as view:
            area = wal.describe(view)
    assert area is not None
    return int(area["frames"])


def test_a_mirror_without_room_for_a_pool_that_has_grown_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill = pools._fill

    def no_room(fd: int, size: int, kind: pools.Media) -> None:
        if os.path.samestat(os.fstat(fd), os.stat(copy)):
            error = FabricError("planted")
            error.errno = errno.ENOSPC
            raise error
        fill(fd, size, kind)

    with two_paths() as (path, copy):
        address = address_of(path)
        with open_primary(path, address=address):
            mirror = mirror_of(address, copy)
            mirror.wait_level(SOON)
        pools.grow(path, "16MiB")
        monkeypatch.setattr(pools, "_fill", no_room)
        with mirror, open_primary(path, size=None, address=address):
            until(lambda: mirror.failed)
            with pytest.raises(FabricError, match="planted"):
                mirror.wait_level(1)


def test_only_the_file_that_was_made_is_removed() -> None:
    with two_paths() as (_, copy):
        target = copy + ".target"
        os.symlink(target, copy)
        with contextlib.closing(CopyFile(copy)) as file:
            file.discard()
        assert os.path.islink(copy)
        assert not os.path.exists(target)
        os.unlink(copy)
        with contextlib.closing(CopyFile(copy)) as file:
            os.rename(copy, copy + ".moved")
            Path(copy).touch()
            file.discard()
        assert os.path.exists(copy)
        with contextlib.closing(CopyFile(copy)) as file:
            file.discard()
        assert os.path.exists(copy), "it was there before"


def test_a_device_that_is_too_small_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CopyFile, "regular", -1)  # as a device
    with two_paths() as (path, copy), open_primary(path) as backend:
        Path(copy).write_bytes(bytes(1 << 20))
        with mirror_of(backend, copy) as mirror:
            with pytest.raises(PoolRefused, match="has only 1MiB, but the pool has 8MiB"):
                mirror.wait_level(SOON)
        assert os.path.getsize(copy) == 1 << 20


def test_the_name_of_a_copy_is_durable_before_it_is_level(monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    with two_paths() as (path, copy), open_primary(path) as backend:
        monkeypatch.setattr(pools, "_sync_folder", synced.append)
        for _ in range(2):  # the first one may have been cut off before
            with mirror_of(backend, copy) as mirror:
                mirror.wait_level(SOON)
    assert synced == [copy, copy]
