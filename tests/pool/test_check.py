"""Findings of a check and results of a repair: flipped bits anywhere that is covered."""

from __future__ import annotations

import random
import struct
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rfp.errors import PoolDamaged
from rnvm import pools
from rnvm.check import check
from rnvm.media.medium import VolatileMemory
from rnvm.pool.pool import Pool, format_medium
from rnvm.testing import log_driver
from rnvm.testing.crash_model import Model

from .history import LENGTH, PLACES, SIZES

pytestmark = pytest.mark.usefixtures("small_logs")

KIND = 77
COVERED: list[tuple[int, int, str]] = []  # offset, bytes, name in a finding


def make() -> tuple[bytes, dict[bytes, list[int]]]:
    """Return the bytes of a closed pool, and the blocks that each structure reaches.

    The pool has structures, blocks and pending operations.
    """
    model = Model(LENGTH)
    format_medium(model, SIZES)
    pool = Pool(model)
    chance = random.Random(1)
    for name in (b"dropped", b"a", b"b"):
        pool.create(name, kind=KIND, codec=b"utf-8")
    pool.drop(b"dropped")
    session, _ = pool.attach()
    writer = log_driver.Writer(pool, session)
    reached = {
        name: [log_driver.block_of(pool, log_driver.entry_of(pool, name)["root"])]
        for name in (b"a", b"b")
    }
    for number in range(1, 6):
        for name in (b"a", b"b"):
            id_, _, _ = log_driver.progress(pool, name)
            address = pool.grant(session, 2)
            reached[name] += [log_driver.block_of(pool, address + 512 * i) for i in range(2)]
            body = log_driver.entry(log_driver.ENTRY_TAKE, address, 2) + log_driver.entry(
                log_driver.ENTRY_WRITE, address, chance.randbytes(64)
            )
            assert writer.transaction([log_driver.part(id_, number, body)])[0]
            assert writer.operations([log_driver.part(id_, number, chance.randbytes(50))])[0]
            pool.collect()
            pool.replay()
            pool.checkpoint()
    names = dict(pool.names)
    pool.close()
    image = model.crash(model.events_so_far, 0)
    for at, length, part in (
        (0, 256, "header"),
        (4096, 256, "header"),
        (8192, 64, "superblock"),
        (12288, 64, "superblock"),
    ):
        COVERED.append((at, length, part))
    for index in range(SIZES.names):
        at = PLACES["names"] + 512 * index
        COVERED.append((at, 8, f"naming entry {index}"))
        if index in names.values():
            COVERED.append((at + 8, 248, f"naming entry {index}"))
            COVERED.append((at + 320, 64, f"progress of naming entry {index}"))
            COVERED.append((at + 384, 64, f"lock of naming entry {index}"))
    for index in range(SIZES.sessions):
        for i, part in enumerate(("state", "operation ring", "memory ring")):
            COVERED.append(
                (PLACES["sessions"] + 256 * index + 64 * i, 64, f"{part} of session {index}")
            )
    for at in range(PLACES["groups"], PLACES["groups"] + PLACES["map"], 8):
        COVERED.append((at, 8, "owners of blocks"))
    place = PLACES["rings"]
    while True:  # the operation ring of session 0, which never wrapped: its records are pending
        length, payload = (
            struct.unpack_from("<I", image, place + 4)[0],
            struct.unpack_from("<I", image, place + 28)[0],
        )
        if not length or place >= PLACES["rings"] + SIZES.operation_ring:
            break
        COVERED.append((place, 32 + payload, "operation ring of session 0"))
        place += length
    return image, reached


IMAGE, REACHED = make()


def opened(image: bytes) -> Pool:
    private = VolatileMemory(LENGTH)
    private.poke(0, image)
    return Pool(private)


def contents(image: bytes) -> object:
    """Return all that a pool contains."""
    with opened(image) as pool:
        entries = {
            name: (log_driver.progress(pool, name), log_driver.entry_of(pool, name))
            for name in pool.names
        }
        return (
            entries,
            log_driver.owners(pool),
            [log_driver.pending(pool, session) for session in range(SIZES.sessions)],
        )


