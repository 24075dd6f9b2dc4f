"""`rnvm check POOL --against OTHER`: what two copies hold is compared, not their bytes."""

from __future__ import annotations

import json
import random

import pytest
from click.testing import CliRunner

from rfp.errors import InvalidArgument, PoolRefused
from rnvm import pools
from rnvm.check.against import against, against_copy
from rnvm.cli import main
from rnvm.media import identity
from rnvm.media.medium import VolatileMemory
from rnvm.testing import log_driver
from rnvm.testing.crash_model import Model

from ..pool.history import NEVER
from .mirrored import MirroredHistory

pytestmark = pytest.mark.usefixtures("small_logs")


def view(content: bytes) -> VolatileMemory:
    memory = VolatileMemory(len(content))
    memory.poke(0, content)
    return memory


@pytest.fixture
def level(seed):
    """Return a primary's bytes, and those of a mirror that has every frame."""
    past = MirroredHistory(random.Random(seed), "words", ["words"])
    mirror = past.mirrors[0]
    while mirror.level == NEVER:
        past.follow()
    past.run(60)
    mirror = past.living_mirrors()[0]
    while mirror.whole == NEVER:
        mirror.copy()
    while not past.living():  # the work during the copy may have dropped all
        past.create()
    # Everything that was written becomes durable.
    past.collect()
    past.pool.replay()
    past.pool.checkpoint()
    mirror.follow(1 << 30)
    return past, past.model.read(0, past.length), mirror.medium.read(0, past.length)


def test_copies_that_are_level_hold_the_same_though_their_bytes_differ(level):
    past, primary, copy = level
    assert primary != copy
    found = against_copy(view(primary), view(copy))
    assert found.same, found.findings
    assert found.figures["compared"] > 0
    assert found.figures["identities"][0] is None
    assert found.figures["identities"][1]["state"] == "whole"


def changed(content: bytes, at: int) -> bytes:
    other = bytearray(content)
    other[at] ^= 1
    return bytes(other)


def test_one_other_byte_in_a_block_is_found(level):
    past, primary, copy = level
    structure = past.living()[0]
    at = log_driver.offset_of(past.pool, structure.root)
    found = against_copy(view(primary), view(changed(copy, at + 7)))
    where = f"structure {structure.name!r}"
    what = f"1 of its blocks have other bytes in the other copy; the first at {at}"
    assert [(each.where, each.what) for each in found.findings] == [(where, what)]


def test_bytes_that_do_not_count_may_differ(level):
    past, primary, copy = level
    free = log_driver.offset_of(past.pool, log_driver.owners(past.pool).index(0))
    for at in (free, 16384 + 256, past.places["sessions"] + 192, 10240):
        assert against_copy(view(primary), view(changed(copy, at))).same


def test_a_mirror_that_is_behind_differs(level):
    past, primary, _ = level
    earlier = VolatileMemory(past.length)
    earlier.poke(0, primary)
    past.create()
    structure = past.living()[0]
    if past.lock() is None:  # no front-end is attached; fenced ones may hold all sessions
        past.release()
        past.attach()
    assert past.lock() is not None
    before = log_driver.progress(past.pool, structure.name)[1]
    for _ in range(200):
        past.write()
        past.collect()
        past.pool.replay()
        past.pool.checkpoint()
        if log_driver.progress(past.pool, structure.name)[1] > before:
            break
        past.work()
        if structure.drop_begun != NEVER:
            break  # the structure that was created above is in one copy alone, too
    found = against_copy(view(past.model.read(0, past.length)), earlier)
    assert not found.same
    assert any("transaction" in each.what or "exist" in each.what for each in found.findings)


# --- The command


SIZE = dict(front_ends=2, names=16, operation_log=8192, memory_log=8192)


@pytest.fixture
def copies(tmp_path):
    path, other = tmp_path / "p.pool", tmp_path / "copy.pool"
    pools.create(path, "2MiB", **SIZE)
    with pools.open_pool(path) as pool:
        made = pool.create(b"jobs", kind=3)
        session, _ = pool.attach()
        log_driver.Writer(pool, session).operations([log_driver.part(made, 1, b"work")])
        pool.collect()
    other.write_bytes(path.read_bytes())
    return path, other


def run(*arguments: object):
    return CliRunner().invoke(main, ["check", *map(str, arguments)])


def test_the_command_says_that_copies_hold_the_same(copies):
    path, other = copies
    with pools.open_pool(other):
        pass  # it was opened once more
    assert path.read_bytes() != other.read_bytes()
    before = path.read_bytes(), other.read_bytes()
    done = run(path, "--against", other)
    assert done.exit_code == 0, done.output
    assert "the copies hold the same" in done.output
    assert (path.read_bytes(), other.read_bytes()) == before
    assert json.loads(run(path, "--against", other, "--json").output)["same"] is True


def test_the_command_lists_differences(copies):
    path, other = copies
    with pools.open_pool(other) as pool:
        pool.create(b"more", kind=3)
        session, _ = pool.attach()
        made = log_driver.progress(pool, b"jobs")[0]
        log_driver.Writer(pool, session).operations([log_driver.part(made, 2, b"more work")])
        pool.collect()
    done = run(path, "--against", other)
    assert done.exit_code == 1
    assert "structure b'more': it does not exist in this copy" in done.output
    assert "operation 2 of structure 0x1" in done.output
    assert "the copies DIFFER" in done.output
    found = json.loads(run(path, "--against", other, "--json").output)
    assert found["same"] is False
    assert found["differences"]


def test_other_pools_and_copies_in_catch_up_are_refused(copies, tmp_path):
    path, other = copies
    alien = tmp_path / "alien.pool"
    pools.create(alien, "2MiB", **SIZE)
    with pytest.raises(InvalidArgument, match="are one file"):
        against(path, path)
    with pytest.raises(InvalidArgument, match="different pools"):
        against(path, alien)
    pools.grow(other, "4MiB")
    with pytest.raises(InvalidArgument, match="different sizes"):
        against(path, other)
    content = other.read_bytes()
    marked = Model(len(content), content=content)
    identity.write(marked, state="catching up")
    other.write_bytes(marked.read(0, len(content)))
    with pytest.raises(PoolRefused, match="copy in catch-up"):
        against(path, other)
    done = run(path, "--against", other)
    assert done.exit_code == 1
    assert "Traceback" not in done.output
