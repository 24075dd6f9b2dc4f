"""Random histories of structures, through front-ends and a back-end on the crash model, and what has to be true after a crash.

Every operation is acknowledged before the next one begins, so the contents after a crash are those after the last operation that
had been acknowledged, or after the one that was under way: of all structures together, whichever front-end did what.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from unittest import mock

import rnvm
import structures
from rfp.errors import RfpError
from rnvm._crash import Crashes, Model
from rnvm._pool import Pool, format_medium
from rnvm.sizes import Sizes

PAGE = 4096
SIZES = Sizes(block=1024, names=8, sessions=4, operation_ring=2 * PAGE, memory_ring=8 * PAGE, group_map=1024)
LENGTH = -(-(SIZES.groups_at + SIZES.group_map + 512 * SIZES.block) // PAGE) * PAGE
LONG = 3600.0  # seconds of a reservation that nobody's crash ends


class Wrong(AssertionError):
    """What was there after a crash contradicts what had been acknowledged."""


@dataclass(frozen=True)
class Contents:
    """Of the three structures: returned comes before waiting."""

    waiting: tuple[bytes, ...] = ()
    returned: tuple[bytes, ...] = ()
    table: dict[bytes, bytes] = field(default_factory=dict)
    tree: dict[bytes, bytes] = field(default_factory=dict)

    def seen(self) -> tuple[list[bytes], dict[bytes, bytes], list[tuple[bytes, bytes]]]:
        return [*self.returned, *self.waiting], self.table, sorted(self.tree.items())


class Handles:
    """One front-end's handles of the three structures."""

    def __init__(self, fe: rnvm.FrontEnd) -> None:
        self.fe = fe
        self.queue = structures.Queue(fe, "queue")
        self.table = structures.HashTable(fe, "table")
        self.tree = structures.BPlusTree(fe, "tree")

    def all(self) -> tuple[structures.Queue, structures.HashTable, structures.BPlusTree]:
        return self.queue, self.table, self.tree

    def seen(self) -> tuple[list[bytes], dict[bytes, bytes], list[tuple[bytes, bytes]]]:
        return list(self.queue), dict(self.table), list(self.tree.items())