def flipped(image: bytes, bits: list[tuple[int, int]]) -> bytes:
    damaged = bytearray(image)
    for at, bit in bits:
        damaged[at] ^= 1 << bit
    return bytes(damaged)


def checked(image: bytes) -> check.Checked:
    private = VolatileMemory(LENGTH)
    private.poke(0, image)
    return check.check_copy(private)


def repaired(image: bytes) -> tuple[bytes, list[str], list[str]]:
    private = VolatileMemory(LENGTH)
    private.poke(0, image)
    done, lost = check.repair_copy(private)
    result = private.read(0, LENGTH)
    private.close()
    return result, done, lost


@st.composite
def bits(draw: st.DrawFn) -> tuple[int, int, str]:
    at, length, part = draw(st.sampled_from(COVERED))
    return at + draw(st.integers(0, length - 1)), draw(st.integers(0, 7)), part


def test_an_undamaged_pool_has_no_findings():
    found = checked(IMAGE)
    assert found.findings == []
    assert found.sound
    assert found.figures["used"] == {name: len(blocks) for name, blocks in REACHED.items()}


def test_every_kind_of_part_is_covered():
    expected = "header superblock naming progress lock state operation memory owners"
    assert {part.split(" ")[0] for _, _, part in COVERED} == set(expected.split())
    assert sum(part == "operation ring of session 0" for _, _, part in COVERED) >= 10


@given(bits())
def test_one_flipped_bit_is_found_named_and_corrected(flip):
    at, bit, part = flip
    damaged = flipped(IMAGE, [(at, bit)])
    found = checked(damaged)
    assert any(part in finding.where for finding in found.findings), found.findings
    image, done, lost = repaired(damaged)
    assert lost == []
    assert done
    assert contents(image) == contents(IMAGE)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_every_single_flipped_bit_is_found_named_and_corrected(rng, run_ends):
    places = [(place, part) for at, n, part in COVERED for place in range(at, at + n)]
    for place, part in rng.sample(places, len(places)):
        if time.monotonic() > run_ends:
            break
        damaged = flipped(IMAGE, [(place, place * 5 % 8)])
        assert any(part in finding.where for finding in checked(damaged).findings), place
        image, _, lost = repaired(damaged)
        assert lost == []
        assert contents(image) == contents(IMAGE), place


@given(st.lists(bits(), min_size=2, max_size=6, unique_by=lambda flip: flip[:2]))
@example([(16896, 0, "naming entry 1"), (16896 + 320, 0, "progress of naming entry 1")])
def test_several_flipped_bits_are_found_and_losses_are_reported(flips):
    damaged = flipped(IMAGE, [flip[:2] for flip in flips])
    found = checked(damaged).findings
    assert found
    if len({flip[2] for flip in flips}) == len(flips) and not any(
        finding.part == "fatal" for finding in found
    ):
        # Logs are checked only in a pool that can be opened.
        hidden = any(finding.kind == "damage" for finding in found)
        assert all(
            any(flip[2] in finding.where for finding in found) or ("ring" in flip[2] and hidden)
            for flip in flips
        )
    try:
        image, done, lost = repaired(damaged)
    except PoolDamaged as error:
        assert {flip[2] for flip in flips} & {"header", "superblock"}, error
        return
    assert done or lost
    private = VolatileMemory(LENGTH)
    private.poke(0, image)
    with Pool(private, accept_loss=True) as pool:
        assert set(pool.names) <= {b"a", b"b"}
        if not lost:
            assert set(pool.names) == {b"a", b"b"}


