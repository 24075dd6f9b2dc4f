"""The allocator against a plain model: the owner of each byte."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rfp.testing.partition_harness import Arena

LENGTH = 64 << 10
FREE, RECORD, RESERVED = 0, 1, 3
SIZES = st.one_of(
    st.integers(1, 200), st.sampled_from([511, 512, 513, 1024, 4096]), st.integers(1, 20000)
)


def rounded(size: int) -> int:
    return max(32, (size + 15) // 16 * 16)


class ArenaMachine(RuleBasedStateMachine):
    """model: block -> (requested size, content)."""

    def __init__(self) -> None:
        super().__init__()
        self.arena = Arena(LENGTH)
        self.records: dict[int, tuple[int, bytes]] = {}
        self.reserved: dict[int, int] = {}
        self.serial = 0

    def kind(self, block: int) -> int:
        return next(k for at, _, k in self.arena.blocks() if at == block)

    def neighbours(
        self, block: int
    ) -> tuple[tuple[int, int, int] | None, tuple[int, int, int] | None]:
        blocks = self.arena.blocks()
        i = next(i for i, (at, _, _) in enumerate(blocks) if at == block)
        return (blocks[i - 1] if i else None), (blocks[i + 1] if i + 1 < len(blocks) else None)

    @rule(size=SIZES)
    def allocate(self, size: int) -> None:
        block = self.arena.allocate(size)
        if not block:
            # A block that surely fits is found if it is alone in its list; at the least every block
            # that is a sixteenth larger.
            largest = max((s for _, s, kind in self.arena.blocks() if kind == FREE), default=0)
            assert largest < rounded(size) + rounded(size) // 16 + 16
            return
        self.serial += 1
        content = self.serial.to_bytes(4, "little") * ((size + 3) // 4)
        content = content[: size - 8] if size > 8 else b""
        self.arena.fill(block, content)
        self.records[block] = (size, content)

    @precondition(lambda self: self.records)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(sorted(self.records)))
        self.arena.free(block)
        del self.records[block]

    @rule(data=st.data(), most=st.integers(2, 300).map(lambda n: n * 16))
    def take(self, data: st.DataObject, most: int) -> None:
        free = [at for at, _, kind in self.arena.blocks() if kind == FREE]
        if free:
            block = data.draw(st.sampled_from(free))
            self.arena.take(block, most)
            self.reserved[block] = most

    @precondition(lambda self: self.reserved)
    @rule(data=st.data(), more=st.integers(2, 300).map(lambda n: n * 16))
    def grow(self, data: st.DataObject, more: int) -> None:
        block = data.draw(st.sampled_from(sorted(self.reserved)))
        size = next(s for at, s, _ in self.arena.blocks() if at == block)
        before, after = self.neighbours(block)
        del self.reserved[block]
        if after and after[2] == FREE and data.draw(st.booleans()):
            self.arena.extend(block, size + more)
            assert size + min(more, after[1]) <= self.size(block) <= size + more + 31
        elif before and before[2] == FREE:
            block = self.arena.extend_back(block, size + more)
            assert size + min(more, before[1]) <= self.size(block) <= size + more + 31
        self.reserved[block] = 0

    def size(self, block: int) -> int:
        return next(s for at, s, _ in self.arena.blocks() if at == block)

    @precondition(lambda self: self.reserved)
    @rule(data=st.data())
    def slide(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(sorted(self.reserved)))
        _, after = self.neighbours(block)
        if after is None or after[0] not in self.records:
            return
        room = self.size(block)
        moved = self.arena.slide(block)
        if after[1] > room:
            assert moved == 0
            return
        assert moved == block + after[1]
        assert self.size(moved) == room
        del self.reserved[block]
        self.reserved[moved] = 0
        self.records[block] = self.records.pop(after[0])

    @precondition(lambda self: self.reserved)
    @rule(data=st.data(), size=st.integers(1, 5000))
    def trim(self, data: st.DataObject, size: int) -> None:
        block = data.draw(st.sampled_from(sorted(self.reserved)))
        before = self.size(block)
        self.arena.trim(block, size)
        assert self.size(block) == (before if before < rounded(size) + 32 else rounded(size))

    @precondition(lambda self: self.reserved)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(sorted(self.reserved)))
        self.arena.free(block)
        del self.reserved[block]

    @rule()
    def shrink(self) -> None:
        end = self.arena.end
        blocks = self.arena.blocks()
        if (
            end > LENGTH // 2
            and blocks[-1][2] == FREE
            and (blocks[-1][1] == 4096 or blocks[-1][1] >= 4096 + 32)
        ):
            self.arena.shrink(4096)
            assert self.arena.end == end - 4096

    @rule(data=st.data())
    def move_cursors(self, data: st.DataObject) -> None:
        starts = st.sampled_from([at for at, _, _ in self.arena.blocks()] + [self.arena.end])
        self.arena.cursors = (data.draw(starts), data.draw(starts))

    @invariant()
    def blocks_are_those_of_the_model(self) -> None:
        self.arena.check()
        used = 0
        at = 64
        seen = {}
        for offset, size, kind in self.arena.blocks():
            assert offset == at
            at += size
            if kind != FREE:
                seen[offset] = kind
                used += size
        assert at == self.arena.end
        assert used == self.arena.used
        assert seen == {
            **dict.fromkeys(self.records, RECORD),
            **dict.fromkeys(self.reserved, RESERVED),
        }
        for block, (size, content) in self.records.items():
            assert self.size(block) >= size
            assert self.arena.read(block, len(content)) == content

    def teardown(self) -> None:
        for block in [*self.records, *self.reserved]:
            self.arena.free(block)
        self.arena.check()
        assert self.arena.blocks() == [(64, self.arena.end - 64, FREE)]
        assert self.arena.used == 0


TestArena = ArenaMachine.TestCase


def test_a_block_of_any_size_fits_again_where_it_was():
    arena = Arena(1 << 20)
    for size in [1, 33, 500, 512, 513, 1000, 65535, 500_000]:
        block = arena.allocate(size)
        wall = arena.allocate(1)
        rest = arena.allocate(arena.blocks()[-1][1])
        assert arena.allocate(size) == 0
        arena.free(block)
        assert arena.allocate(size) == block
        for other in (block, wall, rest):
            arena.free(other)
    arena.check()
    assert arena.used == 0


def test_the_whole_arena_can_be_allocated_as_one_block():
    arena = Arena(1 << 20)
    whole = arena.blocks()[0][1]
    assert arena.allocate(whole) == 64
    assert arena.allocate(1) == 0
    arena.free(64)
    assert arena.blocks() == [(64, whole, FREE)]
