"""A history: the calls of several processes, their answers and times (CLOCK_MONOTONIC, ns)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

FOREVER = 1 << 62  # the end of a call without a known end
UNKNOWN = ("unknown",)  # the answer of a call that may or may not have happened


@dataclass
class Call:
    """One call: its arguments, its answer, and the interval in which it took effect, if it did."""

    name: str
    arguments: tuple[Any, ...]
    answer: Any
    begin: int
    end: int


@dataclass
class Step:
    """One call, or the calls of a batch or transaction, between two moments.

    cuts: the numbers of calls that may have taken effect without the rest; the last is all of them.
    due: so many of the calls must take effect, by `owed` if the step has no end.
    """

    caller: str
    calls: list[Call]
    begin: int
    end: int
    cuts: tuple[int, ...] = ()
    due: int = 0
    owed: int = FOREVER
    note: str = ""
    number: int = field(default=-1, compare=False)

    def __post_init__(self) -> None:
        self.cuts = self.cuts or (len(self.calls),)
        if self.end != FOREVER:
            self.due = len(self.calls)

    def __str__(self) -> str:
        def moment(time: int) -> str:
            return (
                "..."
                if time == FOREVER
                else f"{(time - (self.begin if relative else 0)) / 1e6:.3f}"
            )

        relative = False
        first = f"{self.caller:>8} [{moment(self.begin)} .. {moment(self.end)} ms] {self.note}"
        return first + "; ".join(
            f"{call.name}{call.arguments!r} -> {call.answer!r}" for call in self.calls
        )


def single(
    caller: str, name: str, arguments: tuple[Any, ...], answer: Any, begin: int, end: int
) -> Step:
    """One call outside batches and transactions; a call without a known answer has no end."""
    if answer == UNKNOWN:
        return Step(caller, [Call(name, arguments, UNKNOWN, begin, FOREVER)], begin, FOREVER)
    return Step(caller, [Call(name, arguments, answer, begin, end)], begin, end)
