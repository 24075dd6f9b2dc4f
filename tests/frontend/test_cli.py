"""`rnvm serve` and `rnvm recover`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from connecting import connect_hasty
from structure_kinds import KINDS, add

import rnvm
from rfp.errors import ConnectionFailed, InvalidAddress, StructureDamaged
from rnvm import pools
from rnvm.testing import log_driver
from rnvm.testing.sample_structure import Sample
from structures import HashTable

from .conftest import new_path
from .test_crashes import WRITER, Process, fenced

RNVM = [sys.executable, "-m", "rnvm.cli"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*RNVM, *arguments], capture_output=True, text=True, timeout=50)


def test_a_pool_is_served_at_a_socket_beside_its_file_until_a_signal() -> None:
    with new_path("direct") as path:
        assert run("create", path, "--size", "8MiB", "--assume-persistent").returncode == 0
        served = subprocess.Popen([*RNVM, "serve", path], stdout=subprocess.PIPE, text=True)
        assert served.stdout is not None
        with served.stdout:
            assert f"shm://{path}.socket" in served.stdout.readline()
            with rnvm.connect(f"shm://{path}.socket") as fe:
                assert Sample(fe, "s").add(1) == 1
            served.send_signal(signal.SIGTERM)
            assert served.stdout.read() == "stopped\n"
        assert served.wait(20) == 0
        assert "s" in run("ls", path).stdout


@pytest.mark.parametrize("folder", ["open", "private", "open, with a long path"])
def test_front_ends_connect_by_the_path_of_a_pool_in_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    place = tmp_path / ("l" * 120 if "long" in folder else "folder")
    place.mkdir()
    place.chmod(0o700 if folder == "private" else 0o755)
    (tmp_path / "link").symlink_to(place / "orders.pool")
    monkeypatch.chdir(place)
    assert run("create", "orders.pool", "--size", "8MiB").returncode == 0
    served = subprocess.Popen([*RNVM, "serve", "orders.pool"], stdout=subprocess.PIPE, text=True)
    assert served.stdout is not None
    with served.stdout:
        assert served.stdout.readline().startswith("serving orders.pool at shm:///")
        for path in ("orders.pool", place / "orders.pool", str(tmp_path / "link")):
            with rnvm.connect(path) as fe:
                assert Sample(fe, "s").add(1)
        served.send_signal(signal.SIGTERM)
        assert served.stdout.read() == "stopped\n"
    assert served.wait(20) == 0
    assert place.stat().st_mode & 0o777 == (0o700 if folder == "private" else 0o755)
    for path in ("orders.pool", "there/is/none", "shm:/orders.pool"):
        with pytest.raises((ConnectionFailed, InvalidAddress)):
            connect_hasty(path, 0.1)


def test_the_hint_without_a_back_end_is_the_command_that_starts_one(tmp_path: Path) -> None:
    path = str(tmp_path / "my orders.pool")
    assert run("create", path, "--size", "8MiB").returncode == 0
    for command in (["status"], ["backup", str(tmp_path / "copy.pool"), "--of"]):
        found = run(*command, path)
        assert found.returncode == 3
        assert f"(start one: rnvm serve '{path}')" in found.stderr
    address = f"shm://{tmp_path}/socket"
    found = run("status", address)
    assert f"(start one: rnvm serve POOL --address {address})" in found.stderr
    with pytest.raises(ConnectionFailed) as caught:
        connect_hasty(path, 0.1)
    assert caught.value.hint == f"start one: rnvm serve '{path}'"


def test_pending_operations_of_a_dead_writer_are_re_executed_offline() -> None:
    with new_path("direct") as path:
        slow = WRITER.replace("import", "import time,", 1).replace(
            "sample.add(1))", "sample.add(1)); time.sleep(0.001)"
        )
        with rnvm.Backend(path, size="8MiB", assume_persistent=True) as backend:
            with Process(slow, backend.address, 1_000_000) as writer:
                writer.wait_for(10)
                writer.kill()
                acknowledged = writer.numbers()[-1]
            fenced(backend, 1)
        found = run("recover", path, "--with", "rnvm.testing.sample_structure")
        assert found.returncode == 0, found.stderr
        assert any(
            f"{number} operation" in found.stdout for number in (acknowledged, acknowledged + 1)
        )
        assert (
            "0 operations executed"
            in run("recover", path, "--with", "rnvm.testing.sample_structure").stdout
        )
        with rnvm.Backend(path) as backend, rnvm.connect(backend.address) as fe:
            assert acknowledged <= Sample(fe, "s").numbers()[0] <= acknowledged + 1
            assert fe.figures["executed_again"] == 0


def test_structures_of_unknown_kinds_are_not_changed() -> None:
    with new_path("direct") as path:
        with (
            rnvm.Backend(path, size="8MiB", assume_persistent=True) as backend,
            rnvm.connect(backend.address) as fe,
        ):
            Sample(fe, "s").add(1)
        found = run("recover", path, "--with", "os")
        assert (found.returncode, "'s' has an unknown kind" in found.stderr) == (1, True)
        assert run("recover", path, "--with", "no_such_module").returncode == 2
        assert os.path.exists(path)


def test_ls_names_the_kind_of_each_structure() -> None:
    with new_path("direct") as path:
        with (
            rnvm.Backend(path, size="8MiB", assume_persistent=True) as backend,
            rnvm.connect(backend.address) as fe,
        ):
            for kind in KINDS:
                kind(fe, f"my {kind.__name__.lower()}")
        listed = run("ls", path).stdout.splitlines()[1:]
        assert [line.split()[2] for line in listed] == [kind.__name__ for kind in KINDS]
        in_json = json.loads(run("ls", path, "--json").stdout)
        assert [(each["kind"], each["kind_name"]) for each in in_json] == [
            (kind.KIND, kind.__name__) for kind in KINDS
        ]
        dumped = map(json.loads, run("dump", path).stdout.splitlines())
        assert [each["kind_name"] for each in dumped if each["part"] == "name"] == [
            kind.__name__ for kind in KINDS
        ]


@pytest.mark.parametrize("damaged", KINDS, ids=[kind.__name__ for kind in KINDS])
def test_a_check_walks_the_structures_and_names_the_damaged_one(damaged: Any) -> None:
    with new_path("direct") as path:
        with (
            rnvm.Backend(path, size="8MiB", assume_persistent=True) as backend,
            rnvm.connect(backend.address) as fe,
        ):
            for kind in KINDS:
                structure = kind(fe, kind.__name__)
                for i in range(500):
                    needle = b"a needle of %d" if kind is damaged else b"%d"
                    add(structure, b"%d" % i, needle % i)
        assert (
            "sound: " in (before := run("check", path)).stdout
            and f"{len(KINDS)} of {len(KINDS)} structures walked" in before.stdout
        )
        assert before.returncode == 0
        with open(path, "r+b") as file:
            at = file.read().rindex(b"a needle of 77")
            file.seek(at)
            file.write(b"A")
        after = run("check", path)
        assert (after.returncode, f"structure b'{damaged.__name__}'" in after.stdout) == (
            1,
            True,
        ), after.stdout


def take(path: str, kind: int, blocks: int) -> None:
    """Do a transaction of the structure `table` that only changes the owners of blocks.

    TAKE makes new blocks its own; RETURN gives up the last of its own blocks.
    """
    with pools.open_pool(path) as pool:
        session, _ = pool.attach()
        if kind == log_driver.ENTRY_TAKE:
            address = pool.grant(session, blocks)
        else:
            owned = [
                block
                for block, owner in enumerate(log_driver.owners(pool))
                if owner == 0x8000 | pool.names[b"table"] + 1
            ]
            address = (1 << 48) + log_driver.offset_of(pool, owned[-blocks])
        structure, number, _ = log_driver.progress(pool, b"table")
        part = log_driver.part(structure, number + 1, log_driver.entry(kind, address, blocks))
        assert log_driver.Writer(pool, session).transaction([part])[0]
        pool.collect()
        assert pool.replay() == 1


@pytest.mark.parametrize(
    ("kind", "finding"),
    [
        (
            log_driver.ENTRY_TAKE,
            (
                "leak: structure b'table': 3 blocks, and 0 slots of other blocks, "
                "belong to it and are unreachable"
            ),
        ),
        (
            log_driver.ENTRY_RETURN,
            "damage: structure b'table': a node is in a block that is not the structure's",
        ),
    ],
)
def test_a_check_compares_the_blocks_that_a_structure_owns_with_those_that_it_reaches(
    kind: int, finding: str
) -> None:
    with new_path("direct") as path:
        with (
            rnvm.Backend(path, size="8MiB", assume_persistent=True) as backend,
            rnvm.connect(backend.address) as fe,
        ):
            table = HashTable(fe, "table")
            for i in range(4):
                table[b"%d" % i] = bytes(10_000)
        take(path, kind, 3)
        found = run("check", path)
        assert (found.returncode, finding in found.stdout) == (1, True), found.stdout


def test_a_check_finds_slots_that_are_used_and_unreachable_or_free_and_reachable() -> None:
    for mistake, finding in (
        ("lose", "leak: structure b's': 0 blocks, and 1 slots"),
        ("dangle", "damage: structure b's': a reachable node is in a free slot"),
    ):
        with new_path("direct") as path:
            with (
                rnvm.Backend(path, size="8MiB", assume_persistent=True) as backend,
                rnvm.connect(backend.address) as fe,
            ):
                sample = Sample(fe, "s")
                sample.put(1, b"a")
                sample.put(2, b"b")
                sample.check()
                getattr(sample, mistake)(1)
                with pytest.raises(StructureDamaged, match="slot"):
                    sample.check()
            found = run("check", path, "--with", "rnvm.testing.sample_structure")
            assert (found.returncode, finding in found.stdout) == (1, True), found.stdout
