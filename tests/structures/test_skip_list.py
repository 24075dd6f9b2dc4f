"""The nodes of a skip list on plain memory: their levels, links and hints."""

from __future__ import annotations

import struct

import pytest

from .memory import Fault, Memory, SkipList

TOWER, LINK = 9, struct.Struct("<QIHH")  # address, length, common bytes, next two bytes
FIRST = 24  # offset of the links behind the header of a node


@pytest.fixture
def memory() -> Memory:
    return Memory()


def links(content: bytes) -> list[tuple[int, int, int, int]]:
    levels = struct.unpack_from("<I", content, 20)[0]
    return [LINK.unpack_from(content, FIRST + LINK.size * i) for i in range(levels)]


def key_of(content: bytes) -> bytes:
    sizes, levels = struct.unpack_from("<II", content, 16)
    begin = FIRST + LINK.size * levels
    return content[begin : begin + (sizes & 0x7FF)]


def towers(memory: Memory) -> dict[int, bytes]:
    return {address: content for address, kind, content in memory.nodes() if kind == TOWER}


def test_half_of_the_nodes_of_a_level_are_on_the_next_one(memory):
    skips = SkipList(memory, "s")
    skips.bulk_load((b"%d" % i, b"") for i in range(4000))
    levels = [len(links(content)) for content in towers(memory).values()]
    for level in range(1, 6):
        assert sum(n > level for n in levels) == pytest.approx(4000 / 2**level, rel=0.3)
    assert 8 < max(levels) < 24


def test_a_lookup_reads_one_node_on_each_level(memory, rng):
    skips = SkipList(memory, "s")
    names = [b"%016d" % i for i in range(4096)]
    rng.shuffle(names)
    skips.bulk_load((name, b"") for name in names)
    before = memory.counts[0]
    for name in names[:1000]:
        assert skips[name] == b""
    assert memory.counts[0] - before < 1000 * 15  # the root, and log2(4096) + 1 nodes


def test_a_link_says_where_the_next_key_differs(memory, rng):
    skips = SkipList(memory, "s")
    names = {rng.choice([b"", b"a", b"ab" * 40]) + rng.randbytes(rng.randrange(1, 5)) + b"\0"
             for _ in range(500)}  # fmt: skip
    for name in names:
        skips[name] = b""
    for name in rng.sample(sorted(names), 200):
        del skips[name]
    there = towers(memory)
    for content in there.values():
        key = key_of(content)
        for address, _, common, ahead in links(content):
            if not address:
                continue
            next_key = key_of(there[address])
            assert key[:common] == next_key[:common] != next_key[: common + 1]
            assert key[: common + 1] != next_key[: common + 1]
            assert ahead.to_bytes(2, "big") == (next_key[common:] + b"\0\0")[:2]


@pytest.mark.parametrize(
    ("at", "what"), [(12, "describe"), (14, "describe"), (8, "length|inconsistent|read|again")]
)
def test_a_wrong_hint_with_a_valid_checksum_is_found(memory, at, what):
    skips = SkipList(memory, "s")
    skips.bulk_load((b"%03d" % i, b"") for i in range(100))
    address, content = next(
        (address, content) for address, content in towers(memory).items() if links(content)[0][0]
    )
    place = FIRST + at
    old = content[place : place + 2]
    memory.damage(address, 32 + place, bytes([old[0] ^ 1, old[1]]), sealed=True)
    with pytest.raises(Fault, match=what):
        skips.check()


def test_a_wrong_hint_never_puts_a_key_twice_or_out_of_order(memory, rng):
    skips = SkipList(memory, "s")
    names = [b"%03d" % i for i in range(200)]
    skips.bulk_load((name, b"") for name in names)
    for address, content in list(towers(memory).items()):
        for level in range(len(links(content))):
            place = FIRST + LINK.size * level + 12
            memory.damage(address, 32 + place, rng.randbytes(4), sealed=True)
            for name in rng.sample(names, 3):
                try:
                    with memory.transaction(skips):
                        skips[name] = b"x" * rng.randrange(80)
                        skips.pop(name)
                        order = [key for key in skips]  # noqa: C416
                        assert order == sorted(set(order))
                        raise Fault(0, "undo")
                except (Fault, KeyError):
                    pass
            memory.damage(address, 32 + place, content[place : place + 4], sealed=True)
    skips.check()


def test_a_level_that_does_not_follow_from_the_key_is_found(memory):
    skips = SkipList(memory, "s")
    skips[b"k"] = b"v"
    root = next(address for address, kind, _ in memory.nodes() if kind == 1)
    for seed in range(1, 9):
        memory.damage(root, 40, seed.to_bytes(8, "little"), sealed=True)
        try:
            skips.check()
        except Fault as error:
            assert "levels" in str(error)
            return
    raise AssertionError("all seeds give the key the same level")
