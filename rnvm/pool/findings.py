"""What looking at a pool finds."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """Something about a pool that somebody should know.

    kind: `"damage"` (it is not what was written), `"doubt"` (damaged, or in the middle of a change when the machine stopped;
    nothing is lost either way) or `"leak"` (memory that belongs to nobody).  where: the place, in words, with its offset.
    what: what is wrong.  mend: what `rnvm check --repair` does about it, or None where nothing can be done.  part, number: for
    repair, what kind of thing it is, and which of them.  at: its offset.  words: of owners: how many neighbouring ones are meant.
    """

    kind: str
    where: str
    what: str
    mend: str | None = None
    part: str = ""
    at: int = 0
    number: int = 0
    words: int = 1

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.what}"
