"""One key of a store: its value, its version, and when it expires.

A state is (value, version, floor, earliest, latest): value None if there is none; version 0 if no
answer has contained it; every version assigned later is above floor; a value with a time to live
may be absent from `earliest` on, and is absent after `latest`.
"""

from __future__ import annotations

from typing import Any

from .history import FOREVER, UNKNOWN, Call

NOTHING = "nothing"
MISMATCH = "mismatch"  # ("mismatch", version or None)

State = tuple[Any, int, int, int, int]

MS = 1_000_000
# A cached clock may be a millisecond old, and the thread that read it may have been descheduled.
LATE = 20 * MS


class Key:
    """The model of one key. evicts: its value may disappear at any moment."""

    def __init__(self, *, evicts: bool = False) -> None:
        self.evicts = evicts

    def begin(self) -> list[State]:
        return [(None, 0, 0, 0, 0)]

    def changes(self, call: Call) -> bool:
        return (
            call.name not in ("get", "item", "exists")
            and call.answer is not False
            and not _mismatch(call.answer)
        )

    def after(self, state: State, call: Call) -> list[State]:
        value, version, floor, earliest, latest = state
        here = value is not None and call.begin <= latest + LATE
        gone = value is None or self.evicts or call.end >= earliest
        found: list[State] = []
        if here:
            found += self._act(state, call)
        if gone:
            found += [
                each
                for each in self._act((None, 0, max(floor, version), 0, 0), call)
                if each not in found
            ]
        return found

    def _act(self, state: State, call: Call) -> list[State]:
        value, version, floor, earliest, latest = state
        name, answer = call.name, call.answer
        unknown = answer == UNKNOWN
        if name == "reset":
            return [(None, 0, floor, 0, 0)]
        if name in ("get", "exists"):
            expected = (NOTHING if value is None else value) if name == "get" else value is not None
            return [state] if unknown or answer == expected else []
        if name == "item":
            if unknown:
                return [state]
            if value is None or answer == NOTHING:
                return [state] if value is None and answer == NOTHING else []
            return self._with_version(state, answer[1]) if answer[0] == value else []
        if name == "delete":
            if not unknown and answer != (value is not None):
                return []
            return [(None, 0, floor, 0, 0)]
        if name == "touch":
            if not unknown and answer != (value is not None):
                return []
            return [
                state if value is None else (value, version, floor, *_life(call, call.arguments[1]))
            ]
        if name == "incr":
            if value is not None and not value.lstrip("-").isdigit():
                return [state] if unknown or answer == "not a number" else []
            total = int(value or 0) + call.arguments[1]
            if not unknown and answer != total:
                return []
            expiry = (earliest, latest) if value is not None else (FOREVER, FOREVER)
            return [(str(total), 0, floor, *expiry)]
        assert name in ("put", "put_if_absent", "put_if_version"), name
        found: list[State] = []
        if name == "put_if_absent" and value is not None:
            if unknown:
                return [state]
            return self._with_version(state, answer[1]) if _mismatch(answer) and answer[1] else []
        if name == "put_if_version":
            wanted = call.arguments[3]
            matched = self._with_version(state, wanted) if value is not None and wanted else []
            if unknown and (version != wanted or not version):
                found.append(state)
            if not unknown and _mismatch(answer):
                if value is None:
                    return [state] if answer[1] is None else []
                return (
                    self._with_version(state, answer[1])
                    if answer[1] and answer[1] != wanted
                    else []
                )
            if not matched:
                return found
            floor = max(floor, wanted)
        if unknown:
            return [*found, (call.arguments[1], 0, floor, *_life(call, call.arguments[2]))]
        if _mismatch(answer) or answer <= floor:
            return []
        return [(call.arguments[1], answer, answer, *_life(call, call.arguments[2]))]

    def _with_version(self, state: State, version: int) -> list[State]:
        """Return the state after an answer has contained this version; none if it cannot."""
        value, known, floor, *expiry = state
        if known:
            return [state] if known == version else []
        return [(value, version, version, *expiry)] if version > floor else []


def _mismatch(answer: Any) -> bool:
    return isinstance(answer, (tuple, list)) and answer[0] == MISMATCH


def _life(call: Call, ttl: float | None) -> tuple[int, int]:
    """Return the earliest and the latest moment at which a value put by this call expires."""
    if ttl is None:
        return FOREVER, FOREVER
    length = max(1, int(ttl * 1000 + 0.5)) * MS
    return call.begin + length, FOREVER if call.end == FOREVER else call.end + length
