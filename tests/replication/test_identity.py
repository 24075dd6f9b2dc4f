"""Each copy of a pool knows who it is, whether it is whole, and which epochs are over."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from rfp.errors import PoolDamaged, PoolRefused
from rnvm import pools
from rnvm.check import check
from rnvm.cli import main
from rnvm.media import identity, wal
from rnvm.media.file import FileMedium
from rnvm.pool.pool import Pool, format_medium
from rnvm.replication import planted
from rnvm.testing.crash_model import Crashes, Model
from rnvm.testing.recording_file import RecordingFile
from rnvm.testing.replication_driver import Follower, Geometry, Replication

from .mirrored import AREA, SIZES, length_of

LENGTH = length_of(SIZES)
FIRST, SECOND = 8192 + 1024, 12288 + 1024


@pytest.fixture(autouse=True)
def nothing_planted():
    yield
    planted.plant()
    identity.plant()


def formatted(kind: str = "words") -> Model:
    format_medium(blank := Model(LENGTH, kind), SIZES)
    return Model(LENGTH, kind, blank.crash(blank.events_so_far, 0))


def write(medium: Model, number: int) -> None:
    identity.write(
        medium,
        state="whole",
        identity=bytes([number]) * 16,
        group=bytes([number + 1]) * 16,
        opening=bytes([number + 2]) * 16,
        member=f"member {number}",
        epoch=number,
    )


def test_a_new_pool_has_none_and_what_is_written_is_read():
    medium = formatted()
    assert identity.read(medium) is None
    write(medium, 3)
    assert identity.read(medium) == {
        "identity": b"\3" * 16,
        "group": b"\4" * 16,
        "opening": b"\5" * 16,
        "member": "member 3",
        "epoch": 3,
        "state": "whole",
    }
    with Pool(medium) as pool:
        assert not pool.recovered


@pytest.mark.parametrize("kind", ["words", "lines", "sectors"])
def test_a_crash_leaves_the_old_or_the_new_one(kind, seed):
    medium = formatted(kind)
    ends = [medium.events_so_far]
    for number in range(1, 6):
        write(medium, number)
        ends.append(medium.events_so_far)
    cursor = Crashes(medium)
    for point in range(medium.events_so_far + 1):
        left = Model(LENGTH, kind, cursor.at_point(point, seed))
        found = identity.read(left)
        number = found["epoch"] if found else 0
        done = sum(end <= point for end in ends) - 1
        assert number in (max(done, 0), done + 1)
        if found:
            assert found["member"] == f"member {number}"
        write(left, 9)
        assert identity.read(left)["epoch"] == 9


def test_one_damaged_copy_is_no_loss_and_two_are_refused():
    medium = formatted()
    write(medium, 1)
    write(medium, 2)
    whole = medium.read(FIRST, 128)
    medium.poke(FIRST + 40, b"x")
    assert identity.read(medium)["epoch"] == 2
    write(medium, 3)
    assert identity.read(medium)["epoch"] == 3
    medium.poke(FIRST, whole)
    assert identity.read(medium)["epoch"] == 3
    medium.poke(FIRST + 40, b"x")
    medium.poke(SECOND + 40, b"x")
    with pytest.raises(PoolDamaged, match="identity"):
        identity.read(medium)
    with pytest.raises(PoolDamaged, match="identity"):
        Pool(medium)


@pytest.mark.parametrize("bug", [None, "no epoch"])
def test_the_highest_epoch_stays_whatever_is_written(bug):
    medium = formatted()
    write(medium, 7)
    identity.plant(*filter(None, [bug]))
    write(medium, 3)
    assert identity.read(medium)["epoch"] == (0 if bug else 7)
    if bug:
        return
    identity.erase(medium)
    assert identity.read(medium) == {
        "identity": bytes(16),
        "group": bytes(16),
        "opening": bytes(16),
        "member": "",
        "epoch": 7,
        "state": "none",
    }
    Pool(medium).close()


def test_a_new_pool_forgets_the_identity_of_the_old_one():
    medium = formatted()
    identity.write(medium, state="catching up", epoch=3)
    format_medium(medium, SIZES)
    assert identity.read(medium) is None
    Pool(medium).close()


# --- Openers


def catching_up(tmp_path, **options):
    path = tmp_path / "p.pool"
    pools.create(path, "2MiB", write_ahead=0, front_ends=2, **options)
    content = bytearray(path.read_bytes())
    medium = Model(len(content) // 512 * 512, content=bytes(content))
    identity.write(medium, state="catching up")
    content[: medium.length] = medium.read(0, medium.length)
    path.write_bytes(content)
    return path


OPENERS = {
    "open": lambda path: pools.open_pool(path),
    "check": lambda path: check.check(path),
    "grow": lambda path: pools.grow(path, "4MiB"),
}


@pytest.mark.parametrize("opener", OPENERS)
def test_a_copy_in_catch_up_is_refused_by(opener, tmp_path):
    path = catching_up(tmp_path)
    before = path.read_bytes()
    with pytest.raises(PoolRefused, match="copy in catch-up"):
        OPENERS[opener](path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "command",
    ["check", "check --repair", "recover", "dump", "serve", "grow --size=4MiB"],
)
def test_a_copy_in_catch_up_is_refused_by_the_command(command, tmp_path):
    path = catching_up(tmp_path)
    before = path.read_bytes()
    name, *options = command.split()
    done = CliRunner().invoke(main, [name, str(path), *options])
    assert done.exit_code != 0
    assert "copy in catch-up" in done.output, done.output
    assert path.read_bytes() == before


# --- Catch-up on a file


def test_the_area_of_the_primary_is_not_the_copys():
    """Frames of the primary's area would be applied over newer bytes when the copy is opened."""
    for bug in ("", "own parts"):
        planted.plant(*filter(None, [bug]))
        disk = RecordingFile(formatted().read(0, LENGTH), AREA)
        primary = FileMedium(LENGTH, file=disk)
        pool = Pool(primary)
        pool.create(b"a", kind=1)
        file = bytearray(disk.content)
        for event in disk.events:
            if event is not None:
                file[event[0] : event[0] + len(event[1])] = event[1]
        primary.poke(AREA[0], bytes(file[AREA[0] : AREA[1]]))
        assert wal.describe(primary)["frames"] > 0
        replication = Replication(pool)
        mirror = Model(LENGTH, content=disk.content)
        each = Follower(mirror, replication.add(), Geometry(primary.read(0, 256), LENGTH))
        assert not each.begin_copy()
        each.copy(primary.read(0, LENGTH), 0)
        each.step(100)
        each.end_copy(b"i" * 16)
        assert (wal.describe(each.medium)["frames"] > 0) == bool(bug)
        replication.end()


def test_a_copy_over_another_pool_forgets_its_header_only_when_the_mark_is_durable(seed):
    format_medium(other := Model(LENGTH), SIZES)
    content = other.crash(other.events_so_far, 0)
    primary = Pool(formatted())
    replication = Replication(primary)
    medium = Model(LENGTH, content=content)
    each = Follower(medium, replication.add(), Geometry(primary.medium.read(0, 256), LENGTH))
    assert each.begin_copy(), "the medium must be opened again"
    cursor = Crashes(medium)
    for point in range(medium.events_so_far + 1):
        left = Model(LENGTH, content=cursor.at_point(point, seed))
        marked = (found := identity.read(left)) is not None and found["state"] == "catching up"
        assert marked or left.read(0, 8192) == content[:8192]
    assert medium.read(0, 256) == bytes(256)
