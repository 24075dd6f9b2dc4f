"""Finding: a problem found by inspecting a pool."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """A problem of a pool.

    Attributes:
        kind: `"damage"` (not as written), `"doubt"` (damaged, or in the middle of a change when the
            machine stopped; nothing is lost either way) or `"leak"` (memory without an owner).
        where: The place, in words, with its offset.
        what: The problem.
        mend: The repair by `rnvm check --repair`; None: there is none.
        part, number: For repair: the kind of the part, and its index.
        at: Its offset.
        words: For owners: how many adjacent words are meant.
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
