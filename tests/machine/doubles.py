"""Hands that do what the package once did: each has one fault, which the machine has to find.

They work through the package as it is, so nothing in it has a switch for them.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from rfp.errors import ConnectionFailed, OutOfMemory, TooLarge

from .calls import Call
from .machine import Front, Hands

PARTS = 64  # of a record


class Splitting(Hands):
    """Can make what a transaction did until now hold."""

    def split(self, front: Front) -> None:
        handles = front.handles
        structures = [handles[name].structure for name in front.named if name in handles]
        front.transaction.__exit__(None, None, None)
        front.transaction = front.fe.transaction(*structures)
        front.transaction.__enter__()


class WideBatchFails(Hands):
    """A batch over more structures than a record has parts for is refused at its end."""

    def end_batch(self, front: Front) -> None:
        super().end_batch(front)
        if len(front.touched) > PARTS:
            raise TooLarge("an operation does not fit into the pool's logs")


class MakingCommits(Splitting):
    """Making a structure within a transaction makes hold what that did so far."""

    def open(self, front: Front, name: str) -> Any:
        if front.transaction and name not in front.fe.names():
            self.split(front)
        return super().open(front, name)


class ReleaseCommits(Splitting):
    """release() within a transaction lets others in."""

    def release(self, front: Front) -> None:
        if front.transaction:
            self.split(front)
        else:
            super().release(front)


class HandleCommits(Splitting):
    """A handle that goes within a transaction makes hold what that did so far."""

    def let_go(self, front: Front, name: str) -> None:
        if front.transaction and name in front.handles and name not in front.named:
            self.split(front)
        super().let_go(front, name)


class TornTransaction(Hands):
    """A transaction that others have cut off ends as if all were well."""

    def end_transaction(self, front: Front, hold: bool) -> None:
        with contextlib.suppress(ConnectionFailed):
            super().end_transaction(front, hold)


class StaleBatch(Hands):
    """Within a batch, what was looked up once is answered again."""

    def __init__(self) -> None:
        self.batch: object = None
        self.answers: dict[tuple[str, str], Any] = {}

    def call(self, front: Front, name: str, what: Call, timeout: float | None) -> Any:
        if not front.batch or what.changes:
            return super().call(front, name, what, timeout)
        if self.batch is not front.batch:
            self.batch, self.answers = front.batch, {}
        at = name, what.text
        if at not in self.answers:
            self.answers[at] = super().call(front, name, what, timeout)
        return self.answers[at]


class FullPoolSticks(Hands):
    """In a full pool nothing can be reserved."""

    def __init__(self) -> None:
        self.full = False

    def call(self, front: Front, name: str, what: Call, timeout: float | None) -> Any:
        if what.text == "reserve()" and self.full:
            raise OutOfMemory("no block is free in the pool")
        try:
            return super().call(front, name, what, timeout)
        except OutOfMemory:
            self.full = True
            raise


class DeleteFails(Hands):
    """Shrinking a table is a part of the deletion that it follows, and may not fit."""

    def call(self, front: Front, name: str, what: Call, timeout: float | None) -> Any:
        if (
            what.text.startswith("del")
            and name[0] == "h"
            and len(front.handles[name].structure) == 1
        ):
            raise TooLarge("an operation does not fit into the pool's logs")
        return super().call(front, name, what, timeout)


class WritesAstray(Hands):
    """After a pool was replaced, the first calls go to the one that was there before."""

    def __init__(self, place: Any) -> None:
        self.place, self.file, self.astray = place, 0, 0

    def call(self, front: Front, name: str, what: Call, timeout: float | None) -> Any:
        file = os.stat(self.place().path).st_ino
        if file != self.file:
            self.file, self.astray = file, 2 if self.file else 0
        if self.astray and what.text.startswith("put"):
            self.astray -= 1
            return None
        return super().call(front, name, what, timeout)


class Overwrite:
    """A tool that writes to the pool what it has read before, although a front-end has written to it meanwhile."""

    def __init__(self, path: Path) -> None:
        self.content = path.read_bytes()

    def __call__(self, path: Path) -> None:
        with open(path, "r+b") as file:
            file.write(self.content)