@contextlib.contextmanager
def served(model: Model) -> Iterator[tuple[rnvm.Backend, Callable[[], Handles]]]:
    """A back-end on the model, and a way to make front-ends."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(structures._hashtable, "os", SimpleNamespace(urandom=bytes)))
        backend = stack.enter_context(rnvm.Backend(Pool(model)))
        yield backend, lambda: Handles(stack.enter_context(rnvm.connect(backend.address, timeout=30)))


class History:
    """What was done to a pool, and when it was begun and acknowledged, in events of the model.

    plant: called with the model, to plant a bug in what follows the making of the structures.
    """

    def __init__(self, rng: random.Random, kind: str, steps: int, plant: Callable[[Model], None] | None = None) -> None:
        self.rng = rng
        self.model = Model(LENGTH, kind, shared=True)
        self.serial = 0
        self.contents = Contents()
        self.tokens: list[tuple[bytes, bytes]] = []  # of what is reserved, with its value
        self.begun: list[int] = []
        self.acknowledged: list[int] = []
        self.after: list[Contents] = []
        format_medium(self.model, SIZES)
        with served(self.model) as (_, connect):
            both = [connect(), connect()]
            self.note(self.model.events_so_far)
            self.first = self.model.events_so_far
            if plant:
                plant(self.model)
            for _ in range(steps):
                self.step(rng.choice(both))
            self.last = self.model.events_so_far

    def note(self, begun: int) -> None:
        self.begun.append(begun)
        self.acknowledged.append(self.model.events_so_far)
        self.after.append(self.contents)

    def step(self, at: Handles) -> None:
        way = self.rng.random()
        if way < 0.7:
            self.one(at)
        elif way < 0.85:
            with at.fe.batch():
                for _ in range(self.rng.randrange(1, 12)):
                    self.one(at)
        else:
            self.together(at)

    def one(self, at: Handles) -> None:
        """An operation, and its place in the history."""
        begun = self.model.events_so_far
        self.contents = self.operation(at)
        self.note(begun)

    def together(self, at: Handles) -> None:
        """A transaction, which may end with an exception."""
        before, tokens, begun = self.contents, list(self.tokens), self.model.events_so_far
        try:
            with at.fe.transaction(*at.all()):
                for _ in range(self.rng.randrange(1, 8)):
                    self.contents = self.operation(at)
                if self.rng.random() < 0.3:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            self.contents, self.tokens = before, tokens
        self.note(begun)

    def value(self) -> bytes:
        self.serial += 1
        return b"%d " % self.serial + bytes(self.rng.choice((0, 3, 40, 200, 700, 1500)))

    def operation(self, at: Handles) -> Contents:
        """Does one, and says what is there then."""
        now, rng = self.contents, self.rng
        which = rng.randrange(8)
        if which < 2 and len(now.waiting) < 20:
            value = self.value()
            at.queue.put(value)
            return replace(now, waiting=(*now.waiting, value))
        if which < 4:
            return self.take(at)
        key = b"%d" % rng.randrange(24)
        mapping, there = (at.table, now.table) if which < 6 else (at.tree, now.tree)
        there = dict(there)
        if key in there and rng.random() < 0.4:
            del mapping[key]
            del there[key]
        else:
            mapping[key] = there[key] = self.value()
        return replace(now, table=there) if which < 6 else replace(now, tree=there)

    def take(self, at: Handles) -> Contents:
        """From the queue: for good, for a while, or what was taken is given back or acknowledged."""
        now, rng = self.contents, self.rng
        if self.tokens and rng.random() < 0.6:
            token, value = self.tokens.pop(rng.randrange(len(self.tokens)))
            if rng.random() < 0.5:
                at.queue.ack(token)
                return now
            at.queue.nack(token)
            return replace(now, returned=(*now.returned, value))
        order = [*now.returned, *now.waiting]
        if not order:
            assert at.queue.get(None) is None
            return now
        if rng.random() < 0.5:
            assert at.queue.get() == order[0]
        else:
            token, value = at.queue.reserve(lease=LONG)
            assert value == order[0]
            self.tokens.append((token, value))
        if now.returned:
            return replace(now, returned=now.returned[1:])
        return replace(now, waiting=now.waiting[1:])

    # After a crash

    def crash(self, points: int, *, again: int = 0) -> int:
        """Looks at what crashes at so many points leave, and at `again` crashes of each recovery; returns how many were looked at."""
        crashes, looked = Crashes(self.model), 0
        for point in sorted(self.rng.choices(range(self.first, self.last + 1), k=points)):
            allowed = [
                contents.seen()
                for contents, begun, following in zip(self.after, self.begun, [*self.acknowledged[1:], self.last + 1], strict=True)
                if begun <= point and point < following
            ]
            looked += self.look(crashes.at_point(point, self.rng.getrandbits(64)), allowed, f"after event {point}", again)
        return looked

    def look(self, image: bytes, allowed: list[object], when: str, again: int) -> int:
        """Recovers, compares, and goes on; then crashes what it has just done up to the comparison."""
        model = Model(LENGTH, self.model.kind, content=image, shared=True)
        try:
            with served(model) as (_, connect):
                at = connect()
                found = at.seen()
                for structure in at.all():
                    structure.check()
                if found not in allowed:
                    raise Wrong(f"a crash {when} left {found}, and not one of {allowed}")
                recovered = model.events_so_far
                at.queue.put(b"it goes on")
                if list(at.queue) != [*found[0], b"it goes on"]:
                    raise Wrong(f"a crash {when}: after its recovery the queue does not go on")
        except RfpError as error:
            raise Wrong(f"a crash {when}: {error}") from error
        looked, crashes = 1, Crashes(model)
        for point in sorted(self.rng.choices(range(recovered + 1), k=again)):
            looked += self.look(crashes.at_point(point, self.rng.getrandbits(64)), allowed, f"{when}, and {point} later again", 0)
        return looked
