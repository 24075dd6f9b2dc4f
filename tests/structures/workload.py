"""Random work on a queue, a table and a tree of one pool, planned in advance.

The contents after each step are known before the step.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import rnvm
import structures

LONG = 3600.0  # seconds of a reservation that no crash ends

Seen = tuple[list[bytes], dict[bytes, bytes], list[tuple[bytes, bytes]]]


@dataclass(frozen=True)
class Contents:
    """The contents of the three structures; `returned` comes before `waiting`."""

    waiting: tuple[bytes, ...] = ()
    returned: tuple[bytes, ...] = ()
    table: dict[bytes, bytes] = field(default_factory=dict)
    tree: dict[bytes, bytes] = field(default_factory=dict)

    def seen(self) -> Seen:
        return [*self.returned, *self.waiting], self.table, sorted(self.tree.items())


class Handles:
    """One front-end's handles of the three structures; prefix: of their names."""

    def __init__(self, fe: rnvm.FrontEnd, prefix: str = "") -> None:
        self.fe = fe
        self.queue = structures.Queue(fe, prefix + "queue")
        self.table = structures.HashTable(fe, prefix + "table")
        self.tree = structures.BPlusTree(fe, prefix + "tree")

    def all(self) -> tuple[structures.Queue, structures.HashTable, structures.BPlusTree]:
        return self.queue, self.table, self.tree

    def seen(self) -> Seen:
        return list(self.queue), dict(self.table), list(self.tree.items())

    def check(self) -> None:
        for structure in self.all():
            structure.check()


Action = Callable[[Handles], object]


@dataclass
class Reserved:
    value: bytes
    token: bytes = b""


@dataclass
class Step:
    """way: "one", "batch", "transaction" or "discarded".  after: the contents after each action."""

    way: str
    actions: list[Action]
    after: list[Contents]

    def run(
        self, at: Handles, begin: Callable[[Contents], object], end: Callable[[], object]
    ) -> None:
        """Execute the step.

        Args:
            begin: Is called with the next contents, before each unit that is durable by itself.
            end: Is called when that was acknowledged.
        """
        if self.way in ("one", "batch"):
            with at.fe.batch() if self.way == "batch" else contextlib.nullcontext():
                for action, after in zip(self.actions, self.after, strict=True):
                    begin(after)
                    action(at)
                    end()
            return
        begin(self.after[-1])
        with contextlib.suppress(ZeroDivisionError), at.fe.transaction(*at.all()):
            for action in self.actions:
                action(at)
            if self.way == "discarded":
                raise ZeroDivisionError
        end()


class Plan:
    """Draws steps; each begins where the one before has ended."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.now = Contents()
        self.serial = 0
        self.reserved: list[Reserved] = []

    def step(self) -> Step:
        way, most = self.rng.choices(
            [("one", 1), ("batch", 12), ("transaction", 5), ("discarded", 4)], [70, 15, 10, 5]
        )[0]  # fmt: skip
        before, reserved = self.now, list(self.reserved)
        actions, after = [], []
        for _ in range(self.rng.randint(1, most)):
            action, self.now = self.action()
            actions.append(action)
            after.append(self.now)
        if way == "discarded":
            self.now, self.reserved = before, reserved
            after[-1] = before
        return Step(way, actions, after)

    def value(self) -> bytes:
        self.serial += 1
        return b"%d " % self.serial + bytes(self.rng.choice((0, 3, 40, 200, 700, 1500)))

    def action(self) -> tuple[Action, Contents]:
        now, which = self.now, self.rng.randrange(8)
        if which < 2 and len(now.waiting) < 20:
            value = self.value()
            return lambda at: at.queue.put(value), replace(now, waiting=(*now.waiting, value))
        if which < 4:
            return self.take()
        key, name = b"%d" % self.rng.randrange(24), "table" if which < 6 else "tree"
        there = dict(getattr(now, name))
        if key in there and self.rng.random() < 0.4:
            del there[key]
            return lambda at: getattr(at, name).pop(key), replace(now, **{name: there})
        there[key] = value = self.value()
        return lambda at: getattr(at, name).__setitem__(key, value), replace(now, **{name: there})

    def take(self) -> tuple[Action, Contents]:
        """Take from the queue, for good or as a reservation, or settle an earlier reservation."""
        now, rng = self.now, self.rng
        if self.reserved and rng.random() < 0.6:
            back = self.reserved.pop(rng.randrange(len(self.reserved)))
            if rng.random() < 0.5:
                return lambda at: at.queue.ack(back.token), now
            return lambda at: at.queue.nack(back.token), replace(
                now, returned=(*now.returned, back.value)
            )
        order = [*now.returned, *now.waiting]
        following = (
            replace(now, returned=now.returned[1:])
            if now.returned
            else replace(now, waiting=now.waiting[1:])
        )
        first = order[0] if order else None
        if first is None or rng.random() < 0.5:
            return lambda at: same(at.queue.get(None), first), following
        reserved = Reserved(first)
        self.reserved.append(reserved)

        def reserve(at: Handles) -> None:
            reserved.token, value = at.queue.reserve(lease=LONG)
            same(value, reserved.value)

        return reserve, following


def same(found: object, expected: object) -> None:
    assert found == expected
