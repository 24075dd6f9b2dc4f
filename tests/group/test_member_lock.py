"""The lock of a member: one process for each pool, by whatever name it is reached."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from rfp.errors import PoolInUse, PoolRefused
from rnvm.group.member_lock import SUFFIX, MemberLock

pytestmark = pytest.mark.pure


def test_a_pool_has_one_lock_by_all_of_its_names(tmp_path: Path) -> None:
    path, name = tmp_path / "a.pool", tmp_path / "other"
    name.symlink_to(path)
    for made in (False, True):  # also before the pool is
        if made:
            path.touch()
        with MemberLock(path), pytest.raises(PoolInUse, match="already the member"):
            MemberLock(name)
        with MemberLock(name), pytest.raises(PoolInUse):
            MemberLock(path)
    assert sorted(os.listdir(tmp_path)) == ["a.pool", f"a.pool{SUFFIX}", "other"]


def test_the_lock_of_a_device_is_not_in_its_folder(
    private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(private))
    with MemberLock("/dev/null"), pytest.raises(PoolInUse, match="the member that has /dev/null"):
        MemberLock("/dev/null")
    assert not os.path.exists(f"/dev/null{SUFFIX}")
    with MemberLock("/dev/null"), MemberLock("/dev/zero"):
        pass


def test_a_lock_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(PoolRefused, match=r"cannot lock .*a\.pool\.member: No such file"):
        MemberLock(tmp_path / "none" / "a.pool")


def test_a_forked_child_does_not_hold_the_lock(tmp_path: Path) -> None:
    lock = MemberLock(tmp_path / "a.pool")
    reader, writer = os.pipe()
    forked, ready = os.pipe()
    child = os.fork()
    if not child:
        os.close(writer)
        os.write(ready, b"!")
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    try:
        assert os.read(forked, 1) == b"!"
        os.close(forked)
        os.close(ready)
        lock.close()
        with contextlib.closing(MemberLock(tmp_path / "a.pool")):
            pass
    finally:
        os.close(writer)
        assert os.waitpid(child, 0)[1] == 0
