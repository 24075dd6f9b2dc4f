"""A copy that follows a served pool can be served in its place, with everything in it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from polling import until
from time_bounds import soon

import rnvm
import rnvm.mirror.mirror
from rfp.core import clock
from rfp.errors import (
    Closed,
    ConnectionFailed,
    DeadlineExceeded,
    HandshakeFailed,
    InvalidArgument,
    NotAPool,
    PoolInUse,
    PoolRefused,
    VolatileMedium,
)
from rfp.protocol.client.opener import Opener
from rfp.testing.reordering_fabric import ReorderFabric
from rnvm import pools
from rnvm.check import check as checking
from rnvm.check.against import against
from rnvm.media import identity
from rnvm.mirror.follower import Follower
from rnvm.testing.sample_structure import Sample
from structures import HashTable
from tests.frontend.processes import address_of

from .copies import (
    PLACES,
    mirror_of,
    mirrors,
    numbers,
    open_primary,
    replicated,
    replication,
    two_paths,
)

pytestmark = pytest.mark.anywhere


@pytest.mark.parametrize("places", list(PLACES))
def test_a_copy_has_what_was_written_before_and_after_it_was_made(places: str) -> None:
    with two_paths(places) as (path, copy):
        with open_primary(path) as backend, rnvm.connect(backend.address) as fe:
            sample = Sample(fe, "s")
            for _ in range(100):
                sample.add(1)
            with mirror_of(backend, copy) as mirror:
                mirror.wait_level(30)
                for _ in range(100):
                    sample.add(1)
                replicated(backend)
                assert list(mirrors(backend).values()) == ["in sync"]
        assert not against(path, copy).findings
        assert numbers(copy) == (200, 200)


def test_a_copy_can_be_served_and_mirrored_in_turn() -> None:
    with two_paths() as (path, copy):
        with open_primary(path) as backend, rnvm.connect(backend.address) as fe:
            Sample(fe, "s").add(1)
            with mirror_of(backend, copy) as mirror:
                mirror.wait_level(30)
        with rnvm.Backend(copy) as backend, rnvm.connect(backend.address) as fe:
            assert Sample(fe, "s").add(1) == 2
            with mirror_of(backend, path) as mirror:
                mirror.wait_level(30)
                Sample(fe, "s").add(1)
                replicated(backend)
        assert numbers(path) == (3, 3)


def test_a_mirror_that_comes_again_writes_only_what_differs() -> None:
    with two_paths() as (path, copy), open_primary(path) as backend:
        with rnvm.connect(backend.address) as fe:
            sample = Sample(fe, "s")
            with mirror_of(backend, copy) as mirror:
                mirror.wait_level(30)
            sample.add(1)
            with mirror_of(backend, copy) as mirror:
                mirror.wait_level(30)
                found = mirror.stats()
        assert 0 < found["changed"] < 1 << 20 < found["copied"] == found["size"]


def test_a_mirror_follows_again_after_the_back_end_restarted() -> None:
    with two_paths() as (path, copy):
        address = address_of(path)
        with open_primary(path, address=address) as backend, rnvm.connect(address) as fe:
            Sample(fe, "s").add(1)
            mirror = mirror_of(backend, copy)
            mirror.wait_level(30)
        with mirror:
            until(lambda: mirror.state == "waiting")
            assert mirror.error is not None
            with open_primary(path, address=address) as backend, rnvm.connect(address) as fe:
                mirror.wait_level(30)
                Sample(fe, "s").add(1)
                replicated(backend)
        assert numbers(copy) == (2, 2)


def test_two_mirrors_follow_at_once() -> None:
    with two_paths() as (path, copy), open_primary(path) as backend:
        with (
            rnvm.connect(backend.address) as fe,
            mirror_of(backend, copy, name="one") as one,
            mirror_of(backend, copy + "2", name="two") as two,
        ):
            one.wait_level(30)
            two.wait_level(30)
            for _ in range(50):
                Sample(fe, "s").add(1)
            replicated(backend)
            assert mirrors(backend) == {"one": "in sync", "two": "in sync"}
            for mirror in (one, two):
                assert mirror.stats()["applied"] >= replication(backend)["acked"] - 1
        assert numbers(copy) == numbers(copy + "2") == (50, 50)


def test_structures_are_created_and_dropped_while_mirrored() -> None:
    with two_paths() as (path, copy):
        with open_primary(path) as backend, rnvm.connect(backend.address) as fe:
            with mirror_of(backend, copy) as mirror:
                mirror.wait_level(30)
                table = HashTable(fe, "kept")
                for i in range(300):
                    table[b"%d" % i] = b"v" * 100
                HashTable(fe, "dropped")[b"k"] = b"v"
                fe.release()
                fe.drop("dropped")
                replicated(backend)
        with rnvm.Backend(copy) as backend, rnvm.connect(backend.address) as fe:
            assert list(fe.names()) == ["kept"]
            assert len(HashTable(fe, "kept")) == 300


def test_a_copy_in_catch_up_is_refused_by_every_opener_until_it_is_whole() -> None:
    with two_paths() as (path, copy), open_primary(path) as backend:
        with rnvm.connect(backend.address) as fe:
            Sample(fe, "s").add(1)
        with mirror_of(backend, copy) as mirror:
            mirror.wait_level(30)
        with pools.claim(copy) as claimed, contextlib.closing(claimed.raw()) as medium:
            identity.write(medium, state="catching up")
        with pytest.raises(PoolRefused, match="catch-up"):
            pools.open_pool(copy)
        with mirror_of(backend, copy) as mirror:
            mirror.wait_level(30)
        assert numbers(copy) == (1, 1)


def test_a_backup_is_an_ordinary_pool_for_which_nobody_waited() -> None:
    with two_paths() as (path, copy):
        with open_primary(path) as backend, rnvm.connect(backend.address) as fe:
            Sample(fe, "s").add(1)
            rnvm.backup(copy, of=backend.address)
            assert not replication(backend)["in_sync"]
            with pools.claim(copy) as claimed, contextlib.closing(claimed.raw()) as medium:
                found = identity.read(medium)
                assert found is None or found["state"] == "none"
            Sample(fe, "s").add(1)
        assert (numbers(copy), numbers(path)) == ((1, 1), (2, 2))


def test_a_mirror_grows_its_copy_with_the_pool() -> None:
    with two_paths() as (path, copy):
        with open_primary(path) as backend:
            with mirror_of(backend, copy) as mirror:
                mirror.wait_level(30)
        pools.grow(path, "12MiB")
        with rnvm.Backend(path) as backend, rnvm.connect(backend.address) as fe:
            Sample(fe, "s").add(1)
            with mirror_of(backend, copy) as mirror:
                mirror.wait_level(30)
                assert mirror.stats()["size"] == 12 << 20
        assert numbers(copy) == (1, 1)


def test_a_primary_may_move_to_another_medium() -> None:
    with two_paths("disk to memory") as (path, copy):
        with open_primary(path) as backend, rnvm.connect(backend.address) as fe:
            Sample(fe, "s").add(1)
            with mirror_of(backend, copy) as mirror:
                mirror.wait_level(30)
        moved = copy + ".moved"
        shutil.copy(path, moved)
        with rnvm.Backend(moved) as backend, rnvm.connect(backend.address) as fe:
            Sample(fe, "s").add(1)
            with mirror_of(backend, copy) as mirror:
                mirror.wait_level(30)
        assert numbers(copy) == (2, 2)


# Refusals


def test_files_that_cannot_be_a_copy_are_refused_and_left_alone(tmp_path: Path) -> None:
    with two_paths() as (path, copy), open_primary(path) as backend:
        pools.create(copy, "8MiB", assume_persistent=True)
        text = copy + ".text"
        Path(text).write_text("not a pool")
        before = Path(copy).read_bytes()
        for other, error in ((copy, PoolRefused), (text, NotAPool)):
            with mirror_of(backend, other) as mirror, pytest.raises(error) as caught:
                mirror.wait_level(30)
            assert caught.value.hint
        assert Path(copy).read_bytes() == before
        assert Path(text).read_text() == "not a pool"


@pytest.mark.shm
def test_a_mirror_does_not_follow_another_pool_at_the_address_of_its_own() -> None:
    with two_paths() as (path, copy):
        address = address_of(path)
        with open_primary(path, address=address) as backend:
            with rnvm.connect(backend.address) as fe:
                Sample(fe, "s").add(1)
            mirror = mirror_of(backend, copy)
            mirror.wait_level(30)
            replicated(backend)
        with mirror, open_primary(f"{path}.other", address=address):
            until(lambda: mirror.failed)
            with pytest.raises(PoolRefused, match="another pool"):
                mirror.wait_level(1)
        assert numbers(copy) == (1, 1)


def test_a_file_that_begins_with_zeros_is_not_taken_for_an_empty_one() -> None:
    with two_paths() as (path, copy), open_primary(path) as backend:
        Path(copy).write_bytes(bytes(32768) + b"CD001, as an image of a disc begins")
        before = Path(copy).read_bytes()
        with mirror_of(backend, copy) as mirror, pytest.raises(NotAPool):
            mirror.wait_level(30)
        assert Path(copy).read_bytes() == before
        Path(copy).write_bytes(bytes(40000))  # a copy that was cut off when it was begun
        with mirror_of(backend, copy) as mirror:
            mirror.wait_level(30)


def test_a_copy_refuses_a_primary_of_an_earlier_epoch() -> None:
    with two_paths() as (path, copy), open_primary(path) as backend:
        with mirror_of(backend, copy) as mirror:
            mirror.wait_level(30)
        with pools.claim(copy) as claimed, contextlib.closing(claimed.raw()) as medium:
            identity.write(medium, state="whole", identity=identity.new(), epoch=1 << 20)
        before = Path(copy).read_bytes()
        with mirror_of(backend, copy) as mirror:
            with pytest.raises(HandshakeFailed, match="changes that the back-end lacks"):
                mirror.wait_level(30)
        assert Path(copy).read_bytes() == before


def test_a_copy_with_a_damaged_header_is_mended_by_its_catch_up() -> None:
    for damaged in (100, 4096 + 100):
        with two_paths() as (path, copy), open_primary(path) as backend:
            with rnvm.connect(backend.address) as fe, mirror_of(backend, copy) as mirror:
                mirror.wait_level(30)
                Sample(fe, "s").add(1)
                replicated(backend)
            content = bytearray(Path(copy).read_bytes())
            whole = bytes(content[:256])
            content[damaged] ^= 1
            Path(copy).write_bytes(content)
            with rnvm.connect(backend.address) as fe:
                Sample(fe, "s").add(1)
            with mirror_of(backend, copy) as mirror:
                mirror.wait_level(30)
            assert Path(copy).read_bytes()[:256] == whole
            assert Path(copy).read_bytes()[4096 : 4096 + 256] == whole
            assert numbers(copy) == (2, 2)


def test_a_disk_is_refused_for_a_pool_without_write_ahead_area_unless_allowed() -> None:
    with two_paths("memory to disk") as (path, copy), open_primary(path) as backend:
        with mirror_of(backend, copy, in_place=False) as mirror:
            with pytest.raises(PoolRefused, match="in place"):
                mirror.wait_level(30)
        assert not os.path.exists(copy)


def test_memory_is_refused_for_a_pool_that_was_made_for_a_persistent_medium() -> None:
    with two_paths("disk to memory") as (path, copy):
        pools.create(path, "8MiB")
        with rnvm.Backend(path) as backend, mirror_of(backend, copy) as mirror:
            with pytest.raises(VolatileMedium):
                mirror.wait_level(30)
        assert not os.path.exists(copy)


@pytest.mark.parametrize("timeout", [-1, 0, 1e9 + 1, float("nan"), float("inf")])
def test_a_backup_within_no_time_is_refused_and_writes_nothing(timeout: float) -> None:
    with two_paths() as (path, copy), open_primary(path) as backend:
        with pytest.raises(InvalidArgument, match="timeout must be between 0.01 and 1e"):
            rnvm.backup(copy, of=backend.address, timeout=timeout)
        assert not os.path.exists(copy)


def test_a_copy_is_locked_while_it_is_mirrored() -> None:
    with two_paths() as (path, copy), open_primary(path) as backend:
        with mirror_of(backend, copy) as mirror:
            mirror.wait_level(30)
            with pytest.raises(PoolInUse):
                pools.open_pool(copy)
            with pytest.raises(PoolInUse):
                mirror_of(backend, copy)
        pools.open_pool(copy).close()


def test_a_back_end_accepts_a_limited_number_of_mirrors() -> None:
    with two_paths() as (path, copy), open_primary(path) as backend:
        # Of the eight places a process of the same host gets half.
        places = 4 if backend.address.startswith("shm") else 8
        opened = [mirror_of(backend, f"{copy}{i}") for i in range(places + 1)]
        try:
            until(lambda: sum(each.state == "level" for each in opened) == places)
            left = next(each for each in opened if each.state != "level")
            until(lambda: left.state == "waiting")
            assert "as many mirrors" in str(left.error)
            next(each for each in opened if each.state == "level").close()
            left.wait_level(30)
        finally:
            for each in opened:
                each.close()


def test_mirrors_follow_a_restored_backup_and_not_the_pool_that_it_replaced() -> None:
    with two_paths() as (path, copy):
        backup, damaged = copy + ".backup", path + ".damaged"
        with open_primary(path) as backend, rnvm.connect(backend.address) as fe:
            Sample(fe, "s").add(1)
            rnvm.backup(backup, of=backend.address)
        for _ in range(3):
            with open_primary(path) as backend, rnvm.connect(backend.address) as fe:
                with mirror_of(backend, copy) as mirror:
                    mirror.wait_level(30)
                    Sample(fe, "s").add(1)
                    replicated(backend)
        os.rename(path, damaged)
        shutil.copy(backup, path)
        with open_primary(path) as backend:
            with mirror_of(backend, copy) as mirror:
                mirror.wait_level(30)
            rnvm.backup(backup, of=backend.address)
        assert against(path, copy).same
        with open_primary(damaged) as backend, mirror_of(backend, copy) as mirror:
            with pytest.raises(HandshakeFailed, match="remove the copy"):
                mirror.wait_level(30)
        assert numbers(copy) == numbers(path) == numbers(backup) == (1, 1)


def test_a_pool_that_was_served_since_is_not_overwritten_by_its_former_primary() -> None:
    with two_paths() as (path, copy):
        with open_primary(path) as backend, mirror_of(backend, copy) as mirror:
            mirror.wait_level(30)
        assert numbers_after_one(copy) == 1
        with open_primary(path) as backend:
            with mirror_of(backend, copy) as mirror:
                with pytest.raises(HandshakeFailed, match="changes that the back-end lacks"):
                    mirror.wait_level(30)
            assert numbers(copy) == (1, 1)
            rnvm.backup(copy, of=backend.address)
        with pools.open_pool(copy) as pool:
            assert pool.names == {}


def numbers_after_one(path: str) -> int:
    with open_primary(path) as backend, rnvm.connect(backend.address) as fe:
        return Sample(fe, "s").add(1)


# Ends


@pytest.mark.shm
def test_a_mirror_ends_at_once_in_every_state(monkeypatch: pytest.MonkeyPatch) -> None:
    with two_paths() as (path, copy):
        with monkeypatch.context() as patch:
            # It could wait for longer than a test may run until it tries to connect again.
            patch.setattr(rnvm.mirror.mirror, "RETRY_S_MIN", 3600)
            mirror = mirror_of(address_of(path), copy)
            until(lambda: mirror.state == "waiting")
            with pytest.raises(DeadlineExceeded):
                mirror.wait_level(0.01)
            with soon():
                mirror.close()
                mirror.close()
        with pytest.raises(Closed):
            mirror.wait_level(1)
        assert not os.path.exists(copy)
        with open_primary(path) as backend:
            mirror = mirror_of(backend, copy)
            mirror.close()
            mirror = mirror_of(backend, copy)
            mirror.wait_level(30)
            mirror.close()
            assert mirror.state == "closed"
            until(lambda: not mirrors(backend))


@pytest.mark.shm
@pytest.mark.parametrize("accepts", [True, False])
def test_a_mirror_ends_at_once_while_a_back_end_does_not_answer(accepts: bool) -> None:
    with two_paths() as (path, copy), contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(0)
        if not accepts:  # its queue is full
            sockets.enter_context(socket.socket(socket.AF_UNIX)).connect(path)
        # It could connect for longer than a test may run.
        mirror = mirror_of(f"shm://{path}", copy, timeout=3600)
        if accepts:
            peer = sockets.enter_context(listener.accept()[0])
            assert peer.recv(1)
        mirror.close()


@pytest.mark.shm
def test_a_mirror_that_has_just_connected_ends_at_once() -> None:
    with (
        two_paths() as (path, _),
        open_primary(path) as backend,
        contextlib.closing(Opener(backend.address, "rnvm")) as opener,
    ):
        with pytest.raises(Closed):
            Follower(opener, clock.now_ns() + 10**13, connected=Follower.stop)
        until(lambda: not backend.figures()["clients"])


@pytest.mark.shm
def test_a_mirror_is_closed_by_two_threads_at_once() -> None:
    with two_paths() as (path, copy), open_primary(path) as backend:
        mirror = mirror_of(backend, copy)
        mirror.wait_level(30)
        together = threading.Barrier(2, timeout=30)

        def close() -> None:
            together.wait()
            mirror.close()

        with ThreadPoolExecutor(2) as threads:
            for each in [threads.submit(close) for _ in range(2)]:
                each.result(30)


@pytest.mark.shm
def test_a_backup_that_is_not_whole_any_more_is_no_pool() -> None:
    with two_paths() as (path, copy), open_primary(path) as backend:
        with mirror_of(backend, copy, _joins=False) as mirror:
            mirror.wait_level(30)
            # As if the connection were lost, and it had begun to copy again.
            assert mirror._file.medium is not None
            found = identity.read(mirror._file.medium)
            identity.write(mirror._file.medium, **{**found, "state": "catching up"})  # type: ignore[dict-item]
            with pytest.raises(ConnectionFailed, match="not whole any more"):
                mirror._end(erase=True)
        with pytest.raises(PoolRefused, match="a copy in catch-up"):
            pools.open_pool(copy)


def test_mirror_and_back_end_close_in_any_order() -> None:
    for first in ("mirror", "back-end"):
        with two_paths() as (path, copy):
            backend = open_primary(path)
            mirror = mirror_of(backend, copy)
            mirror.wait_level(30)
            for each in (mirror, backend) if first == "mirror" else (backend, mirror):
                each.close()
            pools.open_pool(copy).close()


@pytest.mark.shm
def test_a_mirror_follows_over_a_network_as_bad_as_the_contract_allows(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with two_paths() as (path, copy):
        with open_primary(path) as backend, rnvm.connect(backend.address) as fe:
            sample = Sample(fe, "s")
            for _ in range(50):
                sample.add(1)
            with mirror_of(backend, copy, fabric=ReorderFabric(seed=seed)) as mirror:
                mirror.wait_level(60)
                for _ in range(50):
                    sample.add(1)
                replicated(backend)
        assert numbers(copy) == (100, 100)


def test_a_pool_that_was_repaired_is_compared_again() -> None:
    with two_paths() as (path, copy):
        with open_primary(path) as backend, rnvm.connect(backend.address) as fe:
            Sample(fe, "s").add(1)
            with mirror_of(backend, copy) as mirror:
                mirror.wait_level(30)
        with open(path, "r+b") as file:
            file.seek(4096 + 100)  # in the header's second copy
            file.write(b"\xff")
        mended, lost = checking.repair(path)
        assert mended
        assert not lost
        with open_primary(path) as backend, mirror_of(backend, copy) as mirror:
            mirror.wait_level(30)
        assert against(path, copy).same
        assert numbers(copy) == (1, 1)


def test_the_serving_word_of_an_earlier_group_does_not_count() -> None:
    with two_paths() as (path, _):
        open_primary(path).close()
        with open(path, "r+b") as file:
            file.seek(8192 + 2048 + 48)  # `until` of the replication line
            file.write((1).to_bytes(8, "little"))
        with (
            open_primary(path) as backend,
            rnvm.connect(backend.address, durability="replicated") as fe,
        ):
            assert Sample(fe, "s").add(1) == 1