def test_every_single_and_double_flip_of_a_checksummed_word_is_found():
    # 48 bits of value, 16 of check: if any two bits of a word flip, it is no longer valid.
    at = PLACES["groups"] + 8
    word = int.from_bytes(IMAGE[at : at + 8], "little")
    private = VolatileMemory(LENGTH)
    private.poke(0, IMAGE)
    for i in range(64):
        for j in range(i, 64):
            private.poke(at, (word ^ (1 << i | 1 << j)).to_bytes(8, "little"))
            assert check.Inspection(private).run(), (i, j)
    private.close()


def test_later_records_reveal_a_record_with_a_bit_flipped_before_its_checkpoint():
    model = Model(LENGTH)
    format_medium(model, SIZES)
    pool = Pool(model)
    made = pool.create(b"a", kind=KIND)
    writer = log_driver.Writer(pool, pool.attach()[0])
    for number in range(1, 6):
        assert writer.operations([log_driver.part(made, number, bytes(50))])[0]
    pool.collect()
    image = flipped(model.crash(model.events_so_far, 0), [(PLACES["rings"] + 2 * 128 + 70, 3)])
    doubts = [
        finding for finding in checked(image).findings if "a later record is intact" in finding.what
    ]
    assert [finding.kind for finding in doubts] == ["doubt"]
    image, done, lost = repaired(image)
    assert lost == [] and any("flipped bit corrected" in text for text in done)
    with opened(image) as again:
        assert [each[3] for each in log_driver.pending(again, 0)] == [1, 2, 3, 4, 5]
    pool.close()


# --- Files


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "p.pool"
    path.write_bytes(IMAGE)
    return path


def test_checking_a_file_does_not_change_it(path, rng):
    damaged = flipped(IMAGE, [(PLACES["groups"] + 3, 2), (9000, 1)])
    path.write_bytes(damaged)
    assert not check.check(path).sound
    assert path.read_bytes() == damaged


def test_a_file_is_repaired(path):
    at, _, _ = next(each for each in COVERED if PLACES["rings"] <= each[0] < PLACES["groups"])
    path.write_bytes(
        flipped(
            IMAGE,
            [
                (PLACES["groups"] + 3, 2),
                (100, 1),
                (4096 + 200, 5),
                (PLACES["names"] + 512 + 40, 0),
                (at + 70, 3),
            ],
        )
    )
    with pytest.raises(PoolDamaged, match="damaged"):
        pools.open_pool(path)
    done, lost = check.repair(path)
    assert lost == []
    assert len(done) >= 4
    assert contents(path.read_bytes()) == contents(IMAGE)
    assert check.check(path).findings == []


def test_a_structure_beyond_repair_is_given_up_and_reported(path):
    entry = PLACES["names"] + 512  # the first one is free
    flips = [(40, 0), (90, 1), (512 + 330, 0), (512 + 340, 2), (512 + 362, 0), (512 + 371, 2)]
    path.write_bytes(flipped(IMAGE, [(entry + at, bit) for at, bit in flips]))
    done, lost = check.repair(path)
    assert len(lost) == 2
    assert "naming entry 1" in lost[0] and "naming entry 2" in lost[1]
    assert all("closed permanently" in text for text in lost)
    with pools.open_pool(path) as pool:
        assert pool.names == {}
        owners = log_driver.owners(pool)
        assert all(owners[block] for blocks in REACHED.values() for block in blocks), (
            "the blocks of the structures that were given up are kept"
        )
    assert check.check(path).findings == []


def test_the_loss_of_a_durable_log_record_is_reported(path):
    at, length, _ = [each for each in COVERED if PLACES["rings"] <= each[0] < PLACES["groups"]][4]
    damaged = bytearray(IMAGE)
    damaged[at + 40 : at + length] = bytes(length - 40)
    path.write_bytes(bytes(damaged))
    with pytest.raises(PoolDamaged, match="acknowledged from there"):
        pools.open_pool(path)
    assert path.read_bytes() == bytes(damaged)
    done, lost = check.repair(path)
    assert len(lost) == 1 and "later records are lost" in lost[0]
    with pools.open_pool(path) as pool:
        assert len(log_driver.pending(pool, 0)) == 4
