"""The block allocator against a plain model: the owner of each block, and the grantable blocks."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rfp.errors import OutOfMemory
from rnvm.media.medium import VolatileMemory
from rnvm.pool.pool import Pool, format_medium
from rnvm.sizes import Sizes
from rnvm.testing import log_driver

SIZES = Sizes(block=512, names=4, sessions=3, operation_ring=4096, memory_ring=4096, group_map=512)
GROUP = 512 // 8 * 3
LENGTH = SIZES.groups_at + SIZES.group + SIZES.group_map + 70 * 512  # a group and a part of one
BLOCKS = GROUP + 70
GRANTED, USED = 0x4000, 0x8000


class BlocksMachine(RuleBasedStateMachine):
    """model: the owner of each block; waiting: freed blocks that may not be handed out yet."""

    def __init__(self) -> None:
        super().__init__()
        private = VolatileMemory(LENGTH)
        format_medium(private, SIZES)
        self.pool = Pool(private)
        self.model = [0] * BLOCKS
        self.waiting: set[int] = set()
        self.sessions: list[int] = []
        self.grants: list[tuple[int, int, int]] = []  # session, first, count
        self.numbers: dict[bytes, int] = {}
        self.blocks: dict[bytes, list[int]] = {}
        for _ in range(2):
            self.attach()

    def attach(self) -> None:
        self.sessions.append(self.pool.attach()[0])

    def address(self, block: int) -> int:
        return (1 << 48) + log_driver.offset_of(self.pool, block)

    def own(self, first: int, count: int, owner: int) -> None:
        assert all(
            self.model[block] == 0 and block not in self.waiting
            for block in range(first, first + count)
        )
        assert first // GROUP == (first + count - 1) // GROUP, "a row stays within its group"
        self.model[first : first + count] = [owner] * count

    def has_row(self, count: int) -> bool:
        free = [owner == 0 and block not in self.waiting for block, owner in enumerate(self.model)]
        return any(
            all(free[first : first + count])
            for first in range(BLOCKS - count + 1)
            if first // GROUP == (first + count - 1) // GROUP
        )

    @rule(
        data=st.data(), count=st.one_of(st.integers(1, 5), st.sampled_from([40, 70, 71, 192, 193]))
    )
    def grant(self, data: st.DataObject, count: int) -> None:
        session = data.draw(st.sampled_from(self.sessions))
        try:
            address = self.pool.grant(session, count)
        except OutOfMemory:
            assert not self.has_row(count)
            return
        first = log_driver.block_of(self.pool, address)
        self.own(first, count, GRANTED | session)
        self.grants.append((session, first, count))

    @precondition(lambda self: len(self.numbers) < 4)
    @rule(data=st.data())
    def create(self, data: st.DataObject) -> None:
        name = data.draw(
            st.sampled_from([each for each in (b"a", b"b", b"c", b"d") if each not in self.numbers])
        )
        count = data.draw(st.integers(1, 3))
        try:
            self.pool.create(name, kind=1, root_blocks=count)
        except OutOfMemory:
            assert not self.has_row(count)
            return
        first = log_driver.block_of(self.pool, log_driver.entry_of(self.pool, name)["root"])
        self.own(first, count, USED | self.pool.names[name] + 1)
        assert self.pool.medium.read(log_driver.offset_of(self.pool, first), 512 * count) == bytes(
            512 * count
        )
        self.numbers[name], self.blocks[name] = 0, list(range(first, first + count))

    def transact(self, name: bytes, session: int, entry: bytes) -> None:
        self.numbers[name] += 1
        part = log_driver.part(log_driver.progress(self.pool, name)[0], self.numbers[name], entry)
        assert log_driver.Writer(self.pool, session).transaction([part])[0]
        self.pool.collect()
        assert self.pool.replay() == 1

    @precondition(lambda self: self.grants and self.numbers)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        session, first, count = grant = data.draw(st.sampled_from(self.grants))
        name = data.draw(st.sampled_from(sorted(self.numbers)))
        self.grants.remove(grant)
        self.transact(
            name, session, log_driver.entry(log_driver.ENTRY_TAKE, self.address(first), count)
        )
        self.model[first : first + count] = [USED | self.pool.names[name] + 1] * count
        self.blocks[name] += range(first, first + count)

    @precondition(lambda self: any(self.blocks.values()))
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        name = data.draw(
            st.sampled_from([each for each, blocks in sorted(self.blocks.items()) if blocks])
        )
        block = data.draw(st.sampled_from(self.blocks[name]))
        self.blocks[name].remove(block)
        self.transact(
            name,
            self.sessions[0],
            log_driver.entry(log_driver.ENTRY_RETURN, self.address(block), 1),
        )
        self.free([block])

    def free(self, blocks: list[int]) -> None:
        for block in blocks:
            self.model[block] = 0
            self.waiting.add(block)

    @precondition(lambda self: self.numbers)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.numbers)))
        self.pool.drop(name)
        self.free(self.blocks.pop(name))
        del self.numbers[name]

    @rule(data=st.data())
    def end_a_session(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(self.sessions))
        self.pool.fence(session)
        self.pool.replay()
        assert self.pool.release(session)
        self.free([block for block, owner in enumerate(self.model) if owner == GRANTED | session])
        self.grants = [grant for grant in self.grants if grant[0] != session]
        self.sessions.remove(session)
        self.attach()

    @rule()
    def checkpoint_and_reclaim(self) -> None:
        self.pool.checkpoint()
        assert self.pool.reclaim() == len(self.waiting)
        self.waiting.clear()

    @rule()
    def reclaim_too_early(self) -> None:
        # Blocks freed before the last checkpoint (a release makes one) may come back, no others.
        free = self.pool.free_blocks
        back = self.pool.reclaim()
        assert self.pool.free_blocks == free + back
        if back:
            self.waiting = {block for block in self.waiting if not self.handed_out(block)}

    def handed_out(self, block: int) -> bool:
        return log_driver.is_free(self.pool, block)

    @invariant()
    def owners_are_those_of_the_model(self) -> None:
        assert log_driver.owners(self.pool) == self.model
        assert self.pool.free_blocks == self.model.count(0) - len(self.waiting)

    def teardown(self) -> None:
        self.pool.close()


TestBlocks = BlocksMachine.TestCase
