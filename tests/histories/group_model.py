"""One state for structures of all kinds, so that a transaction over them is one step.

A state is a tuple of structures in the order of their names, each an immutable value. A queue has
the values that were never given out, those that came back, and the reservations (token and value).
A stack has its values from the bottom. A mapping has its items. All values differ, so an answer
identifies the put or set that it saw.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .history import UNKNOWN, Call

# The answer of an empty queue or an absent key, and of ack and nack after the reservation ended.
NOTHING = "nothing"
DONE = "done"

Queue = tuple[tuple[str, ...], tuple[str, ...], frozenset[tuple[str, str]]]
Stack = tuple[str, ...]
Items = frozenset[tuple[str, str]]
State = tuple[Any, ...]


class Group:
    """The model of structures: queue..., stack..., and mappings of other names."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(sorted(names))

    def begin(self) -> list[State]:
        return [
            tuple(
                ((), (), frozenset())
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
        act = {"queue": _queue, "stack": _stack}.get(name[:5], _mapping)
        return [
            (*state[:at], after, *state[at + 1 :])
            for after in act(state[at], call.name, arguments, call)
        ]


def _queue(state: Queue, name: str, arguments: list[Any], call: Call) -> list[Queue]:
    waiting, back, reserved = state
    answer = call.answer
    unknown = answer == UNKNOWN
    if name == "put":
        return [((*waiting, arguments[0]), back, reserved)]
    if name in ("ack", "nack", "extend"):
        held = [each for each in reserved if each[0] == arguments[0]]
        if not held:
            return [state] if unknown or answer == NOTHING else []
        if not unknown and answer != DONE:
            return []
        if name == "extend":
            return [state]
        return [(waiting, (*back, held[0][1]) if name == "nack" else back, reserved - {held[0]})]
    if name == "len":
        return [state] if unknown or answer == len(waiting) + len(back) else []
    first = back[0] if back else waiting[0] if waiting else NOTHING
    if name == "peek":
        return [state] if unknown or answer == first else []
    assert name in ("get", "reserve"), name
    given = first if unknown else answer[1] if name == "reserve" and answer != NOTHING else answer
    if given != first:
        return []
    if first == NOTHING:
        return [state]
    if name == "reserve":
        # Without its token no process can give the value back, so any name for the token will do.
        reserved |= {(f"? {first}" if unknown else answer[0], first)}
    return [(waiting, back[1:], reserved) if back else (waiting[1:], back, reserved)]


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
