"""Drivers with the package's former faults: each has one fault, which the state machine must find.

They call the package as it is, so the package contains no switch for them.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from rfp.errors import ConnectionFailed, OutOfMemory, TooLarge

from .calls import Call
from .machine import Driver, Front

PARTS = 64  # of a record


class Splitting(Driver):
    """Can commit a transaction in the middle."""

    def split(self, front: Front) -> None:
        handles = front.handles
        structures = [handles[name].structure for name in front.named if name in handles]
        front.transaction.__exit__(None, None, None)
        front.transaction = front.fe.transaction(*structures)
        front.transaction.__enter__()


class WideBatchFails(Driver):
    """The end of a batch fails if it is over more structures than a record has parts for."""

    def end_batch(self, front: Front) -> None:
        super().end_batch(front)
        if len(front.touched) > PARTS:
            raise TooLarge("an operation does not fit into the pool's logs")


class CreatingCommits(Splitting):
    """Creating a structure in a transaction commits the transaction's changes."""

    def open(self, front: Front, name: str) -> Any:
        if front.transaction and name not in front.fe.names():
            self.split(front)
        return super().open(front, name)


class ReleaseCommits(Splitting):
    """release() in a transaction gives the locks away."""

    def release(self, front: Front) -> None:
        if front.transaction:
            self.split(front)
        else:
            super().release(front)


class HandleCommits(Splitting):
    """Destroying a handle in a transaction commits the transaction's changes."""

    def let_go(self, front: Front, name: str) -> None:
        if front.transaction and name in front.handles and name not in front.named:
            self.split(front)
        super().let_go(front, name)


class TornTransaction(Driver):
    """The end of a transaction that other front-ends have interrupted raises no error."""

    def end_transaction(self, front: Front, hold: bool) -> None:
        with contextlib.suppress(ConnectionFailed):
            super().end_transaction(front, hold)


class StaleBatch(Driver):
    """A read in a batch repeats the answer of the same read before."""

    def __init__(self) -> None:
        self.batch: object = None
        self.answers: dict[tuple[str, str], Any] = {}

    def call(self, front: Front, name: str, call: Call, timeout: float | None) -> Any:
        if not front.batch or call.changes:
            return super().call(front, name, call, timeout)
        if self.batch is not front.batch:
            self.batch, self.answers = front.batch, {}
        at = name, call.text
        if at not in self.answers:
            self.answers[at] = super().call(front, name, call, timeout)
        return self.answers[at]


class FullPoolSticks(Driver):
    """In a full pool reserve() fails."""

    def __init__(self) -> None:
        self.full = False

    def call(self, front: Front, name: str, call: Call, timeout: float | None) -> Any:
        if call.text == "reserve()" and self.full:
            raise OutOfMemory("no block is free in the pool")
        try:
            return super().call(front, name, call, timeout)
        except OutOfMemory:
            self.full = True
            raise


class DeleteFails(Driver):
    """Shrinking a table is part of the delete before it, and may not fit into the logs."""

    def call(self, front: Front, name: str, call: Call, timeout: float | None) -> Any:
        if (
            call.text.startswith("del")
            and name[0] == "h"
            and len(front.handles[name].structure) == 1
        ):
            raise TooLarge("an operation does not fit into the pool's logs")
        return super().call(front, name, call, timeout)


class WritesAstray(Driver):
    """After a pool was replaced, the first calls go to the old one."""

    def __init__(self, place: Any) -> None:
        self.place, self.file, self.astray = place, 0, 0

    def call(self, front: Front, name: str, call: Call, timeout: float | None) -> Any:
        file = os.stat(self.place().path).st_ino
        if file != self.file:
            self.file, self.astray = file, 2 if self.file else 0
        if self.astray and call.text.startswith("put"):
            self.astray -= 1
            return None
        return super().call(front, name, call, timeout)


class Overwrite:
    """A tool that writes back its copy of the pool, although a front-end has changed the pool."""

    def __init__(self, path: Path) -> None:
        self.content = path.read_bytes()

    def __call__(self, path: Path) -> None:
        with open(path, "r+b") as file:
            file.write(self.content)
