"""Records the calls of a process, a line before and after each, in a file that survives a kill.

Lines are JSON:

    ["c", time, name, arguments]          a call begins
    ["a", time, answer]                   it has ended
    ["b", time, kind]                     a block (a batch, a transaction or a snapshot) begins
    ["x", time]                           its end begins; a snapshot is open
    ["e", time, outcome, whole]           it has ended
    ["m", time, name, arguments of each]  a call for many keys begins
    ["n", time, answers]                  it has ended
    ["r", time]                           the process is ready
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .history import FOREVER, UNKNOWN, Call, Step, single

READS = ("peek", "in", "len", "items", "exists", "item")  # and get, except a queue's

NOT = ("not",)  # the answer of a call that had no effect


class Recorder:
    """The record of one thread."""

    def __init__(self, path: str | Path) -> None:
        self.fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def close(self) -> None:
        os.close(self.fd)

    def note(self, tag: str, *rest: Any) -> None:
        os.write(self.fd, json.dumps([tag, time.monotonic_ns(), *rest]).encode() + b"\n")

    def call(
        self,
        name: str,
        arguments: tuple[Any, ...],
        act: Callable[[], Any],
        classes: Callable[[Exception], Any],
    ) -> Any:
        """Call and record the answer; `classes` maps an exception to an answer (None: raise it)."""
        self.note("c", name, arguments)
        try:
            answer = act()
        except Exception as error:
            answer = classes(error)
            if answer is None:
                raise
            self.note("a", answer)
            return answer
        self.note("a", answer)
        return answer


def tuples(value: Any) -> Any:
    return tuple(map(tuples, value)) if isinstance(value, list) else value


def lines(path: Path) -> list[Any]:
    """Return the record of one process without a last line that was cut off."""
    data = path.read_bytes() if path.exists() else b""
    return [tuples(json.loads(line)) for line in data[: data.rfind(b"\n") + 1].splitlines()]


def steps_of(caller: str, recorded: list[Any]) -> list[Step]:
    """Return the steps of one process."""
    found: list[Step] = []
    block: list[Call] | None = None
    kind = ""
    pending: Any = None
    many: Any = None
    ending = False
    opening = opened = 0
    for tag, when, *rest in recorded:
        if tag == "c":
            pending = (rest[0], rest[1], when)
        elif tag == "a":
            name, arguments, begin = pending
            pending = None
            if rest[0] == NOT:
                continue
            call = Call(name, arguments, rest[0], begin, FOREVER if rest[0] == UNKNOWN else when)
            if block is None:
                found += [single(caller, name, arguments, rest[0], begin, when)]
            else:
                block.append(call)
        elif tag == "m":
            many = (rest[0], rest[1], when)
        elif tag == "n":
            name, each, begin = many
            many = None
            found += [
                single(caller, name, arguments, answer, begin, when)
                for arguments, answer in zip(each, rest[0])
                if answer != NOT
            ]
        elif tag == "b":
            block, kind, ending = [], rest[0], False
            opening = when
        elif tag == "x":
            ending = True
            opened = when
        elif tag == "e":
            if block is not None and kind == "snapshot":
                found += snapshot_of(caller, block, opening, opened)
            elif block is not None:
                found += block_of(caller, kind, block, when, rest[0], rest[1])
            block = None
    if block is not None:  # the process was killed inside
        if kind == "snapshot":
            found += snapshot_of(caller, block, opening, opened)
        elif kind == "batch":
            if pending:
                block.append(Call(pending[0], pending[1], UNKNOWN, pending[2], FOREVER))
            found += block_of(caller, kind, block, FOREVER, "cut", False)
        elif ending:
            found += block_of(caller, kind, block, FOREVER, "unknown", True)
    elif pending:
        found.append(single(caller, pending[0], pending[1], UNKNOWN, pending[2], FOREVER))
    elif many:
        found += [
            single(caller, many[0], arguments, UNKNOWN, many[2], FOREVER) for arguments in many[1]
        ]
    return [step for step in found if step.due or not all(is_read(call) for call in step.calls)]


def snapshot_of(caller: str, reads: list[Call], begin: int, end: int) -> list[Step]:
    """All reads of a snapshot see one moment, within its opening, however late they are."""
    known = [
        Call(call.name, call.arguments, call.answer, begin, end)
        for call in reads
        if call.answer != UNKNOWN
    ]
    return [Step(caller, known, begin, end, note="snapshot: ")] if known else []


def block_of(
    caller: str, kind: str, calls: list[Call], end: int, outcome: str, whole: bool
) -> list[Step]:
    """A batch or a transaction as one step.

    A batch's reads of a structure that it has not changed yet count as reads outside of it. A batch
    over several structures may be seen after each of its calls, because it is written before it
    takes another lock (docs/rnvm.md, "Batches").

    Args:
        outcome: well, not, unknown or cut.
        whole: its session lasted, and operations are logged.
    """
    if outcome == "not":
        return []
    if kind == "transaction":
        return (
            [
                Step(
                    caller,
                    calls,
                    calls[0].begin,
                    FOREVER if outcome == "unknown" else end,
                    note="transaction: ",
                )
            ]
            if calls
            else []
        )
    found: list[Step] = []
    entered: set[str] = set()
    inside: list[Call] = []
    for call in calls:
        name = call.arguments[0]
        if name not in entered and is_read(call):
            found.append(
                single(caller, call.name, call.arguments, call.answer, call.begin, call.end)
            )
        else:
            entered.add(name)
            inside.append(call)
    if not inside:
        return found
    several = len({call.arguments[0] for call in calls}) > 1
    cuts = range(1, len(inside)) if several or not whole or outcome != "well" else ()
    known = len([call for call in inside if call.answer != UNKNOWN])
    end = end if outcome == "well" and known == len(inside) else FOREVER
    return [
        *found,
        Step(caller, inside, inside[0].begin, end, (*cuts, len(inside)), known, note="batch: "),
    ]


def is_read(call: Call) -> bool:
    return call.name in READS or (call.name == "get" and not call.arguments[0].startswith("queue"))


def value_of(name: str, sizes: list[int]) -> bytes:
    """The bytes of a value: its name repeated, so that a mixture of two values is no value."""
    size = sizes[zlib.crc32(name.encode()) % len(sizes)]
    raw = name.encode() + b"|"
    return (raw * (size // len(raw) + 1))[: max(size, len(raw))]


def name_of(value: bytes, sizes: list[int]) -> str:
    """Return the name of the value with these bytes; a number is its own name."""
    raw, mark, _ = bytes(value).partition(b"|")
    name = raw.decode(errors="replace")
    if not mark and name.lstrip("-").isdigit():
        return name
    return name if value == value_of(name, sizes) else f"torn: {name} {len(value)}"
