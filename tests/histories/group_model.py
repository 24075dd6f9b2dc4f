"""One state for structures of all kinds, so that a transaction over them is one step.

A state is a tuple of structures in the order of their names, each an immutable value. A queue has
the values that were never given out, those that came back, the reservations (token and value), the
delayed values, and, with a dead-letter queue, how often values were delivered. A stack has its
values from the bottom. A mapping has its items. All values differ, so an answer identifies the put
or set that it saw.

Delays are ended by clocks: a get that began before a value was due may pass over it. So the model
lets any get pass over delayed values, except the last ones ("drain"), after all delays.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .history import UNKNOWN, Call

# The answer of an empty queue or an absent key, and of ack and nack after the reservation ended.
NOTHING = "nothing"
DONE = "done"

Queue = tuple[
    tuple[str, ...],
    tuple[str, ...],
    frozenset[tuple[str, str]],
    frozenset[str],
    frozenset[tuple[str, int]],
]
Stack = tuple[str, ...]
Items = frozenset[tuple[str, str]]
State = tuple[Any, ...]


class Group:
    """The model of structures: queue..., stack..., and mappings of other names.

    Args:
        dead: The dead-letter queue of a queue.
        deliveries: After which a value that is given back is moved there.
    """

    def __init__(
        self, names: Iterable[str], dead: dict[str, str] | None = None, deliveries: int = 0
    ) -> None:
        self.names = tuple(sorted(names))
        self.dead, self.deliveries = dead or {}, deliveries

    def begin(self) -> list[State]:
        return [
            tuple(
                ((), (), frozenset(), frozenset(), frozenset())
                if name.startswith("queue")
                else ()
                if name.startswith("stack")
                else frozenset()
                for name in self.names
            )
        ]

    def changes(self, call: Call) -> bool:
        if call.answer == NOTHING or call.name in ("peek", "len", "in", "items"):
            return False
        if call.name == "setdefault":
            return bool(call.answer in (UNKNOWN, call.arguments[-1]))
        return call.name != "get" or call.arguments[0].startswith("queue")

    def after(self, state: State, call: Call) -> list[State]:
        name, *arguments = call.arguments
        at = self.names.index(name)
        if name in self.dead:
            return self.dying(state, at, self.names.index(self.dead[name]), call)
        act = {"queue": _queue, "stack": _stack}.get(name[:5], _mapping)
        return [
            (*state[:at], after, *state[at + 1 :])
            for after in act(state[at], call.name, arguments, call)
        ]

    def dying(self, state: State, at: int, dead: int, call: Call) -> list[State]:
        """The same for a queue with a dead-letter queue: counts the deliveries."""
        name, *arguments = call.arguments
        before: Queue = state[at]
        found: list[State] = []
        for waiting, back, reserved, later, given in _queue(before, call.name, arguments, call):
            counts = dict(given)
            after = list(state)
            for _, value in reserved - before[2]:
                counts[value] = counts.get(value, 0) + 1
            for _, value in before[2] - reserved:
                if back[-1:] == (value,) and counts[value] >= self.deliveries:
                    back = back[:-1]
                    after[dead] = ((*state[dead][0], value), *state[dead][1:])
            left = {*waiting, *back, *later, *(value for _, value in reserved)}
            counts = {value: count for value, count in counts.items() if value in left}
            after[at] = (waiting, back, reserved, later, frozenset(counts.items()))
            found.append(tuple(after))
        return found


def _queue(state: Queue, name: str, arguments: list[Any], call: Call) -> list[Queue]:
    waiting, back, reserved, later, given = state
    answer = call.answer
    unknown = answer == UNKNOWN
    if name == "put":
        return [((*waiting, arguments[0]), back, reserved, later, given)]
    if name == "later":
        return [(waiting, back, reserved, later | {arguments[0]}, given)]
    if name in ("ack", "nack", "extend"):
        held = [each for each in reserved if each[0] == arguments[0]]
        if not held:
            return [state] if unknown or answer == NOTHING else []
        if not unknown and answer != DONE:
            return []
        if name == "extend":
            return [state]
        back = (*back, held[0][1]) if name == "nack" else back
        return [(waiting, back, reserved - {held[0]}, later, given)]
    if name == "len":
        return [state] if unknown or answer == len(waiting) + len(back) else []
    first = back[0] if back else waiting[0] if waiting else NOTHING
    if name == "peek":
        return [state] if unknown or answer == first or answer in later else []
    assert name in ("get", "reserve", "drain"), name
    if name == "drain" and answer == NOTHING and later:
        return []
    if unknown:
        taken = {first, *later}
    else:
        taken = {answer[1] if name == "reserve" and answer != NOTHING else answer}
        taken &= {first, *later}
    found: list[Queue] = []
    for value in taken:
        if value == NOTHING:
            found.append(state)
            continue
        held_now = reserved
        if name == "reserve":
            # Without its token no process can give the value back: any name for it will do.
            held_now |= {(f"? {value}" if unknown else answer[0], value)}
        if value in later:
            found.append((waiting, back, held_now, later - {value}, given))
        elif back:
            found.append((waiting, back[1:], held_now, later, given))
        else:
            found.append((waiting[1:], back, held_now, later, given))
    return found


def _stack(values: Stack, name: str, arguments: list[Any], call: Call) -> list[Stack]:
    answer = call.answer
    unknown = answer == UNKNOWN
    if name == "push":
        return [(*values, arguments[0])]
    if name == "len":
        return [values] if unknown or answer == len(values) else []
    assert name in ("peek", "take"), name
    if not unknown and answer != (values[-1] if values else NOTHING):
        return []
    return [values[:-1] if name == "take" else values]


def _mapping(items: Items, name: str, arguments: list[Any], call: Call) -> list[Items]:
    answer = call.answer
    unknown = answer == UNKNOWN
    if name == "len":
        return [items] if unknown or answer == len(items) else []
    if name == "items":
        return [items] if unknown or frozenset(map(tuple, answer)) == items else []
    if name == "popitem":
        if unknown:
            return [items - {each} for each in items] or [items]
        if answer == NOTHING:
            return [] if items else [items]
        return [items - {tuple(answer)}] if tuple(answer) in items else []
    if name in ("popfirst", "poplast"):
        end = (max if name == "poplast" else min)(items, default=NOTHING)
        if not unknown and (answer if answer == NOTHING else tuple(answer)) != end:
            return []
        return [items - {end}]
    key = arguments[0]
    held = next((value for each, value in items if each == key), NOTHING)
    old = frozenset() if held == NOTHING else frozenset({(key, held)})
    if name == "set":
        return [items - old | {(key, arguments[1])}]
    if name == "in":
        return [items] if unknown or answer == (held != NOTHING) else []
    if name == "get":
        return [items] if unknown or answer == held else []
    if name == "setdefault":
        new = items if old else items | {(key, arguments[1])}
        return [new] if unknown or answer == (held if old else arguments[1]) else []
    if name == "delete":
        return [items - old] if unknown or answer == (DONE if old else NOTHING) else []
    assert name == "pop", name
    return [items - old] if unknown or answer == held else []
