"""Random work on a structure of each kind in one pool, planned in advance.

The contents after each step are known before the step.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from structure_kinds import MAPPINGS, NAMES, content

import rnvm

LONG = 3600.0  # seconds of a reservation that no crash ends

MAPPING_NAMES = tuple(name for name, kind in NAMES.items() if kind in MAPPINGS)
Seen = dict[str, list[Any]]


@dataclass(frozen=True)
class Contents:
    """The contents of all structures; of the queue, `returned` comes before `waiting`.

    items: of each mapping, in the order of MAPPING_NAMES.
    """

    waiting: tuple[bytes, ...] = ()
    returned: tuple[bytes, ...] = ()
    stacked: tuple[bytes, ...] = ()
    items: tuple[dict[bytes, bytes], ...] = tuple({} for _ in MAPPING_NAMES)

    def seen(self) -> Seen:
        return {
            "queue": [*self.returned, *self.waiting],
            "stack": list(self.stacked[::-1]),
            **{
                name: sorted(items.items())
                for name, items in zip(MAPPING_NAMES, self.items, strict=True)
            },
        }


class Handles:
    """One front-end's handles of all structures; prefix: of their names."""

    def __init__(self, fe: rnvm.FrontEnd, prefix: str = "") -> None:
        self.fe = fe
        self.by_name = {name: kind(fe, prefix + name) for name, kind in NAMES.items()}
        self.queue, self.stack = self.by_name["queue"], self.by_name["stack"]

    def all(self) -> list[Any]:
        return list(self.by_name.values())

    def seen(self) -> Seen:
        return {name: content(structure) for name, structure in self.by_name.items()}

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
        now, which = self.now, self.rng.choice(["queue", *NAMES])
        if which == "queue" and self.rng.random() < 0.5 and len(now.waiting) < 20:
            value = self.value()
            if self.rng.random() < 0.2:
                return lambda at: at.queue.put(value, delay=LONG), now
            both = (value, self.value()) if self.rng.random() < 0.3 else (value,)
            following = replace(now, waiting=(*now.waiting, *both))
            if len(both) == 2:
                return lambda at: at.queue.put_many(both), following
            return lambda at: at.queue.put(value), following
        if which == "queue":
            return self.take()
        if which == "stack":
            return self.stack()
        key, place = b"%d" % self.rng.randrange(24), MAPPING_NAMES.index(which)
        there = dict(now.items[place])
        after = replace(now, items=(*now.items[:place], there, *now.items[place + 1 :]))
        if key in there and self.rng.random() < 0.4:
            del there[key]
            return lambda at: at.by_name[which].pop(key), after
        there[key] = value = self.value()
        return lambda at: at.by_name[which].__setitem__(key, value), after

    def stack(self) -> tuple[Action, Contents]:
        now = self.now
        if self.rng.random() < 0.5 or len(now.stacked) > 20:
            last = now.stacked[-1] if now.stacked else None
            return lambda at: same(at.stack.pop(None), last), replace(now, stacked=now.stacked[:-1])
        values = [self.value() for _ in range(self.rng.choice([1, 1, 3]))]
        return lambda at: at.stack.push_many(values), replace(now, stacked=(*now.stacked, *values))

    def take(self) -> tuple[Action, Contents]:
        """Take from the queue, for good or as a reservation, or settle an earlier reservation."""
        now, rng = self.now, self.rng
        if self.reserved and rng.random() < 0.1:
            kept = rng.choice(self.reserved)
            return lambda at: at.queue.extend(kept.token, LONG), now
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
