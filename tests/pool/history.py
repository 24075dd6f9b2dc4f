"""Random histories of a pool on the crash model, and conditions after a crash at any moment.

A structure here is an array of words in its root block, and blocks that it takes and returns.  Its
states are known for each transaction number, so that after a crash the state that the pool has
reached can be compared whole.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from rfp.errors import NotAPool, OutOfMemory, StorageFailed
from rnvm.pool.pool import Pool, format_medium
from rnvm.sizes import Sizes
from rnvm.testing import log_driver
from rnvm.testing.crash_model import Crashes, Model

SIZES = Sizes(block=512, names=4, sessions=2, operation_ring=4096, memory_ring=4096, group_map=512)


def length_of(sizes: Sizes) -> int:
    return sizes.groups_at + sizes.group_map + 48 * 512


LENGTH = length_of(SIZES)
IDENTITY = UUID(int=0x5EED)
WORDS = 64
NEVER = 1 << 62
GRANTED, USED = 0x4000, 0x8000
FREE, ATTACHED, FENCED = 1, 5, 6


class Wrong(AssertionError):
    """The state of a pool after a crash contradicts an acknowledged operation."""


@dataclass
class State:
    """The state of a structure after a transaction."""

    words: list[int]
    blocks: dict[int, bytes]  # address -> content
    covers: int

    def after(self) -> State:
        return State(list(self.words), dict(self.blocks), self.covers)


@dataclass
class Structure:
    """A structure of the history.

    name, id, index: those of the pool.  begun and the like: numbers of events.
    """

    name: bytes
    begun: int
    acknowledged: int = NEVER
    id: int = 0
    index: int = 0
    root: int = 0
    drop_begun: int = NEVER
    dropped: int = NEVER
    states: list[State] = field(default_factory=lambda: [State([0] * WORDS, {}, 0)])
    # (event, number): of a transaction in a ring
    written: list[tuple[int, int]] = field(default_factory=list)
    # (event, number): of an acknowledged transaction
    durable: list[tuple[int, int]] = field(default_factory=list)
    operations: list[bytes] = field(default_factory=list)  # operation i + 1
    written_operations: list[tuple[int, int]] = field(default_factory=list)
    durable_operations: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class Grant:
    begun: int
    acknowledged: int
    address: int
    count: int
    taken: int = NEVER


@dataclass
class Session:
    index: int
    begun: int
    acknowledged: int
    writer: log_driver.Writer
    fence_begun: int = NEVER
    fenced: int = NEVER
    released: int = NEVER
    grants: list[Grant] = field(default_factory=list)
    cut_off: bool = False  # in the middle of a grant; of which blocks is not known
    # log, next LSN, structure, number
    unacknowledged: list[tuple[str, int, Structure, int]] = field(default_factory=list)


class History:
    """A pool, the operations on it, and the event at which each was acknowledged.

    Args:
        rng: Draws the choices.
        kind: The kind of the crash model.
        plant: Is called with the model and the offsets of the pool's parts, to plant a bug.
        sizes: Those of the pool.
    """

    def __init__(
        self,
        rng: random.Random,
        kind: str,
        plant: Callable[[Model, dict[str, int]], None] | None = None,
        sizes: Sizes = SIZES,
    ) -> None:
        self.rng = rng
        self.length = length_of(sizes)
        self.model = Model(self.length, kind)
        self.plant = plant
        if plant:
            plant(self.model, PLACES)
        self.format_done = NEVER
        self.structures: list[Structure] = []
        self.sessions: list[Session] = []
        self.owner: dict[int, Session] = {}  # of the writer lock: ID of a structure -> session
        # transactions over two structures
        self.pairs: list[tuple[Structure, int, Structure, int]] = []
        format_medium(self.model, sizes, identity=IDENTITY)
        self.format_done = self.model.events_so_far
        self.pool = Pool(self.model)
        self.places = log_driver.places(self.pool)
        self.taking: list[Grant] = []  # by the transaction in preparation

    @property
    def now(self) -> int:
        return self.model.events_so_far

    # --- Steps

    def choices(self) -> list[tuple[Callable[[], None], int]]:
        return [
            (self.create, 3),
            (self.drop, 1),
            (self.attach, 3),
            (self.fence, 1),
            (self.release, 2),
            (self.grant, 4),
            (self.operate, 8),
            (self.write, 12),
            (self.write_two, 3),
            (self.write_late, 3),
            (self.collect, 8),
            (self.replay, 6),
            (self.checkpoint, 3),
            (self.reclaim, 3),
        ]

    def run(self, steps: int) -> None:
        steps_, weights = zip(*self.choices(), strict=True)
        for _ in range(steps):
            self.rng.choices(steps_, weights)[0]()

    def living(self) -> list[Structure]:
        return [each for each in self.structures if each.drop_begun == NEVER]

    def attached(self) -> list[Session]:
        return [each for each in self.sessions if each.fence_begun == NEVER]

    def create(self) -> None:
        used = {each.name for each in self.living()}
        free = [name for name in (b"a", b"b", b"c") if name not in used]
        if not free:
            return
        made = Structure(self.rng.choice(free), self.now)
        self.structures.append(made)
        try:
            made.id = self.pool.create(made.name, kind=1, identity=UUID(int=self.now))
        except OutOfMemory:
            self.structures.remove(made)
            return
        made.acknowledged = self.now
        made.index = self.pool.names[made.name]
        owners = log_driver.owners(self.pool)
        made.root = owners.index(USED | made.index + 1)

    def drop(self) -> None:
        if not self.living():
            return
        victim = self.rng.choice(self.living())
        victim.drop_begun = self.now
        self.pool.drop(victim.name)
        victim.dropped = self.now
        self.owner.pop(victim.id, None)

    def attach(self) -> None:
        begun = self.now
        try:
            index, _ = self.pool.attach()
        except OutOfMemory:
            return
        self.sessions.append(Session(index, begun, self.now, log_driver.Writer(self.pool, index)))

    def fence(self) -> None:
        if not self.attached():
            return
        session = self.rng.choice(self.attached())
        session.fence_begun = self.now
        self.pool.fence(session.index)
        session.fenced = self.now
        self.pool.collect()
        self.pool.replay()
        self.acknowledge(session)
        for id_ in [id_ for id_, owner in self.owner.items() if owner is session]:
            del self.owner[id_]

    def release(self) -> None:
        for session in self.sessions:
            if session.fenced != NEVER and session.released == NEVER:
                self.pool.replay()
                if self.pool.release(session.index):
                    session.released = self.now

    def grant(self) -> None:
        if self.attached():
            session, count, begun = (
                self.rng.choice(self.attached()),
                self.rng.randint(1, 4),
                self.now,
            )
            try:
                address = self.pool.grant(session.index, count)
            except OutOfMemory:
                return
            except StorageFailed:
                session.cut_off = True
                raise
            session.grants.append(Grant(begun, self.now, address, count))

    def lock(self) -> tuple[Session, Structure] | None:
        """Return a structure and the session that may write to it.

        The structure changes hands only when all its transactions are applied.
        """
        if not self.attached() or not self.living():
            return None
        structure = self.rng.choice(self.living())
        holder = self.owner.get(structure.id)
        if holder is None or self.rng.random() < 0.2:
            self.collect()
            self.pool.replay()
            holder = self.owner[structure.id] = self.rng.choice(self.attached())
        return holder, structure

    def operate(self) -> None:
        locked = self.lock()
        if locked is None:
            return
        session, structure = locked
        body = self.rng.randbytes(self.rng.choice([0, 1, 7, 40, 200]))
        number = len(structure.operations) + 1
        lsn, after = session.writer.operations(
            [log_driver.part(structure.id, number, body, code=number % 7)]
        )
        if not lsn:
            return
        structure.operations.append(body)
        structure.written_operations.append((self.now, number))
        session.unacknowledged.append(("operations", after, structure, number))
        self.model.mark()

    def change(self, session: Session, structure: Structure) -> tuple[State, bytes]:
        """Return the structure's next state, and the entries that produce it."""
        state, entries = structure.states[-1].after(), []
        number = len(structure.states)
        root = (1 << 48) + log_driver.offset_of(self.pool, structure.root)
        for _ in range(self.rng.randint(1, 4)):
            first = self.rng.randrange(WORDS)
            values = [number * 1000 + i for i in range(self.rng.randint(1, min(6, WORDS - first)))]
            state.words[first : first + len(values)] = values
            entries.append(
                log_driver.entry(
                    log_driver.ENTRY_WRITE,
                    root + 8 * first,
                    b"".join(v.to_bytes(8, "little") for v in values),
                )
            )
        untaken = [
            grant for grant in session.grants if grant.taken == NEVER and grant not in self.taking
        ]
        if untaken and self.rng.random() < 0.4:
            grant = self.rng.choice(untaken)
            entries.append(log_driver.entry(log_driver.ENTRY_TAKE, grant.address, grant.count))
            for i in range(grant.count):
                content = (number * 100 + i).to_bytes(8, "little") * 64
                state.blocks[grant.address + 512 * i] = content
                entries.append(
                    log_driver.entry(log_driver.ENTRY_WRITE, grant.address + 512 * i, content)
                )
            self.taking.append(grant)
        elif state.blocks and self.rng.random() < 0.4:
            address = self.rng.choice(sorted(state.blocks))
            del state.blocks[address]
            entries.append(log_driver.entry(log_driver.ENTRY_RETURN, address, 1))
        if self.rng.random() < 0.6:
            state.covers = len(structure.operations)
        return state, b"".join(entries)

    def write(self) -> None:
        locked = self.lock()
        if locked:
            self.write_to(locked[0], [locked[1]])

    def write_two(self) -> None:
        if len(self.living()) < 2 or not self.attached():
            return
        session = self.rng.choice(self.attached())
        self.collect()
        self.pool.replay()
        both = self.rng.sample(self.living(), 2)
        for structure in both:
            self.owner[structure.id] = session
        self.write_to(session, both)

    def write_to(self, session: Session, structures: list[Structure]) -> None:
        self.taking.clear()
        parts, states = [], []
        for structure in structures:
            state, body = self.change(session, structure)
            parts.append(
                log_driver.part(structure.id, len(structure.states), body, covers=state.covers)
            )
            states.append(state)
        lsn, after = session.writer.transaction(parts)
        if not lsn:
            return
        for grant in self.taking:
            grant.taken = self.now
        for structure, state in zip(structures, states, strict=True):
            structure.states.append(state)
            structure.written.append((self.now, len(structure.states) - 1))
            session.unacknowledged.append(("memory", after, structure, len(structure.states) - 1))
        if len(structures) == 2:
            a, b = structures
            self.pairs.append((a, len(a.states) - 1, b, len(b.states) - 1))
        self.model.mark()

    def write_late(self) -> None:
        """Let a fenced front-end that has not detected it write more: no such record may count."""
        late = [each for each in self.sessions if each.fenced != NEVER and each.released == NEVER]
        if late and self.living():
            structure = self.rng.choice(self.living())
            entry = log_driver.entry(
                log_driver.ENTRY_WRITE,
                (1 << 48) + log_driver.offset_of(self.pool, structure.root),
                b"too late",
            )
            part = log_driver.part(structure.id, len(structure.states), entry)
            self.rng.choice(late).writer.transaction([part])

    def acknowledge(self, session: Session) -> None:
        """Acknowledge what the back-end has published as durable, as a front-end may do."""
        operations, memory = session.writer.durable
        waiting, session.unacknowledged = session.unacknowledged, []
        for each in waiting:
            log, after, structure, number = each
            if after <= (operations if log == "operations" else memory):
                (structure.durable_operations if log == "operations" else structure.durable).append(
                    (self.now, number)
                )
            else:
                session.unacknowledged.append(each)

    def collect(self) -> None:
        self.pool.collect()
        for session in self.attached():
            self.acknowledge(session)

    def replay(self) -> None:
        self.pool.replay(self.rng.randint(1, 6))

    def checkpoint(self) -> None:
        self.pool.checkpoint()
        for session in self.sessions:
            if session.released == NEVER:
                state = log_driver.session(self.pool, session.index)
                assert not state["operations"][4] and not state["memory"][4], state

    def reclaim(self) -> None:
        self.pool.reclaim()

    # --- Crashes

    def crashes(self, seed: int, points: list[int] | None = None, again: int = 0) -> int:
        """Crash at these points (default: all), recover, and compare.

        Args:
            again: Crashes at random points of each recovery.

        Returns:
            The number of crashes.
        """
        cursor, done = Crashes(self.model), 0
        chance = random.Random(seed)
        kind = self.model.kind
        for point in range(self.now + 1) if points is None else points:
            image = cursor.at_point(point, seed)
            medium = Model(self.length, kind, image)
            if again and self.plant:
                self.plant(medium, PLACES)
            reached = self.verify(medium, point, seed, image)
            done += 1
            for _ in range(again):
                second = chance.randrange(medium.events_so_far + 1)
                left = Crashes(medium).at_point(second, seed)
                self.verify(Model(self.length, kind, left), point, seed, left)
                done += 1
            if again and reached is not None:
                # State that was visible after recovery is a promise.
                left = Crashes(medium).at_point(medium.events_so_far, seed)
                if self.verify(Model(self.length, kind, left), point, seed, left) != reached:
                    raise Wrong(
                        f"seed {seed}, crash after event {point}: "
                        "a second crash undid what the first recovery had shown"
                    )
        return done

    def verify(self, medium: Model, point: int, seed: int, image: bytes) -> dict[bytes, int] | None:
        """Open the pool that a crash left, and compare it with the operations acknowledged by then.

        Returns:
            The transaction numbers that it has reached.
        """
        where = f"seed {seed}, crash after event {point}: "
        try:
            pool = Pool(medium)
        except NotAPool:
            if point >= self.format_done:
                raise Wrong(where + "the pool is gone") from None
            return None
        except Exception as error:
            raise Wrong(where + f"it cannot be opened: {error!r}") from error
        try:
            return self.compare(pool, point)
        except Wrong as error:
            raise Wrong(where + str(error)) from None

    def compare(self, pool: Pool, point: int) -> dict[bytes, int]:
        owners = log_driver.owners(pool)
        expected = [0] * len(owners)
        numbers: dict[int, int] = {}
        names = {}
        for structure in self.structures:
            self.compare_structure(pool, point, structure, numbers, expected)
        for a, m, b, n in self.pairs:
            if a.id in numbers and b.id in numbers and (numbers[a.id] >= m) != (numbers[b.id] >= n):
                raise Wrong(
                    f"only one half of a transaction over {a.name!r} ({m}) and {b.name!r} ({n}) "
                    "was applied"
                )
        maybe: set[tuple[int, int]] = set()
        for session in self.sessions:
            self.compare_session(pool, point, session, owners, expected, maybe)
        for block, (found, wanted) in enumerate(zip(owners, expected, strict=True)):
            if found != wanted and (block, found) not in maybe:
                raise Wrong(f"block {block} belongs to {found:#x}, should to {wanted:#x}")
        names = {name: log_driver.progress(pool, name)[1] for name in pool.names}
        return names

    def compare_structure(
        self,
        pool: Pool,
        point: int,
        structure: Structure,
        numbers: dict[int, int],
        expected: list[int],
    ) -> None:
        if point < structure.begun:
            return
        index = pool.names.get(structure.name)
        there = index is not None and (
            structure.id == 0 or log_driver.progress(pool, structure.name)[0] == structure.id
        )
        if structure.acknowledged <= point < structure.drop_begun and not there:
            raise Wrong(f"the structure {structure.name!r} is gone")
        if structure.dropped <= point and there:
            raise Wrong(f"the structure {structure.name!r} is back")
        if not there:
            return
        if not structure.id:  # the call that created it was cut off after it took effect
            structure.id, structure.index = log_driver.progress(pool, structure.name)[0], index
            structure.root = log_driver.block_of(
                pool, log_driver.entry_of(pool, structure.name)["root"]
            )
        _, number, covers = log_driver.progress(pool, structure.name)
        least = max((n for event, n in structure.durable if event <= point), default=0)
        most = max((n for event, n in structure.written if event <= point), default=0)
        if not least <= number <= most:
            raise Wrong(
                f"{structure.name!r} is at transaction {number}; "
                f"{least} was acknowledged, {most} written"
            )
        numbers[structure.id] = number
        state = structure.states[number]
        if covers != state.covers:
            raise Wrong(
                f"{structure.name!r} covers {covers} operations after transaction {number}, "
                f"expected {state.covers}"
            )
        content = pool.medium.read(log_driver.offset_of(pool, structure.root), 512)
        words = [int.from_bytes(content[i : i + 8], "little") for i in range(0, 512, 8)]
        if words != state.words:
            wrong = next(i for i in range(WORDS) if words[i] != state.words[i])
            raise Wrong(
                f"word {wrong} of {structure.name!r} after transaction {number} is {words[wrong]}, "
                f"expected {state.words[wrong]}"
            )
        expected[structure.root] = USED | structure.index + 1
        for address, block in state.blocks.items():
            if pool.medium.read(address & (1 << 48) - 1, 512) != block:
                raise Wrong(
                    f"a block of {structure.name!r} at {address:#x} has other contents "
                    f"after transaction {number}"
                )
            expected[log_driver.block_of(pool, address)] = USED | structure.index + 1
        self.compare_operations(pool, point, structure, covers)

    def compare_operations(self, pool: Pool, point: int, structure: Structure, covers: int) -> None:
        found = sorted(
            (number, body)
            for session in range(SIZES.sessions)
            for _, id_, _, number, body in log_driver.pending(pool, session)
            if id_ == structure.id
        )
        least = max((n for event, n in structure.durable_operations if event <= point), default=0)
        most = max((n for event, n in structure.written_operations if event <= point), default=0)
        last = max(covers, found[-1][0] if found else 0)
        if [number for number, _ in found] != list(range(covers + 1, last + 1)):
            raise Wrong(
                f"operations {[n for n, _ in found]} of {structure.name!r} are pending; "
                f"{covers} are covered"
            )
        if not least <= last <= max(most, covers):
            raise Wrong(
                f"{structure.name!r} has operations up to {last}; "
                f"{least} were acknowledged, {most} written"
            )
        for number, body in found:
            if body != structure.operations[number - 1]:
                raise Wrong(f"operation {number} of {structure.name!r} has other bytes")

    def compare_session(
        self,
        pool: Pool,
        point: int,
        session: Session,
        owners: list[int],
        expected: list[int],
        maybe: set[tuple[int, int]],
    ) -> None:
        if point < session.begun or session.released <= point:
            return
        state = log_driver.session(pool, session.index)["state"]
        waiting = bool(log_driver.pending(pool, session.index))
        if state != (FENCED if waiting else FREE):
            raise Wrong(
                f"session {session.index} is in state {state}; "
                f"operations pending in its log: {waiting}"
            )
        if session.cut_off:
            maybe.update((block, GRANTED | session.index) for block in range(len(owners)))
        for grant in session.grants:
            for i in range(grant.count):
                block = log_driver.block_of(pool, grant.address + 512 * i)
                if grant.begun > point or expected[block]:
                    continue
                if waiting and grant.acknowledged <= point < grant.taken:
                    expected[block] = GRANTED | session.index
                # A grant in progress, of a session that was ended, or taken by a transaction that
                # was not applied: the block is the session's or free.
                maybe.update(
                    {(block, GRANTED | session.index), (block, 0)}
                    if grant.taken <= point
                    else {(block, GRANTED | session.index)}
                )


with_model = Model(LENGTH)
format_medium(with_model, SIZES, identity=IDENTITY)
PLACES = log_driver.places(Pool(with_model))
with_model.close()
